"""Exact shares and seeded orders."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.training.batches import Mixture, TrainingPair, batch_counts, usage


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
    for step, counts in enumerate(batch_counts([shares] * num_steps, batch_size), start=1):
        assert sum(counts) == batch_size
        for share, count in zip(shares, counts, strict=True):
            assert math.floor(share * batch_size + 1e-6) <= count <= math.ceil(share * batch_size - 1e-6)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        for share, total in zip(shares, totals, strict=True):
            assert abs(total - share * batch_size * step) < 1 + 1e-3


def test_a_share_of_more_than_a_pair_has_one_in_every_batch() -> None:
    """Where the largest remainder took what was left, the last of these had none in the tenth batch."""
    counts = batch_counts([[8 / 22, 13 / 22, 1 / 22]] * 44, 23)
    assert min(batch[2] for batch in counts) == 1
    assert [sum(batch[source] for batch in counts) for source in range(3)] == [8 * 46, 13 * 46, 46]


def test_shares_of_almost_nothing_make_no_batch_larger() -> None:
    """Where the largest remainder took what was left, some of these batches of one held two."""
    counts = batch_counts([[weight / 66 for weight in (1, 1, 4, 30, 30)]] * 132, 1)
    assert all(sum(batch) == 1 for batch in counts)
    assert [sum(batch[source] for batch in counts) for source in range(5)] == [2, 2, 8, 60, 60]


def test_shares_that_give_whole_numbers_are_the_same_in_every_batch() -> None:
    assert batch_counts([[0.7, 0.3]] * 50, 10) == [[7, 3]] * 50


def test_a_share_below_one_pair_is_carried_over() -> None:
    counts = batch_counts([[0.75, 0.25]] * 4, 2)
    assert counts in ([[2, 0], [1, 1], [2, 0], [1, 1]], [[1, 1], [2, 0], [1, 1], [2, 0]])


@given(
    rounds=st.lists(st.lists(st.integers(1, 100), min_size=3, max_size=3), min_size=1, max_size=6),
    batch_size=st.integers(1, 64),
    steps_per_round=st.integers(1, 12),
)
def test_shares_that_change_with_the_rounds_are_kept_in_every_batch_and_in_sum(
    rounds: list[list[int]], batch_size: int, steps_per_round: int
) -> None:
    """Of three sources; what a round owes at its end, the next one gives."""
    shares_of_steps = [[one / sum(weights) for one in weights] for weights in rounds for _ in range(steps_per_round)]
    totals, due = [0] * 3, [0.0] * 3
    for shares, counts in zip(shares_of_steps, batch_counts(shares_of_steps, batch_size), strict=True):
        assert sum(counts) == batch_size
        for share, count in zip(shares, counts, strict=True):
            assert math.floor(share * batch_size + 1e-6) <= count <= math.ceil(share * batch_size - 1e-6)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        due = [sum_ + share * batch_size for sum_, share in zip(due, shares, strict=True)]
        assert max(abs(total - sum_) for total, sum_ in zip(totals, due, strict=True)) < 1.5


def test_a_walk_through_offline_pairs_goes_on_where_shares_change() -> None:
    """Round 3 begins behind what rounds 1 and 2 used, each by its own share."""
    of_rounds = {1: {"offline": 0.75, "dpr": 0.25}, 2: {"offline": 0.25, "dpr": 0.75}}
    pools = {"offline": pool(0, 32), "dpr": pool(1, 4)}
    seen: list[int] = []
    for number in (1, 2, 3):
        shares = of_rounds.get(number, {"offline": 0.5, "dpr": 0.5})
        mixture = Mixture(shares, 4, seed=0, per_round=["dpr"], of_rounds=of_rounds)
        batches = mixture.round_batches(pools, number, 4)
        assert [[pair.source for pair in batch].count(0) for batch in batches] == [4 * shares["offline"]] * 4
        seen += ids(batches, 0)
    assert len(seen) == len(set(seen)) == 12 + 4 + 8


def test_a_source_without_a_share_gets_nothing() -> None:
    assert batch_counts([[1.0, 0.0]] * 3, 4) == [[4, 0]] * 3


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
    mixture = Mixture({"dpr": 1.0}, 4, seed=0, per_round=["dpr"])
    first, second = (mixture.round_batches({"dpr": pool(0, 6)}, number, 3) for number in (1, 2))
    assert sorted(ids(first, 0)[:6]) == sorted(ids(first, 0)[6:]) == list(range(6))
    assert ids(first, 0) != ids(second, 0)


def test_the_same_round_is_drawn_the_same_way_whatever_was_drawn_before() -> None:
    pools = {"offline": pool(0, 7), "dpr": pool(1, 5)}
    shares = {"offline": 0.7, "dpr": 0.3}
    mixture = Mixture(shares, 8, seed=3, per_round=["dpr"])
    for number in (1, 2):
        mixture.round_batches(pools, number, 4)
    drawn = mixture.round_batches(pools, 3, 4)
    assert drawn == Mixture(shares, 8, seed=3, per_round=["dpr"]).round_batches(pools, 3, 4)
    assert drawn != Mixture(shares, 8, seed=4, per_round=["dpr"]).round_batches(pools, 3, 4)


def test_usage_counts_how_often_pairs_were_used() -> None:
    batches = Mixture({"offline": 0.5, "dpr": 0.5}, 4, seed=0).round_batches(
        {"offline": pool(0, 10), "dpr": pool(1, 4)}, 1, 3
    )
    assert usage(batches, ["offline", "dpr"]) == {"offline": {"1": 6}, "dpr": {"1": 2, "2": 2}}
    assert Counter(ids(batches, 1)).most_common()[0][1] == 2


def in_groups(source: int, prompts: int, pairs_each: int) -> list[TrainingPair]:
    """Pairs of several to a prompt, those of a prompt not side by side."""
    return [
        TrainingPair([1], [2], [3], 1.0, source, pair * prompts + prompt, prompt)
        for pair in range(pairs_each)
        for prompt in range(prompts)
    ]


def test_pairs_of_a_prompt_follow_one_another() -> None:
    mixture = Mixture({"offline": 0.25, "dpr": 0.75}, 8, seed=0, per_round=["dpr"])
    (batches,) = [mixture.round_batches({"offline": pool(0, 9), "dpr": in_groups(1, 6, 3)}, 1, 3)]
    for batch in batches:
        prompts = [pair.prompt_id for pair in batch if pair.source == 1]
        assert len(prompts) == 6 and len(set(prompts)) == 2
        assert prompts[:3] == [prompts[0]] * 3 and prompts[3:] == [prompts[3]] * 3
    assert sorted(ids(batches, 1)) == list(range(18)), "all of the pool before one repeats"


@given(
    prompts=st.integers(1, 6), pairs_each=st.integers(1, 4), batch_size=st.integers(1, 7), num_rounds=st.integers(1, 4)
)
def test_a_walk_across_rounds_is_cut_nowhere_but_at_batches(
    prompts: int, pairs_each: int, batch_size: int, num_rounds: int
) -> None:
    """Rounds of two steps draw what one round of all steps would, and a pass holds every pair once."""
    pools = {"offline": in_groups(0, prompts, pairs_each)}
    mixture = Mixture({"offline": 1.0}, batch_size, seed=1)
    by_round = [pair for number in range(num_rounds) for pair in ids(mixture.round_batches(pools, number + 1, 2), 0)]
    assert by_round == ids(mixture.round_batches(pools, 1, 2 * num_rounds), 0)
    size = prompts * pairs_each
    for start in range(0, len(by_round) - size + 1, size):
        assert sorted(by_round[start : start + size]) == list(range(size))


def test_only_a_rounds_own_pools_begin_anew() -> None:
    pools = {"offline": pool(0, 50), "dpr": pool(1, 50)}
    mixture = Mixture({"offline": 0.5, "dpr": 0.5}, 4, seed=0, per_round=["dpr"])
    first, second = (mixture.round_batches(pools, number, 5) for number in (1, 2))
    assert not set(ids(first, 0)) & set(ids(second, 0))
    assert set(ids(first, 1)) & set(ids(second, 1)), "two draws of 10 of 50 from the same pool"


def test_a_source_with_a_share_needs_pairs() -> None:
    with pytest.raises(ValueError, match="empty range"):
        Mixture({"dpr": 1.0}, 4, seed=0).round_batches({"dpr": []}, 1, 1)
