"""What a source of data holds, in figures: what `align data` shows, and nothing that needs a model's weights.

Lengths are tokens where a policy reads the rows, else words. Nothing is left out here but what the readers leave out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import TemplateArguments
from align_cli.data import Choices, read_demonstrations, read_preferences, read_prompts
from align_cli.data.chats import Form, in_form
from align_cli.data.exchanges import uses_of
from align_cli.data.formats.base import DEMONSTRATIONS, PAIRS, PROMPTS, Wanted
from align_cli.data.rows import Row
from align_cli.errors import DataError
from align_cli.models.text import PolicyText, completion_token_ids, plain_text, prompt_token_ids
from align_cli.recipe.sections.data import DataSection

PROMPT = "prompt"
ANSWERS = {PAIRS: ("chosen", "rejected"), DEMONSTRATIONS: ("completion",), PROMPTS: ()}
PERCENTILES = (5, 25, 50, 75, 95, 99)
TIE = 0.5


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
    rows: list[Row]
    dropped: dict[str, int]


class Lengths(NamedTuple):
    """How long something is, over all rows.

    Args:
        mean: of all.
        percentiles: by percent.
        longest: the longest one.
        histogram: how many are at most so long, by powers of two; each counts those that the one before does not.
    """

    mean: float
    percentiles: dict[int, int]
    longest: int
    histogram: dict[int, int]


class Overlap(NamedTuple):
    """Evaluation prompts that are among the prompts of a source.

    Args:
        prompts: how many different evaluation prompts there are.
        same: of these, how many are there to the letter.
        alike: how many are there but for case and white space, those that are the same included.
    """

    prompts: int
    same: int
    alike: int


class Part(NamedTuple):
    """A piece of an example.

    Args:
        name: `prompt`, `chosen`, `rejected` or `completion`.
        has_loss: whether its tokens are trained on.
        tokens: its text, cut where tokens end; in one piece where no policy reads it.
    """

    name: str
    has_loss: bool
    tokens: list[str]


class Example(NamedTuple):
    """A row as a policy reads it.

    Args:
        where: its place.
        why: why it is shown.
        parts: the prompt, and each answer.
    """

    where: str
    why: str
    parts: list[Part]


@dataclass(frozen=True)
class Survey:
    """What a source holds.

    Args:
        source: its name.
        use: what it was read for.
        uses: everything that it can be read for.
        rows: how many pairs, demonstrations or prompts.
        formats: how many of each format.
        made_of: how many are conversations that were made of text, by kind of text.
        chats: how many are conversations, those included.
        dropped: how many the reader left out, by reason.
        prompts: how many different prompts.
        repeated: rows that are the same as one before, answers and all.
        ties: pairs whose label is one half.
        equal: pairs of two equal answers.
        empty: rows with an answer of nothing but white space.
        longer_chosen: of pairs with answers of two lengths, the share where the longer one was chosen; None without.
        unit: of lengths: `tokens` or `words`.
        lengths: of prompts, of each answer, and of `all`: the prompt with its longer answer.
        unreadable: rows that the policy cannot read, by reason.
        too_long: rows that do not fit into the policy's context; None where it has no bound, or no policy reads them.
        context_length: that context.
        overlap: with evaluation prompts; None where none are named.
        examples: some rows as the policy reads them.
    """

    source: str
    use: Wanted
    uses: tuple[Wanted, ...]
    rows: int
    formats: dict[str, int]
    made_of: dict[str, int]
    chats: int
    dropped: dict[str, int]
    prompts: int
    repeated: int
    ties: int
    equal: int
    empty: int
    longer_chosen: float | None
    unit: str
    lengths: dict[str, Lengths]
    unreadable: dict[str, int]
    too_long: int | None = None
    context_length: int | None = None
    overlap: Overlap | None = None
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        found = asdict(self)
        found["lengths"] = {name: length._asdict() for name, length in self.lengths.items()}
        found["overlap"] = self.overlap and self.overlap._asdict()
        found["examples"] = [
            {**example._asdict(), "parts": [part._asdict() for part in example.parts]} for example in self.examples
        ]
        return found


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


def survey_of(
    source: Source, policy: PolicyText | None = None, evaluation: Source | None = None, num_examples: int = 3
) -> Survey:
    """What a source holds.

    Args:
        source: its rows.
        policy: who reads them, in tokens; None counts words.
        evaluation: prompts that should not be among them; None for none.
        num_examples: rows to show: of equal steps from the shortest to the longest.
    """
    rows, answers = source.rows, ANSWERS[source.use]
    read = [_read(row, answers, policy) for row in rows]
    readable = [tokens for tokens in read if isinstance(tokens, dict)]
    lengths = {name: _lengths([len(tokens[name]) for tokens in readable]) for name in (PROMPT, *answers)}
    totals = [_total(tokens) for tokens in readable]
    context = policy.context_length if policy is not None else None
    both = [(len(tokens["chosen"]), len(tokens["rejected"])) for tokens in readable] if source.use == PAIRS else []
    decided = [chosen > rejected for chosen, rejected in both if chosen != rejected]
    found = Survey(
        source=source.name,
        use=source.use,
        uses=source.uses,
        rows=len(rows),
        formats=dict(Counter(row.name for row in rows)),
        made_of=dict(Counter(row.made_of for row in rows if row.made_of)),
        chats=sum(not isinstance(row[PROMPT], str) for row in rows),
        dropped=source.dropped,
        prompts=len({to_json(row[PROMPT]) for row in rows}),
        repeated=len(rows) - len({to_json(row) for row in rows}),
        ties=sum(row.get("label") == TIE for row in rows),
        equal=sum(row["chosen"] == row["rejected"] for row in rows) if source.use == PAIRS else 0,
        empty=sum(any(not plain_text(row[name]).strip() for name in answers) for row in rows),
        longer_chosen=sum(decided) / len(decided) if decided else None,
        unit="words" if policy is None else "tokens",
        lengths={**lengths, "all": _lengths(totals)} if answers else lengths,
        unreadable=dict(Counter(tokens for tokens in read if isinstance(tokens, str))),
        too_long=None if context is None else sum(total > context for total in totals),
        context_length=context,
        overlap=None if evaluation is None else overlap_of(rows, evaluation.rows),
    )
    return replace(found, examples=tuple(_examples(rows, read, answers, policy, num_examples)))


def overlap_of(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> Overlap:
    """Which held-out prompts are among the prompts of some rows."""
    by_letter = {to_json(row[PROMPT]): _alike(row[PROMPT]) for row in held_out}
    here = {to_json(row[PROMPT]) for row in rows}
    alike_here = {_alike(row[PROMPT]) for row in rows}
    return Overlap(
        len(by_letter), len(by_letter.keys() & here), sum(alike in alike_here for alike in by_letter.values())
    )


def _alike(prompt: Any) -> str:
    return " ".join(plain_text(prompt).casefold().split())


_READERS = {PAIRS: read_preferences, DEMONSTRATIONS: read_demonstrations, PROMPTS: read_prompts}


def _read(row: Row, answers: Sequence[str], policy: PolicyText | None) -> dict[str, list[Any]] | str:
    """The ids or the words of a row's prompt and answers; or why the policy cannot read it."""
    prompt = row[PROMPT]
    if policy is None:
        return {name: plain_text(row[name]).split() for name in (PROMPT, *answers)}
    arguments = TemplateArguments.of_row(row)
    tokenizer, stops = policy.tokenizer, policy.eos_token_ids
    try:
        prompt_ids = prompt_token_ids(tokenizer, prompt, arguments) if prompt else []
        ids = {
            name: completion_token_ids(tokenizer, prompt, prompt_ids, row[name], stops, arguments) for name in answers
        }
    except DataError as error:
        return error.faults[0].what
    return {PROMPT: prompt_ids, **ids}


def _total(tokens: Mapping[str, Sequence[Any]]) -> int:
    return len(tokens[PROMPT]) + max((len(tokens[name]) for name in tokens if name != PROMPT), default=0)


def _lengths(counts: Sequence[int]) -> Lengths:
    """The figures of some lengths; those of nothing are 0."""
    ranked = sorted(counts) or [0]
    percentiles = {percent: ranked[math.ceil(percent / 100 * len(ranked)) - 1] for percent in PERCENTILES}
    bins = Counter(1 << max(count - 1, 0).bit_length() for count in counts)
    smallest, largest = min(bins, default=1), max(bins, default=1)
    edges = [1 << power for power in range(smallest.bit_length() - 1, largest.bit_length())]
    return Lengths(sum(ranked) / len(ranked), percentiles, ranked[-1], {edge: bins[edge] for edge in edges})


def _examples(
    rows: Sequence[Row],
    read: Sequence[dict[str, list[Any]] | str],
    answers: Sequence[str],
    policy: PolicyText | None,
    number: int,
) -> list[Example]:
    """Rows at equal steps from the shortest to the longest."""
    by_length = sorted((_total(tokens), place) for place, tokens in enumerate(read) if isinstance(tokens, dict))
    number = min(number, len(by_length))
    steps = [round(step * (len(by_length) - 1) / max(number - 1, 1)) for step in range(number)]
    shown = []
    for step in steps:
        share = step / max(len(by_length) - 1, 1)
        total, place = by_length[step]
        tokens = read[place]
        assert isinstance(tokens, dict)
        why = {0.0: "the shortest", 1.0: "the longest"}.get(share, f"longer than {share:.0%} of the rows")
        parts = [
            Part(name, name != PROMPT, _pieces(rows[place][name], tokens[name], policy)) for name in (PROMPT, *answers)
        ]
        shown.append(Example(rows[place].where, f"{why}, {total} in all", parts))
    return shown


def _pieces(text: Any, ids: Sequence[int], policy: PolicyText | None) -> list[str]:
    if policy is None:
        return [plain_text(text)]
    return [str(policy.tokenizer.decode([token_id])) for token_id in ids]
