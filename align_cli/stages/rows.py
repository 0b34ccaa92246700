"""Whether the policy can read every row of a recipe: asked once its tokenizer is there, and before any weights are.

Beside the rows that it cannot read, this says what a user may not have meant: chats that never end, fields that the
chat template does not look at, plain text for a policy that chats, chats that hold the day's date, and held-out prompts
that it trains on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align_cli.artifacts.records import TemplateArguments
from align_cli.data.overlap import overlaps_of
from align_cli.data.rows import facts_of
from align_cli.data.thinking import REASONING
from align_cli.errors import AlignError, DataError, Fault, counted
from align_cli.models.identity import CLOCK, template_texts
from align_cli.models.text import PolicyText, completion_token_ids, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.stages.base import Stage
from align_cli.stages.inputs import Inputs
from align_cli.stages.readable import RowsToRead, too_long_words

SAME_FIELDS = dict.fromkeys(REASONING, (*REASONING, "reasoning"))
"""Fields that transformers hands on under each other's names."""

HELD_OUT = ("data.eval_prompts", "data.eval_preferences")
"""The keys whose rows a policy is measured on; it samples or trains on those of all others."""

RENDERINGS = 16
"""How often a chat is rendered to see whether it is always the same: a choice of two is missed once in 30,000 times."""


def check_rows(recipe: Recipe, inputs: Inputs, due: Sequence[Stage]) -> list[str]:
    """Render and measure every row that some stages read; what is kept of that is `inputs`'.

    Args:
        recipe: the whole recipe.
        inputs: its rows, and who reads them.
        due: the stages.

    Returns:
        What a user should know of how the policy reads them, one line each.

    Raises:
        AlignError: if the policy's tokenizer or configuration cannot be read.
        DataError: for all rows that the policy cannot read, in one fault a kind, and for a template that does not
            compile or that draws at random.
    """
    policy = inputs.policy
    read = [rows for stage in due for rows in stage.to_read(recipe, inputs)]
    faults = list(_random_template(read, policy))
    for rows in read if not faults else ():
        try:
            rows.read()
        except AlignError as error:
            faults += error.faults
    if faults:
        raise DataError.of(list(dict.fromkeys(faults)))
    remarks = (
        _too_long,
        _turns_without_end,
        _unread_fields,
        _made_chats,
        _plain_texts,
        _reads_of_the_clock,
        _held_out_too,
    )
    return [remark for remarks_on in remarks for remark in remarks_on(read, policy)]


def _random_template(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[Fault]:
    """A template that makes something else of a chat each time, as with jinja's `random`: no run could be repeated."""
    chat = next(_chats(read), None)
    try:
        found = {tuple(_prompt_ids(chat, policy)) for _ in range(RENDERINGS)} if chat else set()
    except AlignError:
        return  # which is told of the row, and of all that are like it
    if len(found) > 1:
        yield Fault(
            "the policy's chat template makes something else of the same chat each time: it draws at random",
            policy.tokenizer.name_or_path,
            "take what is random out of a copy of it (chat_template.jinja): prompts have to be the same whenever they "
            "are read",
        )


def _too_long(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Which rows were left out or cut for their length."""
    for rows in read:
        if words := too_long_words(rows.too_long(), len(rows.rows), "rows"):
            yield f"note: {rows.key}: {words}"


def _held_out_too(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Which held-out prompts are prompts of what it samples or trains on."""
    by_key = {rows.key: rows.rows for rows in read if rows.rows}
    held_out = {key: by_key.pop(key) for key in HELD_OUT if key in by_key}
    for trained, rows in by_key.items() if held_out else ():
        for key, found in zip(held_out, overlaps_of(rows, list(held_out.values())), strict=True):
            if found.alike:
                yield (
                    f"note: {found.alike} of {counted(found.prompts, 'prompt')} of {key} are prompts of {trained} too: "
                    "on these the policy is measured on what it was trained on"
                )


def _turns_without_end(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether a turn of the assistant's, as the chat template writes it, ends in an id that stops generation."""
    chat = next(_chats(read), None)
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
    prompt_ids = _prompt_ids(row, policy)
    return completion_token_ids(policy.tokenizer, prompt, prompt_ids, response, policy.eos_token_ids, arguments)


def _prompt_ids(row: Mapping[str, Any], policy: PolicyText) -> list[int]:
    return prompt_token_ids(policy.tokenizer, row["prompt"], TemplateArguments.of_row(row))


def _unread_fields(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether chats hold what the policy's template does not look at: it is no fault, and it has no effect."""
    held: dict[str, str] = {}
    for rows in read:
        for name in facts_of(rows.rows).for_template:
            held.setdefault(name, rows.key)
    texts = template_texts(policy)
    unread = {
        name: key for name, key in held.items() if not any(one in texts for one in SAME_FIELDS.get(name, (name,)))
    }
    if unread:
        yield (
            f"note: {', '.join(dict.fromkeys(unread.values()))}: the policy's chat template does not look at "
            f"{', '.join(unread)}: the policy sees nothing of that"
        )


def _made_chats(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Which rows were text, and are conversations now."""
    for rows in read:
        if made := facts_of(rows.rows).made_of:
            listed = " and ".join(f"{count} {kind}" for kind, count in made.items())
            yield f"note: {rows.key}: {listed} are read as conversations; data.as_chat: never leaves them as they are"


def _plain_texts(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether a policy that chats reads plain text."""
    keys = dict.fromkeys(rows.key for rows in read if facts_of(rows.rows).texts)
    if keys and policy.tokenizer.chat_template:
        yield (
            f"note: {', '.join(keys)}: plain text, to which the policy's chat template is not applied; data.as_chat: "
            "always makes conversations of it"
        )


def _reads_of_the_clock(read: Sequence[RowsToRead], policy: PolicyText) -> Iterator[str]:
    """Whether the chat template writes the day or the time into chats: it would make others of them later on."""
    if CLOCK not in template_texts(policy):
        return
    if any(_is_dated(row, policy) for row in _chats(read)):
        yield (
            f"warning: the policy's chat template reads the clock ({CLOCK}): a run that is resumed on another day, or "
            "goes on past midnight, gives its chats another date than before, and does not end in the same bytes; let "
            "the template say a date that stays: as an argument (policy.chat_template_kwargs), if it takes one, or in "
            "a copy of the model's folder"
        )


def _is_dated(row: Mapping[str, Any], policy: PolicyText) -> bool:
    """Whether a chat, which the policy can read, cannot be rendered where the clock is none."""
    tools, keyword_arguments = TemplateArguments.of_row(row)
    try:
        prompt_token_ids(
            policy.tokenizer, row["prompt"], TemplateArguments(tools, {**(keyword_arguments or {}), CLOCK: "no clock"})
        )
    except DataError:
        return True
    return False


def _chats(read: Sequence[RowsToRead]) -> Iterator[Mapping[str, Any]]:
    """All conversations; the first of them without going through the texts before it."""
    for rows in read:
        first = facts_of(rows.rows).first_chat
        numbers = range(len(rows.rows) if first is None else first, len(rows.rows))
        yield from (row for row in map(rows.rows.__getitem__, numbers) if isinstance(row["prompt"], list))
