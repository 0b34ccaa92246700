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
BAR = 24
"""Characters of the bar of progress."""
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
    """

    drawn: RenderableType
    first_line: int
    num_lines: int
    num_shown: int


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
    return _page(console, standing, _body(console, prompt, left, right), first_line, VERDICT_KEYS)


def end_page(console: Console, standing: Standing) -> Page:
    """All pairs are judged, and the last verdict may still be taken back."""
    words = f"Nothing is left to judge: {standing.num_judged} of {standing.num_pairs} pairs are done."
    return _page(console, standing, _wrapped(console, words, console.width - 2), 0, LAST_KEYS)


def _page(
    console: Console, standing: Standing, body: Sequence[Text], first_line: int, keys: Sequence[tuple[str, str]]
) -> Page:
    from rich.console import Group
    from rich.text import Text

    width, room = console.width, max(console.height - AROUND, 1)
    first = max(min(first_line, len(body) - room), 0)
    shown = list(body[first : first + room])
    rule = Text(_fitted(console, "─" * width), style=QUIET, no_wrap=True)
    blank = [Text("")] * (room - len(shown))
    lines = [_head(console, standing), rule, *(Text(" ") + line for line in shown), *blank, rule]
    foot = _foot(console, keys, standing.last, first, len(shown), len(body))
    return Page(Group(*(_one_line(line, width) for line in [*lines, foot])), first, len(body), len(shown))


def _one_line(line: Text, width: int) -> Text:
    line = line.copy()
    line.no_wrap, line.overflow = True, "crop"
    line.truncate(width)
    return line


def _head(console: Console, standing: Standing) -> Text:
    from rich.text import Text

    done = standing.num_judged / standing.num_pairs
    full = round(BAR * done)
    parts = [f"{standing.num_judged} of {standing.num_pairs}", f"{done:.0%}"]
    if standing.seconds_a_verdict is not None:
        left = (standing.num_pairs - standing.num_judged) * standing.seconds_a_verdict
        parts += [f"{standing.seconds_a_verdict:.1f} s a verdict", f"{span(left)} left"]
    head = Text(" ")
    head.append(_fitted(console, "━" * full), style="cyan")
    head.append(_fitted(console, "╌" * (BAR - full)), style=QUIET)
    head.append(_fitted(console, "  " + " · ".join(parts)))
    name = Text(_fitted(console, visible(standing.annotator)), style=QUIET)
    space = console.width - head.cell_len - name.cell_len - 1
    return head + Text(" " * space) + name if space > 1 else head


def _foot(
    console: Console, keys: Sequence[tuple[str, str]], last: str, first: int, num_shown: int, num_lines: int
) -> Text:
    from rich.text import Text

    foot = Text(" ")
    for key, word in keys:
        foot.append(key, style="bold cyan")
        foot.append(f" {word}{f' ({last})' if word == 'undo' and last else ''}  ")
    if num_shown < num_lines:
        more = f"{first + 1}-{first + num_shown} of {num_lines} lines, space or ↓ scrolls "
        where = Text(_fitted(console, more), style="bold yellow" if first + num_shown < num_lines else QUIET)
        space = console.width - foot.cell_len - where.cell_len
        if space < 0:
            where = Text(f"{first + num_shown}/{num_lines} ", style=where.style)
            space = console.width - foot.cell_len - where.cell_len
        foot = foot + Text(" " * max(space, 0)) + where
    return foot


def _body(console: Console, prompt: str, left: str, right: str) -> list[Text]:
    width = console.width - 2
    lines = [_title("PROMPT"), *_wrapped(console, prompt, width), _title("")]
    column = (width - 3) // 2
    if column < NARROWEST:
        for name, text in (("LEFT", left), ("RIGHT", right)):
            lines += [_title(name), *_wrapped(console, text, width), _title("")]
        return lines[:-1]
    one, other = ([_title(name), *_wrapped(console, text, column)] for name, text in (("LEFT", left), ("RIGHT", right)))
    return lines + _side_by_side(console, one, other, column)


def _side_by_side(console: Console, one: list[Text], other: list[Text], column: int) -> list[Text]:
    from rich.text import Text

    between = Text(_fitted(console, " │ "), style=QUIET)
    lines = []
    for place in range(max(len(one), len(other))):
        left = (one[place] if place < len(one) else Text("")).copy()
        left.append(" " * max(column - left.cell_len, 0))
        lines.append(left + between + (other[place] if place < len(other) else Text("")))
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
