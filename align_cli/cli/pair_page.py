"""How a pair looks on a terminal: the prompt above its two answers, which stand side by side where there is room.

Pure: texts and a console's size in, lines out. Head and foot stay; what is between them is scrolled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from align_cli.cli.shown import LOOK_ALIKES, visible
from align_cli.report.tables import span

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

NARROWEST = 30
"""Characters of a column in which an answer can be read."""
AROUND = 4
"""Lines of the head, the foot and their rules."""
NARROWEST_BAR, BAR = 8, 24
"""Characters of the bar of progress, where there is room for one."""
TITLE, QUIET = "bold cyan", "dim"

VERDICT_KEYS = (("l", "left"), ("r", "right"), ("t", "tie"), ("s", "skip"), ("u", "undo"), ("q", "quit"))
LAST_KEYS = (("Enter", "finish"), ("u", "undo"))


class Standing(NamedTuple):
    """How far somebody is.

    Args:
        annotator: who.
        num_judged: pairs that they have judged, in this sitting and before.
        num_pairs: all.
        seconds_a_verdict: in this sitting; None before the first.
        last: what they said last in this sitting, in a word; empty before the first.
    """

    annotator: str
    num_judged: int
    num_pairs: int
    seconds_a_verdict: float | None
    last: str


class Page(NamedTuple):
    """What is shown.

    Args:
        drawn: for the console.
        first_line: the line of the body that stands on top.
        num_lines: of the body.
        num_shown: of those.
        answers_line: the line of the body where the answers begin.
    """

    drawn: RenderableType
    first_line: int
    num_lines: int
    num_shown: int
    answers_line: int


def pair_page(console: Console, standing: Standing, prompt: str, left: str, right: str, first_line: int = 0) -> Page:
    """A pair to judge.

    Args:
        console: the terminal.
        standing: how far somebody is.
        prompt: what was asked.
        left: an answer to it.
        right: the other.
        first_line: of the body, on top; beyond the end, the last that has a full screen below it.
    """
    asked = _asked(console, prompt)
    body = [*asked, *_answers(console, left, right)]
    return _page(console, standing, body, first_line, VERDICT_KEYS, len(asked))


def end_page(console: Console, standing: Standing) -> Page:
    """All pairs are judged, and the last verdict may still be taken back."""
    words = f"Nothing is left to judge: {standing.num_judged} of {standing.num_pairs} pairs are done."
    return _page(console, standing, _wrapped(console, words, console.width - 2), 0, LAST_KEYS)


def _page(
    console: Console,
    standing: Standing,
    body: Sequence[Text],
    first_line: int,
    keys: Sequence[tuple[str, str]],
    answers_line: int = 0,
) -> Page:
    from rich.console import Group
    from rich.text import Text

    width, room = console.width, max(console.height - AROUND, 1)
    first = max(min(first_line, len(body) - room), 0)
    shown = list(body[first : first + room])
    blank = [Text("")] * (room - len(shown))
    body_lines = [Text(" ") + line for line in shown]
    where = _where(console, first, len(shown), len(body))
    lines = [_head(console, standing), _rule(console), *body_lines, *blank, where, _foot(console, keys, standing.last)]
    drawn = Group(*(_one_line(line, width) for line in lines))
    return Page(drawn, first, len(body), len(shown), answers_line)


def _one_line(line: Text, width: int) -> Text:
    line = line.copy()
    line.no_wrap, line.overflow = True, "crop"
    line.truncate(width)
    return line


def _head(console: Console, standing: Standing) -> Text:
    from rich.text import Text

    done = standing.num_judged / standing.num_pairs
    parts = [f"{standing.num_judged} of {standing.num_pairs}", f"{done:.0%}"]
    if standing.seconds_a_verdict is not None:
        left = (standing.num_pairs - standing.num_judged) * standing.seconds_a_verdict
        parts += [f"{standing.seconds_a_verdict:.1f} s a verdict", f"{span(left)} left"]
    told = Text(_fitted(console, "  " + " · ".join(parts)))
    name = Text(_fitted(console, visible(standing.annotator)), style=QUIET)
    room = console.width - told.cell_len - 2
    bar = min(BAR, room) if room >= NARROWEST_BAR else 0
    full = round(bar * done)
    head = Text.assemble(
        " ", (_fitted(console, "━" * full), "cyan"), (_fitted(console, "╌" * (bar - full)), QUIET), told
    )
    space = console.width - head.cell_len - name.cell_len - 1
    return Text.assemble(head, " " * space, name) if space > 1 else head


def _rule(console: Console, words: str = "", style: str = QUIET) -> Text:
    """A line across the terminal, with words near its right end."""
    from rich.text import Text

    told = Text(_fitted(console, f" {words} "), style=style) if words else Text("")
    end = 2 if words else 0
    rule = Text(_fitted(console, "─" * max(console.width - told.cell_len - end, 0)), style=QUIET)
    return Text.assemble(rule, told, (_fitted(console, "─" * end), QUIET))


def _where(console: Console, first: int, num_shown: int, num_lines: int) -> Text:
    """The lower rule: which lines are shown, and how to see the others, where these are not all."""
    if num_shown == num_lines:
        return _rule(console)
    last = first + num_shown
    words = f"lines {first + 1}-{last} of {num_lines} · space and ↓ ↑ scroll"
    return _rule(console, words, "bold yellow" if last < num_lines else QUIET)


def _foot(console: Console, keys: Sequence[tuple[str, str]], last: str) -> Text:
    """The keys, and what the last verdict was, where there is room for it."""
    from rich.text import Text

    words = [(key, f"{word} ({last})" if word == "undo" and last else word) for key, word in keys]
    wide, narrow = (Text(" ") for _ in range(2))
    for foot, told, between in ((wide, words, "  "), (narrow, keys, " ")):
        for key, word in told:
            foot.append(key, style=TITLE).append(f" {word}{between}")
    return wide if wide.cell_len <= console.width else narrow


def _asked(console: Console, prompt: str) -> list[Text]:
    return [_title("PROMPT"), *_wrapped(console, prompt, console.width - 2), _title("")]


def _answers(console: Console, left: str, right: str) -> list[Text]:
    width, sides = console.width - 2, (("LEFT", left), ("RIGHT", right))
    column = (width - 3) // 2
    if column < NARROWEST:
        one, other = ([_title(name), *_wrapped(console, text, width)] for name, text in sides)
        return [*one, _title(""), *other]
    one, other = ([_title(name), *_wrapped(console, text, column)] for name, text in sides)
    return _side_by_side(console, one, other, column)


def _side_by_side(console: Console, one: list[Text], other: list[Text], column: int) -> list[Text]:
    from rich.text import Text

    between = Text(_fitted(console, " │ "), style=QUIET)
    lines = []
    for place in range(max(len(one), len(other))):
        left, right = (column_lines[place] if place < len(column_lines) else Text("") for column_lines in (one, other))
        lines.append(Text.assemble(left, " " * max(column - left.cell_len, 0), between, right))
    return lines


def _title(name: str) -> Text:
    from rich.text import Text

    return Text(name, style=TITLE)


def _wrapped(console: Console, text: str, width: int) -> list[Text]:
    """A text's lines in a column: what a terminal would obey shown as escapes, and nothing that it cannot show."""
    from rich.text import Text

    if not text.strip():
        return [Text("(empty)" if not text else "(blank)", style="dim italic")]
    fitted = Text(_fitted(console, visible(text).expandtabs(4)))
    return list(fitted.wrap(console, max(width, 2), overflow="fold"))


def _fitted(console: Console, text: str) -> str:
    """A text in the terminal's encoding: what it lacks becomes what looks like it, before anything is measured."""
    encoding = console.encoding
    return text.encode(encoding, errors=LOOK_ALIKES).decode(encoding)
