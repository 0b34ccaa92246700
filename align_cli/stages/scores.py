"""Numbers for completions and pairs, each batch kept as it comes: a stage that was killed asks for none twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion, Preference
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
    length: Callable[[ItemType], int] | None = None,
) -> list[float]:
    """A number for each item, batch by batch; those of the journal are not asked for again.

    The batches are the same whether it was interrupted or not.

    Args:
        items: what is measured.
        batch_size: items measured together.
        measure: one finite number for each item of a batch.
        progress: told of every item; the caller has said how many there are.
        journal: what was measured before an interruption, and where each batch is kept.
        length: of an item; those of a length go together, the longest first, so that padding is short and memory runs
            out at once or not at all. None for the order that they come in.
    """
    order = list(range(len(items)))
    if length is not None:
        order.sort(key=lambda index: -length(items[index]))
    values = [value for row in journal.rows for value in row["values"]]
    progress.found(len(values))
    for start in range(len(values), len(items), batch_size):
        found = measure([items[index] for index in order[start : start + batch_size]])
        values += found
        journal.append([{"values": found}])
        progress.advance(len(found))
    return [value for _, value in sorted(zip(order, values, strict=True))]


def score_completions(
    completions: Sequence[Completion],
    scorer: Scorer,
    progress: Progress,
    journal: Journal | None = None,
    *,
    thinking: Literal["keep", "strip"] = "keep",
) -> list[float]:
    """The labeler's score of every completion, with its thinking blocks or without."""

    def score(batch: Sequence[Completion]) -> list[float]:
        said = [one.completion if thinking == "keep" else without_thinking(one.completion) for one in batch]
        return scorer.score([one.prompt for one in batch], said, [one.prompt_index for one in batch])

    progress.start(len(completions), "completions")
    length = num_sequence_tokens if scorer.by_length else None
    return kept_values(completions, scorer.batch_size, score, progress, journal or Journal(), length)


def num_sequence_tokens(completion: Completion) -> int:
    """Of its prompt and itself."""
    return len(completion.prompt_ids) + completion.num_tokens


def num_pair_tokens(pair: Preference) -> int:
    """Of its prompt and the longer of its two responses."""
    return len(pair.prompt_ids or ()) + max(len(pair.chosen_ids or ()), len(pair.rejected_ids or ()))


NUM_PROBES = 2
"""Prompts that a labeler looks at before anything is made or written."""


def check_scorer(scorer: Scorer | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Let a labeler find out what is wrong with it, so that a broken one is known before hours of sampling.

    Raises:
        LabelerError: if it will not work.
    """
    if scorer is not None:
        scorer.check([row["prompt"] for row in rows[:NUM_PROBES]])
