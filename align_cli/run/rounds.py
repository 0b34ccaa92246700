"""All rounds of a run: take up the plan after the last finished step, and carry out the rest.

The policy stays in memory from round to round. Every step reads its artifacts from the run's folder, also those that
were written a moment ago, so a run that was interrupted and one that was not do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.artifacts.store import read_json, read_records, to_json, write_json, write_records, write_text
from align_cli.errors import RunError
from align_cli.models.load import Policy, load_policy
from align_cli.recipe import Recipe, dump
from align_cli.run.fingerprints import changes, step_inputs
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, plan_steps
from align_cli.run.session import Session
from align_cli.stages import Progress
from align_cli.stages.sft import load_recipe_policy, make_initial_policy, makes_policy
from align_cli.training.checkpoints import TrainingState, read_optimizer_state, read_training_state, save_checkpoint

ARTIFACTS = {
    "sft": ["checkpoint", "training.jsonl"],
    "generate": ["completions.jsonl"],
    "label": ["preferences.jsonl"],
    "train": ["checkpoint", "training.jsonl"],
    "evaluate": ["samples.jsonl", "evaluation.json"],
}
"""What each stage leaves in its round's folder."""


class Reporter(Protocol):
    """Told what a run does; shows it, or does not."""

    def stage(self, round_number: int, stage: str) -> AbstractContextManager[Progress]:
        """A stage begins; the context ends with it."""
        ...

    def note(self, text: str) -> None:
        """One line for the user."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None:
        """A round's evaluation is there, new or from before."""
        ...


def align_rounds(recipe: Recipe, reporter: Reporter, *, restart: bool = False) -> list[Evaluation]:
    """Run every step of a recipe that is not finished yet.

    Args:
        recipe: what to do; `rounds` may be higher than when the run was begun.
        reporter: shown what happens.
        restart: remove a run that is there, and begin anew.

    Returns:
        The evaluations of all rounds, by round.

    Raises:
        AlignError: for faults of the user's; nothing on disk has changed where it was raised before the first step.
    """
    folder = RunFolder(recipe.output_dir)
    folder.check_usable()
    steps = plan_steps(recipe)
    if not restart:
        remaining = steps[len(finished_steps(folder, recipe, steps)) :]
        if not remaining:
            reporter.note(f"{folder.path} is finished: {_counted(recipe.rounds)}; raise rounds= to go on")
            return _show_evaluations(folder, recipe, reporter)
    session = Session(recipe)
    session.check_inputs()
    for shortage in session.shortages():
        reporter.note(f"note: {shortage}")
    with folder.locked():
        if restart:
            folder.set_aside()
        try:
            remaining = steps[len(finished_steps(folder, recipe, steps)) :]
            _announce(folder, steps, remaining, reporter)
            folder.begin(dump(recipe), recipe.seed)
            _show_evaluations(folder, recipe, reporter)
            rounds = Rounds(recipe, folder, session)
            for step in remaining:
                with reporter.stage(step.round, step.stage) as progress:
                    session.progress = progress
                    rounds.carry_out(step)
                folder.drop_set_aside()
                if step.stage == "evaluate":
                    reporter.evaluated(read_evaluation(folder, step.round))
        except Exception:
            folder.bring_back()
            raise
    return evaluations(folder, recipe)


def finished_steps(folder: RunFolder, recipe: Recipe, steps: Sequence[Step]) -> list[Step]:
    """The steps at the plan's beginning that are finished and made from what the recipe says now.

    Raises:
        RunError: if a finished step was made from something else; names every key that changed.
    """
    finished: list[Step] = []
    for step in steps:
        record = folder.finished(step)
        if record is None:
            break
        found = changes(record["inputs"], step_inputs(recipe, step, upstream(folder, recipe, step)))
        if found:
            raise RunError(
                f"this folder holds another run: since {step} was finished, " + "; ".join(found),
                where=str(folder.path),
                hint="choose another output_dir for the new settings, put the old ones back (only rounds may be "
                "raised), or begin anew with --restart",
            )
        finished.append(step)
    return finished


def upstream(folder: RunFolder, recipe: Recipe, step: Step) -> dict[str, str]:
    """Checksums of the artifacts that a step reads, as the manifests have them."""
    before, now = step.round - 1, step.round
    read: list[tuple[int, str]] = {
        "sft": [],
        "generate": [(before, "checkpoint")],
        "label": [(before, "checkpoint"), (now, "completions.jsonl")],
        "train": [
            (before, "checkpoint"),
            *((number, "preferences.jsonl") for number in _pair_rounds(recipe, now)),
        ],
        "evaluate": [
            (now, "checkpoint"),
            *((number, "samples.jsonl") for number in opponent_rounds(recipe, now).values()),
        ],
    }[step.stage]
    checksums = {f"rounds/{number:03d}/{name}": folder.recorded_checksum(number, name) for number, name in read}
    return {name: checksum for name, checksum in checksums.items() if checksum is not None}


def read_evaluation(folder: RunFolder, round_number: int) -> Evaluation:
    """The evaluation of a finished round.

    Raises:
        RunError: if it is missing or not what was written.
    """
    return Evaluation.from_dict(read_json(folder.verified(round_number, "evaluation.json")))


def evaluations(folder: RunFolder, recipe: Recipe) -> list[Evaluation]:
    """The evaluations of all rounds that have one."""
    return [
        read_evaluation(folder, number)
        for number in range(recipe.rounds + 1)
        if folder.finished(Step(number, "evaluate")) is not None
    ]


class Rounds:
    """Carries out steps in the run's folder, and keeps policy, reference and optimizer in memory between them.

    Args:
        recipe: what to do.
        folder: where artifacts lie; locked by the caller.
        session: does the stages.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, session: Session) -> None:
        self.recipe = recipe
        self.folder = folder
        self.session = session
        self._policy: Policy | None = None
        self._policy_round = -1
        self._reference: Policy | None = None
        self._reference_round = -1
        self._state = TrainingState(round=0, global_step=0, parent=None)
        self._optimizer_round = -1

    def carry_out(self, step: Step) -> None:
        """Do one step, take its artifacts into the manifest, and log it."""
        folder = self.folder
        inputs = step_inputs(self.recipe, step, upstream(folder, self.recipe, step))
        folder.log("start", round=step.round, stage=step.stage)
        begin = monotonic()
        figures = getattr(self, f"_{step.stage}")(step.round)
        folder.finish(step, inputs, ARTIFACTS[step.stage])
        seconds = round(monotonic() - begin, 3)
        folder.log("finish", round=step.round, stage=step.stage, seconds=seconds, figures=figures)

    def _sft(self, _: int) -> dict[str, Any]:
        policy, losses = make_initial_policy(self.recipe, self.session.progress)
        policy.version = save_checkpoint(self.folder.artifact(0, "checkpoint"), policy, self._state, None)
        _write_steps(
            self.folder.artifact(0, "training.jsonl"),
            [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)],
        )
        self._policy, self._policy_round = policy, 0
        return {"steps": len(losses), "final_loss": losses[-1] if losses else None}

    def _generate(self, number: int) -> dict[str, Any]:
        completions = self.session.generate(self.policy_after(number - 1), number)
        write_records(self.folder.artifact(number, "completions.jsonl"), completions)
        return {"completions": len(completions), "tokens": sum(item.num_tokens for item in completions)}

    def _label(self, number: int) -> dict[str, Any]:
        completions = read_records(self.folder.verified(number, "completions.jsonl"), Completion)
        policy, reference = None, None
        if self.session.labels_itself:
            policy, reference = self.policy_after(number - 1), self.reference_for(number)
        labelled = self.session.label(completions, policy, reference)
        write_records(self.folder.artifact(number, "preferences.jsonl"), labelled.preferences)
        return labelled.counts

    def _train(self, number: int) -> dict[str, Any]:
        pairs: list[Preference] = []
        for pair_round in _pair_rounds(self.recipe, number):
            pairs += read_records(self.folder.verified(pair_round, "preferences.jsonl"), Preference)
        policy = self.policy_after(number - 1)
        reference = self.reference_for(number)
        parent, start, optimizer_state = policy.version, self._state, None
        if self._optimizer_round != number - 1 and number > 1:
            optimizer_state = read_optimizer_state(self.folder.verified(number - 1, "checkpoint"), start)
        outcome = self.session.train(policy, reference, pairs, start, optimizer_state)
        self._state = replace(outcome.state, parent=parent)
        checkpoint = self.folder.artifact(number, "checkpoint")
        policy.version = save_checkpoint(checkpoint, policy, self._state, self.session.optimizer())
        _write_steps(self.folder.artifact(number, "training.jsonl"), outcome.steps)
        self._policy_round = self._optimizer_round = number
        return {
            "reference": reference.version,
            "global_batch_size": self.recipe.global_batch_size,
            "offline": self.session.offline_pairs(policy).counts,
            "usage": outcome.usage,
            "last_step": outcome.steps[-1],
        }

    def _evaluate(self, number: int) -> dict[str, Any]:
        policy = self.policy_after(number)
        reference = self.reference_for(number)
        samples = self.session.evaluation_samples(policy)
        opponents = {
            name: read_records(self.folder.verified(opponent, "samples.jsonl"), Completion)
            for name, opponent in opponent_rounds(self.recipe, number).items()
        }
        evaluation = self.session.evaluate(policy, reference, number, samples, opponents)
        write_records(self.folder.artifact(number, "samples.jsonl"), samples)
        write_json(self.folder.artifact(number, "evaluation.json"), evaluation.to_dict())
        return evaluation.to_dict()

    def policy_after(self, number: int) -> Policy:
        """The policy after this many rounds: the one in memory, else from its checkpoint."""
        if self._policy is None:
            self._policy, self._state = load_round_policy(self.recipe, self.folder, number)
            self._policy_round = number
        if self._policy_round != number:
            raise RuntimeError(f"the policy in memory is of round {self._policy_round}, not {number}")
        return self._policy

    def reference_for(self, number: int) -> Policy:
        """The reference of a round's training and evaluation: always the same object, since the trainer holds it."""
        wanted = max(number - 1, 0) if self.recipe.policy.reference == "previous" else 0
        if self._reference is None:
            self._reference, _ = load_round_policy(self.recipe, self.folder, wanted)
        elif self._reference_round != wanted:
            policy = self.policy_after(wanted)
            self._reference.model.load_state_dict(policy.model.state_dict())
            self._reference.version = policy.version
        self._reference_round = wanted
        return self._reference


def load_round_policy(recipe: Recipe, folder: RunFolder, number: int) -> tuple[Policy, TrainingState]:
    """A round's policy from its checkpoint, and where its training stands."""
    if number == 0 and not makes_policy(recipe):
        return load_recipe_policy(recipe), TrainingState(round=0, global_step=0, parent=None)
    checkpoint = folder.verified(number, "checkpoint")
    state = read_training_state(checkpoint)
    if state is None:
        raise RunError("the checkpoint holds no training state", where=str(checkpoint))
    return load_policy(checkpoint, dtype=recipe.policy.dtype), state


def make_initial_policy_once(recipe: Recipe, reporter: Reporter) -> RunFolder:
    """For single stages: the run's folder, with the initial policy in it where the recipe has one made.

    The first command that needs the initial policy makes it, as `align train` would; the others find it there.

    Raises:
        RunError: if the folder holds the initial policy of other settings.
    """
    folder = RunFolder(recipe.output_dir)
    folder.check_usable()
    first = Step(0, "sft")
    if makes_policy(recipe) and not finished_steps(folder, recipe, [first]):
        session = Session(recipe)
        with folder.locked():
            folder.begin(dump(recipe), recipe.seed)
            with reporter.stage(0, "sft") as progress:
                session.progress = progress
                Rounds(recipe, folder, session).carry_out(first)
    return folder


def _pair_rounds(recipe: Recipe, number: int) -> list[int]:
    """The rounds whose pairs a round trains on: those that are replayed, and its own."""
    if not recipe.is_online:
        return []
    return list(range(max(1, number - recipe.train.replay_rounds), number + 1))


def opponent_rounds(recipe: Recipe, number: int) -> dict[str, int]:
    """The rounds whose policies a round is measured against; the initial policy has no opponents."""
    if number == 0:
        return {}
    rounds = {"initial": 0, "previous": number - 1}
    return {name: rounds[name] for name in recipe.evaluate.against}


def _counted(rounds: int) -> str:
    return "1 round" if rounds == 1 else f"{rounds} rounds"


def _announce(folder: RunFolder, steps: Sequence[Step], remaining: Sequence[Step], reporter: Reporter) -> None:
    num_finished = len(steps) - len(remaining)
    if num_finished:
        reporter.note(f"{folder.path}: going on after {steps[num_finished - 1]}, with {remaining[0]}")
    else:
        reporter.note(f"{folder.path}: begins with {remaining[0]}")


def _show_evaluations(folder: RunFolder, recipe: Recipe, reporter: Reporter) -> list[Evaluation]:
    found = evaluations(folder, recipe)
    for evaluation in found:
        reporter.evaluated(evaluation)
    return found


def _write_steps(path: Path, steps: Sequence[dict[str, float]]) -> None:
    write_text(path, "".join(to_json(step) + "\n" for step in steps))
