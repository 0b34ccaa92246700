"""Preference pairs in the formats that people have -> TRL's explicit format.

Formats, told apart row by row; `chosen` and `rejected` are the pair, the rest says what the prompt is:

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
completions become a conversation. `label`, where there is one, is the probability that `chosen` is the better one.
A conversation keeps its `tools` and its `chat_template_kwargs` (see `template_fields.py`); all other keys are left out.
Text is kept to the letter: an empty completion, or one of white space, stays as it is, and
so do pairs of two equal ones; whoever pairs and trains decides on those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any, NamedTuple

from align_cli.data.faults import RowError, list_keys, missing_key, probability_of, shorten, text_of
from align_cli.data.messages import (
    Message,
    Text,
    assistant_message,
    is_reply,
    text_or_messages,
    to_messages,
    user_message,
    with_system,
)
from align_cli.data.sources import Row, convert_rows, is_text_file
from align_cli.data.template_fields import template_fields
from align_cli.data.templates import instruction_prompt
from align_cli.errors import DataError

PROMPT_KEYS = ("prompt", "conversations", "instruction", "question")
KNOWN_KEYS = (*PROMPT_KEYS, "input", "system", "chosen", "rejected", "chosen_messages", "rejected_messages", "label")
PAIR_KEYS = ("chosen", "rejected", "label", "system")
REPLY_MARKER = "\n\nAssistant:"
DIFFERENT_PROMPTS = "prompts of chosen and rejected differ"
NO_SHARED_PROMPT = "chosen and rejected share no prompt"


@dataclass(frozen=True)
class PreferenceRows:
    """Pairs of a source, and what had to be left out of it.

    Args:
        rows: `{"prompt", "chosen", "rejected"}` and, where the source has them, `"label"`, `"tools"` and
            `"chat_template_kwargs"`: the first three all text, or all lists of messages. Prompt and completion joined
            are the natural text. Each knows its place in the source.
        dropped: the number of rows left out, by reason.
    """

    rows: list[Row]
    dropped: dict[str, int] = field(default_factory=dict)


class Pair(NamedTuple):
    """A prompt and two completions: all of them text, or all of them messages."""

    prompt: Text
    chosen: Text
    rejected: Text


class DroppedPair(NamedTuple):
    """A pair that cannot be compared, though nothing is wrong with its row."""

    reason: str


def read_preferences(name_or_path: str, *, split: str = "train") -> PreferenceRows:
    """The preference pairs of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv` (each also `.gz`) or `.parquet` file; a folder with one data file a
            split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.

    Returns:
        The pairs in the order of the source, at least one. Pairs whose two responses answer different prompts are left
        out and counted.

    Raises:
        DataError: for every row that is no pair, or if there is none left.
    """
    if is_text_file(name_or_path):
        raise DataError(
            "a text file holds no pairs", where=name_or_path, hint="use .jsonl with prompt, chosen and rejected"
        )
    rows: list[Row] = []
    dropped: dict[str, int] = {}
    for pair in convert_rows(name_or_path, split, to_preference):
        if isinstance(pair, DroppedPair):
            dropped[pair.reason] = dropped.get(pair.reason, 0) + 1
        else:
            rows.append(pair)
    if not rows:
        counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise DataError(f"no row is a pair ({counts})", where=name_or_path, hint="give the prompt as a key 'prompt'")
    return PreferenceRows(rows, dropped)


def to_preference(row: dict[str, Any]) -> dict[str, Any] | DroppedPair:
    """One row in TRL's explicit format, or why it cannot be compared.

    Raises:
        RowError: if the row is no pair.
    """
    chosen, rejected = _completions(row)
    prompt = _explicit_prompt(row)
    system = None if row.get("system") is None else text_of(row["system"], "system")
    pair = _join(row, prompt, chosen, rejected)
    if isinstance(pair, DroppedPair):
        return pair
    fields: dict[str, Any] = (pair if system is None else _with_system(pair, system))._asdict()
    if row.get("label") is not None:
        fields["label"] = probability_of(row["label"], "label")
    return {**fields, **template_fields(row, fields["prompt"])}


def is_pair(row: dict[str, Any]) -> bool:
    """Whether a row holds two completions to compare, under either pair of names."""
    return any(
        row.get(chosen) is not None and row.get(rejected) is not None
        for chosen, rejected in (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))
    )


def _completions(row: dict[str, Any]) -> tuple[Text, Text]:
    has_long_names = "chosen" not in row and ("chosen_messages" in row or "rejected_messages" in row)
    names = ("chosen_messages", "rejected_messages") if has_long_names else ("chosen", "rejected")
    for name in names:
        if row.get(name) is None:
            raise _no_completion(row, name)
    chosen, rejected = (text_or_messages(row[name], name) for name in names)
    if isinstance(chosen, str) != isinstance(rejected, str):
        kinds = ("text", "messages") if isinstance(chosen, str) else ("messages", "text")
        raise RowError(f"{names[0]!r} is {kinds[0]} and {names[1]!r} is {kinds[1]}", "write both alike")
    return chosen, rejected


def _no_completion(row: dict[str, Any], name: str) -> RowError:
    error = missing_key(row, name, KNOWN_KEYS)
    if isinstance(row.get("label"), bool) and not error.hint:
        error.hint = "one answer with a label of true or false is KTO's format; pairs of two answers are needed here"
    return error


def _explicit_prompt(row: dict[str, Any]) -> Text | None:
    name = next((key for key in PROMPT_KEYS if row.get(key) is not None), None)
    if name is None:
        return None
    if name == "conversations":
        return to_messages(row[name], name)
    if name == "instruction":
        return instruction_prompt(row)
    return text_or_messages(row[name], name)


def _join(row: dict[str, Any], prompt: Text | None, chosen: Text, rejected: Text) -> Pair | DroppedPair:
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return _split_texts(row, chosen, rejected)
        if isinstance(prompt, str):
            return Pair(prompt, chosen, rejected)
        return Pair(prompt, [assistant_message(chosen)], [assistant_message(rejected)])
    assert isinstance(chosen, list) and isinstance(rejected, list)  # _completions saw to it
    are_whole = chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant"
    if isinstance(prompt, list):
        return _strip_prompt(prompt, chosen, rejected)
    if prompt is None or are_whole:
        if not are_whole:
            raise missing_key(row, "prompt", KNOWN_KEYS)
        return _split_messages(chosen, rejected)
    return _strip_prompt([user_message(prompt)], chosen, rejected)


def _strip_prompt(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> Pair:
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
    return Pair(prompt, replies[0], replies[1])


def _split_messages(chosen: list[Message], rejected: list[Message]) -> Pair | DroppedPair:
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared or not is_reply(chosen[shared:]) or not is_reply(rejected[shared:]):
        return DroppedPair(DIFFERENT_PROMPTS)
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:])


def _split_texts(row: dict[str, Any], chosen: str, rejected: str) -> Pair | DroppedPair:
    if REPLY_MARKER in chosen or REPLY_MARKER in rejected:
        chosen_prompt, chosen_marker, chosen_reply = chosen.rpartition(REPLY_MARKER)
        rejected_prompt, rejected_marker, rejected_reply = rejected.rpartition(REPLY_MARKER)
        if (chosen_prompt, chosen_marker) != (rejected_prompt, rejected_marker):
            return DroppedPair(DIFFERENT_PROMPTS)
        return Pair(chosen_prompt + REPLY_MARKER, chosen_reply, rejected_reply)
    others = [key for key, value in row.items() if key not in PAIR_KEYS and isinstance(value, str | list)]
    if others:
        error = missing_key(row, "prompt", KNOWN_KEYS)
        raise RowError(error.what, error.hint or f"rename the prompt's key to 'prompt', or remove {list_keys(others)}")
    end = _shared_words_end(chosen, rejected)
    return Pair(chosen[:end], chosen[end:], rejected[end:]) if end else DroppedPair(NO_SHARED_PROMPT)


def _shared_words_end(one: str, other: str) -> int:
    """Where the words that both texts begin with end; the white space after them belongs to the completions."""
    end = len(commonprefix([one, other]))  # noqa: RUF071 - characters are what is wanted
    is_between_words = all(not text[end:] or text[end].isspace() for text in (one, other))
    if not is_between_words:
        while end and not one[end - 1].isspace():
            end -= 1
    return len(one[:end].rstrip())


def _with_system(pair: Pair, system: str) -> Pair:
    prompt, chosen, rejected = pair
    return Pair(
        with_system([user_message(prompt)] if isinstance(prompt, str) else prompt, system),
        [assistant_message(chosen)] if isinstance(chosen, str) else chosen,
        [assistant_message(rejected)] if isinstance(rejected, str) else rejected,
    )
