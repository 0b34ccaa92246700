"""The pairs of a reward model: those that it is fitted on, and those that it is measured on and has not seen.

Held out are pairs of their own, or all pairs of a share of the prompts, drawn by the run's seed: no prompt is then on
both sides. A pair that says nothing is left out and counted: a tie, or two equal texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Text
from align_cli.data.thinking import without_thinking
from align_cli.errors import DataError, counted
from align_cli.models.text import plain_text
from align_cli.recipe import Recipe
from align_cli.seeds import seeded_order
from align_cli.stages.inputs import Inputs

KEY, EVAL_KEY = "reward.preferences", "reward.eval_preferences"


class RewardPair(NamedTuple):
    """A pair as a labeler would see it.

    Args:
        prompt: text or messages.
        chosen: the better response, likewise.
        rejected: the other one.
        label: the probability that it is better, above one half.
        margin: by how much it is to be better in the model's scores.
        group: stands for its prompt.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    label: float
    margin: float
    group: str

    @property
    def num_characters(self) -> tuple[int, int]:
        """How long the chosen and the rejected response are."""
        return len(plain_text(self.chosen)), len(plain_text(self.rejected))


class RewardPairs(NamedTuple):
    """All pairs of a reward model.

    Args:
        fit: what it is fitted on.
        held_out: what it is measured on.
        left_out: how many pairs say nothing, by reason.
        num_shared: held-out pairs whose prompt is among those that it is fitted on.
    """

    fit: list[RewardPair]
    held_out: list[RewardPair]
    left_out: dict[str, int]
    num_shared: int


def pairs_of(recipe: Recipe, inputs: Inputs) -> RewardPairs:
    """The pairs that the recipe's section `reward` means.

    Raises:
        DataError: if none is left on either side, or if there is one prompt where a share is to be held out.
    """
    assert recipe.reward is not None
    counts: Counter[str] = Counter()
    pairs = _telling(inputs.reward_rows.rows, KEY, recipe, counts)
    if recipe.reward.eval_preferences is not None:
        held_out = _telling(inputs.reward_eval_rows.rows, EVAL_KEY, recipe, counts)
        groups = {pair.group for pair in pairs}
        return RewardPairs(pairs, held_out, dict(counts), sum(pair.group in groups for pair in held_out))
    groups = _held_out_groups(pairs, recipe)
    fit = [pair for pair in pairs if pair.group not in groups]
    return RewardPairs(fit, [pair for pair in pairs if pair.group in groups], dict(counts), 0)


def _held_out_groups(pairs: Sequence[RewardPair], recipe: Recipe) -> set[str]:
    assert recipe.reward is not None
    prompts = list(dict.fromkeys(pair.group for pair in pairs))
    if len(prompts) < 2:
        raise DataError(
            "all pairs have the same prompt: no share of the prompts can be held out",
            where=KEY,
            hint=f"set {EVAL_KEY} to pairs of other prompts",
        )
    count = min(math.ceil(recipe.reward.eval_share * len(prompts)), len(prompts) - 1)
    return {prompts[place] for place in seeded_order(len(prompts), recipe.seed, "reward", "held out")[:count]}


def _telling(rows: Sequence[Mapping[str, Any]], key: str, recipe: Recipe, counts: Counter[str]) -> list[RewardPair]:
    """The pairs that say who is better; counted are those that do not."""
    own: Counter[str] = Counter()
    pairs = []
    for row in rows:
        pair = _pair_of(row, recipe)
        reason = "ties" if pair.label == 0.5 else "equal_texts" if pair.chosen == pair.rejected else None
        if reason is None:
            pairs.append(pair)
        else:
            own[reason] += 1
    counts.update({f"{reason}_dropped": count for reason, count in own.items()})
    if not pairs:
        said = {"ties": ("tie",), "equal_texts": ("pair of equal texts", "pairs of equal texts")}
        causes = " and ".join(counted(count, *said[reason]) for reason, count in own.items())
        what = (
            f"of {counted(len(rows), 'pair')} none says which response is better: {causes}"
            if rows
            else "there are no pairs"
        )
        raise DataError(what, where=key, hint=f"set {key} to pairs with a better response")
    return pairs


def _pair_of(row: Mapping[str, Any], recipe: Recipe) -> RewardPair:
    """A row as a pair whose first response is the better one."""
    label, margin = float(row.get("label", 1.0)), float(row.get("margin", 0.0))
    better, worse = (_shown(row[name], recipe) for name in ("chosen", "rejected"))
    if label < 0.5:
        better, worse, label, margin = worse, better, 1 - label, -margin
    return RewardPair(row["prompt"], better, worse, label, margin, to_json(row["prompt"]))


def _shown(response: Text, recipe: Recipe) -> Text:
    """A response as labelers see it."""
    return response if recipe.label.thinking == "keep" else without_thinking(response)
