"""Commands that load no model do not wait for the libraries that would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {"torch", "transformers", "trl", "datasets", "accelerate"}
UNUSED = {"numpy", "pandas", "pyarrow", "asyncio", "ssl", "openai", "filelock"}
"""What a command that only reads has no use for."""
PROGRAM = """
import sys
from align_cli.cli.main import main
sys.argv = ["align", *sys.argv[1:]]
try:
    main()
finally:
    print("MODULES", *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


def modules_of(*arguments: str, cwd: Path) -> set[str]:
    """Run a command in a fresh interpreter; the packages that it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr.partition("MODULES")[0]
    return set(done.stderr.splitlines()[-1].split()[1:])


def test_help_answers_without_anything_that_a_recipe_needs(tmp_path: Path) -> None:
    modules = modules_of("--help", cwd=tmp_path)
    assert "typer" in modules
    assert modules & (SLOW | {"pydantic", "yaml", "numpy"}) == set()


@pytest.mark.parametrize(
    "command",
    [
        *("train", "generate", "label", "evaluate", "reward", "check", "status", "export", "chat"),
        *("study", "compare", "report", "samples", "init", "recipes", "presets", "schema", "doctor"),
    ],
)
def test_help_on_a_command_reads_no_recipe_and_loads_no_model(tmp_path: Path, command: str) -> None:
    modules = modules_of(command, "--help", cwd=tmp_path)
    assert "typer" in modules
    assert modules & (SLOW | {"yaml", "numpy"}) == set()  # typer itself looks at options with pydantic


@pytest.mark.parametrize(
    "command",
    [
        *(["check", "recipe.yaml", "--quick"], ["status", "run"], ["train", "recipe.yaml"]),
        *(["recipes"], ["presets", "show", "spin"], ["schema"]),
    ],
)
def test_what_loads_no_model_loads_no_torch(finished: Path, command: list[str]) -> None:
    modules = modules_of(*command, cwd=finished)
    assert "pydantic" in modules
    assert modules & SLOW == set()


@pytest.mark.parametrize(
    "command", [["check", "recipe.yaml", "--quick"], ["status", "run"], ["status", "run", "--json"]]
)
def test_what_only_reads_loads_no_library_that_computes_or_asks(finished: Path, command: list[str]) -> None:
    modules = modules_of(*command, cwd=finished)
    assert "pydantic" in modules
    assert modules & (SLOW | UNUSED) == set()


def test_comparing_two_rounds_loads_no_library_that_trains(finished: Path) -> None:
    modules = modules_of("compare", "run@1", "run@2", cwd=finished)
    assert "numpy" in modules
    assert modules & SLOW == set()


LEFT = """
from align_cli.cli.process import at_work, sparing_garbage


class Left:
    def __init__(self):
        self.itself = self

    def __del__(self):
        open("said.txt", "w").write("goodbye")


with sparing_garbage():
    {}()
"""


@pytest.mark.parametrize(("called", "is_said"), [("at_work(Left)", True), ("Left", False)])
def test_what_a_command_at_work_leaves_is_ended_with_it_and_help_looks_for_nothing(
    tmp_path: Path, called: str, is_said: bool
) -> None:
    subprocess.run([sys.executable, "-c", LEFT.format(called)], cwd=tmp_path, check=True)
    assert (tmp_path / "said.txt").exists() == is_said
