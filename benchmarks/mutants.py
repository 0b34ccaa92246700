"""Mutation run: does a test fail for each small wrong change of the code? Minutes for `methods`, hours for all rooms.

Every mutant of a room (`mutations.py` says what is changed) meets the room's own tests, first those that run its lines
and are quick, until one fails. What none notices is shown, unless it stands in `mutants_equivalent.yaml` with the
reason why no test can notice it. The source tree is not touched: a copy is.

    OMP_NUM_THREADS=1 python benchmarks/mutants.py > benchmarks/results/mutants.md
    python benchmarks/mutants.py metrics --only pair_accuracy

Why not mutmut or cosmic-ray: what matters most here is a stop-gradient, a `no_grad`, a clamp that is gone, and neither
leaves out calls of methods or contexts. mutmut passes over decorated functions and over all that is outside of
functions (constants, fields of records, tables of stages); cosmic-ray starts a process, and imports torch, for every
mutant. Here each mutant is a fork of one process that has the heavy libraries loaded, and none of align_cli.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import yaml
from mutations import Mutant, mutants_of

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.yaml")
ROOMS = {
    "methods": ["tests/methods"],
    "metrics": ["tests/metrics"],
    "artifacts": ["tests/artifacts"],
    "labelers": ["tests/labelers"],
    "stages": ["tests/stages"],
}
"""Each room's tests."""

LEFT_OUT = ("labelers/contained.py", "artifacts/children.py")
"""Modules whose tests are whole runs (`tests/run/test_contained_code.py`): half a minute a mutant."""

HEAVY = ("numpy", "torch", "transformers", "trl", "datasets", "pydantic", "hypothesis", "safetensors.torch", "sklearn")
MODULES = ("transformers.models.llama.modeling_llama", "transformers.trainer", "trl.trainer.dpo_trainer", "rich.table")
MEMORY_BYTES = 16 * 2**30
NUM_FIRST = 40
"""Tests that a mutant meets before all others are collected."""

LONGEST_SECONDS = 1200
PATIENCE, LEAST_SECONDS = 10, 20
"""A test that takes longer than so many times what it takes without a mutant, and so many seconds, hangs."""

KILLED, SURVIVED, TIMED_OUT, EQUIVALENT_MUTANT = "killed", "survived", "timed out", "equivalent"
NONE_COLLECTED, BROKEN, HUNG = 5, 98, 99
"""Exit statuses of a fork: one of pytest's, and two of our own."""


class Timing(NamedTuple):
    """What a room's tests do without a mutant.

    Args:
        seconds: how long each test takes, by its id.
        files: how long all of a file's tests take, by its path.
        tests: by file and line, the tests that run it.
    """

    seconds: dict[str, float]
    files: dict[str, float]
    tests: dict[tuple[str, int], list[str]]


def main() -> None:
    """Run the mutants of the rooms that are asked for, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", choices=[*ROOMS, []], help="all of them, unless some are named")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="mutants whose file, function or change has such a text"
    )
    parser.add_argument(
        "--near", action="store_true", help="only the tests that run a mutant's lines, where any do: a first look"
    )
    arguments = parser.parse_args()
    reasons = equivalent_mutants()
    for name in (*HEAVY, *MODULES):
        importlib.import_module(name)
    gc.freeze()  # else every fork would copy what a collection looks at
    counts: dict[str, Counter[str]] = {}
    left: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = copied_tree(Path(scratch))
        for room in arguments.rooms or list(ROOMS):
            counts[room] = Counter()
            for name, result in run_room(room, tree, arguments.only, set(reasons), is_near=arguments.near):
                counts[room][result] += 1
                if result == SURVIVED:
                    left.append(name)
    report(counts, left)


def equivalent_mutants() -> dict[str, str]:
    """The listed mutants, each with the reason why no test can notice it."""
    listed = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or []
    return {mutant: entry["why"] for entry in listed for mutant in entry["mutants"]}


def copied_tree(scratch: Path) -> Path:
    """A copy of what the tests need; its compiled files are made by the run without a mutant."""
    tree = scratch / "tree"
    for name in ("align_cli", "tests", "recipes", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "constraints.txt"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def run_room(room: str, tree: Path, only: list[str], listed: set[str], *, is_near: bool) -> Iterable[tuple[str, str]]:
    """Every mutant of a room, and what became of it.

    Raises:
        SystemExit: if the tests do not pass without a mutant, before or after.
    """
    timing = without_mutant(room, tree)
    known: set[str] = set()
    for path in sorted((tree / "align_cli" / room).rglob("*.py")):
        place = path.relative_to(tree).as_posix()
        source = path.read_text(encoding="utf-8")
        for mutant in () if place.endswith(LEFT_OUT) else mutants_of(source):
            name = f"{place.removeprefix('align_cli/')} {mutant.name}"
            known.add(name)
            if not any(text in name for text in only):
                continue
            started = time.monotonic()
            result = EQUIVALENT_MUTANT
            if name not in listed:
                result = outcome(mutant, path, place, source, room, tree, timing, is_near=is_near)
            sys.stderr.write(f"{result} {time.monotonic() - started:.1f}s {name}\n")
            yield name, result
    if in_fork(tree, ROOMS[room], []) != 0:
        sys.exit(f"a mutant has left something behind that the tests of {room} meet")
    for name in sorted(listed - known):
        if name.startswith(f"{room}/"):
            sys.stderr.write(f"listed, but no mutant any more: {name}\n")


def outcome(
    mutant: Mutant, path: Path, place: str, source: str, room: str, tree: Path, timing: Timing, *, is_near: bool
) -> str:
    """What becomes of a mutant."""
    running = {test for line in mutant.lines for test in timing.tests.get((place, line), ())}
    # With a test its whole file is collected.
    first = sorted(running, key=lambda test: (timing.files[test.split("::")[0]], timing.seconds[test]))[:NUM_FIRST]
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()
    path.write_text(mutant.source, encoding="utf-8")
    try:
        # Compiled files go by a file's second and size, which two mutants may share.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        status = in_fork(tree, files_of(first), [Order(first, timing.seconds)]) if first else 0
        others = (running if is_near and running else set(timing.seconds)) - set(first)
        if status == 0 and others:
            order = sorted(others, key=lambda test: (test not in running, timing.seconds[test]))
            status = in_fork(tree, files_of(order), [Order(order, timing.seconds)])
        if status == NONE_COLLECTED:  # tests may be named after what was changed
            status = in_fork(tree, ROOMS[room], [])
    finally:
        path.write_text(source, encoding="utf-8")
        del os.environ["PYTHONDONTWRITEBYTECODE"]
    return {0: SURVIVED, HUNG: TIMED_OUT}.get(status, KILLED)


def files_of(tests: Iterable[str]) -> list[str]:
    """The files that tests lie in."""
    return sorted({test.split("::")[0] for test in tests})


def without_mutant(room: str, tree: Path) -> Timing:
    """Run a room's tests as they are: all pass, and what they take and run is known.

    Raises:
        SystemExit: if one fails.
    """
    notes = tree.parent / "notes.json"
    status = in_fork(tree, ROOMS[room], [Notes(tree / "align_cli" / room, tree, notes)])
    if status != 0:
        sys.exit(f"the tests of {room} do not pass without a mutant: {(tree.parent / 'output').read_text()[-3000:]}")
    seconds, lines = json.loads(notes.read_text())
    files: defaultdict[str, float] = defaultdict(float)
    for test, taken in seconds.items():
        files[test.split("::")[0]] += taken
    tests = defaultdict(list)
    for test, found in lines.items():
        for place, line in found:
            tests[place, line].append(test)
    return Timing(seconds, files, tests)


def in_fork(tree: Path, tests: list[str], plugins: list[Any]) -> int:
    """The exit status of pytest in a fork of this process, that sees the copied tree."""
    work = tree.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    child = os.fork()
    if child == 0:
        _be_pytest(tree, work, tests, plugins)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        os.killpg(child, signal.SIGKILL)

    timer = threading.Timer(LONGEST_SECONDS, give_up)
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    if late.is_set():
        return HUNG
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what its tests have started and left
    return os.waitstatus_to_exitcode(status)


def _be_pytest(tree: Path, work: Path, tests: list[str], plugins: list[Any]) -> None:
    """Become a process that runs the tests of the copied tree, and end."""
    status = BROKEN
    try:
        os.setsid()
        output = os.open(tree.parent / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.environ |= {"TMPDIR": str(work), "PYTHONPATH": str(tree), "HOME": str(work)}
        tempfile.tempdir = None
        os.chdir(tree)
        sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
        sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
        options = ["-x", "-q", "--no-header", "-m", "not long", "--tb=line", f"--basetemp={work / 'pytest'}"]
        status = int(pytest.main([*options, *tests], plugins))
    finally:
        os._exit(status)


class Order:
    """Runs these tests alone, in the order that is given, and ends the process where one hangs."""

    def __init__(self, order: list[str], seconds: dict[str, float]) -> None:
        self._place = {test: index for index, test in enumerate(order)}
        self._seconds = seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the others out."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._place), key=lambda item: self._place[item.nodeid]
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Give a test its time."""
        timer = threading.Timer(LEAST_SECONDS + PATIENCE * self._seconds.get(item.nodeid, 0), os._exit, (HUNG,))
        timer.daemon = True
        timer.start()
        try:
            return (yield)
        finally:
            timer.cancel()


class Notes:
    """Notes of every test how long it takes and which lines of a room it runs."""

    def __init__(self, room: Path, tree: Path, path: Path) -> None:
        self._room, self._tree, self._path = f"{room}/", tree, path
        self._seconds: dict[str, float] = {}
        self._lines: dict[str, list[tuple[str, int]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Follow a test, with the fixtures that it is the first to need."""
        found: set[tuple[str, int]] = set()
        tracer = self._tracer(found)
        started = time.monotonic()
        threading.settrace(tracer)
        sys.settrace(tracer)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            self._seconds[item.nodeid] = time.monotonic() - started
            self._lines[item.nodeid] = sorted(
                (Path(file).relative_to(self._tree).as_posix(), line) for file, line in found
            )

    def pytest_sessionfinish(self) -> None:
        """Write it down."""
        self._path.write_text(json.dumps([self._seconds, self._lines]))

    def _tracer(self, found: set[tuple[str, int]]) -> Callable[..., Any]:
        def follow(frame: Any, event: str, argument: Any) -> Any:
            file = frame.f_code.co_filename
            if not file.startswith(self._room):
                return None
            found.add((file, frame.f_lineno))
            return follow

        return follow


def report(counts: dict[str, Counter[str]], left: list[str]) -> None:
    """Print the table, and what survived."""
    columns = (KILLED, TIMED_OUT, EQUIVALENT_MUTANT, SURVIVED)
    sys.stdout.write(
        "# Mutants\n\n`python benchmarks/mutants.py`; a mutant that makes a test hang is found too. Why each of the "
        "equivalent ones is that\nstands in [mutants_equivalent.yaml](../mutants_equivalent.yaml).\n\n"
        f"| room | mutants | {' | '.join(columns)} |\n|---|---:|{'---:|' * len(columns)}\n"
    )
    for room, found in counts.items():
        cells = [str(found[column]) for column in columns]
        sys.stdout.write(f"| {room} | {found.total()} | {' | '.join(cells)} |\n")
    if left:
        sys.stdout.write("\nSurvived:\n\n" + "".join(f"- `{name}`\n" for name in left))


if __name__ == "__main__":
    main()
