"""Pairs of source `dmd`: a demonstration against the policy's response to its prompt (SPIN, arXiv:2401.01335)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, TemplateArguments, Text
from align_cli.recipe.sections.label import LabelSection
from align_cli.seeds import derive_seed
from align_cli.stages.base import Context
from align_cli.stages.lengths import ReadRow
from align_cli.stages.pairing.pairs import LabelledPairs, ScoredCompletion, is_kept, make_pair


class Dmd:
    """Pairs each of the policy's responses with a demonstration of its prompt."""

    needs: tuple[str, ...] = ()

    def pair(self, completions: Sequence[Completion], context: Context) -> LabelledPairs:
        """The round's pairs."""
        recipe, rows = context.recipe, context.loaded.inputs.demonstrations.rows
        asked = {_key(one.prompt, one.template_arguments) for one in completions}
        shown = rows.where(lambda row: _key(row["prompt"], TemplateArguments.of_row(row)) in asked)
        return pair_with_demonstrations(completions, shown, recipe.label, recipe.seed)


def pair_with_demonstrations(
    completions: Sequence[Completion],
    demonstrations: Iterable[ReadRow],
    section: LabelSection,
    run_seed: int,
) -> LabelledPairs:
    """Mixed pairs: a demonstration of the prompt is chosen, the policy's response rejected: the pairs of source `dmd`.

    Args:
        completions: any order.
        demonstrations: in the policy's tokens; of several to one prompt each completion gets a seeded choice.
        section: what is dropped.
        run_seed: the run's seed.

    Source: SPIN, arXiv:2401.01335.
    """
    by_prompt: dict[str, list[ReadRow]] = {}
    for read in demonstrations:
        by_prompt.setdefault(_key(read.row["prompt"], TemplateArguments.of_row(read.row)), []).append(read)
    counts: Counter[str] = Counter()
    preferences = []
    for completion in (item for item in completions if item.sampled_by == "policy"):
        shown = by_prompt.get(_key(completion.prompt, completion.template_arguments))
        if shown is None:
            counts["without_demonstration"] += 1
            continue
        place = (completion.round, "demonstration", completion.prompt_index, completion.sample_index)
        read = random.Random(derive_seed(run_seed, *place)).choice(shown)
        pair = make_pair(ScoredCompletion(completion, 0.0), ScoredCompletion(completion, 0.0), 1.0)
        pair = replace(
            pair,
            chosen=read.row["completion"],
            chosen_ids=read.answer_ids["completion"],
            chosen_by="dataset",
            chosen_index=None,
            chosen_logp=None,
            chosen_score=None,
            rejected_score=None,
            source="dmd",
        )
        if is_kept(pair, None, section, counts):
            preferences.append(pair)
    counts["mixed_pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def _key(prompt: Text, arguments: TemplateArguments) -> str:
    """What tells prompts apart."""
    return to_json([prompt, *arguments])
