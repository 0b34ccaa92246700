"""A row in the policy's tokens, and what becomes of one that is longer than a recipe allows, or than the context.

It is refused, left out or cut (`data.too_long`). Cutting keeps what is nearest to the answer, as TRL's `keep_end`:

- a text prompt loses its beginning, at the border of a token;
- a conversation loses its oldest turns, whole, and keeps its system message and its tools: a template cannot be cut
  within. What is left begins with the user. Where the last turn alone is too long, the row is left out;
- a response loses its end, and gets no end-of-turn token: it did not end there.

A row with answers that exceed the context together with their prompt has its prompt cut first, to no less than half of
the context, then the answers. What is cut is a row like any other from then on: sampling, labelers and training see it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from align_cli.artifacts.records import TemplateArguments, Text
from align_cli.data.rows import Row
from align_cli.errors import DataError
from align_cli.models.text import PolicyText, completion_token_ids, decode_completion, prompt_token_ids
from align_cli.recipe.sections.data import DataSection

PROMPT_KEY, COMPLETION_KEY, CONTEXT = "data.max_prompt_tokens", "data.max_completion_tokens", "context"
"""What a row can be longer than."""

INSTRUCTING = ("system", "developer")
"""Roles of the messages that stay at the beginning of a conversation."""


class ReadRow(NamedTuple):
    """A row in the policy's tokens.

    Args:
        row: as it was, or as it was cut.
        prompt_ids: its prompt's; none where the prompt is empty.
        answer_ids: its answers', by the row's keys, each up to the id that stops generation.
        was_cut: whether prompt or answers are shorter than they were.
    """

    row: Mapping[str, Any]
    prompt_ids: list[int]
    answer_ids: dict[str, list[int]]
    was_cut: bool = False

    @property
    def longest_answer(self) -> int:
        """Tokens of its longest answer; 0 without any."""
        return max(map(len, self.answer_ids.values()), default=0)

    @property
    def num_tokens(self) -> int:
        """Tokens of its prompt and its longest answer."""
        return len(self.prompt_ids) + self.longest_answer


class Limits(NamedTuple):
    """How long rows may be.

    Args:
        too_long: what becomes of longer ones.
        max_prompt_tokens: of a prompt, as the policy is sampled from it; None for no limit.
        max_completion_tokens: of an answer that a dataset has; None for no limit.
        context_length: of prompt and answer together; None where the architecture has no bound.
        reserved: tokens that have to fit behind a prompt: a response that is sampled.
    """

    too_long: Literal["refuse", "drop", "cut"] = "refuse"
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    context_length: int | None = None
    reserved: int = 0

    @classmethod
    def of(cls, data: DataSection, policy: PolicyText, reserved: int = 0) -> Limits:
        """Those of a recipe's section, for this policy."""
        limits = (data.too_long, data.max_prompt_tokens, data.max_completion_tokens)
        return cls(*limits, policy.context_length, reserved)

    @property
    def keys_that_are_set(self) -> list[str]:
        """The recipe's keys that bound anything."""
        limits = {PROMPT_KEY: self.max_prompt_tokens, COMPLETION_KEY: self.max_completion_tokens}
        return [key for key, limit in limits.items() if limit is not None]

    def exceeded_by(self, read: ReadRow) -> dict[str, int]:
        """The limits that a row exceeds, each with how many tokens it has of what is limited."""
        needed = len(read.prompt_ids) + max(read.longest_answer, self.reserved)
        found = (
            (PROMPT_KEY, len(read.prompt_ids), self.max_prompt_tokens, len(read.prompt_ids)),
            (COMPLETION_KEY, read.longest_answer, self.max_completion_tokens, read.longest_answer),
            (CONTEXT, needed, self.context_length, read.num_tokens),
        )
        return {name: tokens for name, wanted, limit, tokens in found if limit is not None and wanted > limit}

    def room_for_prompt(self, read: ReadRow) -> int | None:
        """To how many tokens a row's prompt is cut; None for no limit."""
        rooms = [] if self.max_prompt_tokens is None else [self.max_prompt_tokens]
        if self.context_length is not None:
            answer = min(read.longest_answer, self.max_completion_tokens or read.longest_answer)
            beside_answers = max(self.context_length - answer, self.context_length // 2)
            rooms.append(min(beside_answers, self.context_length - self.reserved))
        return min(rooms, default=None)

    def room_for_answers(self, num_prompt_tokens: int) -> int | None:
        """To how many tokens answers are cut behind a prompt of so many; None for no limit."""
        rooms = [] if self.max_completion_tokens is None else [self.max_completion_tokens]
        if self.context_length is not None:
            rooms.append(self.context_length - num_prompt_tokens)
        return min(rooms, default=None)


def read_row(
    row: Mapping[str, Any], answers: Sequence[str], policy: PolicyText, limits: Limits, *, may_lack_prompt: bool = False
) -> ReadRow:
    """A row in the policy's tokens, cut where the limits say so and where it can be.

    Args:
        row: `prompt`, its answers, and what its template gets.
        answers: the row's keys that hold answers.
        policy: who reads it.
        limits: how long it may be; a row that still exceeds them afterwards is the caller's to refuse or to leave out.
        may_lack_prompt: whether an empty prompt is one of no tokens, as of texts to learn from, and no fault.

    Raises:
        DataError: for a row that the template or the tokenizer rejects.
    """

    def in_tokens(row: Mapping[str, Any]) -> ReadRow:
        prompt, arguments, tokenizer = row["prompt"], TemplateArguments.of_row(row), policy.tokenizer
        ids = [] if may_lack_prompt and not prompt else prompt_token_ids(tokenizer, prompt, arguments)
        stops = policy.eos_token_ids
        said = {name: completion_token_ids(tokenizer, prompt, ids, row[name], stops, arguments) for name in answers}
        return ReadRow(row, ids, said)

    read = in_tokens(row)
    if limits.too_long != "cut" or not limits.exceeded_by(read):
        return read
    room = limits.room_for_prompt(read)
    if room is not None and len(read.prompt_ids) > room:
        prompt = cut_prompt(row["prompt"], room, policy, TemplateArguments.of_row(row))
        if prompt is None:
            return read
        read = in_tokens(_with(row, prompt=prompt))._replace(was_cut=True)
    return _with_cut_answers(read, limits.room_for_answers(len(read.prompt_ids)), policy)


def cut_prompt(prompt: Text, room: int, policy: PolicyText, arguments: TemplateArguments) -> Text | None:
    """As much of a prompt's end as has so many tokens: text from the border of a token on, or the last turns.

    None where there is no such end.
    """

    def fits(shorter: Text) -> bool:
        try:
            return len(prompt_token_ids(policy.tokenizer, shorter, arguments)) <= room
        except DataError:  # a template may reject what a shorter conversation begins with
            return False

    if isinstance(prompt, str):
        starts = _token_starts(prompt, policy)
        place = bisect_left(starts, True, key=lambda start: fits(prompt[start:]))
        return prompt[starts[place] :] if place < len(starts) else None
    return next(filter(fits, _shorter_chats(prompt)), None)


def _shorter_chats(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """A conversation without its oldest turns, from the longest to the last turn of the user's alone."""
    num_system = next((place for place, one in enumerate(messages) if one.get("role") not in INSTRUCTING), 0)
    for start in range(num_system + 1, len(messages)):
        if messages[start].get("role") == "user":
            yield [*messages[:num_system], *messages[start:]]


def _token_starts(text: str, policy: PolicyText) -> list[int]:
    """Where a text's tokens begin, by character; every character, for a tokenizer that does not say."""
    if not policy.tokenizer.is_fast:
        return list(range(len(text)))
    offsets = policy.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sorted({start for start, _ in offsets})


def _with_cut_answers(read: ReadRow, room: int | None, policy: PolicyText) -> ReadRow:
    """The row with no more of each answer than there is room for, as text and as ids."""
    too_long = {name: ids[:room] for name, ids in read.answer_ids.items() if room is not None and len(ids) > room}
    if not too_long:
        return read
    texts = {
        name: decode_completion(policy.tokenizer, read.row["prompt"], ids, read.prompt_ids)
        for name, ids in too_long.items()
    }
    return read._replace(row=_with(read.row, **texts), answer_ids={**read.answer_ids, **too_long}, was_cut=True)


def _with(row: Mapping[str, Any], **fields: Any) -> Mapping[str, Any]:
    """The row with other fields; where it came from is kept."""
    return row.with_fields(**fields) if isinstance(row, Row) else {**row, **fields}
