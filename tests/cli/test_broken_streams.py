"""Standard streams that are closed, broken, full, narrow, or know another alphabet: what is said degrades or is lost,
what is asked for is told if it cannot be written, and a run goes on to its end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from run_fixtures import LABELER, Align, MakeFolder, assert_same_runs
from stream_faults import all_are_closed, stderr_has_no_reader, stderr_is_closed, stderr_is_full
from warm_children import MAIN

ALIGN = [sys.executable, "-c", MAIN]
SHELL = f'align() {{ {sys.executable} -c "{MAIN}" "$@"; }}; '
NOISY = "import os\nfrom contextlib import suppress\n" + LABELER.replace(
    "    return", '    with suppress(OSError):\n        os.write(2, b"from a library")\n    return'
)
ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]
NARROW = [*ASCII, {"PYTHONIOENCODING": "latin-1"}]


def said(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell's command ends in; `align` in it is this code's."""
    script = ["bash", "-c", SHELL + command]
    return subprocess.run(script, cwd=cwd, env=os.environ | environment, capture_output=True, check=False)


def shown_on_terminal(*arguments: str, cwd: Path, columns: int) -> tuple[int, str]:
    """The exit code of a command, and what it shows on a terminal of this width."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*ALIGN, *arguments], cwd=cwd, env=environment | {"TERM": "xterm"}, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(screen, 4096):
            shown += part
    except OSError:  # the terminal's last user has gone
        pass
    os.close(screen)
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.mark.long
@pytest.mark.parametrize("fault", [stderr_is_closed, stderr_has_no_reader, stderr_is_full])
def test_a_run_whose_talk_goes_nowhere_is_done_to_its_end(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path, fault: object
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(NOISY)
    done = align("train", "recipe.yaml", cwd=folder, prepare=f"stream_faults:{fault.__name__}")
    assert done.code == 0
    assert "win vs initial" in done.out
    (folder / "labeler.py").write_text(LABELER)
    ours, theirs = folder / "run" / "rounds", finished / "run" / "rounds"
    for file in sorted(theirs.rglob("*")):
        if file.is_file() and file.name != "manifest.json":  # which has the labeler's checksum
            assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes()


def test_a_run_without_any_stream_is_done_and_says_by_its_exit_code_that_its_table_was_lost(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    done = align("train", "recipe.yaml", cwd=folder, prepare=f"stream_faults:{all_are_closed.__name__}")
    assert done.code == 4
    assert_same_runs(folder, finished)


@pytest.mark.parametrize("talk", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_a_fault_that_cannot_be_told_has_its_exit_code(finished: Path, talk: str) -> None:
    assert said(f"align check nosuch.yaml {talk}", finished).returncode == 2
    assert said(f"align nosuch {talk}", finished).returncode == 2


@pytest.mark.parametrize("command", ["align --help", "align check --quick recipe.yaml", "align status run --json"])
@pytest.mark.parametrize(("out", "why"), [(">&-", "it is closed"), (">/dev/full", "the disk is full")])
def test_an_answer_that_cannot_be_written_is_told(finished: Path, command: str, out: str, why: str) -> None:
    done = said(f"{command} {out}", finished)
    assert done.returncode == 4
    assert done.stderr.decode().splitlines()[0] == f"standard output: cannot be written: {why}"


def test_records_that_cannot_be_written_are_told_by_the_exit_code_alone_if_need_be(finished: Path) -> None:
    completions = "run/rounds/001/completions.jsonl"
    assert said(f"align label recipe.yaml -i {completions} >/dev/full 2>&-", finished).returncode == 4


def test_no_file_of_ours_gets_the_number_of_a_stream_that_is_closed(finished_copy: Path) -> None:
    opener = "from align_cli.cli.streams import prepare_streams; prepare_streams(); print(open('recipe.yaml').fileno())"
    done = said(f'{sys.executable} -c "{opener}" <&- 2>&-', finished_copy)
    assert int(done.stdout) > 2


@pytest.mark.parametrize("environment", NARROW, ids=str)
@pytest.mark.parametrize("command", ["align status run", "align train recipe.yaml", "align --help"])
def test_what_an_encoding_lacks_is_shown_by_what_looks_like_it(
    finished: Path, environment: dict[str, str], command: str
) -> None:
    done = said(command, finished, **environment)
    assert done.returncode == 0, done.stderr
    shown = (done.stdout + done.stderr).decode("latin-1")
    if environment in ASCII:
        assert shown.isascii()
    if command != "align --help":
        assert ("+-" if environment in ASCII else "±") in shown
    assert "\\u2013" not in shown


def test_a_letter_that_an_encoding_lacks_is_escaped(finished: Path) -> None:
    done = said("align check 'é日.yaml'", finished, PYTHONIOENCODING="latin-1")
    assert done.returncode == 2
    assert done.stderr.startswith("é\\u65e5.yaml: ".encode("latin-1"))


@pytest.mark.parametrize(
    "environment", [NARROW[0], *(pytest.param(each, marks=pytest.mark.long) for each in NARROW[1:])], ids=str
)
def test_json_is_the_same_value_in_every_encoding(finished_copy: Path, environment: dict[str, str]) -> None:
    place = finished_copy / "run" / "rounds" / "001" / "completions.jsonl"
    rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["prompt"] += " é日🙂"
    place.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    label = f"align label recipe.yaml method.sources.dpr.labeler=ours -q < {place}"
    done = said(label, finished_copy, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    plain = said(label, finished_copy, PYTHONIOENCODING="utf-8")
    pairs = [[json.loads(line) for line in one.splitlines()] for one in (done.stdout, plain.stdout)]
    assert pairs[0] == pairs[1]
    assert pairs[0] and all("é日🙂" in pair["prompt"] for pair in pairs[0])


@pytest.mark.parametrize("columns", [1, 20, 0])
def test_a_narrow_terminal_shows_one_figure_a_line(finished: Path, columns: int) -> None:
    code, shown = shown_on_terminal("status", "run", cwd=finished, columns=columns)
    assert code == 0, shown
    if columns == 20:
        lines = shown.splitlines()
        assert lines.count("round 2") == 6  # the evaluation's, the labels', and those of its four stages
        start = lines.index("round 2")
        assert [line.split()[0] for line in lines[start + 1 :] if line.startswith("  ")][:4] == ["win", "LC"] * 2
        assert "…" not in shown


def test_a_live_display_fits_a_narrow_terminal(finished: Path) -> None:
    code, shown = shown_on_terminal("train", "recipe.yaml", cwd=finished, columns=20)
    assert code == 0, shown
    assert "run is finished" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("columns", ["20", *(pytest.param(width, marks=pytest.mark.long) for width in ("0", "1"))])
def test_a_width_that_the_environment_gives_is_kept_to_or_passed_over(finished: Path, columns: str) -> None:
    for command in ("align status run", "align --help", "align check --quick recipe.yaml", "align nosuch"):
        done = said(command, finished, COLUMNS=columns)
        assert done.returncode in (0, 2), done.stderr
        assert b"Traceback" not in done.stderr
