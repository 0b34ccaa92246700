"""What every source's pairing has in common: which completions belong together, what a pair records, what is left out.

Every candidate pair ends in exactly one count: no pair disappears without one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from align_cli.artifacts.records import Completion, Preference
from align_cli.errors import DataError, counted
from align_cli.models.text import plain_text
from align_cli.recipe.sections.label import LabelSection

if TYPE_CHECKING:
    from align_cli.stages.base import Context
    from align_cli.stages.lengths import ReadRow


class LabelledPairs(NamedTuple):
    """What labelling made.

    Args:
        preferences: the pairs.
        counts: what became of the candidates, such as `{"pairs": 500, "ties_dropped": 12}`.
        labelers: what the labelers that were asked say of their work, by name.
    """

    preferences: Sequence[Preference]
    counts: dict[str, int]
    labelers: Mapping[str, Mapping[str, float]] = MappingProxyType({})


WHY_LEFT_OUT = {
    "empty_texts_dropped": ("with an empty text", "label.empty_texts to keep"),
    "equal_texts_dropped": (
        "with the same text or the same tokens as chosen and as rejected",
        "label.equal_texts to keep",
    ),
    "ties_dropped": ("with equal scores or a label of one half", "label.ties to keep"),
    "without_verdict_dropped": ("without a verdict of the labeler", "label.ties to keep"),
    "below_min_margin_dropped": ("with scores closer than label.min_margin", "label.min_margin to 0"),
    "too_long_dropped": (
        "longer than they may be",
        "data.max_prompt_tokens and data.max_completion_tokens higher",
    ),
}
"""Counts of pairs that were left out, in words, and which key would keep them."""

WHY_NOT_MADE = {
    "single_completions": "with a single completion (prompts)",
    "without_demonstration": "to a prompt without a demonstration (completions)",
}
"""Counts of what makes no pair, in words."""


RESPONSES = ("chosen", "rejected")
"""A pair's responses, by its keys."""


class Pairing(Protocol):
    """How a source makes its pairs of a round's completions."""

    needs: tuple[str, ...]
    """What has to be loaded: of `policy` and `reference`."""

    def pair(self, completions: Sequence[Completion], context: Context) -> LabelledPairs:
        """The round's pairs, and what became of the candidates."""
        ...


class ScoredCompletion(NamedTuple):
    """A completion with the score that a labeler gave it; None without one."""

    completion: Completion
    score: float | None


def by_draw(
    scored: Iterable[ScoredCompletion], num_generations: int, num_reference_generations: int = 0
) -> dict[tuple[int, int, int], list[ScoredCompletion]]:
    """Completions by (round, prompt, lap): a prompt drawn twice in a round is two draws of K samples, not one of 2K.

    The policy's samples stand before the reference's.
    """
    samples_a_draw = {"policy": num_generations, "reference": max(num_reference_generations, 1)}
    groups: dict[tuple[int, int, int], list[ScoredCompletion]] = {}
    for item in scored:
        completion = item.completion
        lap = completion.sample_index // samples_a_draw[completion.sampled_by]
        groups.setdefault((completion.round, completion.prompt_index, lap), []).append(item)
    return {
        place: sorted(group, key=lambda item: (item.completion.sampled_by, item.completion.sample_index))
        for place, group in groups.items()
    }


def make_pair(chosen: ScoredCompletion, rejected: ScoredCompletion, label: float) -> Preference:
    return Preference(
        prompt=chosen.completion.prompt,
        chosen=chosen.completion.completion,
        rejected=rejected.completion.completion,
        label=label,
        prompt_ids=chosen.completion.prompt_ids,
        chosen_ids=chosen.completion.completion_ids,
        rejected_ids=rejected.completion.completion_ids,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        chosen_logp=math.fsum(chosen.completion.logps),
        rejected_logp=math.fsum(rejected.completion.logps),
        round=chosen.completion.round,
        prompt_index=chosen.completion.prompt_index,
        chosen_index=chosen.completion.sample_index,
        rejected_index=rejected.completion.sample_index,
        policy=next(
            (item.policy for item in (chosen.completion, rejected.completion) if item.sampled_by == "policy"), None
        ),
        chosen_by=chosen.completion.sampled_by,
        rejected_by=rejected.completion.sampled_by,
        **chosen.completion.template_arguments._asdict(),
    )


def as_pair(pair: Preference, read: ReadRow) -> Preference:
    """The pair as the policy reads it: what of it was cut is shorter, and its token ids are there."""
    row, ids = read.row, read.answer_ids
    return replace(
        pair,
        prompt=row["prompt"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        prompt_ids=read.prompt_ids,
        chosen_ids=ids["chosen"],
        rejected_ids=ids["rejected"],
    )


Undecided = Literal["ties", "without_verdict"]
"""Why a label says nothing of who wins: both are as good, or the labeler gave no verdict."""


def is_kept(pair: Preference, undecided: Undecided | None, section: LabelSection, counts: Counter[str]) -> bool:
    """Apply the rules for empty texts, equal texts and ties; a pair without a verdict is a tie by another name.

    A pair is dropped if any rule that holds says so; it is counted once, under the first rule that decides.
    """
    is_empty = not plain_text(pair.chosen).strip() or not plain_text(pair.rejected).strip()
    is_equal = pair.chosen_ids == pair.rejected_ids
    rules = (
        (is_empty, "empty_texts", section.empty_texts),
        (is_equal, "equal_texts", section.equal_texts),
        (undecided is not None, undecided or "ties", section.ties),
    )
    holding = [(name, rule) for holds, name, rule in rules if holds]
    dropping = [name for name, rule in holding if rule == "drop"]
    if dropping:
        counts[f"{dropping[0]}_dropped"] += 1
    elif holding:
        counts[f"{holding[0][0]}_kept"] += 1
    return not dropping


def none_is_left(
    counts: Mapping[str, int], where: str, hint: str, whose: str = "", *, by_the_recipe: bool = True
) -> DataError:
    """What became of all candidates, for whoever looks for the pairs.

    Args:
        counts: of the candidates, by what became of them.
        where: the key that wants pairs.
        hint: where the cause may lie.
        whose: the pairs', such as `source 'dpr' has a share of 0.3, and `.
        by_the_recipe: whether the recipe's keys left them out, and would keep them: that is then said.
    """
    left_out = {name: counts[name] for name in WHY_LEFT_OUT if counts.get(name)}
    not_made = [f"{counts[name]} {words}" for name, words in WHY_NOT_MADE.items() if counts.get(name)]
    causes = [f"{count} {WHY_LEFT_OUT[name][0]}" for name, count in left_out.items()]
    found = (
        f"of {counted(sum(left_out.values()), 'pair')} none is left: {', '.join(causes)}"
        if causes
        else "no pair was made"
    )
    unmade = f"; what makes no pair: {', '.join(not_made)}" if not_made else ""
    keys = " and ".join(WHY_LEFT_OUT[name][1] for name in left_out) if by_the_recipe else ""
    return DataError(f"{whose}{found}{unmade}", where=where, hint=f"{hint}; or set {keys}" if keys else hint)
