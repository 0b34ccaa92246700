"""The train stage: pairs and a policy in, a better policy out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.records import Preference
from align_cli.errors import DataError
from align_cli.recipe.schema import Recipe, SourceSection
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
        preferences: offline pairs and the round's own, tokenised; each goes to the pool of its source. Offline pairs
            are the pool of `ddp` too, whose labels are the policy's.
        start: where training stands.
        optimizer_state: from a checkpoint; None goes on with the optimizer in memory.

    Raises:
        DataError: if a source with a share has no pairs.
    """
    sources = recipe.method.sources.in_use()
    mixture = Mixture(
        {name: section.mixing for name, section in sources.items()},
        recipe.global_batch_size,
        recipe.seed,
        per_round=[name for name, section in sources.items() if section.policy_responses],
    )
    pools = {
        name: _pool(
            [pair for pair in preferences if pair.source == _pool_of(name)],
            position,
            section,
            needs_others(recipe, name),
        )
        for position, (name, section) in enumerate(sources.items())
    }
    _check_sources(preferences, [_pool_of(name) for name in sources])
    for name, share in mixture.shares.items():
        if not pools[name]:
            raise DataError(
                f"source {name!r} has a share of {share:g} but no pairs",
                where=f"method.sources.{name}",
                hint="label completions with this recipe (pairs of --preferences without a source are offline ones); "
                "or look at the label stage's counts: every pair may have been dropped as a tie or by min_margin"
                if sources[name].policy_responses
                else "set data.preferences to a file with pairs, or give the share to another source",
            )
    _check_others(recipe, preferences)
    batches = mixture.round_batches(pools, start.round + 1, recipe.train.steps_per_round)
    state = trainer.train_round(batches, start, optimizer_state)
    return TrainOutcome(state, trainer.step_records, usage(batches, list(mixture.shares)))


def _check_others(recipe: Recipe, preferences: Sequence[Preference]) -> None:
    """The choice of best and worst of K depended on all K responses, and all of them have to carry the term."""
    sources = recipe.method.sources.in_use()
    unweighable = [pair for pair in preferences if pair.source in ("dpp", "dpr") and pair.chosen_logp is None]
    if recipe.method.importance_weight_cap is not None and unweighable:
        raise DataError(
            f"{len(unweighable)} pairs hold no log-probabilities of their sampling, which importance weights need",
            where="method.importance_weight_cap",
            hint="label completions of `align generate`, or leave the key out",
        )
    if (
        "dpr" not in sources
        or not needs_others(recipe, "dpr")
        or recipe.generate.num_generations == 2
        or recipe.label.pairs == "all"
    ):
        return
    lacking = [pair for pair in preferences if pair.source == "dpr" and pair.other_ids is None]
    if lacking:
        raise DataError(
            f"{len(lacking)} pairs of source dpr were chosen from {recipe.generate.num_generations} responses and hold "
            "none of the others, which the bilevel response term and importance weights need",
            where="method.sources.dpr.gradient",
            hint="label them with this recipe, or set method.sources.dpr.gradient to 0",
        )


def _check_sources(preferences: Sequence[Preference], known: Sequence[str]) -> None:
    strange = [pair.source for pair in preferences if pair.source not in known]
    if strange:
        raise DataError(
            f"{len(strange)} pairs have source {strange[0]!r}, which has no share in the recipe's mixture",
            where="method.sources",
            hint=f"give it a share, or leave these pairs out; pairs of {' and '.join(dict.fromkeys(known))} are used",
        )


def _pool_of(name: str) -> str:
    """The source that is written on a source's pairs: `ddp` takes the offline ones."""
    return "offline" if name == "ddp" else name


def needs_others(recipe: Recipe, name: str) -> bool:
    """Whether a source's pairs need the responses that they were chosen from: for the bilevel term, or for weights."""
    section = recipe.method.sources.in_use()[name]
    weighs = recipe.method.importance_weight_cap is not None
    return section.policy_responses and (getattr(section, "gradient", 0.0) > 0 or weighs)


def _pool(
    preferences: Sequence[Preference], position: int, section: SourceSection, with_others: bool
) -> list[TrainingPair]:
    groups: dict[tuple[int, int | None], int] = {}
    return [
        TrainingPair(
            prompt_ids=pair.prompt_ids or [],
            chosen_ids=pair.chosen_ids or [],
            rejected_ids=pair.rejected_ids or [],
            label=pair.label,
            source=position,
            pair_id=index,
            group_id=groups.setdefault((pair.round, pair.prompt_index), len(groups)),
            other_ids=tuple(pair.other_ids or ()) if with_others else (),
            sampled_logp=_sampled_logp(pair, with_others) if section.policy_responses else 0.0,
        )
        for index, pair in enumerate(preferences)
    ]


def _sampled_logp(pair: Preference, with_others: bool) -> float:
    others = sum(pair.other_logps or ()) if with_others else 0.0
    return (pair.chosen_logp or 0.0) + (pair.rejected_logp or 0.0) + others
