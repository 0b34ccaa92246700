"""The tutorial as a reader types it: its files are written, its commands run one after the other in an empty folder.

The README's pipe of stages runs behind it; what else stands there is the tutorial's, or wants data of the reader's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks
from warm_shell import with_align

PAGE = ROOT / "docs" / "tutorial.md"
MODEL = ROOT / "models" / "smollm2-135m-instruct"
OF_SETUP = ("make ", "source ")
"""Lines that make what a test has already."""
SHORTER = "policy.sft.max_steps=20 train.steps_per_round=4 evaluate.num_prompts=64"


def of_real_model(block: Block) -> bool:
    return "smollm2" in block.text or "runs/plain" in block.text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone's folder, with the files of the page, and `align` and `python` on the path."""
    for name in ("recipes", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in blocks(PAGE):
        if found := re.match(r"# ([\w.]+)\n", block.text):
            (tmp_path / found[1]).write_text(block.text, encoding="utf-8")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{with_align(os.environ)['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def lines_to_type() -> Iterator[tuple[Block, str]]:
    for block in blocks(PAGE):
        if block.language == "bash":
            typed = [line for line in block.text.splitlines() if not line.startswith(OF_SETUP)]
            yield block, "\n".join(typed)


def shortened(typed: str) -> str:
    """A study's command with the same values and seeds, for shorter runs: nothing here looks at its figures."""
    return f"{typed} {SHORTER}" if "align study" in typed else typed


def type_in(folder: Path, typed: str) -> str:
    done = subprocess.run(["bash", "-ec", typed], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{typed}\n{done.stderr}"
    return done.stdout


def evaluation(folder: Path, run: str, number: int) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"runs/{run}/rounds/{number:03d}/evaluation.json").read_text())
    return found


@pytest.mark.long
def test_the_playground_part_runs_as_it_is_typed(folder: Path) -> None:
    said = {
        typed: type_in(folder, shortened(typed))
        for block, typed in lines_to_type()
        if not of_real_model(block) and typed
    }
    assert len(said) >= 5
    assert (folder / "runs/quickstart/report.html").is_file()
    far, near = (evaluation(folder, run, 3)["kl"]["mean"] for run in ("quickstart", "anchored"))  # type: ignore[index]
    assert near < far / 2, "what the page says of the two runs"
    (compared,) = [text for typed, text in said.items() if "align compare" in typed]
    assert "method.kl.coefficient" in compared and "the second wins against the first" in compared
    (chain,) = [block.text for block in blocks(ROOT / "README.md") if "| align label" in block.text.replace("\\\n", "")]
    type_in(folder, chain)
    assert (folder / "next" / "model.safetensors").is_file(), "what the README shows of stages in a pipe"
    results = json.loads((folder / "runs/question/results.json").read_text())
    assert results["seeds"] == [0, 1, 2] and not results["missing"]


@pytest.mark.long
def test_the_part_with_a_real_model_runs_as_it_is_typed(folder: Path) -> None:
    if not MODEL.is_dir():
        pytest.skip("make smollm2 makes the model")
    for block, typed in lines_to_type():
        if of_real_model(block) and typed:
            type_in(folder, typed)
    assert [evaluation(folder, "plain", number)["num_prompts"] for number in range(3)] == [40] * 3
