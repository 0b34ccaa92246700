"""Somebody reads pairs at a terminal: every key, undo, scrolling, another size; nothing is lost, nothing is obeyed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from terminal import CTRL_C, CTRL_D, ROWS, Terminal, program_on_terminal
from test_untrusted_text import HOSTILE, harmless

from align_cli.artifacts.answers import Answers
from align_cli.labelers.verdicts import Pair, Said, Verdicts

SCRIPT = Path(__file__).parent / "sitting.py"
NUM_PAIRS = 6
PAIRS = [Pair.of(f"prompt {number}.", f"a{number}.", f"b{number}.") for number in range(NUM_PAIRS)]
UP, DOWN, RIGHT, LEFT, PAGE_DOWN, END, HOME = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[6~", "\x1b[F", "\x1b[H"

Sit = Callable[..., AbstractContextManager[Terminal]]


@pytest.fixture
def sit(tmp_path: Path) -> Sit:
    """`with sit(pairs) as shown`: somebody sits down before these pairs."""

    @contextmanager
    def sitting(pairs: list[Pair] = PAIRS, columns: int = 80, rows: int = ROWS, **variables: str) -> Iterator[Terminal]:
        (tmp_path / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        with program_on_terminal([str(SCRIPT)], cwd=tmp_path, columns=columns, rows=rows, **variables) as shown:
            yield shown

    return sitting


def said(folder: Path, pairs: list[Pair] = PAIRS) -> list[Said | None]:
    """What is kept on disk of each pair, as another process reads it."""
    verdicts = Verdicts(Answers(folder / "answers.jsonl"))
    return [verdicts.of(pair).get("ann") for pair in pairs]


def press(shown: Terminal, keys: str) -> None:
    """At once: what is shown was drawn after the keys before it were done with."""
    shown.type(keys, seconds_to_react=0)


def left(number: int) -> Said:
    return PAIRS[number].sides("ann")[0]


def right(number: int) -> Said:
    return PAIRS[number].sides("ann")[1]


def test_each_key_says_what_it_says_and_moves_on(sit: Sit, tmp_path: Path) -> None:
    with sit() as shown:
        for number, key in enumerate(("l", "R", "t", "s", LEFT, RIGHT)):
            assert f"{number} of 6" in shown.until(f"prompt {number}.")
            shown.until("quit")
            press(shown, key)
        shown.until("Nothing is left to judge: 6 of 6 pairs are done.")
        shown.until("Enter finish")
        press(shown, "\r")
        code, rest = shown.end()
        assert (code, "all were judged" in rest) == (0, True)
    assert said(tmp_path) == [left(0), right(1), "tie", "skip", left(4), right(5)]


def test_the_answer_on_the_left_is_the_one_that_left_means(sit: Sit, tmp_path: Path) -> None:
    with sit() as shown:
        frame = shown.until("quit")
        (answers,) = [line for line in frame.splitlines() if "a0." in line]
        chosen = "first" if answers.index("a0.") < answers.index("b0.") else "second"
        press(shown, "1")
        shown.until("prompt 1.")
        press(shown, "q")
        assert shown.end()[0] == 0
    assert said(tmp_path)[0] == chosen


def test_undo_takes_back_one_verdict_after_the_other_on_disk_too(sit: Sit, tmp_path: Path) -> None:
    with sit() as shown:
        shown.until("quit")
        press(shown, "u")  # nothing to take back yet
        for number, key in enumerate("lt"):
            shown.until(f"prompt {number}.")
            shown.until("quit")
            press(shown, key)
        shown.until("prompt 2.")
        shown.until("undo (tie)")
        assert said(tmp_path)[:3] == [left(0), "tie", None]
        press(shown, "u")
        shown.until("1 of 6")
        shown.until("prompt 1.")
        shown.until("undo (left)")
        assert said(tmp_path)[:3] == [left(0), None, None]
        press(shown, "\x7f")
        shown.until("0 of 6")
        shown.until("prompt 0.")
        assert said(tmp_path)[:3] == [None, None, None]
        shown.until("quit")
        press(shown, "r")
        shown.until("prompt 1.")
        press(shown, CTRL_D)
        assert "somebody quit" in shown.end()[1]
    assert said(tmp_path)[:2] == [right(0), None]


def test_the_last_verdict_can_be_taken_back_too(sit: Sit, tmp_path: Path) -> None:
    with sit(PAIRS[:1]) as shown:
        shown.until("quit")
        press(shown, "l")
        shown.until("Enter finish")
        press(shown, "r")  # says nothing of a pair that is not shown
        press(shown, "u")
        shown.until("0 of 1")
        shown.until("quit")
        press(shown, "\r")  # finishes nothing yet
        press(shown, "r")
        shown.until("Enter finish")
        press(shown, "\r")
        assert "all were judged" in shown.end()[1]
    assert said(tmp_path)[:1] == [right(0)]


def test_who_quits_goes_on_where_they_were(sit: Sit, tmp_path: Path) -> None:
    with sit() as shown:
        shown.until("prompt 0.")
        press(shown, "t")
        shown.until("prompt 1.")
        press(shown, "q")
        assert "somebody quit" in shown.end()[1]
    with sit() as shown:
        assert "1 of 6" in shown.until("prompt 1.")
        press(shown, "q")
        shown.end()
    assert said(tmp_path) == ["tie", *[None] * 5]


@pytest.mark.parametrize("end", ["killed", "hung up", "interrupted"])
def test_whatever_ends_a_sitting_loses_no_verdict(end: str, sit: Sit, tmp_path: Path) -> None:
    with sit() as shown:
        shown.until("prompt 0.")
        press(shown, "l")
        shown.until("prompt 1.")
        press(shown, "s")
        shown.until("prompt 2.")
        if end == "interrupted":
            press(shown, CTRL_C)
            assert shown.end()[0] != 0
        else:
            shown.kill(signal.SIGKILL if end == "killed" else signal.SIGHUP)
    assert said(tmp_path) == [left(0), "skip", *[None] * 4]


def test_the_terminal_is_afterwards_what_it_was(sit: Sit) -> None:
    with sit() as shown:
        shown.until("quit")
        assert not shown.echoes
        assert not shown.suspends  # a shell would get it back as it is
        press(shown, "q")
        shown.end()
        assert shown.echoes and shown.suspends
        assert shown.obeyed.count("\x1b[?1049h") == shown.obeyed.count("\x1b[?1049l") == 1
        assert shown.obeyed.count("\x1b[?25l") == shown.obeyed.count("\x1b[?25h") == 1


def test_what_is_typed_ahead_judges_nothing(sit: Sit, tmp_path: Path) -> None:
    with sit() as shown:
        shown.until("prompt 0.")
        press(shown, "llllllll")
        shown.until("prompt 1.")
        press(shown, "q")
        shown.end()
    assert said(tmp_path) == [left(0), *[None] * 5]


def test_a_long_answer_is_scrolled_by_lines_and_pages_and_no_key_of_that_judges(sit: Sit, tmp_path: Path) -> None:
    long = Pair.of("Count.", "\n".join(f"line {number} of it" for number in range(100)), "short")
    with sit([long, *PAIRS]) as shown:
        first = shown.until("lines 1-20 of 104")
        assert "line 15 of it" in first
        assert "line 16 of it" not in first
        for key, where in ((DOWN, "2-21"), (" ", "21-40"), (PAGE_DOWN, "40-59"), (END, "85-104"), (DOWN, None)):
            press(shown, key)
            if where is not None:
                frame = shown.until(f"lines {where} of 104")
        assert "line 99 of it" in frame
        for key, where in ((UP, "84-103"), (HOME, "1-20"), (UP, None), ("\t", "4-23")):
            press(shown, key)
            if where is not None:
                shown.until(f"lines {where} of 104")
        press(shown, "x?\x1b[15~")
        press(shown, "l")
        shown.until("prompt 0.")
        press(shown, "q")
        shown.end()
    assert said(tmp_path, [long]) == [long.sides("ann")[0]]


def test_it_is_drawn_anew_when_the_terminal_changes_its_size(sit: Sit) -> None:
    pair = Pair.of("Why?", "word " * 60 + "end-of-a", "word " * 60 + "end-of-b")
    with sit([pair]) as shown:
        assert "LEFT" in (wide := shown.until("quit"))
        assert any("LEFT" in line and "RIGHT" in line for line in wide.splitlines())
        shown.resize(50, 40)
        narrow = shown.until("quit")
        assert not any("LEFT" in line and "RIGHT" in line for line in narrow.splitlines())
        assert "end-of-a" in narrow and "end-of-b" in narrow
        assert max(map(len, narrow.splitlines()[1:])) <= 50  # what is left of the line before is there first
        shown.resize(140, 24)
        assert any("LEFT" in line and "RIGHT" in line for line in shown.until("quit").splitlines())
        press(shown, "q")
        assert shown.end()[0] == 0


def test_what_a_model_wrote_is_shown_and_not_obeyed_and_wide_characters_keep_the_columns(sit: Sit) -> None:
    hostile = [
        Pair.of(f"prompt {number}.", "北京是中国的首都。🏯" * 6, text) for number, text in enumerate(HOSTILE.values())
    ]
    with sit(hostile) as shown:
        for number in range(len(hostile)):
            shown.until(f"prompt {number}.")
            frame = shown.until("quit")
            assert harmless(frame.replace("\n", "")), frame
            columns = {_width(line.split("│")[0]) for line in frame.splitlines() if "│" in line}
            assert columns == {39}
            press(shown, "t")
        shown.until("Enter finish")
        press(shown, "\r")
        shown.end()
        assert "]0;owned\x07" not in shown.obeyed
        assert "\x1b[2A" not in shown.obeyed


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def test_a_terminal_without_unicode_is_served(sit: Sit, tmp_path: Path) -> None:
    pair = Pair.of("Почему?", "yes …", "no →")
    with sit([pair], PYTHONIOENCODING="ascii") as shown:
        frame = shown.until("quit")
        assert frame.isascii()
        assert "LEFT" in frame and "| RIGHT" in frame
        assert "\\u041f" in frame
        press(shown, "r")
        shown.until("Enter finish")
        press(shown, "\r")
        assert shown.end()[0] == 0
    assert said(tmp_path, [pair]) == [pair.sides("ann")[1]]
