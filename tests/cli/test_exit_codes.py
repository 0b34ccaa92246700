"""Exit codes: each kind of end has its own, in the real command and in what is written about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import LABELER, NO_EVALUATION, Align, MakeFolder
from warm_children import MAIN

from align_cli.errors import AlignError, DiskError, DivergedError, ExitCode, GuardError, OutOfMemoryError, RunError

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"
GREEDY = """
import resource
from pathlib import Path

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, resource.RLIM_INFINITY))
"""
STOPPING = "guards={kl: {above: 1.0e-9, action: stop}}"


def ended(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A shell's command, in which `align` is this code's."""
    script = f'align() {{ {sys.executable} -c "{MAIN}" "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], cwd=cwd, env=os.environ, capture_output=True, text=True, check=False)


def test_a_command_that_is_done_ends_with_0(finished: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", cwd=finished).code == ExitCode.DONE == 0


def test_a_bug_ends_with_1_and_its_traceback(finished: Path) -> None:
    broken = "import align_cli.recipe; del align_cli.recipe.load_recipe; from align_cli.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", broken, "check", "recipe.yaml"],
        cwd=finished,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.BUG == 1
    assert done.stderr.startswith("Traceback")


def test_a_bugs_traceback_shows_no_key(finished: Path) -> None:
    broken = (
        "import os, align_cli.recipe\n"
        "def load_recipe(*_): raise RuntimeError('401 for ' + os.environ['SOME_API_KEY'])\n"
        "align_cli.recipe.load_recipe = load_recipe\n"
        "from align_cli.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken, "check", "recipe.yaml"],
        cwd=finished,
        env={**os.environ, "SOME_API_KEY": "Zq9verysecretvalue"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.BUG
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: 401 for ***\n")
    assert "Zq9very" not in done.stderr


@pytest.mark.parametrize("command", ["nosuch", "check --nosuch", "check nosuch.yaml", "train recipe.yaml rounds=-1"])
def test_what_the_user_can_mend_ends_with_2(finished: Path, align: Align, command: str) -> None:
    done = align(*command.split(), cwd=finished)
    assert done.code == ExitCode.FAULT == 2
    assert done.err
    assert "Traceback" not in done.err


def test_a_guards_stop_ends_with_3_each_time_the_command_is_run(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    for _ in range(2):
        stopped = align("train", "recipe.yaml", STOPPING, cwd=folder)
        assert stopped.code == ExitCode.GUARD == 3, stopped.err
        said = "guards.kl: stopped before round 2 generate: KL to the reference is"
        assert [line.startswith(said) for line in stopped.err.splitlines()[-2:]] == [True, False]


def test_training_that_diverged_was_stopped_by_a_guard(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **NO_EVALUATION, train__learning_rate=1e30, train__max_grad_norm=1e30)
    diverged = align("train", "recipe.yaml", cwd=folder)
    assert diverged.code == ExitCode.GUARD, diverged.err
    assert "training diverged" in diverged.err


def test_output_that_cannot_be_written_ends_with_4(finished: Path) -> None:
    full = ended("align check --quick recipe.yaml >/dev/full", finished)
    assert full.returncode == ExitCode.DISK == 4
    assert full.stderr.startswith("standard output: cannot be written: the disk is full\nhint: free some space")


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit on the memory")
def test_memory_that_runs_out_ends_with_5_and_a_remedy(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **NO_EVALUATION)
    (folder / "labeler.py").write_text(GREEDY + LABELER)
    out_of_memory = align("train", "recipe.yaml", cwd=folder)
    assert out_of_memory.code == ExitCode.MEMORY == 5, out_of_memory.err
    assert "Traceback" not in out_of_memory.err
    what, hint = out_of_memory.err.splitlines()[-2:]
    assert ": out of memory: " in what
    assert re.match(r"hint: lower .*\.per_device_train_batch_size", hint)


@pytest.mark.parametrize("command", ["align check --quick recipe.yaml", "align status run", "align --help"])
def test_a_reader_that_has_gone_is_told_from_a_command_that_is_done(finished: Path, command: str) -> None:
    done = ended(f"set -o pipefail; {command} | true", finished)
    assert (done.returncode, done.stderr) == (ExitCode.OUTPUT_CLOSED, "") == (141, "")


def test_help_and_docs_name_every_code(finished: Path, align: Align) -> None:
    shown = " ".join(align("--help", cwd=finished).out.split())
    table = dict(re.findall(r"^\| (\d+) \| (.*?) \|", RELIABILITY.read_text(encoding="utf-8"), re.MULTILINE))
    assert table == {str(code.value): code.meaning for code in ExitCode}
    assert [code for code in ExitCode if f"{code.value} {code.meaning}" not in shown] == []


def test_every_kind_of_fault_has_its_code() -> None:
    kinds = {AlignError: 2, RunError: 2, GuardError: 3, DivergedError: 3, DiskError: 4, OutOfMemoryError: 5}
    assert {kind: kind("it is broken").exit_code for kind in kinds} == kinds
