"""Numbers for completions and pairs, each batch kept as it comes: a stage that was killed asks for none twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion
from align_cli.data.thinking import without_thinking
from align_cli.labelers import Scorer
from align_cli.models.text import plain_text
from align_cli.stages.base import Progress

ItemType = TypeVar("ItemType")


def kept_values(
    items: Sequence[ItemType],
    batch_size: int,
    measure: Callable[[Sequence[ItemType]], list[float]],
    progress: Progress,
    journal: Journal,
) -> list[float]:
    """A number for each item, batch by batch; those of the journal are not asked for again.

    The batches are the same whether it was interrupted or not.

    Args:
        items: what is measured.
        batch_size: items measured together.
        measure: one finite number for each item of a batch.
        progress: told of every item; the caller has said how many there are.
        journal: what was measured before an interruption, and where each batch is kept.
    """
    values = [value for row in journal.rows for value in row["values"]]
    progress.found(len(values))
    for start in range(len(values), len(items), batch_size):
        found = measure(items[start : start + batch_size])
        values += found
        journal.append([{"values": found}])
        progress.advance(len(found))
    return values


def score_completions(
    completions: Sequence[Completion],
    scorer: Scorer,
    progress: Progress,
    journal: Journal | None = None,
    *,
    thinking: Literal["keep", "strip"] = "keep",
) -> list[float]:
    """The labeler's score of every completion, with its thinking blocks or without."""

    def response(completion: Completion) -> str:
        text = completion.completion
        return plain_text(text if thinking == "keep" else without_thinking(text))

    def score(batch: Sequence[Completion]) -> list[float]:
        return scorer.score(
            [plain_text(completion.prompt) for completion in batch],
            [response(completion) for completion in batch],
            [completion.prompt_index for completion in batch],
        )

    progress.start(len(completions), "completions")
    return kept_values(completions, scorer.batch_size, score, progress, journal or Journal())


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
