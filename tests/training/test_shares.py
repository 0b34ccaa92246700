"""Which pairs of a batch each process takes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from small_training import random_pair

from align_cli.training.batches import TrainingPair
from align_cli.training.shares import share_of


def batch_of(sizes: list[int], seed: int = 0) -> list[TrainingPair]:
    """Pairs of prompts, so many of each."""
    rng = random.Random(seed)
    pairs = []
    for prompt, size in enumerate(sizes):
        first = random_pair(rng, source=prompt % 2, number=prompt)
        pairs += [replace(first, pair_id=100 * prompt + number) for number in range(size)]
    return pairs


@pytest.mark.parametrize("number", [1, 2, 4])
def test_every_pair_is_taken_once_and_all_take_as_many(number: int):
    batch = batch_of([3, 1, 1, 3, 2, 2, 4])
    shares = [share_of(batch, rank, number) for rank in range(number)]
    assert [len(share) for share in shares] == [len(batch) // number] * number
    taken = Counter((pair.source, pair.pair_id) for share in shares for pair in share)
    assert taken == Counter((pair.source, pair.pair_id) for pair in batch)


def test_one_process_takes_the_batch_as_it_is():
    batch = batch_of([2, 3, 1])
    assert share_of(batch, 0, 1) == batch


def test_pairs_stand_in_the_batchs_order():
    batch = batch_of([1] * 8)
    for rank in range(2):
        places = [batch.index(pair) for pair in share_of(batch, rank, 2)]
        assert places == sorted(places)


def test_the_pairs_of_a_prompt_stay_together_where_they_can():
    batch = batch_of([4, 2, 2])
    prompts = [{(pair.source, pair.prompt_id) for pair in share_of(batch, rank, 2)} for rank in range(2)]
    assert not prompts[0] & prompts[1]


def test_a_prompt_with_more_pairs_than_a_share_is_cut():
    batch = batch_of([6, 2])
    shares = [share_of(batch, rank, 2) for rank in range(2)]
    assert [len(share) for share in shares] == [4, 4]


def test_tokens_are_spread_as_evenly_as_pairs():
    long, short = (random_pair(random.Random(0), 0, number) for number in (0, 1))
    batch = [replace(long, chosen_ids=[5] * 100, prompt_id=number, pair_id=number) for number in range(4)]
    batch += [replace(short, prompt_id=number, pair_id=number) for number in range(4, 8)]
    for rank in range(2):
        assert sum(len(pair.chosen_ids) == 100 for pair in share_of(batch, rank, 2)) == 2


def test_shares_are_the_same_in_every_process():
    batch = batch_of([2, 1, 3, 2])
    assert share_of(batch, 1, 4) == share_of(list(batch), 1, 4)
