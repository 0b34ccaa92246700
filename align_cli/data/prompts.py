"""Prompts in the formats that people have -> `{"prompt": text or messages}`, TRL's prompt-only format.

A row with `chosen` and `rejected` gives the prompt that `read_preferences` gives it, so that both are the same to the
letter; pairs that it drops are left out. Otherwise the first of these keys that a row has is its prompt:

    messages        messages, without the assistant's last reply if they end with one
    conversations   the same, in ShareGPT's shape
    prompt          text or messages, taken as they are
    instruction     with `input` if it has one: text in the Alpaca template (see `templates.py`)
    question        text
    turns           what a user says turn by turn (MT-bench, Vicuna-bench): the first of them, as one user message
    text            text

With `system`, a text prompt becomes a conversation, and a conversation begins with it. A conversation keeps its
`tools` and its `chat_template_kwargs` (see `template_fields.py`). A `.txt` file holds one prompt a line. All other keys
are left out.
"""

from __future__ import annotations

from typing import Any

from align_cli.data.faults import RowError, describe, missing_key, misspelling_of, text_of
from align_cli.data.messages import Text, text_or_messages, to_messages, user_message, with_system, without_last_reply
from align_cli.data.preferences import DroppedPair, is_pair, to_preference
from align_cli.data.sources import Row, convert_rows
from align_cli.data.template_fields import template_fields
from align_cli.data.templates import instruction_prompt
from align_cli.errors import DataError

PROMPT_KEYS = ("messages", "conversations", "prompt", "instruction", "question", "turns", "text")


def read_prompts(name_or_path: str, *, split: str = "train") -> list[Row]:
    """The prompts of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv`, `.txt` (each also `.gz`) or `.parquet` file; a folder with one data
            file a split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.

    Returns:
        `{"prompt": ...}` dicts, with `tools` and `chat_template_kwargs` where the source has them, in the order of the
        source, at least one; repeated prompts stay. Each knows its place in the source.

    Raises:
        DataError: for every row without a usable prompt, a blank one included, or if there is no prompt at all.
    """
    prompts = [prompt for prompt in convert_rows(name_or_path, split, _to_prompt) if prompt is not None]
    if not prompts:
        raise DataError("no row holds a prompt that can be told", where=name_or_path, hint="give it as a key 'prompt'")
    return prompts


def _to_prompt(row: dict[str, Any]) -> dict[str, Any] | None:
    if is_pair(row):
        pair = to_preference(row)
        if isinstance(pair, DroppedPair):
            return None
        prompt = _not_blank(pair["prompt"], "prompt")
    else:
        prompt = _prompt_of(row)
    return {"prompt": prompt, **template_fields(row, prompt)}


def _prompt_of(row: dict[str, Any]) -> Text:
    name = next((key for key in PROMPT_KEYS if row.get(key) is not None), None)
    if name is None:
        raise _no_prompt(row)
    prompt = _not_blank(_prompt_at(row, name), name)
    if row.get("system") is None:
        return prompt
    messages = [user_message(prompt)] if isinstance(prompt, str) else prompt
    return with_system(messages, text_of(row["system"], "system"))


def _prompt_at(row: dict[str, Any], name: str) -> Text:
    value = row[name]
    if name in {"messages", "conversations"}:
        messages = without_last_reply(to_messages(value, name))
        if not messages:
            raise RowError(f"{name!r} holds the assistant's words alone; a prompt must come before them")
        return messages
    if name == "instruction":
        return instruction_prompt(row)
    if name == "turns":
        if not isinstance(value, list) or not value:
            raise RowError(f"{name!r} is {describe(value)}; it must be a list with at least one turn of the user")
        return [user_message(text_of(value[0], "turns[0]"))]
    return text_or_messages(value, name) if name == "prompt" else text_of(value, name)


def _not_blank(prompt: Text, name: str) -> Text:
    if isinstance(prompt, str) and not prompt.strip():
        raise RowError(f"{name!r} is {describe(prompt)}; a prompt cannot be blank", "remove the row")
    return prompt


def _no_prompt(row: dict[str, Any]) -> RowError:
    for wanted in misspelling_of(PROMPT_KEYS, row):
        return missing_key(row, wanted)
    error = missing_key(row, "prompt")
    return RowError(error.what, error.hint or f"a prompt's key is one of {', '.join(PROMPT_KEYS)}")
