"""Keys that follow a schedule: a list has one value a round, and every round is checked like a recipe of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import Fault
from align_cli.recipe import Recipe, dump, load_recipe, resolved, warnings_for
from align_cli.recipe.sections.method import SCHEDULED

Load = Callable[..., Recipe]
FaultsOf = Callable[..., list[Fault]]

MIXTURE = ("method.sources.offline.mixing=[0.75, 0.5]", "method.sources.dpr.mixing=[0.25, 0.5]")


def said(recipe: Recipe, number: int) -> tuple[float, float, float]:
    """Share and coefficient of dpr, and the KL's, in a round."""
    method = recipe.of_round(number).method
    assert method.sources.dpr is not None
    return method.sources.dpr.mixing, method.sources.dpr.gradient, method.kl.coefficient


def test_each_round_has_its_value_and_the_last_one_stays(load: Load) -> None:
    recipe = load(*MIXTURE, "method.sources.dpr.gradient=[0.3, 0.1, 0]", "method.kl.coefficient=[0.1]")
    assert [said(recipe, number) for number in (1, 2, 3, 4, 9)] == [
        (0.25, 0.3, 0.1), (0.5, 0.1, 0.1), (0.5, 0, 0.1), (0.5, 0, 0.1), (0.5, 0, 0.1),
    ]  # fmt: skip
    assert said(recipe, 0) == said(recipe, 1), "the initial policy's round"
    assert recipe.of_round(2).method.sources.shares() == {"offline": 0.5, "dpr": 0.5}


def test_what_is_written_down_reads_back_the_same(load: Load, tmp_path: Path) -> None:
    recipe = load(*MIXTURE, "method.kl.coefficient=[0.1, 0.05]", "method.kl.gradient=pathwise")
    (tmp_path / "again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "again.yaml")
    assert resolved(again) == resolved(recipe)
    assert resolved(recipe)["method"]["kl"]["coefficient"] == [0.1, 0.05]
    assert [said(again, number) for number in (1, 2)] == [said(recipe, number) for number in (1, 2)]


def test_a_round_knows_nothing_of_later_values(load: Load) -> None:
    """So that what is finished stays true where the rest of a schedule changes."""
    one, other = (load(f"method.kl.coefficient=[0.1, 0.1, {last}]") for last in (0.2, 0.3))
    for number in (1, 2):
        assert resolved(one.of_round(number)) == resolved(other.of_round(number))
        assert resolved(one.of_round(number)) == resolved(load("method.kl.coefficient=0.1"))
    assert resolved(one.of_round(3))["method"]["kl"]["coefficient"] == [0.1, 0.1, 0.2]


def test_an_override_by_one_value_ends_a_schedule(load: Load) -> None:
    recipe = load("method.kl.coefficient=[0.1, 0.2]", "method.kl.coefficient=0.3")
    assert not recipe.method.schedule and recipe.method.kl.coefficient == 0.3


def test_a_fault_of_a_later_round_stands_at_the_value_that_makes_it(faults_of: FaultsOf, minimal: str) -> None:
    text = minimal.replace("mixing: 0.3", "mixing: [0.3, 0.4]").replace("gradient: 0.3", "gradient: [0.3, 0.1, -1]")
    shares, negative = faults_of(text=text)
    assert shares.what == (
        "from round 2 on: method.sources: the shares offline 0.7 and dpr 0.4 sum to 1.1; they must sum to 1"
    )
    assert negative.what == "from round 3 on: method.sources.dpr.gradient is -1; it must be at least 0"
    line = next(line for line in text.splitlines() if "dpr" in line)
    assert negative.column == line.index("-1") + 1


def test_a_fault_of_all_rounds_is_told_once(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("method.kl.coefficient=[0.1, 0.2, 0.3]", "method.beta=-1")
    assert fault.what == "method.beta is -1; it must be above 0"


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (("method.beta=[0.1, 0.2]",), "method.beta is [0.1, 0.2]; it must be a number above 0"),
        (("method.kl.coefficient=[]",), "method.kl.coefficient is []; it must be a number at least 0"),
        (
            ("method.sources.offline.mixing=[1, 0.5]", "method.sources.dpr.mixing=[0, 0.5]"),
            "method.sources.dpr.mixing has a share of 0 in round 1; a source is there in every round",
        ),
        (
            ("method.sources.dpr.gradient=[0, 0.3]", "train.replay_rounds=1"),
            "method.sources.dpr.gradient is 0 in round 1, whose pairs are replayed, and above 0 after it",
        ),
        (
            ("method.sources.dpr.gradient=[0, 0.3]", "generate.top_k=5"),
            "from round 2 on: generate.top_k is 5; with a gradient above 0 responses must come from the policy's "
            "whole distribution",
        ),
    ],
)
def test_what_no_schedule_may_say(faults_of: FaultsOf, overrides: tuple[str, ...], what: str) -> None:
    assert [fault.what for fault in faults_of(*overrides)] == [what]


def test_pairs_are_kept_in_all_rounds_where_one_of_them_needs_them(load: Load) -> None:
    assert load("method.sources.dpr.gradient=[0, 0.3]").of_round(1).label.ties == "keep"
    assert load("method.sources.dpr.gradient=0").label.ties == "drop"


def test_values_beyond_the_last_round_are_warned_of(load: Load) -> None:
    keys = ("rounds=2", "method.kl.coefficient=[0.1, 0.2, 0.3]")
    assert "method.kl.coefficient has 3 values for 2 rounds: the last ones are never reached" in warnings_for(
        load(*keys)
    )
    assert not [one for one in warnings_for(load(*keys, "rounds=3")) if "never reached" in one]


def test_the_keys_are_those_that_say_so(load: Load) -> None:
    assert {"sources.dpr.mixing", "sources.dpp.gradient", "kl.coefficient", "nll.coefficient"} <= set(SCHEDULED)
    assert "sources.offline.gradient" not in SCHEDULED
