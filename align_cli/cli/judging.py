"""A sitting: somebody reads pairs at a terminal and presses one key for each.

A verdict is kept before the next pair is shown, so that whatever ends the sitting loses none. A pair that takes no key
is drawn anew where the terminal changes its size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from align_cli.cli.keys import END, Keys
from align_cli.cli.pair_page import Page, Standing, end_page, pair_page
from align_cli.labelers.verdicts import Pair, Said, Verdicts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

SECONDS_BETWEEN_LOOKS = 0.2
"""At the terminal's size, while no key comes."""

LEFT, RIGHT, TIE, SKIP, UNDO, QUIT, FINISH = "left", "right", "tie", "skip", "undo", "quit", "finish"
MEANINGS = {
    **dict.fromkeys(("l", "L", "1", "left"), LEFT),
    **dict.fromkeys(("r", "R", "2", "right"), RIGHT),
    **dict.fromkeys(("t", "T", "="), TIE),
    **dict.fromkeys(("s", "S"), SKIP),
    **dict.fromkeys(("u", "U", "backspace"), UNDO),
    **dict.fromkeys(("q", "Q", "ctrl-d", END), QUIT),
    "enter": FINISH,
}
"""What each key means, arrows included; Ctrl-C interrupts as everywhere."""
LINE_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1}
PAGE_STEPS = {"page up": -1, "b": -1, "page down": 1, " ": 1}
END_STEPS = {"home": 0, "end": 1_000_000_000}


class Sitting:
    """Somebody's way through the pairs that wait for them.

    Args:
        waiting: pairs to judge, in their order.
        num_pairs: all pairs, those that were judged before included.
        verdicts: where verdicts are kept.
        annotator: who judges.
    """

    def __init__(self, waiting: Sequence[Pair], num_pairs: int, verdicts: Verdicts, annotator: str) -> None:
        self.annotator = annotator
        self._waiting, self._verdicts = list(waiting), verdicts
        self._num_before = num_pairs - len(waiting)
        self._seconds: list[float] = []
        self._words: list[str] = []

    @property
    def is_over(self) -> bool:
        """Whether no pair is left."""
        return len(self._words) == len(self._waiting)

    @property
    def pair(self) -> Pair:
        """The one to judge."""
        return self._waiting[len(self._words)]

    @property
    def sides(self) -> tuple[str, str]:
        """Its answers, the left one and the right one."""
        left, right = self.pair.sides(self.annotator)
        return self.pair.answer(left), self.pair.answer(right)

    def standing(self) -> Standing:
        """How far they are."""
        num_judged, num_pairs = self._num_before + len(self._words), self._num_before + len(self._waiting)
        pace = statistics.median(self._seconds) if self._seconds else None
        return Standing(self.annotator, num_judged, num_pairs, pace, self._words[-1] if self._words else "")

    def judge(self, word: str, seconds: float) -> None:
        """Keep a verdict: `left`, `right`, `tie` or `skip`."""
        left, right = self.pair.sides(self.annotator)
        words: dict[str, Said] = {LEFT: left, RIGHT: right, TIE: "tie", SKIP: "skip"}
        self._verdicts.keep(self.pair, self.annotator, words[word], left)
        self._words.append(word)
        self._seconds.append(seconds)

    def undo(self) -> bool:
        """Take the last verdict of the sitting back; whether there was one. The pair is the one to judge again."""
        if not self._words:
            return False
        self._words.pop()
        self._seconds.pop()
        self._verdicts.take_back(self.pair, self.annotator)
        return True


def sit(console: Console, sitting: Sitting) -> bool:
    """Ask about one pair after the other.

    Returns:
        Whether all were judged; else somebody quit.

    Raises:
        KeyboardInterrupt: at Ctrl-C; what was judged is kept.
    """
    from rich.live import Live

    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            word, seconds = _answer(live, keys, sitting)
            if word == QUIT:
                return False
            if word == FINISH:
                return True
            if word == UNDO:
                sitting.undo()
            else:
                sitting.judge(word, seconds)


def _answer(live: Live, keys: Keys, sitting: Sitting) -> tuple[str, float]:
    """What is said of the pair at hand, and how long it took; of the end, whether it is one."""
    console, first_line, drawn_for = live.console, 0, None
    keys.forget()
    began = time.monotonic()
    while True:
        size = console.size  # before it is drawn: should it change meanwhile, it is drawn again
        if (size, first_line) != drawn_for:
            page = _page(console, sitting, first_line)
            live.update(page.drawn, refresh=True)
            first_line = page.first_line
            drawn_for = (size, first_line)
        key = keys.read(SECONDS_BETWEEN_LOOKS)
        if key is None:
            continue
        word = MEANINGS.get(key)
        if word in (QUIT, UNDO) or (word is not None and (word == FINISH) == sitting.is_over):
            return word, time.monotonic() - began
        first_line = _scrolled(key, page)


def _page(console: Console, sitting: Sitting, first_line: int) -> Page:
    if sitting.is_over:
        return end_page(console, sitting.standing())
    return pair_page(console, sitting.standing(), sitting.pair.prompt, *sitting.sides, first_line)


def _scrolled(key: str, page: Page) -> int:
    """The line on top after a key; a page further has a line of the one before."""
    if key in END_STEPS:
        return END_STEPS[key]
    if key == "tab":
        return page.answers_line
    step = LINE_STEPS.get(key, 0) + PAGE_STEPS.get(key, 0) * max(page.num_shown - 1, 1)
    return max(page.first_line + step, 0)
