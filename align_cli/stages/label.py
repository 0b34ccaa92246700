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

from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers import Scorer
from align_cli.labelers.dataset import label_pairs
from align_cli.labelers.policy import PolicyLabeler
from align_cli.models.text import completion_token_ids, plain_text, prompt_token_ids
from align_cli.recipe.schema import LabelSection
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
    keep_others: bool,
    run_seed: int,
    progress: Progress,
) -> LabelledPairs:
    """Score completions and pair those of each prompt: the pairs of source `dpr`.

    Args:
        completions: any order; those of one draw of a prompt in one round belong together.
        scorer: the labeler.
        section: which pairs, which labels, what is dropped.
        num_generations: samples that each draw of a prompt got.
        keep_others: whether a pair keeps the responses that it was chosen from, for the bilevel response term.
        run_seed: the run's seed; random choices derive from (round, prompt).
        progress: told of every scored completion.
    """
    scored = _score(completions, scorer, progress)
    counts: Counter[str] = Counter()
    preferences = []
    for group in _by_draw(scored, num_generations):
        first = group[0].completion
        lap = first.sample_index // num_generations
        rng = random.Random(derive_seed(run_seed, first.round, "label", first.prompt_index, lap))
        for better, worse in _candidates(group, section.pairs, rng, counts):
            preference = _label(better, worse, section, rng, counts)
            if preference is not None:
                others = [item.completion for item in group if item not in (better, worse)]
                if keep_others and others and section.pairs != "all":
                    preference = replace(
                        preference,
                        other_ids=[other.completion_ids for other in others],
                        other_logps=[math.fsum(other.logps) for other in others],
                    )
                preferences.append(replace(preference, source="dpr", labeler=scorer.name))
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def self_label(completions: Sequence[Completion], labeler: PolicyLabeler, num_generations: int) -> list[Preference]:
    """All pairs of each prompt's completions with the policy's own label: the pairs of source `dpp`.

    None is left out: no score says which to choose, and training sums over both outcomes.
    """
    groups = _by_draw([ScoredCompletion(completion, 0.0) for completion in completions], num_generations)
    pairs = [_pair(one, two, 0.5) for group in groups for one, two in combinations(group, 2)]
    labels = labeler.prefer(pairs)
    return [
        replace(pair, label=label, source="dpp", labeler=labeler.name, chosen_score=None, rejected_score=None)
        for pair, label in zip(pairs, labels, strict=True)
    ]


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


def _score(completions: Sequence[Completion], scorer: Scorer, progress: Progress) -> list[ScoredCompletion]:
    progress.start(len(completions), "completions")
    scores = scorer.score(
        [plain_text(completion.prompt) for completion in completions],
        [plain_text(completion.completion) for completion in completions],
        [completion.prompt_index for completion in completions],
    )
    progress.advance(len(completions))
    return [ScoredCompletion(*both) for both in zip(completions, scores, strict=True)]


def _by_draw(scored: Iterable[ScoredCompletion], num_generations: int) -> Iterable[list[ScoredCompletion]]:
    """A prompt that was drawn twice in a round is two draws of K samples each, not one of 2K."""
    groups: dict[tuple[int, int, int], list[ScoredCompletion]] = {}
    for item in scored:
        lap = item.completion.sample_index // num_generations
        groups.setdefault((item.completion.round, item.completion.prompt_index, lap), []).append(item)
    for group in groups.values():
        yield sorted(group, key=lambda item: item.completion.sample_index)


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
        policy=chosen.completion.policy,
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
