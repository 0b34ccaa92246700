"""Pairs of source `dmd`: a demonstration against the policy's response to its prompt (SPIN, arXiv:2401.01335)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, TemplateArguments, Text
from align_cli.models.text import completion_token_ids
from align_cli.recipe.sections.label import LabelSection
from align_cli.seeds import derive_seed
from align_cli.stages.base import Context
from align_cli.stages.pairing.pairs import LabelledPairs, ScoredCompletion, is_kept, make_pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Dmd:
    """Pairs each of the policy's responses with a demonstration of its prompt."""

    needs: tuple[str, ...] = ("policy",)

    def pair(self, completions: Sequence[Completion], context: Context) -> LabelledPairs:
        """The round's pairs."""
        recipe, loaded = context.recipe, context.loaded
        policy = loaded.policy_after(context.round - 1)
        return pair_with_demonstrations(
            completions,
            loaded.inputs.demonstrations,
            policy.tokenizer,
            recipe.label,
            recipe.seed,
            policy.eos_token_ids,
        )


def pair_with_demonstrations(
    completions: Sequence[Completion],
    demonstrations: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    section: LabelSection,
    run_seed: int,
    stop_ids: Collection[int] = (),
) -> LabelledPairs:
    """Mixed pairs: a demonstration of the prompt is chosen, the policy's response rejected: the pairs of source `dmd`.

    Args:
        completions: any order.
        demonstrations: `prompt` and `completion`; of several to one prompt each completion gets a seeded choice.
        tokenizer: the policy's.
        section: what is dropped.
        run_seed: the run's seed.
        stop_ids: what stops the policy's generation besides the tokenizer's end-of-sequence token.

    Source: SPIN, arXiv:2401.01335.
    """
    by_prompt: dict[str, list[Any]] = {}
    for row in demonstrations:
        by_prompt.setdefault(_key(row["prompt"], TemplateArguments.of_row(row)), []).append(row["completion"])
    counts: Counter[str] = Counter()
    preferences = []
    for completion in (item for item in completions if item.sampled_by == "policy"):
        arguments = completion.template_arguments
        shown = by_prompt.get(_key(completion.prompt, arguments))
        if shown is None:
            counts["without_demonstration"] += 1
            continue
        place = (completion.round, "demonstration", completion.prompt_index, completion.sample_index)
        text = random.Random(derive_seed(run_seed, *place)).choice(shown)
        pair = make_pair(ScoredCompletion(completion, 0.0), ScoredCompletion(completion, 0.0), 1.0)
        pair = replace(
            pair,
            chosen=text,
            chosen_ids=completion_token_ids(
                tokenizer, completion.prompt, completion.prompt_ids, text, stop_ids, arguments
            ),
            chosen_by="dataset",
            chosen_index=None,
            chosen_logp=None,
            chosen_score=None,
            rejected_score=None,
            source="dmd",
        )
        if is_kept(pair, False, section, counts):
            preferences.append(pair)
    counts["mixed_pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def _key(prompt: Text, arguments: TemplateArguments) -> str:
    """What tells prompts apart."""
    return to_json([prompt, *arguments])
