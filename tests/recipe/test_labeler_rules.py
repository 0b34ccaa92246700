"""What labelers that are put together, and those that judge, must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.recipe import resolved, warnings_for

OTHER = "labelers.other={kind: function, function: 'package.module:other'}"


def both(keys: str = "", of: str = "{hidden: 1, other: 2}") -> str:
    return f"labelers.both={{kind: combination, of: {of}{', ' + keys if keys else ''}}}"


BROKEN = [
    ([both(of="{hidden: 1}")], "labelers.both.of names 1 labeler; it must name two or more", "name another one"),
    ([both(of="{}")], "labelers.both.of names no labeler; it must name two or more", "name another one"),
    ([both(of="{hidden: 1, other: 0}"), OTHER], "labelers.both.of.other is 0; it must be above 0", ""),
    ([both(of="{hidden: 1, other: x}"), OTHER], "labelers.both.of.other is 'x'; it must be a number above 0", ""),
    (
        [both(of="[hidden, other]"), OTHER],
        "labelers.both.of is ['hidden', 'other']; it must be a section",
        "write {hidden: 1, other: 1}",
    ),
    ([both(of="{hidden: 1, othr: 1}"), OTHER], "labelers.both.of is 'othr'; labelers defines no such labeler", ""),
    ([both(of="{hidden: 1, given: 1}")], "names 'given', of kind dataset, which labels nothing", "leave it out"),
    ([both("by: mean"), OTHER], "labelers.both.by is 'mean'", ""),
    (
        [both("by: vote"), OTHER, "labelers.all={kind: combination, of: {both: 1, hidden: 1}}"],
        "labelers.all.of names 'both', of kind combination, which gives no scores",
        "set labelers.all.by to vote",
    ),
    (
        [both(), OTHER, "labelers.all={kind: combination, by: vote, of: {both: 1, hidden: 1}}"],
        "labelers.all.of names 'both', of kind combination itself",
        "name the labelers of both in its place",
    ),
    (["labelers.both={kind: combination, of: {both: 1, hidden: 1}}"], "of kind combination itself", ""),
    (["evaluate.scorers=[hidden, hiden]"], "evaluate.scorers is 'hiden'; labelers defines no such labeler", "hidden"),
    (
        [f"labelers.{'long' * 40}={{kind: dataset}}"],
        "the labeler's name has 160 bytes; it must have at most 100",
        "shorter",
    ),
    (["evaluate.scorers=[given]"], "evaluate.scorers is 'given', of kind dataset", "name another labeler"),
    (["evaluate.temperature=0"], "evaluate.temperature is 0; it must be at least 1e-06", ""),
    (
        ["evaluate.scorers=[hidden]", "data.eval_prompts=null"],
        "data.eval_prompts is not set; evaluate.scorers scores completions",
        "leave evaluate.scorers out",
    ),
]


@pytest.mark.parametrize(
    ("overrides", "what", "hint"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_judge_or_be_put_together_is_a_fault(faults_of, overrides, what, hint) -> None:
    faults = faults_of(*overrides)
    assert any(what in fault.what and hint in f"{fault.what} {fault.hint}" for fault in faults), faults


@pytest.mark.parametrize(
    "overrides",
    [
        [both(), OTHER],
        [both("by: vote"), OTHER, "method.sources.dpr.labeler=both"],
        [both("by: agreement"), OTHER, "evaluate.scorers=[both, other, hidden]", "evaluate.temperature=0.7"],
        [both("standardize: false"), OTHER, "evaluate.scorer=both"],
        ["evaluate.scorers=[hidden]", "guards.win_rate.action=rollback"],
        ["labelers.rule={kind: function, function: 'align_cli.rewards:ExactAnswer', arguments: {gold: org/name}}"],
    ],
)
def test_what_can_loads(load, overrides) -> None:
    load(*overrides)


@pytest.mark.parametrize(
    ("overrides", "scorer", "scorers"),
    [
        ([], None, []),
        (["evaluate.scorer=hidden"], "hidden", []),
        (["evaluate.scorers=[other, hidden]"], "other", ["hidden"]),
        (["evaluate.scorer=hidden", "evaluate.scorers=[other, hidden, other]"], "hidden", ["other"]),
    ],
)
def test_the_scorer_is_the_first_of_the_scorers(load, overrides, scorer, scorers) -> None:
    evaluate = resolved(load(OTHER, *overrides))["evaluate"]
    assert (evaluate["scorer"], evaluate["scorers"]) == (scorer, scorers)


@pytest.mark.parametrize(
    ("scorer", "shared"),
    [("other", "other"), ("hidden", "hidden"), ("apart", None), ("both", "is the training labeler")],
)
def test_a_scorer_that_the_training_labeler_asks_is_warned_of(load, scorer: str, shared: str | None) -> None:
    apart = "labelers.apart={kind: function, function: 'package.module:apart'}"
    recipe = load(both(), OTHER, apart, "method.sources.dpr.labeler=both", f"evaluate.scorer={scorer}")
    said = [warning for warning in warnings_for(recipe) if "cannot tell learning from gaming" in warning]
    assert len(said) == (shared is not None)
    assert all(str(shared) in warning for warning in said)


def test_a_files_name_in_the_arguments_of_aligns_own_rewards_is_one_that_the_recipe_reads(load, faults_of) -> None:
    def exact(gold: str) -> str:
        reward = "function: 'align_cli.rewards:ExactAnswer'"
        return f"labelers.hidden={{kind: function, {reward}, arguments: {{gold: {gold}}}}}"

    (fault,) = faults_of(exact("gold.jsonl"))
    assert fault.what == "labelers.hidden.arguments.gold: there is no file 'gold.jsonl'"
    Path("gold.jsonl").touch()
    assert load(exact("gold.jsonl")).labelers["hidden"].files() == {"arguments.gold": "gold.jsonl"}
    mine = "labelers.hidden={kind: function, function: 'package.module:f', arguments: {gold: none.jsonl}}"
    assert load(mine).labelers["hidden"].files() == {}
