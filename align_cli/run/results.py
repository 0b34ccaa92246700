"""What the rounds so far have to show: their evaluations, the best of them, and the figures that guards look at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.artifacts.store import read_record, read_records
from align_cli.recipe import Recipe
from align_cli.run.fingerprints import Fingerprints, changes
from align_cli.run.folder import RunFolder
from align_cli.run.folder.begun import MicroBatch
from align_cli.run.guards import RoundFigures
from align_cli.run.plan import Step
from align_cli.stages.base import CHECKPOINT, EVALUATION, PREFERENCES, SAMPLES, TRAINING, Artifact
from align_cli.stages.health import longer_won


class PairFigures(NamedTuple):
    """What the pairs of a round come to.

    Args:
        reward: the labeler's mean score; None without any.
        longer_won: how often the longer response won, and of how many pairs; None where all are of equal length.
    """

    reward: float | None = None
    longer_won: tuple[float, int] | None = None


class Results:
    """The results of a run, each read once, and verified when it is.

    Args:
        recipe: the whole recipe.
        folder: where they lie.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe = recipe
        self.folder = folder
        self._evaluations: dict[int, Evaluation] = {}
        self._pair_figures: dict[int, PairFigures] = {}

    def evaluation(self, round_number: int) -> Evaluation | None:
        """The evaluation of a round; None where it has none.

        Raises:
            RunError: if it is missing or not what was written.
        """
        artifact = Artifact(round_number, EVALUATION)
        if round_number not in self._evaluations and self.folder.manifests.holds(artifact):
            self._evaluations[round_number] = read_record(self.folder.manifests.verified(artifact), Evaluation)
        return self._evaluations.get(round_number)

    def evaluations(self) -> list[Evaluation]:
        """The evaluations of all rounds that have one."""
        numbers = (number for number in self.folder.manifests.rounds() if number <= self.recipe.rounds)
        return [found for found in map(self.evaluation, numbers) if found is not None]

    def steps(self, round_number: int) -> list[dict[str, float]]:
        """The figures of a round's optimizer steps; none where it has not been trained.

        Raises:
            RunError: if they are not what was written.
        """
        artifact = Artifact(round_number, TRAINING)
        return _read_steps(self.folder.manifests.verified(artifact)) if self.holds(artifact) else []

    def samples(self, round_number: int) -> list[Completion]:
        """A round's held-out responses; none where it has no evaluation.

        Raises:
            RunError: if they are not what was written.
        """
        artifact = Artifact(round_number, SAMPLES)
        return read_records(self.folder.manifests.verified(artifact), Completion) if self.holds(artifact) else []

    def holds(self, artifact: Artifact) -> bool:
        """Whether a finished stage wrote this."""
        return self.folder.manifests.holds(artifact)

    def still_true(self, artifact: Artifact) -> Path | None:
        """The path of a finished artifact that the recipe and its files, as they are now, would make again; or None."""
        fingerprints = Fingerprints(self.recipe, self.folder.manifests)
        for stage, record in self.folder.manifests.of_round(artifact.round)["stages"].items():
            if artifact.name in record["outputs"]:
                found = changes(record["inputs"], fingerprints.of(Step(artifact.round, stage)))
                return None if found else self.folder.manifests.verified(artifact)
        return None

    def base(self, round_number: int) -> int:
        """The round whose policy the one after this round starts from."""
        return self.folder.manifests.base(round_number)

    def is_kept(self, round_number: int) -> bool:
        """Whether a round's policy has a checkpoint, or is the recipe's model as it is."""
        checkpoint = Artifact(round_number, CHECKPOINT)
        return self.folder.manifests.is_kept(checkpoint) or (round_number == 0 and not self.holds(checkpoint))

    def checkpoint(self, round_number: int) -> Path | None:
        """The checkpoint of a round; None where the initial policy is the recipe's model as it is.

        Raises:
            RunError: if it is missing, was let go, or is not what was written.
        """
        checkpoint = Artifact(round_number, CHECKPOINT)
        if round_number == 0 and not self.folder.manifests.holds(checkpoint):
            return None
        return self.folder.manifests.verified(checkpoint)

    def artifact(self, name: str) -> Path | None:
        """What round 0 made besides its policy, by its name, verified; None before it is there."""
        artifact = Artifact(0, name)
        return self.folder.manifests.verified(artifact) if self.holds(artifact) else None

    def has_same_optimizer(self, round_number: int) -> bool:
        """Whether a round, which may be another run's, was trained with the optimizer that the recipe names."""
        before = {}
        for record in self.folder.manifests.of_round(round_number)["stages"].values():
            if CHECKPOINT in record["outputs"]:
                before = record["inputs"]["recipe"].get("train", {})
        return optimizer_name(before) == optimizer_name(self.recipe.train.training_arguments)

    def micro_batches(self) -> dict[int, MicroBatch]:
        """Pairs a forward pass from a round on, by round, where the memory did not hold the recipe's."""
        return self.folder.begun.micro_batches()

    def remember_micro_batch(self, round_number: int, micro_batch: MicroBatch) -> None:
        """Keep that for the processes that come after this one."""
        self.folder.begun.remember_micro_batch(round_number, micro_batch)

    def best_round(self) -> int | None:
        """The finished round whose policy wins most often against the initial one; None where that is not measured.

        The initial policy wins half of the time. Rounds that a guard rolled back are out, and those whose policy is
        not kept.
        """
        rates = {
            item.round: float(item.against["initial"]["win_rate"]) if item.round else 0.5
            for item in self.evaluations()
            if (item.round == 0 or "initial" in item.against) and self._has_policy(item.round)
        }
        return max(rates, key=lambda number: rates[number]) if rates else None

    def guard_figures(self, round_number: int) -> RoundFigures:
        """What guards look at when a round is over; the manifest takes its last results in when they have looked."""
        manifests, now = self.folder.manifests, Artifact(round_number, EVALUATION)
        standing = [item for item in self.evaluations() if manifests.base(item.round) == item.round]
        if not manifests.holds(now) and manifests.place(now).is_file():
            standing.append(read_record(manifests.place(now), Evaluation))
        training = Artifact(round_number, TRAINING)
        steps = self.steps(round_number) if manifests.holds(training) else _read_steps(manifests.place(training))
        rewards = {one: self._of_pairs(one).reward for one in self.rewarded_rounds([item.round for item in standing])}
        known = {one: reward for one, reward in rewards.items() if reward is not None}
        longer = [self._of_pairs(one).longer_won for one in self.labelled_rounds(round_number)]
        return RoundFigures(standing, steps, known, *longer)

    def labelled_rounds(self, round_number: int) -> list[int]:
        """The rounds whose labels a guard looks at when this one is over: it, and the first."""
        return [] if self.recipe.guards.labels is None else [round_number, 1]

    def rewarded_rounds(self, standing: Sequence[int]) -> Sequence[int]:
        """The rounds whose pairs' scores a guard looks at, of those that will have evaluations when it looks."""
        guard, recipe = self.recipe.guards.reward_gap, self.recipe
        if guard is None or "dpr" not in recipe.method.sources.in_use() or recipe.evaluate.scorer is None:
            return []
        assert recipe.method.sources.dpr is not None and recipe.method.sources.dpr.labeler is not None
        if any(
            recipe.labelers[name].is_relative for name in (recipe.method.sources.dpr.labeler, recipe.evaluate.scorer)
        ):
            return []
        return standing[-guard.rounds - 1 :]

    def _has_policy(self, round_number: int) -> bool:
        """Whether a round's policy is its own and can be gone back to."""
        return self.is_kept(round_number) and self.base(round_number) == round_number

    def _of_pairs(self, round_number: int) -> PairFigures:
        """What a labeler's pairs of a round come to, read once; nothing of a round that has none."""
        pairs = Artifact(round_number, PREFERENCES)
        if round_number not in self._pair_figures and self.folder.manifests.holds(pairs):
            read = read_records(self.folder.manifests.verified(pairs), Preference)
            scores = [score for pair in read for score in (pair.chosen_score, pair.rejected_score) if score is not None]
            reward = math.fsum(scores) / len(scores) if scores else None
            self._pair_figures[round_number] = PairFigures(
                reward, longer_won([pair for pair in read if pair.source == "dpr"])
            )
        return self._pair_figures.get(round_number, PairFigures())


def _read_steps(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def optimizer_name(train: Mapping[str, Any]) -> str:
    """The optimizer of a `train` section; the fused and the plain kernel of one are the same optimizer."""
    return str(train.get("optim") or "adamw_torch").removesuffix("_fused")
