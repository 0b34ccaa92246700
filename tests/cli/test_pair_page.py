"""How a pair looks: side by side or below each other, in any size, with nothing obeyed and nothing lost."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from test_untrusted_text import HOSTILE, harmless

from align_cli.cli.pair_page import Page, Standing, end_page, pair_page

STANDING = Standing("ann", 5, 12, 8.4, "left")
LONG = "\n".join(f"line {number}" for number in range(60))


def console(columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    return Console(file=stream, width=columns, height=rows, color_system=None, highlight=False)


def lines_of(page: Page, on: Console) -> list[str]:
    with on.capture() as captured:
        on.print(page.drawn)
    return captured.get().rstrip("\n").split("\n")


def shown(prompt: str, left: str, right: str, on: Console, first_line: int = 0) -> list[str]:
    return lines_of(pair_page(on, STANDING, prompt, left, right, first_line), on)


@pytest.mark.parametrize("columns", [65, 80, 140, 200])
def test_answers_stand_side_by_side(columns: int) -> None:
    lines = shown("Why?", "the left one", "the right one", console(columns))
    (titles,) = [line for line in lines if "LEFT" in line]
    (answers,) = [line for line in lines if "the left one" in line]
    assert titles.split() == ["LEFT", "│", "RIGHT"]
    assert answers.index("the right one") == titles.index("RIGHT") > columns // 2 - 2
    assert lines.index(answers) > next(place for place, line in enumerate(lines) if "Why?" in line)


@pytest.mark.parametrize("columns", [20, 40, 64])
def test_where_it_is_too_narrow_they_stand_below_each_other(columns: int) -> None:
    lines = shown("Why?", "the left one", "the right one", console(columns))
    order = [
        next(place for place, line in enumerate(lines) if word in line)
        for word in ("LEFT", "left one", "RIGHT", "right one")
    ]
    assert order == sorted(set(order))


@pytest.mark.parametrize("columns", [1, 7, 42, 80, 140])
@pytest.mark.parametrize("rows", [1, 5, 24])
@pytest.mark.parametrize(
    "text", ["short", "北京🏯" * 60, "x" * 500, LONG, "a\tb\n\n\tc"], ids=["short", "wide", "word", "long", "tabs"]
)
def test_it_is_as_wide_and_as_high_as_the_terminal(columns: int, rows: int, text: str) -> None:
    lines = shown(text, text, "other", console(columns, rows))
    assert len(lines) == max(rows, 5)
    assert max(map(cell_len, lines)) <= columns


def test_the_keys_are_there_at_eighty_columns_and_at_fewer() -> None:
    for columns in (44, 80):
        foot = shown("p", "a", "b", console(columns))[-1]
        assert [word for word in ("left", "right", "tie", "skip", "undo", "quit") if word not in foot] == []
    assert "undo (left)" in shown("p", "a", "b", console(80))[-1]


def test_the_head_says_how_far_one_is_and_how_long_it_takes() -> None:
    head = shown("p", "a", "b", console())[0]
    assert head.split("  ")[1] == "5 of 12 · 42% · 8.4 s a verdict · 59s left"
    assert head.endswith("ann")
    first = lines_of(pair_page(console(), STANDING._replace(seconds_a_verdict=None), "p", "a", "b"), console())[0]
    assert "left" not in first


def test_all_of_a_long_text_is_reached_by_scrolling() -> None:
    on, first, seen = console(), 0, set[str]()
    while True:
        page = pair_page(on, STANDING, "Why?", LONG, "short", first)
        seen |= {
            word for line in lines_of(page, on) for word in (line.split("│")[0].strip(),) if word.startswith("line ")
        }
        if page.first_line + page.num_shown == page.num_lines:
            break
        assert page.first_line == first
        first += page.num_shown
    assert {f"line {number}" for number in range(60)} <= seen
    assert page.first_line == page.num_lines - page.num_shown < first + 20
    assert lines_of(pair_page(on, STANDING, "Why?", LONG, "short", page.answers_line), on)[2].split() == [
        "LEFT",
        "│",
        "RIGHT",
    ]


def test_that_there_is_more_is_said_only_where_there_is() -> None:
    assert "lines 1-20 of 64" in shown("Why?", LONG, "short", console())[-2]
    assert "lines" not in shown("Why?", "a", "b", console())[-2]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_a_model_wrote_is_obeyed(text: str) -> None:
    lines = shown(text, text, text, console(140, 40))
    assert harmless("".join(lines))
    if "[" in text and "\x1b" not in text and "\x9b" not in text:
        assert any("[bold]x[/bold]" in line for line in lines)


def test_an_answer_of_nothing_is_said_to_be_one() -> None:
    lines = shown("p", "", " \n ", console())
    assert any("(empty)" in line and "(blank)" in line for line in lines)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_characters_gets_what_looks_like_them(encoding: str) -> None:
    lines = shown("北京 – naïve…", "ä" * 100, "→ 🏯", console(80, 24, encoding))
    "\n".join(lines).encode(encoding)
    assert max(map(cell_len, lines)) <= 80
    assert any("\\u5317\\u4eac" in line for line in lines)


def test_the_end_is_a_page_of_its_own() -> None:
    on = console()
    lines = lines_of(end_page(on, STANDING._replace(num_judged=12)), on)
    assert any("Nothing is left to judge: 12 of 12 pairs are done." in line for line in lines)
    assert "Enter finish" in lines[-1] and "u undo" in lines[-1]
