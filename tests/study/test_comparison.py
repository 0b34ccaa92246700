"""Two runs side by side, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import Completion
from align_cli.errors import RunError
from align_cli.study import comparison
from align_cli.study.comparison import Evaluated, evaluated_run, pair

Align = Callable[..., Any]


@pytest.fixture(scope="module")
def two(finished: Path, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run and a fork of it with another β."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("two") / "w"))
    done = align("train", "recipe.yaml", "method.beta=0.3", "output_dir=other", "--from", "run@1", cwd=folder)
    assert done.code == 0, done.err
    return folder


def compared(folder: Path, align: Align, *names: str) -> dict[str, Any]:
    done = align("compare", *names, "--json", cwd=folder)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def scores(folder: Path, run: str, number: int) -> list[float]:
    rows = (folder / run / "rounds" / f"{number:03d}" / "samples.jsonl").read_text().splitlines()
    return [next(iter(json.loads(row)["scores"].values())) for row in rows]


def test_the_keys_that_differ_stand_before_the_figures(two: Path, align: Align) -> None:
    found = compared(two, align, "run", "other")
    assert found["recipes"] == [{"key": "method.beta", "first": 0.1, "second": 0.3}]
    assert [one["round"] for one in found["evaluations"]] == [2, 2]
    shown = align("compare", "run", "other", cwd=two)
    assert shown.code == 0, shown.err
    assert shown.out.index("method.beta") < shown.out.index("win vs initial") < shown.out.index("the second wins")
    assert "both have seed 0" in shown.out


def test_what_is_paired_is_each_prompts_own_two_scores(two: Path, align: Align) -> None:
    paired = compared(two, align, "run", "other")["paired"]
    ours, theirs, initial = scores(two, "run", 2), scores(two, "other", 2), scores(two, "run", 0)

    def wins(one: list[float], other: list[float]) -> float:
        return sum(0.5 if a == b else a > b for a, b in zip(one, other, strict=True)) / len(one)

    assert paired["num_prompts"] == len(ours)
    assert paired["wins"]["win_rate"] == pytest.approx(wins(theirs, ours))
    difference = wins(theirs, initial) - wins(ours, initial)
    assert paired["against_initial"]["difference"] == pytest.approx(difference)
    assert paired["reward"]["mean"] == pytest.approx((sum(theirs) - sum(ours)) / len(ours))


def test_wins_are_read_for_the_user_and_kl_held_against_them(two: Path, align: Align) -> None:
    found = compared(two, align, "run", "other")
    (low, high), said = found["paired"]["wins"]["interval"], found["paired"]["remarks"]
    better = "second" if low > 0.5 else "first"
    told_apart = f"the interval of wins leaves one half out: on these prompts the {better} is better"
    not_told = "the interval of wins holds one half: these prompts cannot tell the two apart"
    assert said[0] == (not_told if low <= 0.5 <= high else told_apart)
    kls = sorted(one["kl"]["mean"] for one in found["evaluations"])
    is_uneven = kls[1] >= 0.1 and kls[0] * 1.25 <= kls[1]
    assert any("nats from their references" in one for one in said) == is_uneven
    assert not any("is not finished" in one for one in said)


def test_a_run_that_is_not_finished_is_compared_by_its_last_round_and_said_to_be(two: Path, align: Align) -> None:
    begun = Path(shutil.copytree(two / "other", two / "begun"))
    shutil.rmtree(begun / "rounds" / "002")
    assert "begun is not finished: this is round 1 of 2" in compared(two, align, "run@2", "begun")["paired"]["remarks"]


def test_two_rounds_of_one_run_are_compared(two: Path, align: Align) -> None:
    found = compared(two, align, "run@1", "run@2")
    assert found["recipes"] == []
    assert [one["round"] for one in found["evaluations"]] == [1, 2]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("run", "run"), "these are one policy"),
        (("run@1", "other@1"), "these are one policy"),  # which the fork took over
        (("run", "missing"), "missing"),
        (("run", "other@7"), "the run has no evaluation of round 7"),
        (("run", "pairs.jsonl"), "pairs.jsonl"),
    ],
)
def test_what_is_not_two_policies_is_refused(two: Path, align: Align, names: tuple[str, str], said: str) -> None:
    done = align("compare", *names, "--json", cwd=two)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


@pytest.mark.long
def test_runs_that_share_no_measure_are_refused_with_the_reason(two: Path, align: Align) -> None:
    scorer = "labelers.second={kind: function, function: 'labeler.py:score'}"
    for name, override, said in (
        ("scorer", ("evaluate.scorer=second", scorer), "they are scored by different scorers: hidden and second"),
        ("seed", ("seed=5", "evaluate.num_prompts=4"), "at least 10 are needed"),
        ("none", ("evaluate.scorer=null",), "its responses have no scorer"),
    ):
        done = align("train", "recipe.yaml", "rounds=1", *override, f"output_dir={name}", cwd=two)
        assert done.code == 0, done.err
        done = align("compare", "run", name, cwd=two)
        assert done.code == 2, name
        assert said in done.err
        assert "rounds" in done.out  # what the recipes differ in is told all the same


@pytest.mark.long
def test_a_scorer_is_not_the_same_when_its_code_was_edited(two: Path, align: Align) -> None:
    folder = Path(shutil.copytree(two, two.parent / "edited"))
    words = ("rounds=1", "labelers.second={kind: function, function: 'labeler.py:score'}", "evaluate.scorer=second")
    assert align("train", "recipe.yaml", *words, "output_dir=before", cwd=folder).code == 0
    labeler = folder / "labeler.py"
    labeler.write_text(f"{labeler.read_text()}\n# and something else\n", encoding="utf-8")
    assert align("train", "recipe.yaml", *words, "method.beta=0.3", "output_dir=after", cwd=folder).code == 0
    done = align("compare", "before", "after", cwd=folder)
    assert done.code == 2
    assert "the two scorers named second differ in the files that they are made of" in done.err
    assert "method.beta" in done.out


def test_few_prompts_with_two_scores_say_nothing(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [evaluated_run(str(two / name)) for name in ("run", "other")]
    answers = comparison._answers

    def hardly_scored(run: Evaluated, number: int) -> dict[str, Completion]:
        found = answers(run, number)
        return {key: one if place < 9 else replace(one, scores=None) for place, (key, one) in enumerate(found.items())}

    monkeypatch.setattr(comparison, "_answers", hardly_scored)
    with pytest.raises(RunError, match="scored both responses of 9 prompts; at least 10 are needed"):
        pair(*runs)
