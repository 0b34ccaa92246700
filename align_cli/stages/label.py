"""The label stage: completions in, preferences out. How each source pairs them is in `pairing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import comb
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Completion, Preference
from align_cli.errors import all_at_once
from align_cli.recipe import Recipe
from align_cli.recipe.sections.sources import DprSourceSection, num_pairs
from align_cli.stages.base import (
    COMPLETIONS,
    POLICY_KEYS,
    PREFERENCES,
    READING_KEYS,
    Amounts,
    Artifact,
    Context,
    Done,
    History,
    Loaded,
    NoProgress,
    Stage,
    labeler_artifacts,
    labeler_keys,
    policy_artifact,
    questions_for,
)
from align_cli.stages.generate import num_responses, rounds_behind
from align_cli.stages.health import label_health, scorers_agreement
from align_cli.stages.opinions import Asking, check_labelers
from align_cli.stages.pairing.pairs import LabelledPairs, Pairing, none_is_left
from align_cli.stages.readable import RowsToRead
from align_cli.stages.self_judging import check_question, self_judges

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs


class Label(Stage):
    """Pairs a round's completions, each source in its way."""

    name = "label"
    writes = (PREFERENCES,)
    memory_remedy = "lower the labeler's batch_size, and generate.batch_size where the policy labels itself"

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return round_number > 0 and recipe.is_online

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        labelers = labeler_keys(recipe, _reward_labelers(recipe))
        shown = ("data.demonstrations", "generate.max_new_tokens")  # for which a demonstration's prompt leaves room
        return (*POLICY_KEYS, *READING_KEYS, *shown, "label", "method.beta", "method.sources", *labelers)

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        labelers = labeler_artifacts(recipe, _reward_labelers(recipe))
        return [
            policy_artifact(history, history.base(round_number - 1)),
            Artifact(round_number, COMPLETIONS),
            *labelers,
        ]

    def needs(self, recipe: Recipe) -> tuple[str, ...]:
        needs = [need for pairing in _pairings(recipe).values() for need in pairing.needs]
        asks_policy = bool(self_judges(recipe, _reward_labelers(recipe)))
        return tuple(dict.fromkeys([*needs, *["policy"] * asks_policy]))

    def check(self, recipe: Recipe, loaded: Loaded) -> None:
        all_at_once(
            lambda: check_labelers(map(loaded.labeler, _reward_labelers(recipe)), loaded.inputs.prompts),
            *(partial(check_question, recipe, name, loaded) for name in self_judges(recipe, _reward_labelers(recipe))),
            lambda: loaded.inputs.demonstration_rows,
        )

    def to_read(self, recipe: Recipe, inputs: Inputs) -> list[RowsToRead]:
        return [RowsToRead("data.demonstrations", inputs.demonstration_rows, lambda: inputs.demonstrations.counts)]

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        responses = num_responses(recipe)
        return Amounts(
            responses=responses,
            pairs=sum(num_pairs(recipe, name) for name in recipe.method.sources.in_use()),
            questions=label_questions(recipe, responses),
        )

    def carry_out(self, context: Context) -> Done:
        completions = context.artifacts.read(Artifact(context.round, COMPLETIONS), Completion) or []
        preferences: list[Preference] = []
        counts: Counter[str] = Counter()
        labelled_by_dpr: Mapping[str, int] = {}
        labelers: dict[str, Any] = {}
        behind = rounds_behind(context.recipe, context.artifacts, context.round)
        for name, pairing in _pairings(context.recipe).items():
            labelled = pairing.pair(completions, context)
            _check_some_are_left(name, labelled, context)
            preferences += [replace(pair, rounds_behind=behind or None) for pair in labelled.preferences]
            counts.update(labelled.counts)
            if name == "dpr":
                labelled_by_dpr = labelled.counts
            labelers.update(labelled.labelers)
        context.artifacts.write(PREFERENCES, preferences)
        health = _health(context, completions, preferences, labelled_by_dpr)
        told = {"rounds_behind": behind, "labelers": labelers, "health": health}
        return Done({**dict(sorted(counts.items())), **{name: figures for name, figures in told.items() if figures}})


def _pairings(recipe: Recipe) -> dict[str, Pairing]:
    """How each source in use makes its pairs; what a labeler scores comes first, where most can go wrong."""
    sources = sorted(
        recipe.method.sources.in_use().items(), key=lambda named: getattr(named[1], "labeler", None) is None
    )
    return {name: resolve_name(source.pairing)() for name, source in sources if source.pairing is not None}


def _check_some_are_left(name: str, labelled: LabelledPairs, context: Context) -> None:
    """Whether a source has pairs to train on; the pairs of earlier rounds may do where they are replayed.

    Raises:
        DataError: if it has none.
    """
    if labelled.preferences:
        return
    recipe, key = context.recipe, f"method.sources.{name}"
    share = recipe.method.sources.in_use()[name].mixing
    hint = "look at the round's completions: they may all be alike, or the labeler may not tell them apart"
    error = none_is_left(labelled.counts, key, hint, f"source {name!r} has a share of {share:g}, and ")
    if not (recipe.train.replay_rounds and context.round > 1):
        raise error
    context.note(f"warning: round {context.round} label: {error.faults[0].what}; only replayed pairs are left for it")


def _health(
    context: Context, completions: Sequence[Completion], preferences: Sequence[Preference], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What the labels that a labeler of the recipe's gave look like; a scorer that scores is asked for its word too."""
    recipe, pairs = context.recipe, [pair for pair in preferences if pair.source == "dpr"]
    if not pairs:
        return {}
    health = label_health(pairs, counts)
    asking = Asking(NoProgress(), context.work, recipe.label.thinking)  # who watches, watches what is labelled
    for name in _reward_labelers(recipe):
        context.loaded.labeler(name).release()  # its weights are not needed beside those of a scorer
    for name in _scorers_to_compare(recipe):
        found = scorers_agreement(pairs, completions, context.loaded.labeler(name), asking, recipe.label.compared_pairs)
        if found:
            health.setdefault("agreement", {})[f"labels and {name}"] = found
    return health


def _scorers_to_compare(recipe: Recipe) -> list[str]:
    """Those that cost little to ask, and that are not the training labeler."""
    names = [name for name in recipe.evaluate.all_scorers if name not in _reward_labelers(recipe)]
    return [name for name in names if _gives_scores_for_nothing(recipe, name)] if recipe.label.compared_pairs else []


def _gives_scores_for_nothing(recipe: Recipe, name: str) -> bool:
    labeler = recipe.labelers[name]
    return labeler.gives == "scores" and not any(recipe.labelers[one].COSTS for one in (name, *labeler.asks()))


def label_questions(recipe: Recipe, num_responses: int) -> dict[str, int]:
    """How many questions labelers are asked of a round's responses, by name."""
    together = recipe.generate.num_generations + recipe.generate.num_reference_generations
    compared = num_responses // together * comb(together, 2)
    asked = (questions_for(recipe, name, num_responses, compared) for name in _reward_labelers(recipe))
    return {name: count for questions in asked for name, count in questions.items()}


def _reward_labelers(recipe: Recipe) -> list[str]:
    source = recipe.method.sources.in_use().get("dpr")
    return [source.labeler] if isinstance(source, DprSourceSection) and source.labeler else []
