"""User errors: what is wrong, where, and what to do about it; and the exit codes that commands end with.

Everything that a user can get wrong is raised as one of these; the command line's single error boundary
(`align_cli.cli.output`) shows them without a traceback. Whatever else is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

MAX_ROWS, MAX_KINDS, MAX_SPANS = 1000, 20, 10
"""Of the faults of rows: after how many reading stops, how many kinds are shown, how many spans of rows for each."""


class ExitCode(IntEnum):
    """How a command ended, as the shell sees it.

    Attributes:
        meaning: in words, for `align --help`.
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        member = int.__new__(cls, code)
        member._value_, member.meaning = code, meaning
        return member

    DONE = 0, "done"
    BUG = 1, "a bug of align's own, with its traceback"
    FAULT = 2, "something for you to mend: the command line, the recipe, the data, a labeler, the run's folder"
    GUARD = 3, "a guard stopped the run"
    DISK = 4, "something cannot be written: a disk that is full, read-only or broken"
    MEMORY = 5, "out of memory"
    INTERRUPTED = 130, "interrupted (Ctrl-C, SIGINT)"
    OUTPUT_CLOSED = 141, "whoever read the output closed it before its end"
    TERMINATED = 143, "terminated (SIGTERM)"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Args:
        what: the fault in one sentence, with the value that was found.
        where: `file:line:column`, a path, or a key; empty where there is no place to point to.
        hint: the remedy; empty where `what` already says it.
        snippet: the offending source line with a caret below it, or another program's traceback; shown as it is.
        key: the recipe's key that it is about, as `method.beta`; empty where it is about none, or that is not known.
        line: of the file that `where` names, from 1; None where it names none.
        column: likewise.
    """

    what: str
    where: str = ""
    hint: str = ""
    snippet: str = ""
    key: str = ""
    line: int | None = None
    column: int | None = None

    def to_dict(self) -> dict[str, str | int | None]:
        """The fault as a JSON object, without the snippet, which `line` and `column` point to."""
        return {name: getattr(self, name) for name in ("what", "where", "hint", "line", "column", "key")}

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.snippet:
            lines.append(self.snippet)
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class AlignError(Exception):
    """A fault that the user can mend; ends the command with the exit code of its kind and no traceback."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAULT

    not_shown: str = ""
    """What else is wrong and is not among the faults, in words with its number; empty where they are all."""

    refused_with: int | None = None
    """The HTTP status by which a server refused a request; None where none has."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", snippet: str = "") -> None:
        self.faults: tuple[Fault, ...] = (Fault(what, where, hint, snippet),)
        super().__init__(str(self.faults[0]))

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> Self:
        """One error from several faults, all of which are shown.

        Raises:
            ValueError: if `faults` is empty.
        """
        if not faults:
            raise ValueError("an error needs at least one fault")
        error = cls(faults[0].what)
        error.faults = tuple(faults)
        error.args = ("\n".join(str(fault) for fault in faults),)
        return error


class RecipeError(AlignError):
    """Faults in a recipe or in its overrides."""


class DataError(AlignError):
    """Faults in a file of prompts or preferences."""


class LabelerError(AlignError):
    """A labeler that raised, or that returned something that is not a list of finite scores."""


class EngineError(AlignError):
    """A server that was to generate text: it does not start, refuses, or answers with what is none."""


class RunError(AlignError):
    """A run folder that cannot be used as asked: another recipe's, locked, damaged or missing."""


class GuardError(AlignError):
    """A run that a guard stopped."""

    exit_code = ExitCode.GUARD


class DivergedError(GuardError):
    """A training step whose loss or gradient was infinite or no number: the guard `non_finite`."""


class DiskError(AlignError):
    """Something that cannot be written: the disk is full, read-only or broken, or refuses it."""

    exit_code = ExitCode.DISK


class OutOfMemoryError(AlignError):
    """Work that the memory does not hold, also where it is cut as small as can be."""

    exit_code = ExitCode.MEMORY


def all_at_once(*checks: Callable[[], object]) -> None:
    """Carry out every check, and raise what they find together; what two of them find is told once.

    Raises:
        AlignError: with the faults of all checks; the only one that was raised as it is.
    """
    errors = []
    for check in checks:
        try:
            check()
        except AlignError as error:
            errors.append(error)
    faults = list(dict.fromkeys(fault for error in errors for fault in error.faults))
    if errors and list(errors[0].faults) == faults:
        raise errors[0]
    if errors:
        together = AlignError.of(faults)
        together.not_shown = ", ".join(dict.fromkeys(error.not_shown for error in errors if error.not_shown))
        raise together


def error_of_rows(faults: Sequence[Fault], source: str) -> DataError:
    """One error from the faults of a source's rows: those of one kind once, with all their places.

    Args:
        faults: each with its row as `where`, whose number stands at the end: `rows.jsonl:12`, `rows.json[3]`; where
            they are `MAX_ROWS`, what follows them was not read.
        source: what the rows come from.
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        kinds.setdefault((fault.what, fault.hint), []).append(fault.where)
    shown = list(kinds.items())[:MAX_KINDS]
    error = DataError.of([Fault(what + _likewise(places[1:]), places[0], hint) for (what, hint), places in shown])
    num_hidden = len(faults) - sum(len(places) for _, places in shown)
    more = counted(num_hidden, "more row")
    hidden = f"{more} of {source} that cannot be used" if num_hidden else ""
    unread = f"what follows in {source}, which was not read" if len(faults) >= MAX_ROWS else ""
    error.not_shown = " and ".join(filter(None, (hidden, unread)))
    return error


def _likewise(places: Sequence[str]) -> str:
    """Where the same is wrong again, in words; numbers that follow one another as `3-8`."""
    spans: list[list[str]] = []
    for place in places:
        numbered = re.search(r"\d+(?=\]?$)", place)
        number = numbered[0] if numbered else place
        if spans and number.isdecimal() and spans[-1][-1].isdecimal() and int(number) == int(spans[-1][-1]) + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    if not spans:
        return ""
    listed = ", ".join("-".join(span) for span in spans[:MAX_SPANS]) + (", ..." if len(spans) > MAX_SPANS else "")
    return f"; and so in {counted(len(places), 'more row')}: {listed}"


def counted(number: int, one: str, several: str = "") -> str:
    """A number with what there are so many of: `1 pair`, `2 pairs`, `1 tie is kept`.

    Args:
        number: how many.
        one: what one is called.
        several: what others are called; `one` with an s where it is not said.
    """
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def first_line(error: BaseException) -> str:
    """The first line of what an error of others says; empty where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one, or None where nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.61)
    return matches[0] if matches else None
