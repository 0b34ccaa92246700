"""The questions of `align init`: asked at a terminal until an answer can be used, answered by options anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from align_cli.cli.output import Output
from align_cli.errors import AlignError, RecipeError

T = TypeVar("T")


QUESTIONS = {
    "model": "Which model is to be aligned? A folder, a Hub id, or playground: a tiny one of align's own.",
    "data": "Which data? A file, a folder or a Hub id in any format of docs/data.md, or playground.",
    "labels": "Who says which of two answers is better?",
    "hardware": "On which hardware? cpu, mps, or GPUs by their memory, as 24gb or 8x80gb.",
    "method": "By which method? `align presets` says what each is for.",
}


class Questions:
    """Asks, or takes defaults where nobody sits.

    Args:
        talk: where questions go.
    """

    def __init__(self, talk: Output) -> None:
        self._talk, self._console = talk, talk.terminal()

    def begin(self) -> None:
        """What is about to happen, where anybody can be asked."""
        if self._console is not None:
            self._talk.note("Five questions; Enter takes what stands in brackets. Nothing is written before the last.")

    def tell(self, lines: Iterable[str], *, only_if_asked: bool = False) -> None:
        """What was found; where it helps with a question alone, to whoever is asked."""
        for line in lines:
            if not only_if_asked or self._console is not None:
                self._talk.note(f"   {line}")

    def ask(
        self, name: str, given: str | None, read: Callable[[str], T], *, default: str | Callable[[], str] | None
    ) -> T:
        """An answer that can be used.

        Args:
            name: the question's, and the option's.
            given: what an option says; None asks.
            read: makes an answer of a text, or raises an AlignError.
            default: what is taken where nobody says; None where that has to be said.

        Raises:
            AlignError: if what an option says cannot be used, or if nobody can be asked and there is no default.
        """
        if given is not None:
            return read(given)
        usual = default() if callable(default) else default
        if self._console is None:
            return read(self._default(name, usual))
        question = list(QUESTIONS).index(name) + 1
        self._talk.note(f"{question}. {QUESTIONS[name]}")
        if name == "labels":
            self._tell_labels()
        while True:
            try:
                return read(self._typed(name, usual))
            except AlignError as error:
                self._talk.note(f"   {error}".replace("\n", "\n   "))

    def _default(self, name: str, usual: str | None) -> str:
        if usual is None:
            what = f"--{name} is not said, and nobody can be asked here"
            raise RecipeError(what, hint=QUESTIONS[name])
        self._talk.note(f"--{name} is not said: {usual}")
        return usual

    def _tell_labels(self) -> None:
        from align_cli.begin.answers import LABELS

        for kind, words in LABELS.items():
            self._talk.note(f"   {kind:14}{words}")

    def _typed(self, name: str, usual: str | None) -> str:
        assert self._console is not None
        bracket = f" [{usual}]" if usual else ""
        try:
            typed = self._console.input(f"   {name}{bracket}: ", markup=False).strip()
        except EOFError:
            raise KeyboardInterrupt("nothing was written") from None
        return typed or usual or ""
