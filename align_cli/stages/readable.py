"""Which rows the policy can read: every row is rendered and measured before anything is sampled, trained or written.

A row that it cannot read is one that the chat template rejects, or that is longer than it may be where the recipe says
to refuse that. All of them are named, in one fault a kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import to_json
from align_cli.data.rows import place_of
from align_cli.errors import MAX_KINDS, DataError, Fault, counted
from align_cli.models.text import PolicyText
from align_cli.stages.lengths import COMPLETION_KEY, PROMPT_KEY, Limits, ReadRow, read_row

MAX_PLACES = 10
DROPPED, CUT = TOO_LONG_COUNTS = ("too_long_dropped", "too_long_cut")
"""How rows are counted that are longer than they may be."""

OR_ELSE = "or set data.too_long to drop or cut"
QUOTED = 12
"""As many characters of a row's line, or all of a shorter one, are taken for a quotation of it."""


class RowsToRead(NamedTuple):
    """Rows that the policy has to read.

    Args:
        key: the recipe's key that names them.
        rows: each with `prompt`, and what its template gets.
        read: makes tokens of them all, once, and counts those that were too long (`TOO_LONG_COUNTS`); raises
            `DataError` for all that the policy cannot read.
    """

    key: str
    rows: Sequence[Mapping[str, Any]]
    read: Callable[[], Mapping[str, int]]

    def too_long(self) -> dict[str, int]:
        """How many of them were left out, and how many cut."""
        counts = self.read()
        return {name: counts[name] for name in TOO_LONG_COUNTS if name in counts}


def too_long_words(counts: Mapping[str, int], num_rows: int, noun: str) -> str:
    """How many rows were left out and how many cut, in words; empty where all are as they were."""
    words = {DROPPED: "left out", CUT: "cut"}
    found = [f"{counts[name]} {words[name]}" for name in TOO_LONG_COUNTS if counts.get(name)]
    return f"of {num_rows} {noun} {' and '.join(found)}, which were too long (data.too_long)" if found else ""


class RowFaults:
    """What is wrong with the rows of one key, gathered by kind.

    Args:
        key: the recipe's key that names them.
        rows: all of them, faulty or not.
        noun: what they are, in the plural.
        limits: how long they may be.
    """

    def __init__(self, key: str, rows: Sequence[Mapping[str, Any]], noun: str, limits: Limits) -> None:
        self._key, self._rows, self._noun, self._limits = key, rows, noun, limits
        self._kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._kind_of: dict[str, str] = {}
        self._too_long: dict[str, list[tuple[str, int]]] = {}

    def place(self, index: int) -> str:
        """Where a row came from: its line in a file, or its number among all."""
        return place_of(self._rows[index], index)

    def add(self, index: int, error: DataError) -> None:
        """A row that could not be made into tokens."""
        fault = error.faults[0]
        if fault.what not in self._kind_of:
            self._kind_of[fault.what] = _without_quotes(fault.what, self._rows[index])
        kind = self._kind_of[fault.what], fault.hint
        self._kinds.setdefault(kind, []).append((self.place(index), fault.what))

    def add_too_long(self, index: int, exceeded: Mapping[str, int]) -> None:
        """A row that exceeds some limits; see `Limits.exceeded_by`."""
        for limit, num_tokens in exceeded.items():
            self._too_long.setdefault(limit, []).append((self.place(index), num_tokens))

    def raise_if_any(self) -> None:
        """Raise all that was added: one fault a kind, with the number of its rows and their places.

        Raises:
            DataError: if there is any.
        """
        if found := self._found():
            raise DataError.of(found)

    def _found(self) -> list[Fault]:
        faults = []
        for (_, hint), rows in list(self._kinds.items())[:MAX_KINDS]:
            first = rows[0][1]
            differing = ", each in words of its own; the first" if any(what != first for _, what in rows) else ""
            places = [place for place, _ in rows]
            faults.append(self._fault(places, f"cannot be read{differing}: {first}", hint))
        for limit, too_long in self._too_long.items():
            places = [f"{place} ({num_tokens} tokens)" for place, num_tokens in too_long]
            faults.append(self._fault(places, *self._too_long_words(limit, max(tokens for _, tokens in too_long))))
        num_hidden = sum(len(rows) for rows in list(self._kinds.values())[MAX_KINDS:])
        hidden = counted(num_hidden, f"more {self._noun}".removesuffix("s"))
        return [*faults, Fault(f"and {hidden}", self._key)] if num_hidden else faults

    def _too_long_words(self, limit: str, most: int) -> tuple[str, str]:
        """What is said of rows beyond a limit, of which the longest has so many tokens, and the remedy."""
        limits = self._limits
        if limit == PROMPT_KEY:
            return f"have more prompt tokens than {limit}, {limits.max_prompt_tokens}", f"raise it to {most}, {OR_ELSE}"
        if limit == COMPLETION_KEY:
            what = f"have an answer of more tokens than {limit}, {limits.max_completion_tokens}"
            return what, f"raise it to {most}, {OR_ELSE}"
        room = f" with generate.max_new_tokens {limits.reserved}" if limits.reserved else ""
        fitting = (limits.context_length or 0) - most
        lower = f"set generate.max_new_tokens to at most {fitting}, or " if limits.reserved and fitting > 0 else ""
        what = f"do not fit into the model's context of {limits.context_length} tokens{room}"
        return what, f"{lower}take a model with a longer context, {OR_ELSE}"

    def _fault(self, places: Sequence[str], what: str, hint: str) -> Fault:
        shown = ", ".join(places[:MAX_PLACES])
        more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
        return Fault(f"{len(places)} of {len(self._rows)} {self._noun} {what}: {shown}{more}", self._key, hint)


def _without_quotes(what: str, row: Mapping[str, Any]) -> str:
    """What is said of a row, with `…` for numbers and for what it quotes of the row: the same for all of a kind."""
    lines: dict[str, list[str]] = {}
    for text in _texts(row):
        for form in (*text.splitlines(), repr(text)[1:-1], to_json(text)[1:-1]):
            lines.setdefault(form.strip()[:QUOTED], []).append(form.strip())
    heads = (re.escape(head) + (r"(?!\w)" if len(head) < QUOTED else "") for head in sorted(lines, key=len) if head)
    begins_quotation = re.compile("|".join([*(rf"(?<!\w){head}" for head in heads), r"\d+"][::-1]))
    kept, place = "", 0
    while found := begins_quotation.search(what, place):
        kept += what[place : found.start()] + "…"
        # Of a longer line as much of its beginning is taken as is quoted.
        behind = what[found.start() :]
        quoted = (commonprefix([line, behind]) for line in lines.get(found[0], [found[0]]))  # noqa: RUF071 - as in text
        place = found.start() + max(map(len, quoted))
    return kept + what[place:]


def _texts(value: Any) -> Iterator[str]:
    """Every text of a row, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def rows_within(
    key: str,
    rows: Sequence[Mapping[str, Any]],
    noun: str,
    answers: Sequence[str],
    policy: PolicyText,
    limits: Limits,
    counts: Counter[str],
    *,
    is_wanted: Callable[[int, ReadRow], bool] = lambda index, read: True,
    may_lack_prompt: bool = False,
) -> Iterator[tuple[int, ReadRow]]:
    """The rows of a key that are no longer than they may be, in the policy's tokens, each with its number.

    Args:
        key: the recipe's key that names them.
        rows: `prompt`, the answers, and what a prompt's template gets.
        noun: what they are, in the plural.
        answers: the rows' keys that hold answers.
        policy: who reads them.
        limits: how long they may be.
        counts: takes in how many were left out or cut, by the names of `TOO_LONG_COUNTS`.
        is_wanted: asked of every row that can be read; one that is not wanted may be of any length.
        may_lack_prompt: whether an empty prompt is one of no tokens, and no fault.

    Raises:
        DataError: behind the last row, for all that the policy cannot read or that are too long; or if all were left
            out for their length.
    """
    faults = RowFaults(key, rows, noun, limits)
    for index, row in enumerate(rows):
        try:
            read = read_row(row, answers, policy, limits, may_lack_prompt=may_lack_prompt)
        except DataError as error:
            faults.add(index, error)
            continue
        if not is_wanted(index, read):
            continue
        exceeded = limits.exceeded_by(read)
        if exceeded and limits.too_long == "refuse":
            faults.add_too_long(index, exceeded)
        elif exceeded:
            counts[DROPPED] += 1
        else:
            if read.was_cut:
                counts[CUT] += 1
            yield index, read
    faults.raise_if_any()
    if rows and counts[DROPPED] == len(rows):
        raise DataError(
            f"all {len(rows)} {noun} are left out: they are too long (data.too_long: {limits.too_long})",
            where=key,
            hint="`align data SOURCE --policy MODEL` shows their lengths; raise data.max_prompt_tokens and "
            "data.max_completion_tokens, or lower generate.max_new_tokens, where these are set low",
        )
