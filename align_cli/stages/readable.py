"""Which rows the policy can read: every row is rendered and measured before anything is sampled, trained or written.

A row that it cannot read is one that the chat template rejects, or whose tokens do not fit into the model's context.
All of them are named, in one fault a kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Preference, TemplateArguments
from align_cli.data.rows import place_of
from align_cli.errors import MAX_KINDS, DataError, Fault
from align_cli.models.text import PolicyText, completion_token_ids, prompt_token_ids

MAX_PLACES = 10
QUOTED = 12
"""As many characters of a row's line, or all of a shorter one, are taken for a quotation of it."""


class RowsToRead(NamedTuple):
    """Rows that the policy has to read.

    Args:
        key: the recipe's key that names them.
        rows: each with `prompt`, and what its template gets.
        read: makes tokens of them all; raises `DataError` for all that the policy cannot read.
    """

    key: str
    rows: Sequence[Mapping[str, Any]]
    read: Callable[[PolicyText], object]


class TokenisedPair(NamedTuple):
    """A prompt and a completion in tokens."""

    prompt_ids: list[int]
    completion_ids: list[int]


class RowFaults:
    """What is wrong with the rows of one key, gathered by kind.

    Args:
        key: the recipe's key that names them.
        rows: all of them, faulty or not.
        noun: what they are, in the plural.
    """

    def __init__(self, key: str, rows: Sequence[Mapping[str, Any]], noun: str) -> None:
        self._key, self._rows, self._noun = key, rows, noun
        self._kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._kind_of: dict[str, str] = {}
        self._too_long: list[tuple[str, int]] = []

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

    def measure(self, index: int, num_tokens: int, context_length: int | None, reserved: int = 0) -> None:
        """A row that was: it is a fault if its tokens and those that it must leave room for are too many."""
        if context_length is not None and num_tokens + reserved > context_length:
            self._too_long.append((self.place(index), num_tokens))

    def raise_if_any(self, context_length: int | None, reserved: int = 0) -> None:
        """Raise all that was added and measured: one fault a kind, with the number of its rows and their places.

        Raises:
            DataError: if there is any.
        """
        if found := self._found(context_length, reserved):
            raise DataError.of(found)

    def _found(self, context_length: int | None, reserved: int) -> list[Fault]:
        faults = []
        for (_, hint), rows in list(self._kinds.items())[:MAX_KINDS]:
            first = rows[0][1]
            differing = ", each in words of its own; the first" if any(what != first for _, what in rows) else ""
            places = [place for place, _ in rows]
            faults.append(self._fault(places, f"cannot be read{differing}: {first}", hint))
        if self._too_long:
            room = f" with generate.max_new_tokens {reserved}" if reserved else ""
            most = max(num_tokens for _, num_tokens in self._too_long)
            fitting = (context_length or 0) - most
            lower = f"set generate.max_new_tokens to at most {fitting}, or " if fitting > 0 else ""
            faults.append(
                self._fault(
                    [f"{place} ({num_tokens} tokens)" for place, num_tokens in self._too_long],
                    f"do not fit into the model's context of {context_length} tokens{room}",
                    f"{lower}shorten them or leave them out, or take a model with a longer context",
                )
            )
        num_hidden = sum(len(rows) for rows in list(self._kinds.values())[MAX_KINDS:])
        return [*faults, Fault(f"and {num_hidden} more {self._noun}", self._key)] if num_hidden else faults

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


def tokenised_prompts(
    rows: Sequence[Mapping[str, Any]], key: str, policy: PolicyText, max_new_tokens: int
) -> list[list[int]]:
    """Prompts in the policy's tokens; each has to leave room for a response.

    Args:
        rows: each with `prompt`, and what its template gets.
        key: the recipe's key that names them.
        policy: who reads them.
        max_new_tokens: the longest response.

    Raises:
        DataError: for all that the policy cannot read.
    """
    faults, found = RowFaults(key, rows, "prompts"), []
    for index, row in enumerate(rows):
        try:
            ids = prompt_token_ids(policy.tokenizer, row["prompt"], TemplateArguments.of_row(row))
        except DataError as error:
            faults.add(index, error)
        else:
            faults.measure(index, len(ids), policy.context_length, max_new_tokens)
            found.append(ids)
    faults.raise_if_any(policy.context_length, max_new_tokens)
    return found


def tokenised_demonstrations(rows: Sequence[Mapping[str, Any]], key: str, policy: PolicyText) -> list[TokenisedPair]:
    """Demonstrations in the policy's tokens; a prompt that is empty has none.

    Args:
        rows: each with `prompt` and `completion`, and what its template gets.
        key: the recipe's key that names them.
        policy: who reads them.

    Raises:
        DataError: for all that the policy cannot read.
    """
    faults, found = RowFaults(key, rows, "demonstrations"), []
    for index, row in enumerate(rows):
        arguments, prompt = TemplateArguments.of_row(row), row["prompt"]
        try:
            prompt_ids = prompt_token_ids(policy.tokenizer, prompt, arguments) if prompt else []
            ids = completion_token_ids(
                policy.tokenizer, prompt, prompt_ids, row["completion"], policy.eos_token_ids, arguments
            )
        except DataError as error:
            faults.add(index, error)
        else:
            faults.measure(index, len(prompt_ids) + len(ids), policy.context_length)
            found.append(TokenisedPair(prompt_ids, ids))
    faults.raise_if_any(policy.context_length)
    return found


def tokenised_pair(pair: Preference, policy: PolicyText) -> Preference:
    """A pair in the policy's tokens.

    Raises:
        DataError: if the chat template rejects it.
    """
    tokenizer, stops, arguments = policy.tokenizer, policy.eos_token_ids, pair.template_arguments
    prompt_ids = prompt_token_ids(tokenizer, pair.prompt, arguments)
    return replace(
        pair,
        prompt_ids=prompt_ids,
        chosen_ids=completion_token_ids(tokenizer, pair.prompt, prompt_ids, pair.chosen, stops, arguments),
        rejected_ids=completion_token_ids(tokenizer, pair.prompt, prompt_ids, pair.rejected, stops, arguments),
    )


def num_tokens(pair: Preference) -> int:
    """The tokens of a pair's prompt and its longer response."""
    return len(pair.prompt_ids or ()) + max(len(pair.chosen_ids or ()), len(pair.rejected_ids or ()))
