"""One step of a run after the other: read its artifacts, do the stage, take the results into the manifest.

Policy, reference and optimizer stay in memory from step to step. Every step reads its artifacts from the run's folder,
also those that were written a moment ago, so a run that was interrupted and one that was not do the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from align_cli.artifacts.files import write_text
from align_cli.artifacts.journal import Journal
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.artifacts.store import read_record, read_records, write_json, write_records
from align_cli.errors import AlignError, DivergedError, RunError
from align_cli.models.load import Policy, load_policy
from align_cli.recipe import Recipe
from align_cli.run.fingerprints import step_inputs
from align_cli.run.folder import RunFolder
from align_cli.run.guards import Finding, RoundFigures, decided, findings
from align_cli.run.plan import Step
from align_cli.run.session import Session
from align_cli.run.work import Work
from align_cli.stages.sft import WarmStartWork, load_recipe_policy, make_initial_policy, makes_policy
from align_cli.training.checkpoints import TrainingState, read_optimizer_state, read_training_state, save_checkpoint

ARTIFACTS = {
    "sft": ["checkpoint", "training.jsonl"],
    "generate": ["completions.jsonl"],
    "label": ["preferences.jsonl"],
    "train": ["checkpoint", "training.jsonl"],
    "evaluate": ["samples.jsonl", "evaluation.json"],
}
"""What each stage leaves in its round's folder."""


class Steps:
    """Carries out steps in the run's folder, and keeps policy, reference and optimizer in memory between them.

    Args:
        recipe: what to do.
        folder: where artifacts lie; locked by the caller.
        session: does the stages.
        note: told what a user should know.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, session: Session, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.session = session
        self.note = note
        session.note = note
        self._last_stage = "train" if recipe.data.eval_prompts is None else "evaluate"
        self._policy: Policy | None = None
        self._policy_round = -1
        self._reference: Policy | None = None
        self._reference_round = -1
        self._state = TrainingState(round=0, global_step=0, parent=None)
        self._optimizer_round = -1
        self._given_up_for: int | None = None  # the round whose policy took the place of one that diverged

    def carry_out(self, step: Step) -> None:
        """Do one step, take its artifacts into the manifest, and log it."""
        folder = self.folder
        inputs = step_inputs(self.recipe, step, upstream(folder, self.recipe, step))
        self.work = Work(folder.work_path, step, inputs)
        self.session.journals = self._journal
        folder.log("start", round=step.round, stage=step.stage)
        begin = monotonic()
        self._given_up_for = None
        figures = getattr(self, f"_{step.stage}")(step.round)
        found = self._findings(step.round) if step.stage == self._last_stage and step.round else []
        rolled_back_to = best_round(self.folder, self.recipe) if decided(found) == "rollback" else None
        base = self._given_up_for if rolled_back_to is None else rolled_back_to
        self._drop_old_checkpoints(step)
        folder.finish(step, inputs, ARTIFACTS[step.stage], [finding.to_dict() for finding in found], base)
        self.work.remove()
        seconds = round(monotonic() - begin, 3)
        folder.log("finish", round=step.round, stage=step.stage, seconds=seconds, figures=figures)
        for finding in found:
            self.note(f"guard {finding.guard}, round {step.round}: {finding.message}")
        if rolled_back_to is not None:
            self._roll_back(step.round, rolled_back_to)

    def _sft(self, _: int) -> dict[str, Any]:
        work = WarmStartWork(self.work.checkpoint(), self._keep)
        policy, losses = make_initial_policy(self.recipe, self.session.progress, work)
        policy.version = save_checkpoint(self.folder.artifact(0, "checkpoint"), policy, self._state, None)
        _write_steps(
            self.folder.artifact(0, "training.jsonl"),
            [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)],
        )
        self._policy, self._policy_round = policy, 0
        return {"steps": len(losses), "final_loss": losses[-1] if losses else None}

    def _generate(self, number: int) -> dict[str, Any]:
        policy = self.policy_after(number - 1)
        reference = self.reference_for(number) if self.session.samples_reference else None
        completions = self.session.generate(policy, reference, number)
        write_records(self.folder.artifact(number, "completions.jsonl"), completions)
        return {"completions": len(completions), "tokens": sum(item.num_tokens for item in completions)}

    def _label(self, number: int) -> dict[str, Any]:
        completions = read_records(self.folder.verified(number, "completions.jsonl"), Completion)
        needs = self.session.label_needs
        policy = self.policy_after(number - 1) if "policy" in needs else None
        reference = self.reference_for(number) if "reference" in needs else None
        labelled = self.session.label(completions, policy, reference)
        write_records(self.folder.artifact(number, "preferences.jsonl"), labelled.preferences)
        return labelled.counts

    def _train(self, number: int) -> dict[str, Any]:
        pairs: list[Preference] = []
        sources = self.recipe.method.sources.in_use()
        for pair_round in _pair_rounds(self.recipe, self.folder, number):
            read = read_records(self.folder.verified(pair_round, "preferences.jsonl"), Preference)
            # A run may have been forked from one with other sources, whose pairs are not replayed.
            pairs += [pair for pair in read if pair_round == number or pair.source in sources]
        resumed_from = self._resumed_within(number)
        policy, reference = self.policy_after(number - 1), self.reference_for(number)
        start = replace(self._state, parent=self._state.parent if resumed_from else policy.version)

        def keep(state: TrainingState) -> None:
            self._keep(policy, replace(state, parent=start.parent), self.session.optimizer())

        while True:
            try:
                optimizer_state = self._optimizer_state(number, resumed_from)
                outcome = self.session.train(policy, reference, pairs, start, optimizer_state, keep)
                _check_finite(policy)
                break
            except DivergedError as error:
                return self._give_up(number, start, error)
            except MemoryError as error:
                self.note(f"round {number} train: {self.session.halve_micro_batch(error)}")
                self.work.drop_checkpoints()
                self._put_back(self._policy_place(self.folder.base(number - 1)))
                resumed_from, start = None, replace(self._state_after(number - 1), parent=policy.version)
        self._state = replace(outcome.state, parent=start.parent)
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

    def _journal(self, name: str) -> Journal:
        self.folder.check_held()
        return self.work.journal(name)

    def _keep(self, policy: Policy, state: TrainingState, optimizer: Any) -> None:
        self.folder.check_held()
        self.work.keep_checkpoint(state.global_step, lambda folder: save_checkpoint(folder, policy, state, optimizer))

    def _give_up(self, number: int, start: TrainingState, error: AlignError) -> dict[str, Any]:
        """A round whose training diverged ends with the best round's policy, if the recipe says so."""
        base = best_round(self.folder, self.recipe)
        if self.recipe.guards.non_finite.action != "rollback" or base is None:
            raise error
        policy, now = self.policy_after(number - 1), self.session.training_state()
        self._put_back(self._policy_place(base))
        self._state = replace(now, round=number, parent=start.parent, steps=None)
        save_checkpoint(self.folder.artifact(number, "checkpoint"), policy, self._state, None)
        _write_steps(self.folder.artifact(number, "training.jsonl"), now.steps or [])
        self._policy_round, self._given_up_for = number, base
        what = error.faults[0].what
        self.note(f"guard non_finite, round {number}: {what}; the round ends with the policy of round {base}")
        return {"diverged": what, "policy_of_round": base}

    def _resumed_within(self, number: int) -> Path | None:
        """The checkpoint from within the round's training that a killed process left, loaded; None without one."""
        checkpoint = self.work.checkpoint() if self._policy is None else None
        state = read_training_state(checkpoint) if checkpoint else None
        if checkpoint is None or state is None:
            return None
        self._policy, self._policy_round = load_policy(checkpoint, dtype=self.recipe.policy.dtype), number - 1
        self._state = state
        self.note(f"round {number} train: going on after step {len(state.steps or ())} of the round")
        return checkpoint

    def _optimizer_state(self, number: int, resumed_from: Path | None) -> dict[str, Any] | None:
        """What the optimizer has to begin with; None where the one in memory, or a new one, is right."""
        base = self.folder.base(number - 1)
        if resumed_from is None and (base == 0 or self._optimizer_round == number - 1):
            return None
        if resumed_from is None and not self._has_same_optimizer(base):
            self.note(f"round {number} train: train.optim is another one now; it begins without the old one's moments")
            return None
        checkpoint = resumed_from or self.folder.verified(base, "checkpoint")
        state = read_training_state(checkpoint)
        return read_optimizer_state(checkpoint, state) if state else None

    def _has_same_optimizer(self, number: int) -> bool:
        """Whether a round, which may be another run's, was trained with the optimizer that the recipe names."""
        record = self.folder.finished(Step(number, "train"))
        before = record["inputs"]["recipe"]["train"] if record is not None else {}
        return optimizer_name(before) == optimizer_name(self.recipe.train.training_arguments)

    def _policy_place(self, number: int) -> Path | None:
        """The checkpoint of a round's policy; None where the initial policy is the recipe's model as it is."""
        return None if number == 0 and not makes_policy(self.recipe) else self.folder.verified(number, "checkpoint")

    def _put_back(self, place: Path | None) -> None:
        """Give the policy in memory the weights of a checkpoint; the trainer goes on holding the same object."""
        assert self._policy is not None
        loaded = load_policy(place, dtype=self.recipe.policy.dtype) if place else load_recipe_policy(self.recipe)
        self._policy.model.load_state_dict(loaded.model.state_dict())
        self._policy.model.zero_grad()
        self._policy.model.eval()  # what went wrong went wrong in the midst of training
        self._policy.version = loaded.version
        self._optimizer_round = -1
        self.session.forget_optimizer()

    def _findings(self, number: int) -> list[Finding]:
        """What the guards say of a round that is over."""
        is_recorded = self._last_stage != "train"  # else the manifest takes it in when the guards have looked
        place = self.folder.verified if is_recorded else self.folder.artifact
        steps = place(number, "training.jsonl").read_text(encoding="utf-8").splitlines()
        standing = self._evaluations_with(number)
        figures = RoundFigures(standing, [json.loads(line) for line in steps], self._training_rewards(standing))
        return findings(self.recipe.guards, figures, self.recipe.method)

    def _evaluations_with(self, number: int) -> list[Evaluation]:
        """The evaluations so far, without those of rounds that were rolled back, and with that of the round at hand,
        whose manifest is not yet written."""
        found = [item for item in evaluations(self.folder, self.recipe) if self.folder.base(item.round) == item.round]
        path = self.folder.artifact(number, "evaluation.json")
        if self._last_stage == "evaluate" and all(item.round != number for item in found):
            found.append(read_record(path, Evaluation))
        return found

    def _training_rewards(self, standing: Sequence[Evaluation]) -> dict[int, float]:
        """The labeler's mean score of the pairs of the rounds that the guard looks at."""
        guard = self.recipe.guards.reward_gap
        if guard is None or "dpr" not in self.recipe.method.sources.in_use():
            return {}
        rewards = {}
        for round_number in [item.round for item in standing][-guard.rounds - 1 :]:
            if self.folder.recorded_checksum(round_number, "preferences.jsonl") is None:
                continue
            pairs = read_records(self.folder.verified(round_number, "preferences.jsonl"), Preference)
            scores = [
                score for pair in pairs for score in (pair.chosen_score, pair.rejected_score) if score is not None
            ]
            if scores:
                rewards[round_number] = math.fsum(scores) / len(scores)
        return rewards

    def _roll_back(self, number: int, base: int) -> None:
        self.note(f"round {number}: rolled back; what comes next goes on from the policy of round {base}")
        self._put_back(self._policy_place(base))

    def _drop_old_checkpoints(self, step: Step) -> None:
        """Keep the latest rounds' checkpoints and the best one's; never let go before the next is safe."""
        keep = self.recipe.checkpoints.keep
        if keep is None or step.stage not in ("train", "evaluate"):
            return
        # A process that is killed before the manifest is written does this step again, and needs what it starts from:
        # to train the policy before, to evaluate the reference.
        is_last_need = step.stage == "evaluate" and self.recipe.policy.reference == "initial"
        safe = step.round if is_last_need else step.round - 1
        best = best_round(self.folder, self.recipe)
        for number in range(1, safe - keep + 1):
            if number != best:
                self.folder.drop(number, "checkpoint")

    def _evaluate(self, number: int) -> dict[str, Any]:
        policy = self.policy_after(number)
        reference = self.reference_for(number)
        samples = self.session.evaluation_samples(policy)
        opponents = {
            name: read_records(self.folder.verified(opponent, "samples.jsonl"), Completion)
            for name, opponent in opponent_rounds(self.recipe, self.folder, number).items()
        }
        evaluation = self.session.evaluate(policy, reference, number, samples, opponents)
        write_records(self.folder.artifact(number, "samples.jsonl"), samples)
        write_json(self.folder.artifact(number, "evaluation.json"), evaluation.to_dict())
        return evaluation.to_dict()

    def policy_after(self, number: int) -> Policy:
        """The policy after this many rounds: the one in memory, else from its checkpoint."""
        if self._policy is None:
            base = self.folder.base(number)
            self._policy, self._state = load_round_policy(self.recipe, self.folder, base)
            if base != number:
                self._state = self._state_after(number)
            self._policy_round = number
        if self._policy_round != number:
            raise RuntimeError(f"the policy in memory is of round {self._policy_round}, not {number}")
        return self._policy

    def _state_after(self, number: int) -> TrainingState:
        """Where training stands after this many rounds, also where a guard gave the last one's policy up."""
        place = self._policy_place(number)
        state = read_training_state(place) if place else None
        return state or TrainingState(round=0, global_step=0, parent=None)

    def reference_for(self, number: int) -> Policy:
        """The reference of a round's training and evaluation: always the same object, since the trainer holds it."""
        wanted = max(number - 1, 0) if self.recipe.policy.reference == "previous" else 0
        if self._reference is None:
            self._reference, _ = load_round_policy(self.recipe, self.folder, self.folder.base(wanted))
        elif self._reference_round != wanted:
            policy = self.policy_after(wanted)
            self._reference.model.load_state_dict(policy.model.state_dict())
            self._reference.version = policy.version
        self._reference_round = wanted
        return self._reference


def _check_finite(policy: Policy) -> None:
    """A loss is of the weights before its step: what the last step made of them, no loss has seen."""
    if not all(bool(parameter.isfinite().all()) for parameter in policy.model.parameters()):
        raise DivergedError(
            "training diverged: the last step's weights are not finite",
            where="train",
            hint="a lower train.learning_rate needs another output_dir, --restart or --from; guards.non_finite can "
            "roll back by itself",
        )


def optimizer_name(train: Mapping[str, Any]) -> str:
    """The optimizer of a `train` section; the fused and the plain kernel of one are the same optimizer."""
    return str(train.get("optim") or "adamw_torch").removesuffix("_fused")


def upstream(folder: RunFolder, recipe: Recipe, step: Step) -> dict[str, str]:
    """Checksums of the artifacts that a step reads, as the manifests have them."""
    before, now = folder.base(max(step.round - 1, 0)), step.round
    read: list[tuple[int, str]] = {
        "sft": [],
        "generate": [
            (before, "checkpoint"),
            *([(0, "checkpoint")] if recipe.generate.num_reference_generations else []),
        ],
        "label": [(before, "checkpoint"), (now, "completions.jsonl")],
        "train": [
            (before, "checkpoint"),
            *((number, "preferences.jsonl") for number in _pair_rounds(recipe, folder, now)),
        ],
        "evaluate": [
            (now, "checkpoint"),
            *((number, "samples.jsonl") for number in opponent_rounds(recipe, folder, now).values()),
        ],
    }[step.stage]
    checksums = {f"rounds/{number:03d}/{name}": folder.recorded_checksum(number, name) for number, name in read}
    return {name: checksum for name, checksum in checksums.items() if checksum is not None}


def load_round_policy(recipe: Recipe, folder: RunFolder, number: int) -> tuple[Policy, TrainingState]:
    """A round's policy from its checkpoint, and where its training stands."""
    if number == 0 and not makes_policy(recipe):
        return load_recipe_policy(recipe), TrainingState(round=0, global_step=0, parent=None)
    checkpoint = folder.verified(number, "checkpoint")
    state = read_training_state(checkpoint)
    if state is None:
        raise RunError("the checkpoint holds no training state", where=str(checkpoint))
    return load_policy(checkpoint, dtype=recipe.policy.dtype), state


def read_evaluation(folder: RunFolder, round_number: int) -> Evaluation:
    """The evaluation of a finished round.

    Raises:
        RunError: if it is missing or not what was written.
    """
    return read_record(folder.verified(round_number, "evaluation.json"), Evaluation)


def evaluations(folder: RunFolder, recipe: Recipe) -> list[Evaluation]:
    """The evaluations of all rounds that have one."""
    return [
        read_evaluation(folder, number)
        for number in range(recipe.rounds + 1)
        if folder.finished(Step(number, "evaluate")) is not None
    ]


def best_round(folder: RunFolder, recipe: Recipe) -> int | None:
    """The finished round whose policy wins most often against the initial one; None where that is not measured.

    The initial policy wins half of the time. Rounds that a guard rolled back are out.
    """
    rates = {
        item.round: float(item.against["initial"]["win_rate"]) if item.round else 0.5
        for item in evaluations(folder, recipe)
        if (item.round == 0 or "initial" in item.against)
        and folder.base(item.round) == item.round
        and not folder.is_dropped(item.round, "checkpoint")  # by the run that this one was forked from
    }
    return max(rates, key=lambda number: rates[number]) if rates else None


def _pair_rounds(recipe: Recipe, folder: RunFolder, number: int) -> list[int]:
    """The rounds whose pairs a round trains on: those that are replayed, and its own."""
    if not recipe.is_online:
        return []
    earlier = range(max(1, number - recipe.train.replay_rounds), number)
    # A run may have been forked from one whose first rounds sampled nothing.
    return [*(one for one in earlier if folder.recorded_checksum(one, "preferences.jsonl")), number]


def opponent_rounds(recipe: Recipe, folder: RunFolder, number: int) -> dict[str, int]:
    """The rounds whose policies a round is measured against; the initial policy has no opponents."""
    if number == 0:
        return {}
    rounds = {"initial": 0, "previous": folder.base(number - 1)}
    return {name: rounds[name] for name in recipe.evaluate.against}


def _write_steps(path: Path, steps: Sequence[dict[str, float]]) -> None:
    write_text(path, "".join(to_json(step) + "\n" for step in steps))
