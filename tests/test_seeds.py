from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.seeds import derive_seed, seeded_cycle, seeded_order

coordinates = st.lists(
    st.integers() | st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), max_size=8), max_size=4
)


def test_known_coordinates_keep_their_seeds_from_one_version_to_the_next() -> None:
    assert derive_seed(0) == 3456079177858693020
    assert derive_seed(0, 1, "generate", 17, 0) == 4685800533889848269
    assert derive_seed(3, "prompts") == 4263274940434922922
    assert seeded_order(8, 0, "x") == [6, 5, 2, 1, 4, 0, 7, 3]
    assert seeded_cycle(5, 3, 9, 0, "prompts") == [2, 3, 0, 2, 1, 4, 3, 3, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 1, "a"), (0, "1a")),
        ((0, 1), (0, "1")),
        ((0, 1, 2), (0, 12)),
        ((0, "a", "b"), (0, "ab")),
        ((0, "a", "b"), (0, "b", "a")),
        ((0,), (0, "")),
        ((0, ""), (0, "", "")),
        ((1, 0), (0, 1)),
        ((1, 1), (11,)),
        ((-1,), (1,)),
        ((0, "int:1"), (0, 1)),
    ],
)
def test_coordinates_that_look_alike_have_seeds_of_their_own(one: tuple, other: tuple) -> None:
    assert derive_seed(*one) != derive_seed(*other)


@given(st.integers(0, 99), coordinates, st.integers(0, 99), coordinates)
def test_seeds_are_equal_exactly_where_all_coordinates_are(run: int, place: list, other_run: int, other: list) -> None:
    same = (run, place) == (other_run, other)
    assert (derive_seed(run, *place) == derive_seed(other_run, *other)) is same


@given(st.integers(), coordinates)
def test_a_seed_fits_into_63_bits(run_seed: int, place: list) -> None:
    assert 0 <= derive_seed(run_seed, *place) < 2**63


def test_no_two_samples_of_a_run_share_a_seed() -> None:
    places = [
        (round_number, stage, prompt, sample)
        for round_number in range(4)
        for stage in ("generate", "evaluate")
        for prompt in range(100)
        for sample in range(4)
    ]
    assert len({derive_seed(0, *place) for place in places}) == len(places)


def test_seeds_do_not_depend_on_pythons_hash_seed() -> None:
    script = "from align_cli.seeds import *; print(derive_seed(5, 'a', 2), seeded_order(20, 5, 'a'))"
    runs = [
        subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout == f"{derive_seed(5, 'a', 2)} {seeded_order(20, 5, 'a')}\n".encode()


@given(st.integers(0, 50), st.integers(0, 9))
def test_a_seeded_order_is_a_permutation(length: int, run_seed: int) -> None:
    assert sorted(seeded_order(length, run_seed, "x")) == list(range(length))


@given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 9))
def test_a_walk_shows_every_item_once_a_lap(length: int, lap: int, run_seed: int) -> None:
    assert sorted(seeded_cycle(length, lap * length, length, run_seed, "x")) == list(range(length))


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40), st.integers(0, 9))
def test_a_walk_from_the_middle_is_a_slice_of_the_whole_walk(length: int, start: int, count: int, seed: int) -> None:
    whole = seeded_cycle(length, 0, start + count, seed, "x")
    assert seeded_cycle(length, start, count, seed, "x") == whole[start:]


def test_each_lap_has_an_order_of_its_own() -> None:
    laps = {tuple(seeded_cycle(20, lap * 20, 20, 0, "x")) for lap in range(10)}
    assert len(laps) == 10


def test_walks_of_other_coordinates_are_other_walks() -> None:
    assert seeded_cycle(20, 0, 20, 0, "prompts") != seeded_cycle(20, 0, 20, 0, "pairs")
    assert seeded_cycle(20, 0, 20, 0, "prompts") != seeded_cycle(20, 0, 20, 1, "prompts")


def test_an_empty_range_cannot_be_walked() -> None:
    assert seeded_cycle(0, 5, 0, 0, "x") == []
    with pytest.raises(ValueError, match="empty range"):
        seeded_cycle(0, 0, 1, 0, "x")


def test_what_is_left_out_is_passed_over_and_changes_no_others_place() -> None:
    whole = seeded_cycle(20, 0, 60, 0, "prompts")
    without = seeded_cycle(20, 0, 51, 0, "prompts", left_out={3, 4, 5})
    assert without == [place for place in whole if place not in {3, 4, 5}]
    assert seeded_cycle(20, 17, 5, 0, "prompts", left_out={3, 4, 5}) == without[17:22]
    assert seeded_cycle(20, 0, 60, 0, "prompts", left_out=frozenset()) == whole
    with pytest.raises(ValueError, match="empty range"):
        seeded_cycle(2, 0, 1, 0, "x", left_out={0, 1})
