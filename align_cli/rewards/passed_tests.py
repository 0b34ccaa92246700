"""The reward of code that runs: the share of a prompt's tests that an answer's code passes.

Each test is a process of its own in `sandbox.py`, which says what that protects from and what not. An answer's code is
all of its fenced blocks that are Python's, or of no language, one below the other; without any, it passes nothing.

A test is one of

    {"stdin": "3 4\\n", "stdout": "7\\n"}    the code is a program: what it prints is compared line by line, without
                                           spaces at the ends of lines and empty lines at the end; its status is 0
    "assert add(3, 4) == 7"                Python that runs behind the code, and must come to its end

An answer that ends the process, by `sys.exit(0)` as much as by `os._exit(0)`, does not pass a test of the second kind;
one that sets out to cheat can still change what `assert` sees.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from align_cli.errors import LabelerError
from align_cli.rewards.by_prompt import ByPrompt, read_columns, shown
from align_cli.rewards.sandbox import Limits, has_namespaces, run_python

_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL
)
_LANGUAGES = ("", "python", "python3", "py")

UNISOLATED = (
    "align_cli.rewards: this system gives its users no namespaces, so the code of answers can reach the network, and "
    "write and kill what you can (isolation: required refuses that)\n"
)

Test = str | tuple[str, str]
"""Python, or standard input and output."""


class PassedTests:
    """The share of a prompt's tests that pass, from 0 to 1; 0 where an answer has no code.

    Args:
        tests: a JSON, JSON Lines or parquet file, a folder or a Hub id: a row a prompt.
        prompt_column: its column of the prompt's text.
        tests_column: its column of the tests, a list.
        setup_column: its column of Python that runs before the code, such as imports; None for none.
        fenced: whether code stands in fenced blocks; False takes an answer without any as code.
        seconds: a test may take; memory_mb, and what else is bounded: `sandbox.Limits`.
        memory_mb: address space of a process.
        processes: that the code may start in a test; 0 for none, so neither `subprocess` nor `multiprocessing` works.
        workers: tests that run at once.
        isolation: `required` to run nothing where the system gives no namespaces; `auto` to say so once, and run.

    Raises:
        LabelerError: if tests are of no known form, or code cannot be run here.
        DataError: if they cannot be read.
    """

    def __init__(
        self,
        tests: str,
        prompt_column: str = "prompt",
        tests_column: str = "tests",
        setup_column: str | None = None,
        fenced: bool = True,
        seconds: float = 5.0,
        memory_mb: int = 512,
        processes: int = 0,
        workers: int = 1,
        isolation: Literal["auto", "required"] = "auto",
    ) -> None:
        if sys.platform == "win32":
            raise LabelerError("code of answers runs on Linux and macOS alone", where=tests)
        columns = (prompt_column, tests_column, *([setup_column] if setup_column else []))
        rows = (_row(values, tests) for values in read_columns(tests, *columns))
        self._tests = ByPrompt(rows, tests, "list of tests")
        self._fenced, self._workers = fenced, workers
        self._limits = Limits(seconds=seconds, memory_mb=memory_mb, processes=processes)
        _try_out(isolation, self._limits, tests)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        wanted = [self._tests.of(prompt) for prompt in prompts]
        codes = [code_of(completion, fenced=self._fenced) for completion in completions]
        with ThreadPoolExecutor(self._workers) as pool:
            passed = [
                [pool.submit(self._passes, test, setup, code) for test in tests] if code is not None else []
                for (setup, tests), code in zip(wanted, codes, strict=True)
            ]
            return [sum(one.result() for one in each) / max(len(each), 1) for each in passed]

    def _passes(self, test: Test, setup: str, code: str) -> bool:
        if isinstance(test, str):
            token = secrets.token_hex(16)
            ran = run_python(_checked(f"{setup}\n{code}", test), token, self._limits)
            return ran.succeeded and ran.output.endswith(token.encode())
        given, wanted = test
        ran = run_python(f"{setup}\n{code}", given, self._limits)
        return ran.succeeded and _lines(ran.output.decode(errors="replace")) == _lines(wanted)


def code_of(answer: str, *, fenced: bool = True) -> str | None:
    """An answer's Python; None without any.

    Args:
        answer: text with fenced blocks.
        fenced: False takes an answer without any block as code.
    """
    blocks = [found["code"] for found in _BLOCK.finditer(answer) if found["language"].lower() in _LANGUAGES]
    if blocks:
        return "\n".join(blocks)
    return None if fenced or not answer.strip() else answer


def _checked(code: str, test: str) -> str:
    """A program that runs code as a module, then the test in it, and at its end says a word that it was given.

    Not as `__main__`: what a program does of its own is not asked for.
    """
    return (
        "import os, sys, types\n"
        "_token = sys.stdin.readline().encode()\n"
        "_answer = sys.modules['answer'] = types.ModuleType('answer')\n"
        f"exec(compile({code!r}, 'answer.py', 'exec'), _answer.__dict__)\n"
        f"exec(compile({test!r}, 'test.py', 'exec'), _answer.__dict__)\n"
        "sys.stdout.flush()\n"
        "os.write(1, _token)\n"
    )


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _row(values: Sequence[object], place: str) -> tuple[str, tuple[str, tuple[Test, ...]]]:
    prompt, tests, *setup = values
    if not isinstance(tests, list | tuple) or not tests:
        what = f"the tests of the prompt {shown(str(prompt))} are no list, or an empty one"
        raise LabelerError(what, where=place, hint='a test is {"stdin": ..., "stdout": ...}, or Python as text')
    return str(prompt), ("".join(map(str, setup)), tuple(_tests(tests, str(prompt), place)))


def _tests(tests: Sequence[object], prompt: str, place: str) -> Iterator[Test]:
    for test in tests:
        if isinstance(test, str) and test.strip():
            yield test
        elif isinstance(test, Mapping) and {"stdin", "stdout"} <= test.keys():
            yield str(test["stdin"]), str(test["stdout"])
        else:
            what = f"a test of the prompt {shown(prompt)} is {shown(repr(test))}"
            raise LabelerError(what, where=place, hint='it is {"stdin": ..., "stdout": ...}, or Python as text')


def _try_out(isolation: str, limits: Limits, place: str) -> None:
    """Whether code can be run at all: a sandbox that does not work is no wrong answer."""
    if not has_namespaces():
        if isolation == "required":
            what = "this system gives its users no namespaces, so code cannot be kept from network and files"
            raise LabelerError(what, where=place, hint="run align in a container, and leave isolation out")
        sys.stderr.write(UNISOLATED)
    if run_python("print(sum(range(5)))", "", limits).output != b"10\n":
        what = f"a small program does not run within {limits.seconds:g} s and {limits.memory_mb} MB"
        raise LabelerError(what, where=place, hint="raise seconds or memory_mb")
