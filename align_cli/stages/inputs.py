"""What the stages read besides artifacts, as the policy reads it: sequences whose rows are read when they are drawn.

A row is made into tokens, measured, and left out or cut where it is too long (`lengths.py`), by the tokenizer of the
model that reads it, which is loaded once and before any weights are. What becomes of each row is kept (`fates.py`), and
few of the rows themselves: those that a round samples or trains on are read again when they are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from align_cli.models.identity import identity_of
from align_cli.models.load import UnloadedPolicy
from align_cli.models.text import PolicyText, plain_text
from align_cli.playground import model as playground_model
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.fates import KeptRows, kept_rows
from align_cli.stages.lengths import Limits
from align_cli.stages.pairing.offline import label_offline_pairs
from align_cli.stages.pairing.pairs import LabelledPairs
from align_cli.stages.rows_of_recipe import (
    PairRows,
    Reading,
    Rows,
    demonstrations,
    evaluation_pairs,
    evaluation_prompts,
    offline_pairs,
    reward_evaluation_pairs,
    reward_pairs,
    sft_demonstrations,
    training_prompts,
)

EVALUATION_RULES = LabelSection(ties="drop", equal_texts="drop", empty_texts="keep")
"""One rule for every recipe: what a method drops in training must not change what it is measured on."""


class ReadPrompts(NamedTuple):
    """Prompts, each with room for a response.

    Args:
        rows: all of them, those that were cut as they are now.
        left_out: the numbers of those that are too long.
        counts: how many were left out and cut.
    """

    rows: Rows
    left_out: Collection[int]
    counts: dict[str, int]

    @property
    def num_kept(self) -> int:
        """How many can be sampled."""
        return len(self.rows) - len(self.left_out)


class ReadDemonstrations(NamedTuple):
    """Demonstrations in the policy's tokens.

    Args:
        rows: those that are no longer than they may be.
        counts: how many were left out and cut.
    """

    rows: KeptRows
    counts: dict[str, int]


class Inputs:
    """A recipe's inputs.

    Args:
        recipe: names them.
        reader: the folder of the model that reads them; None is the initial policy.
    """

    def __init__(self, recipe: Recipe, reader: Path | None = None) -> None:
        self._recipe = recipe
        self._reading = Reading(recipe, reader)

    @cached_property
    def policy(self) -> UnloadedPolicy:
        """The tokenizer and the figures of the model that reads them.

        Raises:
            AlignError: if there is no such model, or if its tokenizer or its configuration cannot be read.
        """
        return self._reading.policy or unmade_policy(self._recipe, self.sft_rows)

    @cached_property
    def prompts(self) -> Rows:
        """Training prompts, as read."""
        return training_prompts(self._recipe, self._reading)

    @cached_property
    def eval_prompts(self) -> Rows:
        """Held-out prompts, as read."""
        return evaluation_prompts(self._recipe, self._reading)

    @cached_property
    def sft_rows(self) -> Rows:
        """What the warm start learns, as read; none without one."""
        return sft_demonstrations(self._recipe, self._reading)

    @cached_property
    def demonstration_rows(self) -> Rows:
        """What mixed pairs choose, as read; none where no source asks for it."""
        return demonstrations(self._recipe, self._reading) if "dmd" in self._recipe.method.sources.in_use() else []

    @cached_property
    def offline_rows(self) -> PairRows:
        """Offline pairs, as read."""
        return offline_pairs(self._recipe, self._reading)

    @cached_property
    def eval_rows(self) -> PairRows:
        """Held-out offline pairs, as read."""
        return evaluation_pairs(self._recipe, self._reading)

    @cached_property
    def reward_rows(self) -> PairRows:
        """What a reward model is fitted on, as read; none without one."""
        return reward_pairs(self._recipe, self._reading)

    @cached_property
    def reward_eval_rows(self) -> PairRows:
        """What it is measured on, as read; none where a share of the other pairs is."""
        return reward_evaluation_pairs(self._recipe, self._reading)

    @property
    def uses_offline_pairs(self) -> bool:
        """Whether any source takes them."""
        return any(not source.policy_responses for source in self._recipe.method.sources.in_use().values())

    @property
    def prompts_key(self) -> str:
        """The recipe's key that names the training prompts."""
        return "data.demonstrations" if self._recipe.data.prompts is None else "data.prompts"

    # What follows raises `DataError` for all rows that the policy cannot read, or if none is left.

    @cached_property
    def prompts_to_sample(self) -> ReadPrompts:
        """Training prompts that can be sampled."""
        return self._read_prompts(self.prompts_key, self.prompts)

    @cached_property
    def eval_prompts_to_sample(self) -> ReadPrompts:
        """Held-out prompts that can be sampled."""
        return self._read_prompts("data.eval_prompts", self.eval_prompts)

    @cached_property
    def sft_demonstrations(self) -> ReadDemonstrations:
        """What the warm start learns."""
        return self._read_demonstrations("policy.sft.dataset", self.sft_rows)

    @cached_property
    def demonstrations(self) -> ReadDemonstrations:
        """What mixed pairs choose; their prompts are sampled, and need as much room as others."""
        return self._read_demonstrations("data.demonstrations", self.demonstration_rows, self._max_new_tokens)

    @cached_property
    def offline_pairs(self) -> LabelledPairs:
        """Offline pairs with their labels; none where no source takes them."""
        if not self.uses_offline_pairs:
            return LabelledPairs([], {})
        rows, source = self.offline_rows, self._recipe.method.sources.offline
        labeler = source.labeler if source is not None else "dataset"
        pairs = self._labelled(rows.rows, self._recipe.label, labeler, "data.preferences")
        return LabelledPairs(pairs.preferences, {**pairs.counts, **rows.dropped})

    @cached_property
    def eval_pairs(self) -> LabelledPairs:
        """Held-out offline pairs with their labels."""
        rows, key = self.eval_rows.rows, "data.eval_preferences"
        if not rows:
            return LabelledPairs([], {})
        return self._labelled(rows, EVALUATION_RULES, "dataset", key)

    def limits(self, reserved: int = 0) -> Limits:
        """How long rows may be that have to leave room for so many tokens."""
        return Limits.of(self._recipe.data, self.policy, reserved)

    @property
    def _max_new_tokens(self) -> int:
        return self._recipe.generate.max_new_tokens

    def _labelled(self, rows: Rows, rules: LabelSection, labeler: str, key: str) -> LabelledPairs:
        return label_offline_pairs(rows, self.policy, rules, labeler, key, self.limits(), identify=self._identified)

    def _read_prompts(self, key: str, rows: Rows) -> ReadPrompts:
        counts: Counter[str] = Counter()
        arguments = (key, rows, "prompts", (), self.policy, self.limits(self._max_new_tokens), counts)
        kept = kept_rows(*arguments, identify=self._identified)
        return ReadPrompts(kept.as_they_are_read(), kept.left_out, dict(counts))

    def _read_demonstrations(self, key: str, rows: Rows, reserved: int = 0) -> ReadDemonstrations:
        counts: Counter[str] = Counter()
        arguments = (key, rows, "demonstrations", ("completion",), self.policy, self.limits(reserved), counts)
        kept = kept_rows(*arguments, may_lack_prompt=True, identify=self._identified)
        return ReadDemonstrations(kept, dict(counts))

    def _identified(self, _: PolicyText) -> str | None:
        """What stands for the model that reads them, worked out once for all keys: its tokenizer may be large."""
        return self._identity

    @cached_property
    def _identity(self) -> str | None:
        return identity_of(self.policy)


def unmade_policy(recipe: Recipe, rows: Rows) -> UnloadedPolicy:
    """The tokenizer and the figures of an initial policy that has to be made, before it is.

    Args:
        recipe: the whole recipe, with a new model or a built-in world's.
        rows: what the warm start learns, and a new model its tokenizer from.
    """
    section = recipe.policy.from_scratch
    if section is None:
        tokenizer = playground_model.policy_tokenizer(recipe.playground.architecture)
        return UnloadedPolicy(tokenizer, [tokenizer.eos_token_id], playground_model.CONTEXT_LENGTH)
    tokenizer = playground_model.train_tokenizer(learnt_texts(rows), section.vocab_size, section.architecture)
    return UnloadedPolicy(tokenizer, [tokenizer.eos_token_id], section.max_position_embeddings)


def learnt_texts(rows: Rows) -> Iterator[str]:
    """What a new model's tokenizer is trained on."""
    return (plain_text(row["prompt"]) + plain_text(row["completion"]) for row in rows)
