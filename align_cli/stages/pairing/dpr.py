"""Pairs of source `dpr`: the policy's responses, and perhaps the reference's, paired by a labeler's scores."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers import Scorer
from align_cli.recipe.sections.label import LabelSection
from align_cli.seeds import derive_seed
from align_cli.stages.base import Context, Progress
from align_cli.stages.pairing.pairs import LabelledPairs, ScoredCompletion, by_draw, is_kept, make_pair
from align_cli.stages.pools import needs_others
from align_cli.stages.scores import score_completions


class Dpr:
    """Scores all completions of a round, and pairs those of each prompt."""

    needs: tuple[str, ...] = ()

    def pair(self, completions: Sequence[Completion], context: Context) -> LabelledPairs:
        """The round's pairs."""
        recipe = context.recipe
        source = recipe.method.sources.dpr
        scorer = context.loaded.scorer(source.labeler if source is not None else None)
        assert scorer is not None  # a rule of the recipe's
        with context.work.journal("scores") as journal:
            return label_completions(
                completions,
                scorer,
                recipe.label,
                num_generations=recipe.generate.num_generations,
                num_reference_generations=recipe.generate.num_reference_generations,
                keep_others=needs_others(recipe, "dpr"),
                run_seed=recipe.seed,
                progress=context.progress,
                journal=journal,
            )


def label_completions(
    completions: Sequence[Completion],
    scorer: Scorer,
    section: LabelSection,
    *,
    num_generations: int,
    num_reference_generations: int = 0,
    keep_others: bool,
    run_seed: int,
    progress: Progress,
    journal: Journal | None = None,
) -> LabelledPairs:
    """Score completions and pair those of each prompt: the pairs of source `dpr`.

    Args:
        completions: any order; those of one draw of a prompt in one round belong together.
        scorer: the labeler.
        section: which pairs, which labels, what is dropped.
        num_generations: samples that each draw of a prompt got from the policy.
        num_reference_generations: samples that it got from the reference.
        keep_others: whether a pair keeps the responses that it was chosen from, for the bilevel response term.
        run_seed: the run's seed; random choices derive from (round, prompt).
        progress: told of every scored completion.
        journal: what was scored before an interruption, and where each batch is kept; None keeps none.
    """
    scores = score_completions(completions, scorer, progress, journal, thinking=section.thinking)
    scored = [ScoredCompletion(*both) for both in zip(completions, scores, strict=True)]
    counts: Counter[str] = Counter()
    preferences = []
    for (_, _, lap), group in by_draw(scored, num_generations, num_reference_generations).items():
        first = group[0].completion
        rng = random.Random(derive_seed(run_seed, first.round, "label", first.prompt_index, lap))
        for better, worse in _candidates(group, section.pairs, rng, counts):
            preference = _label(better, worse, section, rng, counts)
            if preference is not None:
                if keep_others and len(group) > 2 and section.pairs != "all":
                    others = [item.completion for item in group if item not in (better, worse)]
                    others = [other for other in others if other.sampled_by == "policy"]
                    preference = replace(
                        preference,
                        other_ids=[other.completion_ids for other in others],
                        other_logps=[math.fsum(other.logps) for other in others],
                    )
                preferences.append(replace(preference, source="dpr", labeler=scorer.name))
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def _candidates(
    group: list[ScoredCompletion], pairs: str, rng: random.Random, counts: Counter[str]
) -> list[tuple[ScoredCompletion, ScoredCompletion]]:
    """The pairs to label, each with the higher score first; of equal scores the earlier sample.

    All pairs of a prompt stand in the order of its samples: where a batch's border cuts a prompt, what is left of it
    must not have been chosen by its scores.
    """
    if len(group) < 2:
        counts["single_completions"] += 1
        return []
    if pairs == "all":
        both = combinations(group, 2)
        return [(later, earlier) if later.score > earlier.score else (earlier, later) for earlier, later in both]
    ranked = sorted(group, key=lambda item: -item.score)
    if pairs == "best_random":
        return [(ranked[0], rng.choice(ranked[1:]))]
    return [(ranked[0], ranked[-1])]


def _label(
    better: ScoredCompletion, worse: ScoredCompletion, section: LabelSection, rng: random.Random, counts: Counter[str]
) -> Preference | None:
    margin = better.score - worse.score
    probability = 1 / (1 + math.exp(-margin / section.temperature))
    is_flipped = section.labels == "sampled" and rng.random() >= probability
    chosen, rejected = (worse, better) if is_flipped and margin else (better, worse)
    label = 0.5 if margin == 0 else probability if section.labels == "soft" else 1.0
    preference = make_pair(chosen, rejected, label)
    if not is_kept(preference, margin == 0, section, counts):
        return None
    if 0 < margin < section.min_margin:
        counts["below_min_margin_dropped"] += 1
        return None
    return preference
