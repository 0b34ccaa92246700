"""The page of data formats is the table's; its counts are those of the public files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align_cli.data.formats import FORMATS
from align_cli.report.formats import INTRODUCTION, formats_reference

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SHARED = ROOT.parent / "shared" / "data"


def test_the_page_in_the_docs_shows_every_format_as_it_is() -> None:
    assert PAGE.startswith(INTRODUCTION)
    assert PAGE.endswith(f"\n{formats_reference()}\n")
    assert [known.name for known in FORMATS if f"\n### {known.name}\n" not in PAGE] == []


@pytest.mark.long
def test_the_pages_counts_are_those_of_the_files() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data files are not here")
    command = [sys.executable, str(ROOT / "benchmarks" / "data_page.py"), str(SHARED)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert made.stdout == PAGE
