"""Pairs of source `dpr`: the policy's responses, and perhaps the reference's, paired by what a labeler says of them.

A labeler's scores order a prompt's responses. Its verdicts do so by the share of its pairs that each wins, for which
all pairs of the prompt are compared; what a pair is labelled with is the verdict on that pair.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers import Labeler
from align_cli.recipe.sections.label import LabelSection
from align_cli.seeds import derive_seed
from align_cli.stages.base import Context
from align_cli.stages.opinions import Asking
from align_cli.stages.pairing.pairs import LabelledPairs, ScoredCompletion, Undecided, by_draw, is_kept, make_pair
from align_cli.stages.pairing.said import AgainstAll, Compared, Said, Scored
from align_cli.stages.pools import needs_others
from align_cli.stages.self_judging import policy_handed_to


class Dpr:
    """Asks a labeler about all completions of a round, and pairs those of each prompt."""

    needs: tuple[str, ...] = ()

    def pair(self, completions: Sequence[Completion], context: Context) -> LabelledPairs:
        """The round's pairs."""
        recipe = context.recipe
        source = recipe.method.sources.dpr
        assert source is not None and source.labeler is not None  # a rule of the recipe's
        labeler = context.loaded.labeler(source.labeler)
        with policy_handed_to(labeler, context):
            return label_completions(
                completions,
                labeler,
                recipe.label,
                num_generations=recipe.generate.num_generations,
                num_reference_generations=recipe.generate.num_reference_generations,
                keep_others=needs_others(recipe, "dpr"),
                run_seed=recipe.seed,
                asking=Asking(context.progress, context.work, recipe.label.thinking),
            )


def label_completions(
    completions: Sequence[Completion],
    labeler: Labeler,
    section: LabelSection,
    *,
    num_generations: int,
    num_reference_generations: int = 0,
    keep_others: bool,
    run_seed: int,
    asking: Asking,
) -> LabelledPairs:
    """Ask a labeler and pair the completions of each prompt: the pairs of source `dpr`.

    Args:
        completions: any order; those of one draw of a prompt in one round belong together.
        labeler: whom to ask.
        section: which pairs, which labels, what is dropped.
        num_generations: samples that each draw of a prompt got from the policy.
        num_reference_generations: samples that it got from the reference.
        keep_others: whether a pair keeps the responses that it was chosen from, for the bilevel response term.
        run_seed: the run's seed; random choices derive from (round, prompt).
        asking: how the labeler is asked.
    """
    draws = by_draw([ScoredCompletion(one, None) for one in completions], num_generations, num_reference_generations)
    groups = [[item.completion for item in draw] for draw in draws.values()]
    said: Said
    if labeler.gives_verdicts:
        said = Compared.ask(groups, labeler, asking)
    else:
        said = Scored.ask(completions, labeler, asking, section.temperature)
    if section.labels == "win_rate":
        said = AgainstAll.of(said, groups)
    counts: Counter[str] = Counter()
    preferences = []
    for (_, _, lap), unscored in draws.items():
        group = [item._replace(score=said.standing(item.completion)) for item in unscored]
        first = group[0].completion
        rng = random.Random(derive_seed(run_seed, first.round, "label", first.prompt_index, lap))
        for one, other in _candidates(group, section.pairs, rng, counts):
            preference = _label(one, other, said, section, rng, counts)
            if preference is not None:
                if keep_others and len(group) > 2 and section.pairs != "all":
                    others = [item.completion for item in group if item not in (one, other)]
                    others = [response for response in others if response.sampled_by == "policy"]
                    preference = replace(
                        preference,
                        other_ids=[response.completion_ids for response in others],
                        other_logps=[math.fsum(response.logps) for response in others],
                    )
                preferences.append(replace(preference, source="dpr", labeler=labeler.name))
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())), said.opinions.figures)


def _candidates(
    group: list[ScoredCompletion], pairs: str, rng: random.Random, counts: Counter[str]
) -> list[tuple[ScoredCompletion, ScoredCompletion]]:
    """The pairs to label.

    All pairs of a prompt stand in the order of its samples: where a batch's border cuts a prompt, what is left of it
    must not have been chosen by its scores. Of equal ones the earlier sample comes first.
    """
    if len(group) < 2:
        counts["single_completions"] += 1
        return []
    if pairs == "all":
        return list(combinations(group, 2))
    ranked = sorted((item for item in group if item.score is not None), key=lambda item: -(item.score or 0.0))
    if len(ranked) < 2:
        return [(group[0], group[1])]
    if pairs == "best_random":
        return [(ranked[0], rng.choice(ranked[1:]))]
    return [(ranked[0], ranked[-1])]


def _label(
    one: ScoredCompletion,
    other: ScoredCompletion,
    said: Said,
    section: LabelSection,
    rng: random.Random,
    counts: Counter[str],
) -> Preference | None:
    found = said.margin(one.completion, other.completion)
    better, worse, margin = (one, other, found or 0.0) if not found or found > 0 else (other, one, -found)
    probability = said.probability(margin)
    is_flipped = section.labels == "sampled" and rng.random() >= probability
    chosen, rejected = (worse, better) if is_flipped and margin else (better, worse)
    label = 0.5 if margin == 0 else probability if section.labels in ("soft", "win_rate") else 1.0
    preference = replace(make_pair(chosen, rejected, label), **said.record(chosen.completion, rejected.completion))
    undecided: Undecided | None = "without_verdict" if found is None else "ties" if margin == 0 else None
    if not is_kept(preference, undecided, section, counts):
        return None
    if 0 < margin < section.min_margin:
        counts["below_min_margin_dropped"] += 1
        return None
    return preference
