"""Why a run failed, and how many run at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.run.threads import usable_cores
from align_cli.study.definition import define
from align_cli.study.values import parse_axes
from align_cli.study.work import default_jobs, why_failed


@pytest.mark.parametrize(
    ("said", "code", "why"),
    [
        ("round 1 train: 3 s\nrun: the disk is full\nhint: free some\n", 4, "run: the disk is full"),
        ("a: is wrong\nb: is wrong too\nhint: mend both\n2 faults\n", 2, "b: is wrong too"),
        ("Traceback (most recent call last):\n  File\nValueError: no\n", 1, "ValueError: no"),
        ("", 3, "its process ended with exit code 3"),
        ("round 1 train: 3 s\n", -9, "its process was killed by signal 9"),
    ],
)
def test_a_run_that_failed_is_told_by_the_last_that_it_said(said: str, code: int, why: str) -> None:
    assert why_failed(said, code) == why


def test_small_models_run_one_a_core_and_others_one_by_one(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    small = define(write_recipe(tmp_path / "s"), (), parse_axes([]), (0,), for_tuning=False)
    assert default_jobs(small) == usable_cores()
    changes = {"policy__model_name_or_path": "org/some-8b", "policy__sft": None}
    large = define(write_recipe(tmp_path / "l", **changes), (), parse_axes([]), (0,), for_tuning=False)
    assert default_jobs(large) == 1
