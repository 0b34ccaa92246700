"""What references said of responses in rounds that are over: it is taken from there, and nobody asks for it again.

Each round writes what its reference was asked, and no more. What a later round takes from there depends on finished
rounds alone, never on what a process happens to have in memory: an interrupted run knows what a whole one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import PairLogps
from align_cli.recipe import Recipe
from align_cli.stages.base import Artifact, Context, History


class SaidBefore:
    """What the reference that was asked last said in earlier rounds; each round is read once."""

    def __init__(self) -> None:
        self._reference = ""
        self._rounds: list[int] = []
        self._said: dict[str, float] = {}

    def of(
        self, reference: str, rounds: Sequence[int], read: Callable[[int], Sequence[PairLogps]]
    ) -> Mapping[str, float]:
        """log π_ref of responses by their digests.

        Args:
            reference: its digest.
            rounds: those that are looked at, in their order: what was said first counts.
            read: what a round has written.
        """
        known = len(self._rounds)
        if self._reference != reference or self._rounds != list(rounds[:known]):
            self._reference, self._said, known = reference, {}, 0
        for number in rounds[known:]:
            for pair in read(number):
                if pair.reference == reference:
                    self._said.setdefault(pair.chosen, pair.chosen_logp)
                    self._said.setdefault(pair.rejected, pair.rejected_logp)
        self._rounds = list(rounds)
        return self._said


PRECISION = ("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval")
"""Keys of TrainingArguments that decide in which type a model computes."""


def reference_digest(recipe: Recipe, version: str) -> str:
    """Sixteen hexadecimal digits for a reference and all of a recipe that decides what it says, but for last digits.

    Args:
        recipe: says how its model is run.
        version: of its weights.
    """
    policy = recipe.policy
    quantization = policy.quantization.model_dump(mode="json") if policy.quantization else None
    precision = [recipe.train.training_arguments.get(name) for name in PRECISION]
    parts = [version, policy.dtype, policy.attn_implementation, quantization, recipe.train.kernel, *precision]
    return hashlib.sha256(to_json(parts).encode()).hexdigest()[:16]


def said_before(context: Context, name: str, reference: str, *, itself: bool = False) -> Mapping[str, float]:
    """What the reference of a step's round said in other rounds: log π_ref of responses by their digests.

    Args:
        context: of the step.
        name: of the artifact.
        reference: its digest.
        itself: whether the round's own artifact counts, as where it is done again.
    """
    rounds = rounds_that_asked(context.recipe, context.artifacts, context.round, name, itself=itself)

    def read(number: int) -> Sequence[PairLogps]:
        return context.artifacts.read(Artifact(number, name), PairLogps) or []

    return context.loaded.said_before[name].of(reference, rounds, read) if rounds else {}


def rounds_that_asked(
    recipe: Recipe, history: History, round_number: int, name: str, *, itself: bool = False
) -> list[int]:
    """The rounds before this one that have written what the same reference said.

    Args:
        recipe: says which policy is a round's reference.
        history: of the run.
        round_number: which round.
        name: of the artifact.
        itself: whether the round is one of them.
    """

    def reference(number: int) -> int:
        return history.base(number - 1) if recipe.policy.reference == "previous" else 0

    return [
        number
        for number in range(1, round_number + itself)
        if history.holds(Artifact(number, name)) and reference(number) == reference(round_number)
    ]


def artifacts_that_asked(recipe: Recipe, history: History, round_number: int, name: str) -> list[Artifact]:
    """What they have written."""
    return [Artifact(number, name) for number in rounds_that_asked(recipe, history, round_number, name)]
