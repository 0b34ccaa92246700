"""How much memory a stretch of work took, and how often memory is looked through for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from align_cli.cli.process import at_work
from align_cli.models.load import load_policy
from align_cli.models.memory import AS_EVER, PeakMemory, give_back_freed, importing_libraries, loading_a_model

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


@pytest.fixture
def as_before() -> Iterator[None]:
    """How often garbage is looked for is no later test's matter."""
    yield
    gc.set_threshold(*AS_EVER)


def looks_while(made: list[list[object]]) -> int:
    """How often garbage is looked for while so many objects are made that stay, as modules do."""
    looks: list[str] = []
    gc.callbacks.append(lambda phase, _: looks.append(phase))
    try:
        made.extend([] for _ in range(100_000))
    finally:
        gc.callbacks.pop()
    return looks.count("start")


def test_a_command_at_work_looks_for_garbage_seldom_until_it_loads_a_model(
    as_before: None, tiny_policy_folder: Path
) -> None:
    made: list[list[object]] = []
    assert looks_while(made) > 100
    assert at_work(lambda: looks_while(made))() == 0
    load_policy(tiny_policy_folder)
    assert looks_while(made) > 100


def test_what_was_there_before_the_model_is_not_looked_through_and_what_comes_later_is(as_before: None) -> None:
    importing_libraries()
    before: list[object] = []
    loading_a_model()
    after: list[object] = []
    assert not any(one is before for one in gc.get_objects())
    assert any(one is after for one in gc.get_objects())
    del before
    loading_a_model()  # of a second one, when garbage may be there that is large
    assert any(one is after for one in gc.get_objects())
