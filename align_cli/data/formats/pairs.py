"""`chosen` and `rejected`: TRL's pairs, explicit and implicit, ShareGPT's and Alpaca's, and transcripts as hh-rlhf's.

`chosen` and `rejected` are the pair, the rest says what the prompt is:

    prompt                          text, or messages (TRL, explicit). A prompt that `chosen` and `rejected` repeat in
                                    front, as messages, is taken off; whole conversations win over a text prompt
    conversations                   messages, with `chosen` and `rejected` one message each (ShareGPT)
    instruction, input or nothing   text in the Alpaca template (see `templates.py`)
    question                        text, taken as `prompt` is
    none of them                    the prompt is within the pair (TRL, implicit):
        messages                    what both conversations have in common, up to the last reply
        transcripts                 text split at the last "\\n\\nAssistant:", which stays in the prompt (hh-rlhf)
        other text                  what both texts have in common, cut between words; only where no other key holds
                                    text that could be the prompt

`chosen_messages` and `rejected_messages` are other names for messages of the pair. With `system`, a text prompt and its
completions become a conversation. `label`, where there is one, is the probability that `chosen` is the better one, and
`margin` by how much it is better (TRL's, of reward models: their scores are to be at least so far apart).
Text is kept to the letter: an empty completion, or one of white space, stays as it is, and so do pairs of two equal
ones; whoever pairs and trains decides on those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from os.path import commonprefix
from typing import Any

from align_cli.data.faults import RowError, list_keys, missing_key, probability_of, shorten
from align_cli.data.formats.base import (
    DEMONSTRATIONS,
    DIFFERENT_PROMPTS,
    NO_SHARED_PROMPT,
    Answer,
    Choices,
    Dropped,
    Exchange,
    Format,
    Verdict,
    Wanted,
    at,
    holds,
    number_of,
)
from align_cli.data.messages import (
    Message,
    Text,
    assistant_message,
    is_reply,
    text_or_messages,
    to_messages,
    user_message,
)
from align_cli.data.templates import instruction_prompt, instruction_turns
from align_cli.data.transcripts import REPLY_MARKER

NAMES, LONG_NAMES = ("chosen", "rejected"), ("chosen_messages", "rejected_messages")
PROMPT_KEYS = ("prompt", "conversations", "instruction", "question")
KNOWN_KEYS = (*PROMPT_KEYS, "input", "system", *NAMES, *LONG_NAMES, "label", "margin")
PAIR_KEYS = (*NAMES, "label", "margin", "system")
KINDS = {"prompt": "", "conversations": "ShareGPT", "instruction": "Alpaca", "question": "question"}
WHOLE, TRANSCRIPTS, SHARED = "whole conversations", "hh-rlhf transcripts", "texts that begin alike"
SHOWN_OTHERWISE = ("completion", "messages", "output", "text")
"""What a row demonstrates rather than the chosen side of its pair."""


class Pairs(Format):
    name = "pairs"
    fields = (
        "`chosen` and `rejected` (or `chosen_messages` and `rejected_messages`); the prompt is `prompt`, "
        "`conversations`, `instruction` or `question`, or what both begin with"
    )
    example = """{"prompt": "The sky is",
 "chosen": " blue.",
 "rejected": " green."}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        shows_more = wanted == DEMONSTRATIONS and any(holds(row, name) for name in SHOWN_OTHERWISE)
        return (holds(row, *NAMES) or holds(row, *LONG_NAMES)) and not shows_more

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        chosen, rejected = _completions(row)
        label = None if row.get("label") is None else probability_of(row["label"], "label")
        pair = _joined(row, chosen, rejected, label)
        if isinstance(pair, Exchange) and row.get("margin") is not None:
            margin = number_of(row["margin"], "margin")
            pair = replace(pair, verdicts=tuple(verdict._replace(margin=margin) for verdict in pair.verdicts))
        yield pair if isinstance(pair, Dropped) else pair.with_system(row.get("system"))


def exchange_of_two(prompt: Text, chosen: Text, rejected: Text, label: float | None = None, kind: str = "") -> Exchange:
    """A prompt with the better of two answers, and the other one."""
    return Exchange(prompt, (Answer(chosen), Answer(rejected)), (Verdict(0, 1, label),), kind=kind)


def split_conversations(chosen: list[Message], rejected: list[Message], label: float | None) -> Exchange | Dropped:
    """Two whole conversations as what they have in common, and the reply that each ends with."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared or not is_reply(chosen[shared:]) or not is_reply(rejected[shared:]):
        return Dropped(DIFFERENT_PROMPTS)
    return exchange_of_two(chosen[:shared], chosen[shared:], rejected[shared:], label, WHOLE)


def _completions(row: dict[str, Any]) -> tuple[Text, Text]:
    names = LONG_NAMES if "chosen" not in row and not {*LONG_NAMES}.isdisjoint(row) else NAMES
    for name in names:
        at(row, name, KNOWN_KEYS)
    chosen, rejected = (text_or_messages(row[name], name) for name in names)
    if isinstance(chosen, str) != isinstance(rejected, str):
        kinds = ("text", "messages") if isinstance(chosen, str) else ("messages", "text")
        raise RowError(f"{names[0]!r} is {kinds[0]} and {names[1]!r} is {kinds[1]}", "write both alike")
    return chosen, rejected


def _joined(row: dict[str, Any], chosen: Text, rejected: Text, label: float | None) -> Exchange | Dropped:
    prompt, turns = _explicit_prompt(row)
    kind = next((KINDS[key] for key in PROMPT_KEYS if holds(row, key)), "")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return _split_texts(row, chosen, rejected, label)
        if isinstance(prompt, str):
            return Exchange(prompt, (Answer(chosen), Answer(rejected)), (Verdict(0, 1, label),), turns, kind)
        return exchange_of_two(prompt, [assistant_message(chosen)], [assistant_message(rejected)], label, kind)
    assert isinstance(chosen, list) and isinstance(rejected, list)  # _completions saw to it
    if isinstance(prompt, list):
        return _without_prompt(prompt, chosen, rejected, label, kind)
    are_whole = chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant"
    if are_whole:
        return split_conversations(chosen, rejected, label)
    if prompt is None:
        raise missing_key(row, "prompt", KNOWN_KEYS)
    return _without_prompt([user_message(prompt)], chosen, rejected, label, kind)


def _explicit_prompt(row: dict[str, Any]) -> tuple[Text | None, list[Message]]:
    """The prompt that a row names, and what it becomes as a conversation where that is not simply its text."""
    name = next((key for key in PROMPT_KEYS if holds(row, key)), None)
    if name is None:
        return None, []
    if name == "conversations":
        return to_messages(row[name], name), []
    if name == "instruction":
        return instruction_prompt(row), instruction_turns(row)
    return text_or_messages(row[name], name), []


def _without_prompt(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], label: float | None, kind: str
) -> Exchange:
    replies = []
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        reply = messages[len(prompt) :] if messages[: len(prompt)] == prompt else messages
        if not is_reply(reply):
            roles = shorten(", ".join(message["role"] for message in reply))[1:-1] or "nothing"
            raise RowError(
                f"after the prompt, {name!r} holds {roles}; it must be the assistant's reply alone",
                "leave 'prompt' out if both are whole conversations",
            )
        replies.append(reply)
    return exchange_of_two(prompt, replies[0], replies[1], label, kind)


def _split_texts(row: dict[str, Any], chosen: str, rejected: str, label: float | None) -> Exchange | Dropped:
    if REPLY_MARKER in chosen or REPLY_MARKER in rejected:
        chosen_prompt, chosen_marker, chosen_reply = chosen.rpartition(REPLY_MARKER)
        rejected_prompt, rejected_marker, rejected_reply = rejected.rpartition(REPLY_MARKER)
        if (chosen_prompt, chosen_marker) != (rejected_prompt, rejected_marker):
            return Dropped(DIFFERENT_PROMPTS)
        return exchange_of_two(chosen_prompt + REPLY_MARKER, chosen_reply, rejected_reply, label, TRANSCRIPTS)
    others = [key for key, value in row.items() if key not in PAIR_KEYS and isinstance(value, str | list)]
    if others:
        error = missing_key(row, "prompt", KNOWN_KEYS)
        raise RowError(error.what, error.hint or f"rename the prompt's key to 'prompt', or remove {list_keys(others)}")
    end = _shared_words_end(chosen, rejected)
    if not end:
        return Dropped(NO_SHARED_PROMPT)
    return exchange_of_two(chosen[:end], chosen[end:], rejected[end:], label, SHARED)


def _shared_words_end(one: str, other: str) -> int:
    """Where the words that both texts begin with end; the white space after them belongs to the completions."""
    end = len(commonprefix([one, other]))  # noqa: RUF071 - characters are what is wanted
    is_between_words = all(not text[end:] or text[end].isspace() for text in (one, other))
    if not is_between_words:
        while end and not one[end - 1].isspace():
            end -= 1
    return len(one[:end].rstrip())
