"""The label stage: what it looks at beforehand, in which order sources are labelled, and what it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from at_work import AtWork, Folders, Held

from align_cli.artifacts.records import Completion
from align_cli.errors import AlignError, DataError
from align_cli.models.load import Policy
from align_cli.recipe import Recipe
from align_cli.stages.base import COMPLETIONS, PREFERENCES, Artifact
from align_cli.stages.inputs import Inputs
from align_cli.stages.label import Label

REWARDED = "method.sources={dpr: {mixing: 1, labeler: hidden}}"
THREE = "method.sources={dmd: {mixing: 0.4}, dpp: {mixing: 0.3}, dpr: {mixing: 0.3, labeler: hidden}}"


@pytest.fixture
def begin(
    tiny_recipe: Callable[..., Recipe],
    tiny_policy_folder: Path,
    tmp_path: Path,
    make_completion: Callable[..., Completion],
) -> Callable[..., AtWork]:
    """`begin("label.ties=drop", ...)`: a process that is about to label two responses to each of two prompts."""
    completions = [make_completion(prompt, sample) for prompt in range(2) for sample in range(2)]

    def made(*overrides: str, held: dict[Artifact, Any] | None = None, **changes: Any) -> AtWork:
        policy = {"model_name_or_path": str(tiny_policy_folder)}
        recipe = tiny_recipe(tmp_path, *overrides, **{"policy": policy, **changes})
        there = {Artifact(1, COMPLETIONS): completions} if held is None else held
        return AtWork(recipe, Folders({0: tiny_policy_folder}), Held(tmp_path, there))

    return made


def write(name: Path, *rows: dict[str, Any]) -> str:
    name.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(name)


def test_what_a_labeler_scores_comes_first_and_all_counts_are_told_together(
    begin: Callable[..., AtWork], tmp_path: Path
) -> None:
    shown = write(tmp_path / "shown.jsonl", *({"prompt": f"prompt {n} :", "completion": " shown ."} for n in range(2)))
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, completions):\n    return [float(c.split()[1]) for c in completions]\n")
    hidden = {"hidden": {"kind": "function", "function": f"{judge}:score"}}
    context = begin(THREE, f"data.demonstrations={shown}", "data.prompts=null", labelers=hidden)
    done = Label().carry_out(context)
    preferences = context.held.written.pop(PREFERENCES)
    assert context.held.written == {}
    assert [pair.source for pair in preferences] == ["dpr"] * 2 + ["dpp"] * 2 + ["dmd"] * 4
    health = done.figures.pop("health")
    assert health == {"tie_share": 0.0, "margin": {"mean": 1.0, "standard_error": 0.0}}
    assert done.figures == {"mixed_pairs": 4, "pairs": 2, "self_labelled_pairs": 2}
    assert list(done.figures) == sorted(done.figures)


def test_what_another_source_left_out_is_no_candidate_of_the_labelers(
    begin: Callable[..., AtWork], make_completion: Callable[..., Completion], tmp_path: Path
) -> None:
    shown = write(tmp_path / "shown.jsonl", *({"prompt": f"prompt {n} :", "completion": " shown ."} for n in range(2)))
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, completions):\n    return [0.0] * len(prompts)\n")
    hidden = {"hidden": {"kind": "function", "function": f"{judge}:score"}}
    both = "method.sources={dmd: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}"
    kept = ("label.ties=keep", "label.empty_texts=drop", f"data.demonstrations={shown}", "data.prompts=null")
    empty = make_completion(1, 1, completion="")
    completions = [make_completion(0, 0), make_completion(0, 1), make_completion(1, 0), empty]
    done = Label().carry_out(begin(both, *kept, held={Artifact(1, COMPLETIONS): completions}, labelers=hidden))
    assert done.figures["empty_texts_dropped"] == 2
    assert done.figures["health"]["tie_share"] == 0.5  # one of two, and the other has an empty text


def test_a_scorer_that_costs_money_is_not_asked_about_labels(begin: Callable[..., AtWork], tmp_path: Path) -> None:
    """Neither it nor a sum of it: nobody answers at its address."""
    code = tmp_path / "judge.py"
    code.write_text("def score(prompts, completions):\n    return [float(c.split()[1]) for c in completions]\n")
    own = {"kind": "function", "function": f"{code}:score"}
    paid = {"kind": "judge", "model": "m", "base_url": "http://127.0.0.1:9/v1", "template": "score", "max_retries": 0}
    labelers = {"hidden": own, "own": own, "paid": paid, "sum": {"kind": "combination", "of": {"own": 1, "paid": 1}}}
    done = Label().carry_out(begin(REWARDED, "evaluate.scorers=[paid, sum, own]", labelers=labelers))
    assert list(done.figures["health"]["agreement"]) == ["labels and own"]


def test_a_round_that_sampled_nothing_is_told_and_writes_nothing(begin: Callable[..., AtWork]) -> None:
    context = begin(REWARDED, held={})
    with pytest.raises(DataError, match="source 'dpr' has a share of 1, and no pair was made"):
        Label().carry_out(context)
    assert context.held.written == {}


def test_a_labeler_and_demonstrations_are_tried_before_anything_is_loaded(
    begin: Callable[..., AtWork], tmp_path: Path
) -> None:
    sound = begin(REWARDED)
    Label().check(sound.recipe, sound.memory)
    broken = tmp_path / "broken.py"
    broken.write_text("def score(prompts, completions):\n    raise RuntimeError('out of order')\n", encoding="utf-8")
    empty = write(tmp_path / "none.jsonl")
    hidden = {"hidden": {"kind": "function", "function": f"{broken}:score"}}
    both = "method.sources={dmd: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}"
    context = begin(both, f"data.demonstrations={empty}", labelers=hidden)
    with pytest.raises(AlignError) as caught:
        Label().check(context.recipe, context.memory)
    first, second = caught.value.faults
    assert "hidden" in first.where and "out of order" in str(first)
    assert "none.jsonl" in second.where


def test_a_labeler_is_tried_with_two_texts_and_none_where_there_is_none(
    begin: Callable[..., AtWork], tmp_path: Path
) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, completions):\n    assert len(prompts) == 2\n    return [0.0, 0.0]\n")
    rewarded = begin(REWARDED, labelers={"hidden": {"kind": "function", "function": f"{judge}:score"}})
    Label().check(rewarded.recipe, rewarded.memory)
    own = begin("method.sources={dpp: {mixing: 1}}")
    Label().check(own.recipe, own.memory)


def test_demonstrations_are_read_by_the_policy_where_a_source_shows_them(
    begin: Callable[..., AtWork], tiny_policy: Policy, tmp_path: Path
) -> None:
    shown = write(tmp_path / "shown.jsonl", {"prompt": "the food", "completion": " was good ."})
    named = f"data.demonstrations={shown}"
    recipe = begin("method.sources={dmd: {mixing: 1}}", named).recipe
    inputs = Inputs(recipe)
    (read,) = Label().to_read(recipe, inputs)
    assert (read.key, len(read.rows), read.read()) == ("data.demonstrations", 1, {})
    (demonstration,) = inputs.demonstrations.rows
    assert demonstration.prompt_ids == tiny_policy.tokenizer("the food")["input_ids"]
    assert demonstration.answer_ids["completion"][:-1] == tiny_policy.tokenizer(" was good .")["input_ids"]
    unused = begin(REWARDED, named).recipe
    assert [list(read.rows) for read in Label().to_read(unused, Inputs(unused))] == [[]]
