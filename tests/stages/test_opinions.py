"""Numbers for items, batch by batch: those of a length together where asked, in the items' order, none asked twice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from align_cli.artifacts.journal import Journal
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import kept_values


class Measured:
    """Measures texts by their length, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[float]:
        self.batches.append(list(texts))
        return [float(len(text)) + (0.5 if text.startswith("x") else 0.0) for text in texts]


TEXTS = ["aa", "xbbbb", "c", "xdd", "eeeee"]


def test_items_of_a_length_go_together_the_longest_first() -> None:
    measure = Measured()
    values = kept_values(TEXTS, 2, measure, NoProgress(), Journal(), len)
    assert measure.batches == [["xbbbb", "eeeee"], ["xdd", "aa"], ["c"]]
    assert values == [2.0, 5.5, 1.0, 3.5, 5.0]


def test_without_lengths_they_are_measured_as_they_come() -> None:
    measure = Measured()
    assert kept_values(TEXTS, 2, measure, NoProgress(), Journal()) == [2.0, 5.5, 1.0, 3.5, 5.0]
    assert measure.batches == [["aa", "xbbbb"], ["c", "xdd"], ["eeeee"]]


@given(texts=st.lists(st.text("x", max_size=6), max_size=9), batch_size=st.integers(1, 4), done=st.integers(0, 9))
def test_what_was_measured_before_a_kill_is_not_asked_for_again(texts: list[str], batch_size: int, done: int) -> None:
    whole = Measured()
    values = kept_values(texts, batch_size, whole, NoProgress(), Journal(), len)
    before = [{"values": Measured()(batch)} for batch in whole.batches[:done]]
    journal, after = Journal(), Measured()
    journal.append(before) if before else None
    assert kept_values(texts, batch_size, after, NoProgress(), journal, len) == values
    assert after.batches == whole.batches[len(before) :]
