"""Whether the policy can read every row of a recipe: asked once its tokenizer is there, and before any weights are.

Beside the rows that it cannot read, this says what a user may not have meant: chats that never end, fields that the
chat template does not look at, and plain text for a policy that chats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_cli.artifacts.records import TemplateArguments
from align_cli.data.rows import Row
from align_cli.data.thinking import REASONING
from align_cli.errors import DataError, Fault
from align_cli.models.load import load_without_weights
from align_cli.models.text import PolicyText, completion_token_ids, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.stages.base import Stage
from align_cli.stages.inputs import Inputs
from align_cli.stages.readable import RowsToRead
from align_cli.stages.sft import unloaded_initial_policy

SAME_FIELDS = dict.fromkeys(REASONING, (*REASONING, "reasoning"))
"""Fields that transformers hands on under each other's names."""


def check_rows(recipe: Recipe, inputs: Inputs, due: Sequence[Stage], checkpoint: Path | None = None) -> list[str]:
    """Render and measure every row that some stages read.

    Args:
        recipe: the whole recipe.
        inputs: its rows.
        due: the stages.
        checkpoint: the policy's folder, or any model's; None is the initial policy.

    Returns:
        What a user should know of how the policy reads them, one line each.

    Raises:
        AlignError: if the policy's tokenizer or configuration cannot be read.
        DataError: for all rows that the policy cannot read, in one fault a kind.
    """
    policy = unloaded_initial_policy(recipe) if checkpoint is None else load_without_weights(recipe, checkpoint)
    read = [rows for stage in due for rows in stage.to_read(recipe, inputs)]
    faults: list[Fault] = []
    for rows in read:
        try:
            rows.read(policy)
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError.of(faults)
    notes = [*_unread_fields(read, policy), *_made_chats(read), *_plain_texts(read, policy)]
    return [*_turns_without_end(read, policy), *notes]


def _turns_without_end(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether a turn of the assistant's, as the chat template writes it, ends in an id that stops generation."""
    chat = next((row for rows in read for row in rows.rows if isinstance(row["prompt"], list)), None)
    if chat is None:
        return
    ids, tokenizer = _a_response(chat, policy), policy.tokenizer
    if ids[-1] in policy.eos_token_ids:
        return
    stops = " and ".join(tokenizer.convert_ids_to_tokens(policy.eos_token_ids))
    marks = [token_id for token_id in ids if token_id in tokenizer.added_tokens_decoder]
    remedy = (
        f"set eos_token_id in the model's generation_config.json to {marks[-1]}, the id of "
        f"{tokenizer.convert_ids_to_tokens(marks[-1])}"
        if marks
        else f"let the template write {tokenizer.eos_token} behind a turn of the assistant's"
    )
    yield (
        f"warning: the chat template ends the assistant's turn with {tokenizer.decode(ids[-3:])!r}, and what stops "
        f"generation is {stops}: chats teach the policy no end, and it may never end a response; {remedy}"
    )


def _a_response(row: Mapping[str, Any], policy: PolicyText) -> list[int]:
    """The tokens of a row's own response, or of some words where it has none."""
    prompt, arguments = row["prompt"], TemplateArguments.of_row(row)
    response = row.get("completion", row.get("chosen", "Yes."))
    prompt_ids = prompt_token_ids(policy.tokenizer, prompt, arguments)
    return completion_token_ids(policy.tokenizer, prompt, prompt_ids, response, policy.eos_token_ids, arguments)


def _unread_fields(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether chats hold what the policy's template does not look at: it is no fault, and it has no effect."""
    template = policy.tokenizer.chat_template
    held: dict[str, str] = {}
    for rows in read:
        for row in rows.rows:
            for name in _fields_for_a_template(row):
                held.setdefault(name, rows.key)
    texts = "\n".join(template.values()) if isinstance(template, dict) else template or ""
    unread = {
        name: key for name, key in held.items() if not any(one in texts for one in SAME_FIELDS.get(name, (name,)))
    }
    if unread:
        yield (
            f"note: {', '.join(dict.fromkeys(unread.values()))}: the policy's chat template does not look at "
            f"{', '.join(unread)}: the policy sees nothing of that"
        )


def _fields_for_a_template(row: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(row["prompt"], str):
        return
    tools, keyword_arguments = TemplateArguments.of_row(row)
    yield from ["tools"] if tools else []
    yield from keyword_arguments or ()
    for response in (row[key] for key in ("completion", "chosen", "rejected") if key in row):
        yield from (name for message in response for name in REASONING if message.get(name))


def _made_chats(read: Sequence[RowsToRead]) -> Iterator[str]:
    """Which rows were text, and are conversations now."""
    for rows in read:
        made = Counter(row.made_of for row in rows.rows if isinstance(row, Row) and row.made_of)
        if made:
            listed = " and ".join(f"{count} {kind}" for kind, count in made.items())
            yield f"note: {rows.key}: {listed} are read as conversations; data.as_chat: never leaves them as they are"


def _plain_texts(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether a policy that chats reads plain text."""
    keys = dict.fromkeys(rows.key for rows in read if any(isinstance(row["prompt"], str) for row in rows.rows))
    if keys and policy.tokenizer.chat_template:
        yield (
            f"note: {', '.join(keys)}: plain text, to which the policy's chat template is not applied; data.as_chat: "
            "always makes conversations of it"
        )
