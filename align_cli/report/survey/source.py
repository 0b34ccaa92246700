"""The rows of a source as a recipe would read them, and their pieces, in tokens or in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from align_cli.data import Choices, read_demonstrations, read_preferences, read_prompts
from align_cli.data.chats import Form, in_form
from align_cli.data.exchanges import uses_of
from align_cli.data.formats.base import DEMONSTRATIONS, PAIRS, PROMPTS, Wanted
from align_cli.data.rows import Row
from align_cli.errors import DataError
from align_cli.models.text import PolicyText, plain_text
from align_cli.recipe.sections.data import DataSection
from align_cli.stages.lengths import Limits, read_row
from align_cli.stages.readable import rows_within

PROMPT = "prompt"
ANSWERS = {PAIRS: ("chosen", "rejected"), DEMONSTRATIONS: ("completion",), PROMPTS: ()}


class Source(NamedTuple):
    """The rows of a source.

    Args:
        name: a file, a folder or a Hub id.
        use: what it was read for.
        uses: everything that it can be read for.
        rows: in one of TRL's formats.
        dropped: what its reader left out, by reason.
    """

    name: str
    use: Wanted
    uses: tuple[Wanted, ...]
    rows: Sequence[Row]
    dropped: dict[str, int]


def read_source(
    name: str, split: str, data: DataSection, policy: PolicyText | None = None, use: Wanted | None = None
) -> Source:
    """The rows of a source as a recipe with these keys and this policy would read them.

    Args:
        name: a file, a folder or a Hub id.
        split: of a folder or a Hub dataset.
        data: the recipe's section.
        policy: whose chat template decides whether text becomes conversations; None has none.
        use: what it is read for; None is what most people want of its format.

    Raises:
        DataError: for all that is wrong with it.
    """
    uses = uses_of(name, split)
    use = use or uses[0]
    rows = _READERS[use](name, split=split, choices=Choices(data.criterion, data.pairs))
    policy_chats = policy is not None and bool(policy.tokenizer.chat_template)
    form = Form(data.as_chat, policy_chats, data.system_prompt, data.thinking)
    return Source(name, use, uses, in_form(rows, form, name), rows.dropped)


def rows_left(source: Source, policy: PolicyText, data: DataSection) -> Sequence[Row]:
    """The rows of a source that are no longer than they may be, prompts as they are cut.

    Answers stay whole: what stands in a file cannot say that it does not end where it ends.

    Raises:
        DataError: for all rows that the policy cannot read, or if all are left out.
    """
    if data.too_long == "refuse":
        return source.rows
    arguments = (source.name, source.rows, source.use, ANSWERS[source.use], policy, Limits.of(data, policy))
    within = rows_within(*arguments, Counter(), may_lack_prompt=True)
    return [source.rows[place].with_fields(prompt=read.row[PROMPT]) for place, read in within]


def tokens_of(row: Row, answers: Sequence[str], policy: PolicyText | None) -> dict[str, list[Any]] | str:
    """The ids or the words of a row's prompt and answers; or why the policy cannot read it."""
    if policy is None:
        return {name: plain_text(row[name]).split() for name in (PROMPT, *answers)}
    try:
        read = read_row(row, answers, policy, Limits(), may_lack_prompt=True)
    except DataError as error:
        return error.faults[0].what
    return {PROMPT: read.prompt_ids, **read.answer_ids}


_READERS = {PAIRS: read_preferences, DEMONSTRATIONS: read_demonstrations, PROMPTS: read_prompts}
