"""How children end; what they keep open is in tests/run/test_contained_code.py."""

from __future__ import annotations

import signal
import subprocess

from align_cli.artifacts.children import end_within, killed_by


def test_a_child_that_does_not_end_is_killed() -> None:
    child = subprocess.Popen(["sleep", "60"])
    end_within(child, 0)
    assert killed_by(child.returncode) == "SIGKILL"


def test_a_child_that_ends_in_time_is_let_end() -> None:
    child = subprocess.Popen(["true"])
    end_within(child, 20)
    assert child.returncode == 0


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert killed_by(-signal.SIGRTMIN - 1) == f"signal {signal.SIGRTMIN + 1}"
