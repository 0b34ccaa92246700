"""How much memory a stretch of work took."""

from __future__ import annotations

import sys

import psutil
import pytest

from align_cli.models.memory import PeakMemory, give_back_freed

MUCH, LITTLE = 400_000_000, 50_000_000


def peak_of(num_bytes: int) -> int:
    peak = PeakMemory()
    bytearray(num_bytes)
    return peak.figures()["peak_memory_bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot set its mark back")
def test_a_stretch_has_its_own_peak_also_after_a_greater_one() -> None:
    peaks = [peak_of(LITTLE), peak_of(MUCH), peak_of(LITTLE)]
    assert peaks[1] - peaks[0] > (MUCH - LITTLE) / 2
    assert peaks[1] - peaks[2] > (MUCH - LITTLE) / 2


def test_where_the_mark_stays_a_lower_peak_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align_cli.models.memory._mark_set_back", lambda: False)
    peak_of(MUCH)
    peak = PeakMemory()
    bytearray(LITTLE)
    assert "peak_memory_bytes" not in peak.figures()
    assert peak_of(MUCH + 4 * LITTLE) > MUCH


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing can be asked of C's allocator")
def test_what_was_freed_in_small_pieces_is_given_back_to_the_system() -> None:
    resident = psutil.Process().memory_info
    pieces = [b"x" * 100_000 for _ in range(4000)]
    del pieces[:-1]  # the last one is in the way of giving back the rest
    before = resident().rss
    give_back_freed()
    assert before - resident().rss > 4000 * 100_000 / 2
