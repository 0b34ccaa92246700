"""One step of a run: its surroundings in the run's folder, the stage at work, and its results taken into the manifest.

Every step reads its artifacts from the folder, also those that were written a moment ago, so a run that was interrupted
and one that was not do the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from align_cli import stages
from align_cli.artifacts.files import write_text
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Evaluation, Record
from align_cli.artifacts.store import read_records, write_json
from align_cli.labelers.person import PairsWaitError
from align_cli.models.memory import PeakMemory, give_back_freed, telling_out_of_memory
from align_cli.recipe import Recipe
from align_cli.run.at_work import AtWork, ToldProgress
from align_cli.run.fingerprints import Fingerprints
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import RECIPE
from align_cli.run.guards import Finding, decided, findings
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step, is_last_of_round
from align_cli.run.results import Results
from align_cli.run.threads import choose_num_threads, computing_with
from align_cli.run.tidy import let_go
from align_cli.run.tracked import TrackedRounds
from align_cli.stages.base import COMPLETIONS, EVALUATION, Artifact, Context, NoProgress, NoWork, Progress, RecordType


class StepArtifacts:
    """The run's folder, as a step sees it.

    Args:
        folder: the folder.
        recipe: says which rounds end with a checkpoint.
        round_number: the step's round.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, round_number: int) -> None:
        self._manifests = folder.manifests
        self._recipe = recipe
        self._round = round_number
        self.written: list[str] = []

    def holds(self, artifact: Artifact) -> bool:
        """Whether a finished stage wrote this."""
        return self._manifests.holds(artifact)

    def base(self, round_number: int) -> int:
        """The round whose policy the next one starts from."""
        return self._manifests.base(round_number)

    def read(self, artifact: Artifact, kind: type[RecordType]) -> list[RecordType]:
        """The records of an artifact, verified."""
        return read_records(self._manifests.verified(artifact), kind)

    def write(self, name: str, rows: Sequence[Record] | Sequence[dict[str, float]]) -> None:
        """JSON Lines of the step's round."""
        trees = (row.to_dict() if isinstance(row, Record) else row for row in rows)
        write_text(self.place(name), "".join(to_json(tree) + "\n" for tree in trees))

    def write_document(self, name: str, record: Record) -> None:
        """A record that is a document of its own."""
        write_json(self.place(name), record.to_dict())

    def is_same(self, name: str, rows: Sequence[dict[str, float]]) -> bool:
        """Whether the JSON Lines of the step's round are these."""
        text = "".join(to_json(row) + "\n" for row in rows)
        return self._manifests.verified(Artifact(self._round, name)).read_text(encoding="utf-8") == text

    @property
    def keeps_policy(self) -> bool:
        """Whether the step's round ends with a checkpoint: every so many rounds, and at the run's end."""
        return self._round % self._recipe.checkpoints.every_rounds == 0 or self._round == self._recipe.rounds

    def place(self, name: str) -> Path:
        """Where something of the step's round goes."""
        if name not in self.written:
            self.written.append(name)
        return self._manifests.place(Artifact(self._round, name))


@dataclass
class StepRunner:
    """Carries out steps in a run's folder, which the caller has locked.

    Args:
        recipe: what to do.
        folder: where artifacts lie.
        loaded: what stays in memory from step to step.
        results: what the rounds so far have to show.
        tracked: tells trackers of it; None for none.
        beside: how far a step is that is at work at the same time, in another process.
        is_beside: whether this is that process: what the run lets go is the other one's business.
    """

    recipe: Recipe
    folder: RunFolder
    loaded: Loaded
    results: Results
    tracked: TrackedRounds | None = None
    beside: Callable[[], AtWork | None] = lambda: None
    is_beside: bool = False

    def __post_init__(self) -> None:
        self._fingerprints = Fingerprints(self.recipe, self.folder.manifests)
        self._progress: Progress = NoProgress()
        self.loaded.replay = self.replay

    def carry_out(self, step: Step, progress: Progress) -> Evaluation | None:
        """Do one step, take its artifacts into the manifest, and log it.

        Returns:
            The round's evaluation, if the step made one.
        """
        folder, stage = self.folder, stages.stage_named(step.stage)
        inputs = self._fingerprints.of(step)
        work, artifacts = folder.work(step, inputs), StepArtifacts(folder, self.recipe, step.round)
        at = {"round": step.round, "stage": step.stage, **({"beside": True} if self.is_beside else {})}
        folder.ledger.log("start", **at)
        told = ToldProgress(step, progress, folder.lock.tell, beside=self.beside)
        begin, peak = monotonic(), PeakMemory()
        self._progress = told
        context = Context(
            self.recipe.of_round(step.round), step.round, artifacts, self.loaded, work, told, self.loaded.note
        )
        if self.tracked is not None:
            self.tracked.catch_up()
            context.on_record = self.tracked.of_round(step.round)
        telling = telling_out_of_memory(str(step), stage.memory_remedy)
        try:
            with told, self._as_settled(step.round), telling, self._telling_how_to_label(step):
                done = stage.carry_out(context)
        finally:
            self.loaded.release_engine()
        found = self._findings(step)
        rolled_back_to = self.results.best_round() if decided(found) == "rollback" else None
        done = done if rolled_back_to is None else done._replace(continues_from=rolled_back_to)
        names = [name for name in stage.writes if name in artifacts.written]
        folder.manifests.finish(step, inputs, names, done, [finding.to_dict() for finding in found])
        if not self.is_beside:
            let_go(self.results, folder, step)
        work.remove()
        self.loaded.release_labelers()
        give_back_freed()
        spent = {"seconds": round(monotonic() - begin, 3), **peak.figures()}
        too_long = stage.too_long(self.recipe, self.loaded.inputs)
        figures = {**done.figures, "too_long": too_long} if too_long else done.figures
        folder.ledger.log("finish", **at, **spent, figures=figures)
        if self.tracked is not None:
            self.tracked.catch_up()
        for finding in found:
            self.loaded.note(f"guard {finding.guard}, round {step.round}: {finding.message}")
        if rolled_back_to is not None:
            self.loaded.note(
                f"round {step.round}: rolled back; what comes next goes on from the policy of round {rolled_back_to}"
            )
            self.loaded.roll_back(rolled_back_to)
        return self.results.evaluation(step.round) if EVALUATION in names else None

    def replay(self, round_number: int) -> None:
        """Make again what a finished round left in memory alone, within the step that needs it."""
        artifacts = StepArtifacts(self.folder, self.recipe, round_number)
        surroundings = (artifacts, self.loaded, NoWork(), self._progress, self.loaded.note)
        for name, record in self.folder.manifests.of_round(round_number)["stages"].items():
            recipe = self.recipe.model_copy(update={"rounds": record.get("planned_rounds", self.recipe.rounds)})
            with self._as_settled(round_number):
                stages.stage_named(name).replay(Context(recipe.of_round(round_number), round_number, *surroundings))

    def _as_settled(self, round_number: int) -> AbstractContextManager[None]:
        """With as many threads as the run computes a round with."""
        return computing_with(self.folder.begun.num_threads(round_number) or choose_num_threads(self.recipe))

    @contextmanager
    def _telling_how_to_label(self, step: Step) -> Iterator[None]:
        """Where pairs wait for a person, the run's own recipe and completions are what they are labelled with."""
        try:
            yield
        except PairsWaitError as waiting:
            layout = self.folder.layout
            recipe, completions = layout.file(RECIPE), layout.artifact(step.round, COMPLETIONS)
            command = shlex.join(["align", "label", str(recipe), "--labeler", waiting.labeler, "-i", str(completions)])
            hint = f"label them by `{command}`; then run `align train` again, which goes on from there"
            raise waiting.with_hint(hint) from None

    def _findings(self, step: Step) -> list[Finding]:
        """What the guards say of a round that is over."""
        if step.round == 0 or not is_last_of_round(self.recipe, step):
            return []
        figures = self.results.guard_figures(step.round)
        return findings(self.recipe.guards, figures, self.recipe.method.of_round(step.round))
