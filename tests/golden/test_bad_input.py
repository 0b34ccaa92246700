"""What every kind of bad input is answered, word for word, by the command line.

`CASES.yaml` says what is wrong and which command meets it; `CASES.txt` beside it is what the command says. After a
change of words, `ALIGN_REWRITE_GOLDEN=1 pytest tests/golden` writes the texts anew: read the difference before it is
kept. A text is good if it says what is wrong, where, and what to do, in words of align's.
"""

from __future__ import annotations

import io
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_folders import STDIN, prepare

HERE = Path(__file__).parent
GROUPS = sorted(path.stem for path in HERE.glob("*.yaml"))
LEAST_KINDS = 80
WITH_MODEL = ("data", "labelers", "recipes")
"""Groups whose cases come as far as the policy's tokenizer, which is nothing that is wrong there."""
REWRITES = "ALIGN_REWRITE_GOLDEN" in os.environ

TITLE = re.compile(r"^== (.*)\n", re.MULTILINE)
HOLDER = re.compile(r"pid \d+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
FRAME = re.compile(r"[│╭╰─╮╯]+")


@cache
def cases() -> dict[str, list[dict[str, Any]]]:
    return {name: yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8")) for name in GROUPS}


@cache
def golden_texts(group: str) -> dict[str, str]:
    """What the commands of a group say, by kind; the first line of each is the command."""
    path = HERE / f"{group}.txt"
    parts = TITLE.split(path.read_text(encoding="utf-8"))[1:] if path.is_file() else []
    return dict(zip(parts[::2], parts[1::2], strict=True))


def arguments_of(case: dict[str, Any]) -> list[str]:
    return case["run"].split() if isinstance(case["run"], str) else case["run"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model, for cases that break one."""
    from transformers.utils.logging import disable_progress_bar

    from align_cli.playground.model import make_policy

    disable_progress_bar()  # as `align` has it, by an environment variable that is read once
    folder = tmp_path_factory.mktemp("model")
    make_policy(folder, 0)
    return folder


@pytest.fixture(scope="module")
def texts() -> Iterator[dict[str, dict[str, str]]]:
    """What was said, by group and kind; written down at the end if that was asked for."""
    said: dict[str, dict[str, str]] = {}
    yield said
    for group, found in said.items() if REWRITES else ():
        kinds = [case["kind"] for case in cases()[group]]
        whole = {**golden_texts(group), **found}
        text = "".join(f"== {kind}\n{whole[kind]}" for kind in kinds if kind in whole)
        (HERE / f"{group}.txt").write_text(text, encoding="utf-8")


def answer(arguments: Sequence[str], stdin: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says before it ends with exit code 2; nothing is on standard output, and no traceback of ours."""
    from align_cli.cli.main import app

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdin", io.StringIO(stdin))
        patched.setattr(sys, "excepthook", sys.excepthook)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(list(arguments), prog_name="align")
    said = capsys.readouterr()
    assert ended.value.code == 2, said.err
    assert said.out == ""
    assert f"{os.sep}align_cli{os.sep}" not in said.err
    return said.err


def steady(text: str) -> str:
    """The text without what differs from machine to machine; frames are taken off, and their lines are one."""
    text = text.replace(os.fspath(Path.cwd()), "DIR").replace(socket.gethostname(), "HOST")
    text = HOLDER.sub("pid PID since TIME", text)
    lines: list[str] = []
    is_framed = False
    for line in text.splitlines():
        bare = FRAME.sub(" ", line)
        was_framed, is_framed = is_framed, bare != line
        if is_framed and was_framed:
            lines[-1] = f"{lines[-1]} {bare.strip()}".strip()
        else:
            lines.append(bare.strip() if is_framed else line)
    return "".join(line.rstrip() + "\n" for line in lines)


@pytest.mark.parametrize(
    ("group", "case"),
    [pytest.param(group, case, id=f"{group}: {case['kind']}") for group in GROUPS for case in cases()[group]],
)
def test_bad_input_is_answered_in_these_words(
    group: str,
    case: dict[str, Any],
    texts: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    arguments, stdin = arguments_of(case), case.get("stdin", "")
    with prepare(tmp_path, case, request.getfixturevalue("model") if case.get("model", group in WITH_MODEL) else None):
        said = steady(answer(arguments, STDIN.get(stdin, stdin), capsys))
    found = f"$ align {' '.join(arguments)}\n{said}"
    texts.setdefault(group, {})[case["kind"]] = found
    assert "Traceback" not in said or group == "labelers"
    if not REWRITES:
        assert found == golden_texts(group)[case["kind"]]


def test_there_are_many_kinds_and_each_has_one_text() -> None:
    kinds = [case["kind"] for group in GROUPS for case in cases()[group]]
    assert len(kinds) == len(set(kinds)) >= LEAST_KINDS
    if not REWRITES:
        assert [kind for group in GROUPS for kind in golden_texts(group)] == kinds


def test_every_text_has_a_remedy_or_names_what_must_be() -> None:
    """A hint, what must be there, what is there instead of it, or the usage of the command."""
    remedies = ("hint: ", "it must ", "; found ", "select one of", "Usage: ", 'File "DIR/labeler.py"')
    texts = {kind: text for group in GROUPS for kind, text in golden_texts(group).items()}
    assert [kind for kind, text in texts.items() if not any(remedy in text for remedy in remedies)] == []
