"""What a source of data holds, in figures: what `align data` shows, and nothing that needs a model's weights.

Lengths are tokens where a policy reads the rows, else words. Nothing is left out here but what the readers leave out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from align_cli.artifacts.json_text import to_json
from align_cli.data.formats.base import PAIRS, Wanted
from align_cli.data.overlap import Overlap, overlaps_of
from align_cli.data.rows import Row
from align_cli.models.text import PolicyText, plain_text
from align_cli.recipe.sections.data import DataSection
from align_cli.report.survey.examples import Example, examples_of
from align_cli.report.survey.lengths import Lengths, Within, lengths_of, limits_that_leave, total_length
from align_cli.report.survey.source import ANSWERS, PROMPT, Source, tokens_of
from align_cli.stages.lengths import CONTEXT, Limits, ReadRow, read_row

LEFT_OUT, CUT = "left out", "cut"
TIE = 0.5


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
    read = [tokens_of(row, answers, policy) for row in rows]
    readable = [tokens for tokens in read if isinstance(tokens, dict)]
    limits = Limits() if policy is None else Limits.of(data or DataSection(), policy)
    exceeded, kept = _exceeded(read, limits), Counter[str]()
    if policy is not None and limits.too_long != "refuse":
        kept.update(_fate(rows[place], answers, policy, limits) for place, found in enumerate(exceeded) if found)
    lengths = {name: lengths_of([len(tokens[name]) for tokens in readable]) for name in (PROMPT, *answers)}
    totals = [total_length(tokens) for tokens in readable]
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
        lengths={**lengths, "all": lengths_of(totals)} if answers else lengths,
        unreadable=dict(Counter(tokens for tokens in read if isinstance(tokens, str))),
        too_long=None if limits.context_length is None else sum(CONTEXT in found for found in exceeded),
        context_length=limits.context_length,
        beyond={key: sum(key in found for found in exceeded) for key in limits.keys_that_are_set},
        kept=dict(kept),
        within=() if policy is None else tuple(limits_that_leave(readable)),
        overlap=None if evaluation is None else overlaps_of(rows, [evaluation.rows])[0],
    )
    return replace(found, examples=tuple(examples_of(rows, read, answers, policy, num_examples)))


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
