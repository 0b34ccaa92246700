"""A batch as tensors, and in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from align_cli.models.layout import each_alone, lay_out
from align_cli.models.load import load_policy
from align_cli.playground.model import make_policy
from align_cli.training.batches import TrainingPair
from align_cli.training.collated import PairCollator, cut_further, cut_into_passes, select_pairs, token_batch


def alike(count: int) -> list[TrainingPair]:
    return [TrainingPair([1], [2], [3], 1.0, 0, number, number) for number in range(count)]


def test_the_collator_stacks_chosen_over_rejected_and_masks_the_rest() -> None:
    pairs = [TrainingPair([1, 2], [3], [4, 5, 6], 1.0, 0, 0, 0), TrainingPair([7], [8, 9], [9], 0.5, 1, 4, 7)]
    columns = PairCollator(0)(pairs)
    assert columns["input_ids"].tolist() == [[1, 2, 3, 0, 0], [7, 8, 9, 0, 0], [1, 2, 4, 5, 6], [7, 9, 0, 0, 0]]
    assert columns["completion_mask"].tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    assert columns["attention_mask"].sum(-1).tolist() == [3, 3, 5, 2]
    assert columns["label"].tolist() == [1.0, 0.5]
    assert columns["source"].tolist() == [0, 1]
    assert columns["pair_of"].tolist() == [0, 1, 0, 1] and columns["prompt_id"].tolist() == [0, 7]


def test_the_collator_puts_other_responses_behind_the_pairs() -> None:
    pairs = [
        TrainingPair([1], [2], [3], 1.0, 0, 0, 0),
        TrainingPair([4], [5], [6], 1.0, 0, 1, 1, other_ids=([7, 8], [9]), sampled_logp=-3.5),
    ]
    columns = PairCollator(0)(pairs)
    assert columns["input_ids"].tolist() == [[1, 2, 0], [4, 5, 0], [1, 3, 0], [4, 6, 0], [4, 7, 8], [4, 9, 0]]
    assert columns["pair_of"].tolist() == [0, 1, 0, 1, 1, 1]
    assert columns["sampled_logp"].tolist() == [0.0, -3.5]
    assert columns["of_policy"].tolist() == [True] * 6


def test_the_collator_says_whose_responses_these_are() -> None:
    mixed = TrainingPair([1], [2], [3], 1.0, 0, 0, 0, ([4],), 0.0, (7, 8, 9), (False, True), (True, False))
    columns = PairCollator(0, num_responses=4)([mixed, TrainingPair([1], [2], [3], 1.0, 0, 1, 1)])
    assert columns["of_policy"].tolist() == [False, True, True, True, True]
    assert columns["from_reference"].tolist() == [[True, False], [False, False]]
    assert columns["response_id"].tolist()[0::2] == [7, 8, 9]
    assert columns["response_ids"].tolist()[0] == [7, 8, 9, -1]


def test_a_pair_that_shares_no_response_gets_numbers_that_no_other_pair_has() -> None:
    alone = [TrainingPair([1], [2], [3], 1.0, 0, number, 0, ([4],) * (number % 3)) for number in range(6)]
    sharing = TrainingPair([1], [2], [3], 1.0, 0, 6, 0, (), 0.0, (0, 1))
    columns = PairCollator(0)([*alone, sharing, alone[0]])
    rows = [{number for number in row if number != -1} for row in columns["response_ids"].tolist()]
    assert rows[0] == rows[-1], "copies of a pair share its responses"
    numbers = [number for row in rows[:-1] for number in row]
    assert len(numbers) == len(set(numbers)) == sum(2 + len(pair.other_ids) for pair in alone) + 2
    in_order = columns["response_id"].tolist()
    for row, pair_responses in enumerate(rows):
        mine = {number for number, pair in zip(in_order, columns["pair_of"].tolist(), strict=True) if pair == row}
        assert mine == pair_responses


def test_a_part_of_a_batch_is_what_its_pairs_alone_would_be_but_for_the_padding() -> None:
    pairs = [
        TrainingPair([1], [2], [3, 3], 1.0, 0, 0, 0),
        TrainingPair([4, 4], [5], [6], 0.5, 1, 1, 1, ([7, 8], [9]), -3.5, (3, 4, 5, 6), (False, True), (True, False)),
        TrainingPair([1, 5], [6], [7], 0.75, 0, 2, 2, ([1],), -1.0),
        TrainingPair([1], [2, 2, 2, 2], [3], 1.0, 1, 3, 3),
    ]
    collate = PairCollator(0, num_responses=5)
    whole = {**collate(pairs), "global_loss": torch.arange(4.0)}
    for kept in ([1], [0, 2], [3], [0, 1, 2, 3]):
        rows = torch.tensor([position in kept for position in range(4)])
        part, alone = select_pairs(whole, rows), collate([pairs[position] for position in kept])
        assert torch.equal(part.pop("global_loss"), torch.arange(4.0))
        assert part.keys() == alone.keys()
        for name, column in alone.items():
            width = column.shape[1] if column.dim() == 2 else None
            found = part[name] if width is None else part[name][:, :width]
            torch.testing.assert_close(found, column, rtol=0, atol=0, equal_nan=True, msg=name)
            assert width is None or not part[name][:, width:].any()


@st.composite
def collated_batches(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Pairs of different lengths, some with other responses of the same prompt."""
    lengths = st.integers(1, 9)
    pairs = [
        TrainingPair(
            [1] * draw(lengths),
            [2] * draw(lengths),
            [3] * draw(lengths),
            1.0,
            source=0,
            pair_id=number,
            prompt_id=number,
            other_ids=tuple([4] * draw(lengths) for _ in range(draw(st.integers(0, 2)))),
        )
        for number in range(draw(st.integers(1, 9)))
    ]
    return PairCollator(0)(pairs)


class TestCutIntoPasses:
    @given(batch=collated_batches(), most_pairs=st.integers(1, 5), most_tokens=st.none() | st.integers(1, 120))
    def test_every_pair_goes_through_once_within_the_bounds(
        self, batch: dict[str, torch.Tensor], most_pairs: int, most_tokens: int | None
    ) -> None:
        parts = cut_into_passes(batch, most_pairs, most_tokens, by_length=True)
        assert sorted(torch.cat([part["prompt_id"] for part in parts]).tolist()) == batch["prompt_id"].tolist()
        for part in parts:
            num_pairs = len(part["label"])
            assert num_pairs <= most_pairs
            assert most_tokens is None or num_pairs == 1 or part["input_ids"].numel() <= most_tokens
            assert part["attention_mask"].sum() == part["attention_mask"][part["input_ids"] != 0].numel()
        if len(parts) > 1:
            assert all(part["attention_mask"][:, -1].any() for part in parts)
            longest = [part["input_ids"].shape[1] for part in parts]
            assert longest == sorted(longest, reverse=True)

    @given(batch=collated_batches(), most_pairs=st.integers(1, 5))
    def test_parts_are_as_full_as_they_may_be(self, batch: dict[str, torch.Tensor], most_pairs: int) -> None:
        sizes = [len(part["label"]) for part in cut_into_passes(batch, most_pairs)]
        assert all(size == most_pairs for size in sizes[:-1])

    def test_without_lengths_pairs_stay_in_their_order(self) -> None:
        pairs = [TrainingPair([1], [2] * length, [3], 1.0, 0, length, length) for length in (1, 4, 2)]
        parts = cut_into_passes(PairCollator(0)(pairs), 2)
        assert [part["prompt_id"].tolist() for part in parts] == [[1, 4], [2]]
        assert [part["input_ids"].shape[1] for part in parts] == [5, 3]

    def test_one_long_pair_does_not_decide_the_others_memory(self) -> None:
        lengths = [3, 4000, 2, 5, 3, 4, 2, 3]
        pairs = [TrainingPair([1], [2] * length, [3], 1.0, 0, number, number) for number, length in enumerate(lengths)]
        parts = cut_into_passes(PairCollator(0)(pairs), 4, 100, by_length=True)
        assert [part["input_ids"].shape for part in parts] == [(2, 4001), (8, 6), (6, 4)]

    @pytest.mark.parametrize(
        ("shares", "is_one_prompt", "places"),
        [
            (False, False, [(2, 50), (2, 49), (2, 48), (4, 47), (2, 45)]),
            (True, False, [(3, 55), (3, 52)]),
            (True, True, [(1, 90)]),
        ],
    )
    def test_a_prompt_that_is_read_once_is_counted_once(
        self, shares: bool, is_one_prompt: bool, places: list[tuple[int, int]], tmp_path: Path
    ) -> None:
        make_policy(tmp_path / "model", seed=0)
        reader = load_policy(tmp_path / "model").model if shares else None
        prompts = [[4 if is_one_prompt else 4 + number] * 40 for number in range(6)]
        pairs = [
            TrainingPair(prompt, [2] * 5, [3] * (5 + number), 1.0, 0, number, number)
            for number, prompt in enumerate(prompts)
        ]
        parts = map(token_batch, cut_into_passes(PairCollator(0)(pairs), 6, 190, by_length=True, reader=reader))
        found = [lay_out(reader, part) if shares else each_alone(part) for part in parts]
        assert [tuple(layout.tokens.inputs["input_ids"].shape) for layout in found] == places

    def test_what_is_the_whole_steps_is_in_every_part(self) -> None:
        batch = PairCollator(0)(alike(4)) | {"global_loss": torch.arange(4.0)}
        assert all(torch.equal(part["global_loss"], torch.arange(4.0)) for part in cut_into_passes(batch, 1))


def test_parts_are_halved_until_there_are_as_many_as_are_wanted() -> None:
    batch = PairCollator(0)(alike(7))
    parts = cut_into_passes(batch, 4)
    for wanted in range(2, 8):
        cut = cut_further(parts, wanted)
        assert [len(cut), min(len(part["label"]) for part in cut) > 0] == [wanted, True]
        assert sorted(torch.cat([part["pair_id"] for part in cut]).tolist()) == sorted(batch["pair_id"].tolist())
    assert cut_further(parts, 1) == parts
