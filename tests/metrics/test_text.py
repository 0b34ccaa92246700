from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.metrics.text import distinct_n

corpora = st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=6)


def test_worked_by_hand() -> None:
    # bigrams: ab ba ab, ab: 4 of them, 2 distinct
    assert distinct_n(["aba" + "b", "ab"], 2) == 0.5
    assert distinct_n([["the", "cat"], ["the", "dog"]], 1) == 0.75


def test_ngrams_do_not_span_sequences() -> None:
    assert distinct_n([[1], [2], [3]], 2) == 0.0


def test_nothing_to_count_is_zero() -> None:
    assert distinct_n([], 2) == 0.0
    assert distinct_n([[], []], 1) == 0.0


@pytest.mark.parametrize("n", [0, -1])
def test_n_below_one_is_refused(n: int) -> None:
    with pytest.raises(ValueError):
        distinct_n([[1, 2]], n)


@given(corpora, st.integers(1, 4))
def test_lies_between_zero_and_one_and_falls_when_the_corpus_repeats(corpus: list[list[int]], n: int) -> None:
    once = distinct_n(corpus, n)
    assert 0.0 <= once <= 1.0
    assert distinct_n(corpus * 2, n) == pytest.approx(once / 2.0)


@given(st.lists(st.integers(), min_size=1, unique=True))
def test_tokens_that_never_repeat_give_one(tokens: list[int]) -> None:
    assert distinct_n([tokens], 1) == 1.0
