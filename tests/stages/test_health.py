"""What a round's labels look like, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers import Comparer, Scorer
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import NoProgress
from align_cli.stages.health import label_health, longer_won, margin_of, scorers_agreement
from align_cli.stages.opinions import Asking


def pair(chosen: int, rejected: int, label: float = 1.0, **fields: Any) -> Preference:
    """A pair whose responses have so many tokens."""
    return Preference("p", "a", "b", label, "dpr", chosen_ids=[7] * chosen, rejected_ids=[8] * rejected, **fields)


def test_ties_are_counted_whether_they_were_kept_or_not() -> None:
    pairs = [pair(3, 2, chosen_score=2.0, rejected_score=1.0), pair(2, 3, 0.5, chosen_score=1.0, rejected_score=1.0)]
    counts = {"pairs": 2, "ties_kept": 1, "ties_dropped": 3, "without_verdict_dropped": 1, "empty_texts_dropped": 2}
    health = label_health(pairs, counts)
    assert health["tie_share"] == pytest.approx(5 / 8)
    assert health["margin"] == {"mean": 0.5, "standard_error": 0.5}
    assert (health["longer_won"], health["longer_won_pairs"]) == (0.75, 2)
    assert "agreement" not in health


def test_a_verdicts_margin_is_that_of_its_probability() -> None:
    assert margin_of(pair(1, 1, labeler="judge", verdicts={"judge": 0.75})) == 0.5
    both = {"one": 1.0, "other": 0.0}
    assert margin_of(pair(1, 1, labeler="both", verdicts={"both": 0.75, **both})) == 0.5  # by the weights of the two
    assert margin_of(pair(1, 1, labeler="both", verdicts=both)) is None
    assert margin_of(pair(1, 1)) is None


def test_labelers_that_were_put_together_are_compared_two_by_two() -> None:
    said = [
        {"verdicts": {"judge": 1.0}, "chosen_scores": {"words": 2.0}, "rejected_scores": {"words": 1.0}},
        {"verdicts": {"judge": 1.0}, "chosen_scores": {"words": 0.0}, "rejected_scores": {"words": 1.0}},
        {"verdicts": {"judge": 0.5}, "chosen_scores": {"words": 0.0}, "rejected_scores": {"words": 1.0}},
    ]
    for one in said:
        one["verdicts"]["both"] = 1.0
    health = label_health([pair(1, 1, labeler="both", **one) for one in said], {})
    assert health["agreement"] == {"words and judge": {"agreement": 0.5, "num_pairs": 2}}
    assert longer_won([pair(1, 1)]) is None


class Longest(Scorer):
    name, batch_size = "longest", 3

    def score(self, prompts: Any, completions: Any, prompt_indices: Any = None) -> list[float]:
        return [float(len(text)) for text in completions]


class First(Comparer):
    name, batch_size = "first", 3

    def check(self, prompts: Any) -> None:
        """Nothing can be wrong."""

    def compare(self, prompts: Any, firsts: Any, seconds: Any, prompt_indices: Any = None) -> list[float]:
        return [1.0 for _ in firsts]


def test_a_scorer_is_asked_about_the_first_pairs_and_told_apart_from_the_labels(
    make_completion: Callable[..., Completion],
) -> None:
    completions = [
        make_completion(prompt, sample, completion="x" * (1 + sample)) for prompt in (0, 1) for sample in (0, 1)
    ]
    places = [(0, 1, 0), (1, 0, 1)]  # the longer one is chosen, then the shorter one
    pairs = [
        pair(
            1, 1, prompt_index=prompt, chosen_index=one, rejected_index=other, chosen_by="policy", rejected_by="policy"
        )
        for prompt, one, other in places
    ]
    asking = Asking(NoProgress())
    assert scorers_agreement(pairs, completions, Longest(), asking, 9) == {"agreement": 0.5, "num_pairs": 2}
    assert scorers_agreement(pairs, completions, Longest(), asking, 1) == {"agreement": 1.0, "num_pairs": 1}
    assert scorers_agreement(pairs, completions, First(), asking, 9) == {"agreement": 1.0, "num_pairs": 2}
    assert scorers_agreement(pairs, [], Longest(), asking, 9) is None


def test_fewer_pairs_may_be_compared_where_a_stage_was_killed(
    make_completion: Callable[..., Completion], tmp_path: Path
) -> None:
    """The key is none that a stage's results depend on, so the work of before is found again."""
    completions = [
        make_completion(prompt, sample, completion="x" * (1 + sample)) for prompt in (0, 1) for sample in (0, 1)
    ]
    sides = {"chosen_by": "policy", "rejected_by": "policy"}
    pairs = [pair(1, 1, prompt_index=prompt, chosen_index=1, rejected_index=0, **sides) for prompt in (0, 1)]
    asking = Asking(NoProgress(), WorkInProgress(tmp_path, {"key": 1}))
    scorers_agreement(pairs, completions, Longest(), asking, 9)
    found = scorers_agreement(pairs, completions, Longest(), asking, 1)
    assert found == {"agreement": 1.0, "num_pairs": 1}
