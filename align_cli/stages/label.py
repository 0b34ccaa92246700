"""The label stage: completions in, preferences out. Scoring, pairing and the rules for what is left out.

Every candidate pair ends in exactly one count: no pair disappears without one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion, Preference
from align_cli.artifacts.store import to_json
from align_cli.labelers import Scorer
from align_cli.labelers.dataset import label_pairs
from align_cli.labelers.policy import PolicyLabeler
from align_cli.models.text import completion_token_ids, plain_text, prompt_token_ids
from align_cli.recipe.sections.label import LabelSection
from align_cli.seeds import derive_seed
from align_cli.stages import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LabelledPairs(NamedTuple):
    """What labelling made.

    Args:
        preferences: the pairs.
        counts: what became of the candidates, such as `{"pairs": 500, "ties_dropped": 12}`.
    """

    preferences: list[Preference]
    counts: dict[str, int]


class ScoredCompletion(NamedTuple):
    """A completion with the score that a labeler gave it."""

    completion: Completion
    score: float


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
    scores = score_completions(completions, scorer, progress, journal)
    scored = [ScoredCompletion(*both) for both in zip(completions, scores, strict=True)]
    counts: Counter[str] = Counter()
    preferences = []
    for (_, _, lap), group in _by_draw(scored, num_generations, num_reference_generations).items():
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


def score_completions(
    completions: Sequence[Completion], scorer: Scorer, progress: Progress, journal: Journal | None = None
) -> list[float]:
    """The labeler's score of every completion; those of the journal are not asked for again.

    The labeler sees the same batches whether it was interrupted or not.
    """
    journal = journal or Journal()
    scores = [score for row in journal.rows for score in row["scores"]]
    progress.start(len(completions), "completions")
    progress.advance(len(scores))
    for start in range(len(scores), len(completions), scorer.batch_size):
        batch = completions[start : start + scorer.batch_size]
        found = scorer.score(
            [plain_text(completion.prompt) for completion in batch],
            [plain_text(completion.completion) for completion in batch],
            [completion.prompt_index for completion in batch],
        )
        scores += found
        journal.append([{"scores": found}])
        progress.advance(len(batch))
    return scores


def self_label(completions: Sequence[Completion], labeler: PolicyLabeler, num_generations: int) -> list[Preference]:
    """All pairs of each prompt's completions with the policy's own label: the pairs of source `dpp`.

    None is left out: no score says which to choose, and training sums over both outcomes.
    """
    own = [ScoredCompletion(item, 0.0) for item in completions if item.sampled_by == "policy"]
    groups = _by_draw(own, num_generations).values()
    pairs = [_pair(one, two, 0.5) for group in groups for one, two in combinations(group, 2)]
    labels = labeler.prefer(pairs)
    return [
        replace(pair, label=label, source="dpp", labeler=labeler.name, chosen_score=None, rejected_score=None)
        for pair, label in zip(pairs, labels, strict=True)
    ]


def pair_with_demonstrations(
    completions: Sequence[Completion],
    demonstrations: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    section: LabelSection,
    run_seed: int,
) -> LabelledPairs:
    """Mixed pairs: a demonstration of the prompt is chosen, the policy's response rejected: the pairs of source `dmd`.

    Args:
        completions: any order.
        demonstrations: `prompt` and `completion`; of several to one prompt each completion gets a seeded choice.
        tokenizer: the policy's.
        section: what is dropped.
        run_seed: the run's seed.

    Source: SPIN, arXiv:2401.01335.
    """
    by_prompt: dict[str, list[Any]] = {}
    for row in demonstrations:
        by_prompt.setdefault(to_json(row["prompt"]), []).append(row["completion"])
    counts: Counter[str] = Counter()
    preferences = []
    for completion in (item for item in completions if item.sampled_by == "policy"):
        shown = by_prompt.get(to_json(completion.prompt))
        if shown is None:
            counts["without_demonstration"] += 1
            continue
        place = (completion.round, "demonstration", completion.prompt_index, completion.sample_index)
        text = random.Random(derive_seed(run_seed, *place)).choice(shown)
        pair = _pair(ScoredCompletion(completion, 0.0), ScoredCompletion(completion, 0.0), 1.0)
        pair = replace(
            pair,
            chosen=text,
            chosen_ids=completion_token_ids(tokenizer, completion.prompt, completion.prompt_ids, text),
            chosen_by="dataset",
            chosen_index=None,
            chosen_logp=None,
            chosen_score=None,
            rejected_score=None,
            source="dmd",
        )
        if _is_kept(pair, False, section, counts):
            preferences.append(pair)
    counts["mixed_pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def label_offline_pairs(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, section: LabelSection, labeler: str
) -> LabelledPairs:
    """Offline pairs with their own labels, tokenised by the policy's tokenizer; the same rules leave pairs out.

    Args:
        rows: `prompt`, `chosen`, `rejected`, perhaps `label`.
        tokenizer: the policy's.
        section: the recipe's label section; ties are labels of one half.
        labeler: the labeler's name in the recipe.
    """
    counts: Counter[str] = Counter()
    preferences = []
    for pair in label_pairs(rows, labeler):
        prompt_ids = pair.prompt_ids or prompt_token_ids(tokenizer, pair.prompt)
        tokenised = replace(
            pair,
            prompt_ids=prompt_ids,
            chosen_ids=completion_token_ids(tokenizer, pair.prompt, prompt_ids, pair.chosen),
            rejected_ids=completion_token_ids(tokenizer, pair.prompt, prompt_ids, pair.rejected),
        )
        if _is_kept(tokenised, pair.label == 0.5, section, counts):
            preferences.append(tokenised)
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def _by_draw(
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


def _candidates(
    group: list[ScoredCompletion], pairs: str, rng: random.Random, counts: Counter[str]
) -> list[tuple[ScoredCompletion, ScoredCompletion]]:
    """The pairs to label, each with the higher score first; of equal scores the earlier sample."""
    if len(group) < 2:
        counts["single_completions"] += 1
        return []
    ranked = sorted(group, key=lambda item: -item.score)
    if pairs == "all":
        return list(combinations(ranked, 2))
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
    preference = _pair(chosen, rejected, label)
    if not _is_kept(preference, margin == 0, section, counts):
        return None
    if 0 < margin < section.min_margin:
        counts["below_min_margin_dropped"] += 1
        return None
    return preference


def _pair(chosen: ScoredCompletion, rejected: ScoredCompletion, label: float) -> Preference:
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
    )


def _is_kept(pair: Preference, is_tie: bool, section: LabelSection, counts: Counter[str]) -> bool:
    """Apply the rules for empty texts, equal texts and ties.

    A pair is dropped if any rule that holds says so; it is counted once, under the first rule that decides.
    """
    is_empty = not plain_text(pair.chosen).strip() or not plain_text(pair.rejected).strip()
    rules = (
        (is_empty, "empty_texts", section.empty_texts),
        (pair.chosen_ids == pair.rejected_ids, "equal_texts", section.equal_texts),
        (is_tie, "ties", section.ties),
    )
    holding = [(name, rule) for holds, name, rule in rules if holds]
    dropping = [name for name, rule in holding if rule == "drop"]
    if dropping:
        counts[f"{dropping[0]}_dropped"] += 1
    elif holding:
        counts[f"{holding[0][0]}_kept"] += 1
    return not dropping
