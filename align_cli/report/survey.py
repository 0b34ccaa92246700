"""What a source of data holds, in figures: what `align data` shows, and nothing that needs a model's weights.

Lengths are tokens where a policy reads the rows, else words. Nothing is left out here but what the readers leave out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import to_json
from align_cli.data import Choices, read_demonstrations, read_preferences, read_prompts
from align_cli.data.chats import Form, in_form
from align_cli.data.exchanges import uses_of
from align_cli.data.formats.base import DEMONSTRATIONS, PAIRS, PROMPTS, Wanted
from align_cli.data.overlap import Overlap, overlaps_of
from align_cli.data.rows import Row
from align_cli.errors import DataError
from align_cli.models.text import PolicyText, plain_text
from align_cli.recipe.sections.data import DataSection
from align_cli.stages.lengths import CONTEXT, Limits, ReadRow, read_row
from align_cli.stages.readable import rows_within

PROMPT = "prompt"
ANSWERS = {PAIRS: ("chosen", "rejected"), DEMONSTRATIONS: ("completion",), PROMPTS: ()}
PERCENTILES = (5, 25, 50, 75, 95, 99)
WITHIN = (90, 95, 99, 100)
LEFT_OUT, CUT = "left out", "cut"
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
    rows: Sequence[Row]
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


class Within(NamedTuple):
    """What a pair of limits would leave.

    Args:
        percent: of the rows, each limit alone leaves so many.
        max_prompt_tokens: the longest prompt of those.
        max_completion_tokens: the longest answer of those; 0 where there are no answers.
        rows: how many are within both.
        longest: the longest of these, prompt and longer answer together.
    """

    percent: int
    max_prompt_tokens: int
    max_completion_tokens: int
    rows: int
    longest: int


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
        beyond: rows that are longer than the section's limits, by key; those that are not set aside.
        kept: of the rows beyond these limits or the context, what `data.too_long` does: how many are left out, and cut.
        within: what limits would leave; none without a policy.
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
    beyond: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    within: tuple[Within, ...] = ()
    overlap: Overlap | None = None
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        found = asdict(self)
        found["lengths"] = {name: length._asdict() for name, length in self.lengths.items()}
        found["within"] = [within._asdict() for within in self.within]
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
    source: Source,
    policy: PolicyText | None = None,
    evaluation: Source | None = None,
    num_examples: int = 3,
    data: DataSection | None = None,
) -> Survey:
    """What a source holds.

    Args:
        source: its rows.
        policy: who reads them, in tokens; None counts words.
        evaluation: prompts that should not be among them; None for none.
        num_examples: rows to show: of equal steps from the shortest to the longest.
        data: the recipe's section, whose limits are compared with lengths in tokens; None is one without limits.
    """
    rows, answers = source.rows, ANSWERS[source.use]
    read = [_read(row, answers, policy) for row in rows]
    readable = [tokens for tokens in read if isinstance(tokens, dict)]
    limits = Limits() if policy is None else Limits.of(data or DataSection(), policy)
    exceeded, kept = _exceeded(read, limits), Counter[str]()
    if policy is not None and limits.too_long != "refuse":
        kept.update(_fate(rows[place], answers, policy, limits) for place, found in enumerate(exceeded) if found)
    lengths = {name: _lengths([len(tokens[name]) for tokens in readable]) for name in (PROMPT, *answers)}
    totals = [_total(tokens) for tokens in readable]
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
        too_long=None if limits.context_length is None else sum(CONTEXT in found for found in exceeded),
        context_length=limits.context_length,
        beyond={key: sum(key in found for found in exceeded) for key in limits.keys_that_are_set},
        kept=dict(kept),
        within=() if policy is None else tuple(_within(readable)),
        overlap=None if evaluation is None else overlaps_of(rows, [evaluation.rows])[0],
    )
    return replace(found, examples=tuple(_examples(rows, read, answers, policy, num_examples)))


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


_READERS = {PAIRS: read_preferences, DEMONSTRATIONS: read_demonstrations, PROMPTS: read_prompts}


def _read(row: Row, answers: Sequence[str], policy: PolicyText | None) -> dict[str, list[Any]] | str:
    """The ids or the words of a row's prompt and answers; or why the policy cannot read it."""
    if policy is None:
        return {name: plain_text(row[name]).split() for name in (PROMPT, *answers)}
    try:
        read = read_row(row, answers, policy, Limits(), may_lack_prompt=True)
    except DataError as error:
        return error.faults[0].what
    return {PROMPT: read.prompt_ids, **read.answer_ids}


def _exceeded(read: Sequence[dict[str, list[Any]] | str], limits: Limits) -> list[dict[str, int]]:
    """The limits that each row exceeds; none of those that cannot be read."""
    found = []
    for tokens in read:
        answers = {name: ids for name, ids in tokens.items() if name != PROMPT} if isinstance(tokens, dict) else {}
        prompt = tokens[PROMPT] if isinstance(tokens, dict) else []
        found.append(limits.exceeded_by(ReadRow({}, prompt, answers)))
    return found


def _fate(row: Row, answers: Sequence[str], policy: PolicyText, limits: Limits) -> str:
    """What becomes of a row that is too long."""
    read = read_row(row, answers, policy, limits, may_lack_prompt=True)
    return LEFT_OUT if limits.exceeded_by(read) else CUT


def _within(readable: Sequence[Mapping[str, Sequence[Any]]]) -> Iterator[Within]:
    """Limits that leave most rows, and what they leave: from the tightest to none."""
    sizes = [(len(tokens[PROMPT]), _total(tokens) - len(tokens[PROMPT])) for tokens in readable]
    prompts, answers = (sorted(size[part] for size in sizes) for part in (0, 1))
    seen: set[tuple[int, int]] = set()
    for percent in WITHIN if sizes else ():
        limits = _percentile(prompts, percent), _percentile(answers, percent)
        if limits not in seen:
            seen.add(limits)
            left = [prompt + answer for prompt, answer in sizes if prompt <= limits[0] and answer <= limits[1]]
            yield Within(percent, limits[0], limits[1], len(left), max(left))


def _total(tokens: Mapping[str, Sequence[Any]]) -> int:
    return len(tokens[PROMPT]) + max((len(tokens[name]) for name in tokens if name != PROMPT), default=0)


def _lengths(counts: Sequence[int]) -> Lengths:
    """The figures of some lengths; those of nothing are 0."""
    ranked = sorted(counts) or [0]
    percentiles = {percent: _percentile(ranked, percent) for percent in PERCENTILES}
    bins = Counter(1 << max(count - 1, 0).bit_length() for count in counts)
    smallest, largest = min(bins, default=1), max(bins, default=1)
    edges = [1 << power for power in range(smallest.bit_length() - 1, largest.bit_length())]
    return Lengths(sum(ranked) / len(ranked), percentiles, ranked[-1], {edge: bins[edge] for edge in edges})


def _percentile(ranked: Sequence[int], percent: int) -> int:
    """The smallest of some numbers, from the lowest on, that so many percent of them do not exceed."""
    return ranked[math.ceil(percent / 100 * len(ranked)) - 1]


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
