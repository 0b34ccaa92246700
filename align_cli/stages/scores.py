"""Scores of completions, batch by batch, each kept as it comes: what the label and the evaluate stage ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion
from align_cli.labelers import Scorer
from align_cli.models.text import plain_text
from align_cli.stages.base import Progress


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


NUM_PROBES = 2
"""Texts that a labeler has to score before anything is made or written."""


def probe(scorer: Scorer | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Let a labeler score a few texts, so that a broken one is known before hours of sampling.

    Raises:
        LabelerError: if it cannot.
    """
    if scorer is not None:
        texts = [plain_text(row["prompt"]) for row in rows[:NUM_PROBES]]
        scorer.score(texts, texts)
