"""The policy as judge in a recipe: where it may be named, and what its keys may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from align_cli.errors import Fault
from align_cli.recipe import Recipe, warnings_for

Load = Callable[..., Recipe]
FaultsOf = Callable[..., list[Fault]]

OWN = "labelers.own={kind: self_judge}"
SUM = "labelers.both={kind: combination, of: {own: 1, hidden: 1}}"
CHANGES = "which asks the policy itself; what it says changes from round to round"


@pytest.mark.parametrize(
    ("overrides", "what", "hint"),
    [
        (("evaluate.scorer=own",), f"evaluate.scorer is 'own', {CHANGES}", "name a labeler that stays the same"),
        (("evaluate.scorers=[hidden, own]",), f"evaluate.scorers is 'own', {CHANGES}", "name a labeler that stays"),
        ((SUM, "evaluate.scorer=both"), f"evaluate.scorer is 'both', {CHANGES}", "name a labeler that stays"),
        (
            ("labelers.own.template=pairwise",),
            "labelers.own.template is 'pairwise', which compares two responses; a self_judge scores each",
            "set it to additive, or leave it out",
        ),
        (("labelers.own.template=mine.txt",), "labelers.own.template: there is no file 'mine.txt'", ""),
        (("labelers.own.votes=0",), "labelers.own.votes is 0; it must be at least 1", ""),
        (
            ("labelers.own.temperature=0",),
            "labelers.own.temperature is 0; it must be at least 1e-06",
            "0.7 is the paper's",
        ),
        (("labelers.own.top_p=2",), "labelers.own.top_p is 2; it must be above 0 and at most 1", "0.9 is the paper's"),
        (("labelers.own.max_new_token=5",), "unknown key labelers.own.max_new_token", "labelers.own.max_new_tokens"),
    ],
)
def test_a_self_judge_that_cannot_be_is_told_with_its_remedy(
    faults_of: FaultsOf, overrides: tuple[str, ...], what: str, hint: str
) -> None:
    (fault,) = faults_of(OWN, *overrides)
    assert fault.what.startswith(what) and hint in fault.hint


def test_it_labels_and_may_be_one_of_several_labelers(load: Load) -> None:
    assert load(OWN, "method.sources.dpr.labeler=own").labelers["own"].gives == "scores"
    assert load(OWN, SUM, "method.sources.dpr.labeler=both").labelers["both"].asks() == ["own", "hidden"]
    assert load(OWN, "labelers.own.template=score").labelers["own"].files() == {}


def test_the_preset_is_not_warned_of_the_completions_that_it_trains_on_two_of(load: Load) -> None:
    sources = "method.sources={dpr: {mixing: 1, labeler: self}}"
    warnings = warnings_for(load("preset=self-rewarding", sources, "evaluate.scorer=hidden"))
    assert [text for text in warnings if "num_generations" in text or "labeler" in text] == []
