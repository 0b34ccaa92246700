"""Instruction rows as text, so that a prompt followed by its completion reads as one natural text."""

from __future__ import annotations

from typing import Any

from align_cli.data.faults import RowError, describe, missing_key, text_of
from align_cli.data.messages import Message, user_message

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def instruction_prompt(row: dict[str, Any]) -> str:
    """The prompt of an Alpaca row, in Alpaca's own words; the one with an input where `input` is not blank.

    The template ends with a line break after `### Response:`, so that the answer starts on a line of its own.

    Args:
        row: holds `instruction`, and `input` or nothing.

    Raises:
        RowError: if one of the two is no text, or the row has turns before the instruction.

    Source: the templates of Stanford Alpaca, with the line break at the end added.
    """
    instruction, context = _parts(row)
    # Not str.format on user text: only the template's own braces are filled.
    if context.strip():
        return WITH_INPUT.format(instruction=instruction, input=context)
    return WITHOUT_INPUT.format(instruction=instruction)


def instruction_turns(row: dict[str, Any]) -> list[Message]:
    """The same prompt as a conversation: one user's message, without the template; the input below the instruction."""
    return [user_message("\n\n".join(part for part in _parts(row) if part.strip()))]


def _parts(row: dict[str, Any]) -> tuple[str, str]:
    if row.get("instruction") is None:
        raise missing_key(row, "instruction")
    if row.get("history"):
        raise RowError(
            f"'history' is {describe(row['history'])}; an instruction cannot follow other turns",
            "write the turns as 'messages'",
        )
    instruction = text_of(row["instruction"], "instruction")
    return instruction, "" if row.get("input") is None else text_of(row["input"], "input")
