"""Pairs of source `dpp`: all of a prompt's own, labelled by the policy itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drawn import Drawn

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion
from align_cli.labelers.own_labels import OWN_LABELS
from align_cli.models.load import Policy
from align_cli.models.measures import OneMeasure
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import NoProgress
from align_cli.stages.pairing.dpp import Dpp, self_label

BATCHES: dict[str, Any] = {"batch_size": 3, "progress": NoProgress()}


def test_the_policys_own_pairs_are_all_of_a_prompts_in_the_order_of_sampling(
    warm_policy: Policy, tiny_policy: Policy, draw: Callable[..., Drawn]
) -> None:
    drawn = draw([[0.0, 0.0, 0.0], [0.0], [0.0, 0.0]])
    shorter = [replace(each, completion_ids=[10 + each.sample_index, 1]) for each in drawn.completions]
    measure = OneMeasure(OWN_LABELS, warm_policy, tiny_policy, 0.1)
    pairs = self_label(shorter[::-1], measure, 3, **BATCHES)
    places = sorted((pair.prompt_index, pair.chosen_index, pair.rejected_index) for pair in pairs)
    assert places == [(0, 0, 1), (0, 0, 2), (0, 1, 2), (2, 0, 1)]
    assert [pair.label for pair in pairs] == measure.of(pairs[:3]) + measure.of(pairs[3:])
    assert {(pair.source, pair.labeler, pair.chosen_score, pair.rejected_score) for pair in pairs} == {
        ("dpp", "policy", None, None)
    }
    assert self_label([], measure, 3, **BATCHES) == []
    twice = self_label(shorter[4:], measure, 1, **BATCHES)
    assert twice == []


def test_self_labels_know_nothing_of_the_references_responses(
    warm_policy: Policy, tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    own = [make_completion(0, sample, completion_ids=[10 + sample, 1]) for sample in range(2)]
    foreign = [
        make_completion(0, sample, completion_ids=[30 + sample, 1], sampled_by="reference", policy="fedcba9876543210")
        for sample in range(3)
    ]
    measure = OneMeasure(OWN_LABELS, warm_policy, tiny_policy, 0.1)
    (pair,) = self_label([*foreign, *own], measure, 2, **BATCHES)
    assert [pair] == self_label(own, measure, 2, **BATCHES)
    assert (pair.chosen_ids, pair.rejected_ids) == ([10, 1], [11, 1])
    assert (pair.chosen_by, pair.rejected_by, pair.policy) == ("policy", "policy", own[0].policy)
    assert self_label(foreign, measure, 2, **BATCHES) == []


def test_labels_that_a_killed_process_has_kept_are_not_asked_for_again(
    warm_policy: Policy, tiny_policy: Policy, draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    drawn = draw([[0.0, 0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    completions = [replace(each, completion_ids=[10 + each.sample_index, 1]) for each in drawn.completions]
    whole = self_label(completions, OneMeasure(OWN_LABELS, warm_policy, tiny_policy, 0.1), 3, **BATCHES)
    asked: list[int] = []

    class Dying(OneMeasure):
        def of(self, batch: Any) -> list[float]:
            if asked:
                raise KeyboardInterrupt
            asked.append(len(batch))
            return super().of(batch)

    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "own-labels.jsonl", "key") as journal:
        self_label(completions, Dying(OWN_LABELS, warm_policy, tiny_policy, 0.1), 3, **BATCHES, journal=journal)
    asked.clear()

    class Counting(OneMeasure):
        def of(self, batch: Any) -> list[float]:
            asked.append(len(batch))
            return super().of(batch)

    with Journal(tmp_path / "own-labels.jsonl", "key") as journal:
        counting = Counting(OWN_LABELS, warm_policy, tiny_policy, 0.1)
        assert self_label(completions, counting, 3, **BATCHES, journal=journal) == whole
    assert asked == [2]


def test_a_round_labels_with_the_policy_that_it_begins_with_and_goes_on_where_it_was_killed(
    warm_policy: Policy, tiny_policy: Policy, draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    completions = [
        replace(each, completion_ids=[10 + each.sample_index, 1]) for each in draw([[0.0] * 3] * 2).completions
    ]
    asked: list[int] = []
    done: list[int] = []
    begun: list[tuple[int, str]] = []

    def policy_after(number: int) -> Policy:
        asked.append(number)
        return warm_policy

    def reference_for(number: int) -> Policy:
        asked.append(number)
        return tiny_policy

    recipe = SimpleNamespace(
        method=SimpleNamespace(beta=0.1), generate=SimpleNamespace(num_generations=3, batch_size=3)
    )
    context: Any = SimpleNamespace(
        recipe=recipe,
        loaded=SimpleNamespace(policy_after=policy_after, reference_for=reference_for, measure=OneMeasure),
        round=4,
        work=WorkInProgress(tmp_path, {}),
        progress=SimpleNamespace(start=lambda *total: begun.append(total), advance=lambda _: None, found=done.append),
    )
    made = Dpp().pair(completions, context)
    measure = OneMeasure(OWN_LABELS, warm_policy, tiny_policy, 0.1)
    assert made.preferences == self_label(completions, measure, 3, **BATCHES)
    assert made.counts == {"self_labelled_pairs": 6}
    assert asked == [3, 4]
    assert Dpp().pair(completions, context) == made
    assert begun == [(6, "pairs")] * 2
    assert done == [0, 6], "the second process finds all labels"
