"""Numbers for completions and pairs, each batch kept as it comes: a stage that was killed asks for none twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion
from align_cli.data.thinking import without_thinking
from align_cli.labelers import Scorer
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

    def score(batch: Sequence[int]) -> list[float]:
        asked = [completions[index] for index in batch]
        said = [one.completion if thinking == "keep" else without_thinking(one.completion) for one in asked]
        return scorer.score([one.prompt for one in asked], said, [one.prompt_index for one in asked])

    order = list(range(len(completions)))
    if scorer.by_length:
        order.sort(key=lambda index: -len(completions[index].prompt_ids) - completions[index].num_tokens)
    progress.start(len(completions), "completions")
    scores = kept_values(order, scorer.batch_size, score, progress, journal or Journal())
    by_index = dict(zip(order, scores, strict=True))
    return [by_index[index] for index in range(len(completions))]


NUM_PROBES = 2
"""Prompts that a labeler looks at before anything is made or written."""


def check_scorer(scorer: Scorer | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Let a labeler find out what is wrong with it, so that a broken one is known before hours of sampling.

    Raises:
        LabelerError: if it will not work.
    """
    if scorer is not None:
        scorer.check([row["prompt"] for row in rows[:NUM_PROBES]])
