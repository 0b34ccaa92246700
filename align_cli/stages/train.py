"""The train stage: pairs and a policy in, a better policy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.records import Preference
from align_cli.errors import DataError
from align_cli.recipe.schema import Recipe
from align_cli.training.batches import Mixture, TrainingPair, usage
from align_cli.training.checkpoints import TrainingState

if TYPE_CHECKING:
    from align_cli.training.trainer import PreferenceTrainer


class TrainOutcome(NamedTuple):
    """What training made.

    Args:
        state: where training stands now.
        steps: figures of every optimizer step.
        usage: how often pairs were used: `{source: {times: pairs}}`.
    """

    state: TrainingState
    steps: list[dict[str, float]]
    usage: dict[str, dict[str, int]]


def shares(recipe: Recipe) -> dict[str, float]:
    """The mixture's sources with their shares, in the order of the recipe's schema."""
    sources = {"offline": recipe.method.sources.offline, "dpr": recipe.method.sources.dpr}
    return {name: section.mixing for name, section in sources.items() if section is not None}


def train_policy(
    trainer: PreferenceTrainer,
    recipe: Recipe,
    preferences: Sequence[Preference],
    start: TrainingState,
    optimizer_state: dict[str, Any] | None,
) -> TrainOutcome:
    """Train one round in place.

    Args:
        trainer: holds the policy and the reference.
        recipe: the whole recipe.
        preferences: offline pairs and the round's own, tokenised; each goes to the pool of its source.
        start: where training stands.
        optimizer_state: from a checkpoint; None goes on with the optimizer in memory.

    Raises:
        DataError: if a source with a share has no pairs.
    """
    mixture = Mixture(shares(recipe), recipe.global_batch_size, recipe.seed)
    pools = _pools(preferences, list(mixture.shares))
    for name, share in mixture.shares.items():
        if share > 0 and not pools[name]:
            raise DataError(
                f"source {name!r} has a share of {share:g} but no pairs",
                where=f"method.sources.{name}",
                hint="look at the label stage's counts: every pair may have been dropped as a tie or by min_margin"
                if name != "offline"
                else "set data.preferences to a file with pairs, or give the share to another source",
            )
    batches = mixture.round_batches(pools, start.round + 1, recipe.train.steps_per_round)
    state = trainer.train_round(batches, start, optimizer_state)
    return TrainOutcome(state, trainer.step_records, usage(batches, list(mixture.shares)))


def _pools(preferences: Sequence[Preference], names: list[str]) -> Mapping[str, list[TrainingPair]]:
    pools: dict[str, list[TrainingPair]] = {name: [] for name in names}
    for pair in preferences:
        if pair.source not in pools:
            raise DataError(
                f"a pair has source {pair.source!r}, which the recipe's mixture has not",
                hint=f"sources of this recipe: {', '.join(names)}",
            )
        pool = pools[pair.source]
        pool.append(
            TrainingPair(
                pair.prompt_ids or [],
                pair.chosen_ids or [],
                pair.rejected_ids or [],
                pair.label,
                names.index(pair.source),
                len(pool),
            )
        )
    return pools
