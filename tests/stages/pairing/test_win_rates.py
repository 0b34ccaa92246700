"""Labels by win rates: how often each response is expected to win against its prompt's of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from drawn import DROP, KEEP, Drawn

from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking
from align_cli.stages.pairing.dpr import label_completions
from align_cli.stages.pairing.pairs import LabelledPairs


def label(drawn: Drawn, num_reference_generations: int = 0, **section: Any) -> LabelledPairs:
    return label_completions(
        drawn.completions,
        drawn.scorer,
        LabelSection(**{**KEEP, "labels": "win_rate", **section}),
        num_generations=8,
        num_reference_generations=num_reference_generations,
        keep_others=False,
        run_seed=0,
        asking=Asking(NoProgress()),
    )


def wins(one: float, other: float) -> float:
    return 1 / (1 + math.exp(other - one))


def test_best_and_worst_keep_their_win_rates_against_all_and_their_scores(draw: Callable[..., Drawn]) -> None:
    (pair,) = label(draw([[1.0, 3.0, 0.0]])).preferences
    best, worst = (0.5 + wins(3, 1) + wins(3, 0)) / 3, (0.5 + wins(0, 1) + wins(0, 3)) / 3
    assert (pair.chosen_score, pair.rejected_score) == (3.0, 0.0)
    assert (pair.chosen_win_rate, pair.rejected_win_rate) == (pytest.approx(best), pytest.approx(worst))
    assert pair.label == pytest.approx(1 / (1 + math.exp(worst - best))), "DNO's sigmoid of their difference"


def test_the_temperature_is_bradley_and_terrys(draw: Callable[..., Drawn]) -> None:
    (pair,) = label(draw([[1.0, 3.0]]), temperature=4.0).preferences
    assert pair.chosen_win_rate == pytest.approx((0.5 + wins(0.5, 0)) / 2)


def test_ties_are_ties_whatever_else_the_prompt_has(draw: Callable[..., Drawn]) -> None:
    pairs = label(draw([[1.0, 0.3, 1.0]]), pairs="all").preferences
    assert sorted(pair.label == 0.5 for pair in pairs) == [False, False, True]
    assert label(draw([[1.0, 0.3, 1.0]]), pairs="all", **DROP).counts["ties_dropped"] == 1


def test_the_win_rates_of_all_pairs_sum_to_a_half_each(draw: Callable[..., Drawn]) -> None:
    (pair,) = label(draw([[-2.0, 5.0]])).preferences
    assert pair.chosen_win_rate + pair.rejected_win_rate == pytest.approx(1)


def test_a_response_of_the_reference_is_measured_against_the_policys_alone(draw: Callable[..., Drawn]) -> None:
    drawn = draw([[1.0, 3.0]])
    drawn.completions[1] = replace(drawn.completions[1], sampled_by="reference", sample_index=0)
    (pair,) = label(drawn, num_reference_generations=1).preferences
    assert pair.chosen_by == "reference" and pair.chosen_win_rate == pytest.approx(wins(3, 1))
    assert pair.rejected_win_rate == pytest.approx(0.5), "against itself"


def test_other_labels_leave_them_out(draw: Callable[..., Drawn]) -> None:
    (pair,) = label(draw([[1.0, 3.0]]), labels="soft").preferences
    assert not {"chosen_win_rate", "rejected_win_rate"} & pair.to_dict().keys()
