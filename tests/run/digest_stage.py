"""A stage that only tests define: after the label stage it writes down how long each pair's responses are.

Loaded into a process by `forked.run_align(..., stages=True)`; nothing in `run/` knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from align_cli import stages
from align_cli.artifacts.records import Preference, Record
from align_cli.recipe import Recipe
from align_cli.stages.base import POLICY_KEYS, PREFERENCES, Artifact, Context, Done, History, Stage

DIGEST = "digest.jsonl"


@dataclass(frozen=True)
class Lengths(Record):
    """What the stage writes of a pair."""

    chosen: int
    rejected: int


class Digest(Stage):
    """Reads a round's preferences, pair by pair, and keeps what it has done so far."""

    name = "digest"
    writes = (DIGEST,)

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return round_number > 0 and recipe.is_online

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return (*POLICY_KEYS, "guards.kl")

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        return [Artifact(round_number, PREFERENCES)]

    def needs(self, recipe: Recipe) -> tuple[str, ...]:
        return ()

    def carry_out(self, context: Context) -> Done:
        pairs = context.artifacts.read(Artifact(context.round, PREFERENCES), Preference) or []
        with context.work.journal("lengths") as journal:
            context.progress.start(len(pairs), "pairs")
            for pair in pairs[len(journal.rows) :]:
                journal.append([{"chosen": len(pair.chosen_ids or []), "rejected": len(pair.rejected_ids or [])}])
                context.progress.advance()
            context.artifacts.write(DIGEST, [Lengths(**row) for row in journal.rows])
        return Done({"pairs": len(pairs)})


def put_in() -> None:
    """Let the stage stand after the label stage, in this process."""
    after = next(index for index, stage in enumerate(stages.STAGES) if stage.name == "label")
    if all(stage.name != Digest.name for stage in stages.STAGES):
        stages.STAGES.insert(after + 1, Digest())
