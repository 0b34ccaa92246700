"""Exact shares and seeded orders."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.training.batches import Mixture, PairCollator, TrainingPair, batch_counts, usage


def pool(source: int, size: int) -> list[TrainingPair]:
    return [TrainingPair([1], [2, source], [3], 1.0, source, index, index) for index in range(size)]


def ids(batches: list[list[TrainingPair]], source: int) -> list[int]:
    return [pair.pair_id for batch in batches for pair in batch if pair.source == source]


@given(
    weights=st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(any),
    batch_size=st.integers(1, 64),
    num_steps=st.integers(1, 60),
)
def test_no_batch_and_no_running_total_is_a_whole_pair_off(weights: list[int], batch_size: int, num_steps: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    totals = [0] * len(shares)
    for step, counts in enumerate(batch_counts(shares, batch_size, num_steps), start=1):
        assert sum(counts) == batch_size and min(counts) >= 0
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        for share, total in zip(shares, totals, strict=True):
            assert abs(total - share * batch_size * step) < 1 + 1e-3


def test_shares_that_give_whole_numbers_are_the_same_in_every_batch() -> None:
    assert batch_counts([0.7, 0.3], 10, 50) == [[7, 3]] * 50


def test_a_share_below_one_pair_is_carried_over() -> None:
    assert batch_counts([0.75, 0.25], 2, 4) == [[2, 0], [1, 1], [2, 0], [1, 1]] or batch_counts([0.75, 0.25], 2, 4) == [
        [1, 1],
        [2, 0],
        [1, 1],
        [2, 0],
    ]


def test_a_source_without_a_share_gets_nothing() -> None:
    assert batch_counts([1.0, 0.0], 4, 3) == [[4, 0]] * 3


def test_offline_pairs_are_all_seen_before_one_repeats_also_across_rounds() -> None:
    mixture = Mixture({"offline": 0.5, "dpr": 0.5}, 4, seed=0)
    pools = {"offline": pool(0, 10), "dpr": pool(1, 3)}
    rounds = [mixture.round_batches(pools, number, 3) for number in (1, 2, 3, 4, 5)]
    seen = [pair for batches in rounds for pair in ids(batches, 0)]
    assert len(seen) == 30
    for lap in range(3):
        assert sorted(seen[10 * lap : 10 * lap + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]


def test_a_rounds_own_pairs_cycle_in_fresh_orders_within_the_round() -> None:
    mixture = Mixture({"dpr": 1.0}, 4, seed=0)
    first, second = (mixture.round_batches({"dpr": pool(0, 6)}, number, 3) for number in (1, 2))
    assert sorted(ids(first, 0)[:6]) == sorted(ids(first, 0)[6:]) == list(range(6))
    assert ids(first, 0) != ids(second, 0)


def test_the_same_round_is_drawn_the_same_way_whatever_was_drawn_before() -> None:
    pools = {"offline": pool(0, 7), "dpr": pool(1, 5)}
    shares = {"offline": 0.7, "dpr": 0.3}
    mixture = Mixture(shares, 8, seed=3)
    for number in (1, 2):
        mixture.round_batches(pools, number, 4)
    assert mixture.round_batches(pools, 3, 4) == Mixture(shares, 8, seed=3).round_batches(pools, 3, 4)
    assert mixture.round_batches(pools, 3, 4) != Mixture(shares, 8, seed=4).round_batches(pools, 3, 4)


def test_usage_counts_how_often_pairs_were_used() -> None:
    batches = Mixture({"offline": 0.5, "dpr": 0.5}, 4, seed=0).round_batches(
        {"offline": pool(0, 10), "dpr": pool(1, 4)}, 1, 3
    )
    assert usage(batches, ["offline", "dpr"]) == {"offline": {"1": 6}, "dpr": {"1": 2, "2": 2}}
    assert Counter(ids(batches, 1)).most_common()[0][1] == 2


def test_the_collator_stacks_chosen_over_rejected_and_masks_the_rest() -> None:
    pairs = [TrainingPair([1, 2], [3], [4, 5, 6], 1.0, 0, 0, 0), TrainingPair([7], [8, 9], [9], 0.5, 1, 4, 7)]
    columns = PairCollator(0)(pairs)
    assert columns["input_ids"].tolist() == [[1, 2, 3, 0, 0], [7, 8, 9, 0, 0], [1, 2, 4, 5, 6], [7, 9, 0, 0, 0]]
    assert columns["completion_mask"].tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    assert columns["attention_mask"].sum(-1).tolist() == [3, 3, 5, 2]
    assert columns["label"].tolist() == [1.0, 0.5]
    assert columns["source"].tolist() == [0, 1] and columns["pair_id"].tolist() == [0, 4]
    assert columns["pair_of"].tolist() == [0, 1, 0, 1] and columns["group_id"].tolist() == [0, 7]


def test_the_collator_puts_other_responses_behind_the_pairs() -> None:
    pairs = [
        TrainingPair([1], [2], [3], 1.0, 0, 0, 0),
        TrainingPair([4], [5], [6], 1.0, 0, 1, 1, other_ids=([7, 8], [9]), sampled_logp=-3.5),
    ]
    columns = PairCollator(0)(pairs)
    assert columns["input_ids"].tolist() == [[1, 2, 0], [4, 5, 0], [1, 3, 0], [4, 6, 0], [4, 7, 8], [4, 9, 0]]
    assert columns["pair_of"].tolist() == [0, 1, 0, 1, 1, 1]
    assert columns["sampled_logp"].tolist() == [0.0, -3.5]


def test_a_source_with_a_share_needs_pairs() -> None:
    with pytest.raises(ValueError, match="empty range"):
        Mixture({"dpr": 1.0}, 4, seed=0).round_batches({"dpr": []}, 1, 1)
