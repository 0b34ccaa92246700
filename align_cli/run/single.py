"""Single stages, for chains of commands: a stage at work between files and pipes instead of in a run's folder.

The folder of the run serves as the home of the initial policy and of a reward model that the run fits, which the first
command makes and the others find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_cli import stages
from align_cli.artifacts.records import Completion, Preference, Record, RewardReport
from align_cli.artifacts.store import read_record
from align_cli.errors import RunError
from align_cli.labelers.person import Asker
from align_cli.launch.crew import Crew
from align_cli.models.memory import telling_out_of_memory
from align_cli.models.of_recipe import load_recipe_policy, load_recipe_tokenizer
from align_cli.models.refused import check_same_vocabulary
from align_cli.recipe import Recipe, dump
from align_cli.recipe.sections.labelers.reward_model import REWARD_MODEL
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import ROUNDS, run_around
from align_cli.run.fork import interrupted_fork
from align_cli.run.loaded import Loaded
from align_cli.run.opening import Reporter, check_inputs
from align_cli.run.pipes import GivenPolicies, Pipes
from align_cli.run.plan import Step, plan_steps
from align_cli.run.results import Results
from align_cli.run.standing import remaining_steps
from align_cli.run.step import StepRunner
from align_cli.run.threads import choose_num_threads, computing_with, settle_num_threads
from align_cli.stages.base import (
    CHECKPOINT,
    COMPLETIONS,
    PREFERENCES,
    REWARD,
    Artifact,
    Context,
    NoWork,
    Stage,
)
from align_cli.stages.rows import check_rows
from align_cli.training.checkpoints import STATE_NAME, TrainingState, read_training_state


@dataclass
class Made:
    """What a single stage has made.

    Args:
        round: the round that it was.
        written: rows or a document by the artifact's name.
        figures: as a run's ledger would have them.
    """

    round: int
    written: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def generate_once(recipe: Recipe, policy_path: Path | None, reporter: Reporter, crew: Crew | None = None) -> Made:
    """The generate stage of the round that samples the policy: the next one, or the one after where that is ahead.

    Args:
        recipe: the whole recipe.
        policy_path: a checkpoint or any model; None is the initial policy.
        reporter: shown what happens.
        crew: the processes that work beside this one; None for none.
    """
    once = _Once(recipe, "generate", policy_path, reporter, crew=crew)
    following = once.state.round + 1
    is_ahead = stages.stage_named("generate").is_ahead(recipe, following)
    return once.carry_out(following + is_ahead, once.state.round)


def label_once(
    recipe: Recipe,
    completions: Sequence[Completion],
    policy_path: Path | None,
    reporter: Reporter,
    asker: Asker | None = None,
    crew: Crew | None = None,
) -> Made:
    """The label stage on given completions.

    Args:
        recipe: the whole recipe.
        completions: what to pair.
        policy_path: the policy that labels its own responses, where a source asks for that; None is the initial one.
        reporter: shown what happens.
        asker: has people judge pairs, where a labeler is a person; None where nobody can be asked.
        crew: the processes that work beside this one; None for none.

    Raises:
        RunError: if no source of the recipe labels completions.
        PairsWaitError: if a person has yet to judge some.
    """
    if not recipe.is_online:
        raise RunError(
            "no source of this recipe labels completions",
            where="method.sources",
            hint="give source dpr a share and a labeler, or dpp or dmd a share",
        )
    round_number = completions[0].round
    once = _Once(recipe, "label", policy_path, reporter, asker, crew)
    return once.carry_out(round_number, round_number - 1, {Artifact(round_number, COMPLETIONS): completions})


def train_once(
    recipe: Recipe,
    pairs: Sequence[Preference],
    policy_path: Path | None,
    output: Path,
    reporter: Reporter,
    crew: Crew | None = None,
) -> Made:
    """The train stage on given pairs beside the recipe's offline share; writes a checkpoint.

    Args:
        recipe: the whole recipe.
        pairs: preferences; those that are plain text are tokenised.
        policy_path: a checkpoint or any model; None is the initial policy.
        output: becomes the checkpoint; an older checkpoint there is replaced, anything else refused.
        reporter: shown what happens.
        crew: the processes that work beside this one; None for none.

    Raises:
        RunError: if `output` holds something that is no checkpoint, or lies in a run.
    """
    if output.exists() and not (output / STATE_NAME).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RunError("the output is there and is no checkpoint", where=str(output), hint="choose a new folder")
    if (run := run_around(output)) is not None:
        raise RunError(f"the output lies in the run {run}", where=str(output), hint="choose a folder outside of runs")
    once = _Once(recipe, "train", policy_path, reporter, crew=crew)
    round_number = once.state.round + 1
    return once.carry_out(round_number, once.state.round, {Artifact(round_number, PREFERENCES): pairs}, output)


def evaluate_once(recipe: Recipe, policy_path: Path | None, reporter: Reporter, crew: Crew | None = None) -> Made:
    """The evaluate stage of a policy, as at the end of its round.

    The opponents' responses are taken from the run's folder where they lie there, and sampled anew otherwise.

    Args:
        recipe: the whole recipe.
        policy_path: a checkpoint or any model; None is the initial policy.
        reporter: shown what happens.
        crew: the processes that work beside this one; None for none.
    """
    once = _Once(recipe, "evaluate", policy_path, reporter, crew=crew)
    return once.carry_out(once.state.round, once.state.round)


def reward_once(recipe: Recipe, reporter: Reporter) -> RewardReport:
    """The stage that fits the run's reward model, in the run's folder; one that is there is shown.

    Args:
        recipe: the whole recipe.
        reporter: shown what happens.

    Raises:
        RunError: if the recipe fits none, or if the folder holds one of other settings.
    """
    if recipe.reward is None:
        raise RunError(
            "the recipe fits no reward model", where="reward", hint="add the section reward with model_name_or_path"
        )
    results = Results(recipe, RunFolder(recipe.output_dir))
    if not _make(results, reporter, REWARD_MODEL):
        reporter.note(f"{results.folder.path}: the reward model is fitted already")
    return read_record(results.folder.manifests.verified(Artifact(0, REWARD)), RewardReport)


class _Once:
    """A stage with what it needs loaded: the policy that is given, and the initial one from the run's folder.

    Args:
        recipe: the whole recipe.
        stage: its name.
        policy_path: a checkpoint or any model; None is the initial policy.
        reporter: shown what happens.
        asker: has people judge pairs; None where nobody can be asked.
        crew: the processes that work beside this one; None for none.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: str,
        policy_path: Path | None,
        reporter: Reporter,
        asker: Asker | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.state = TrainingState(round=0, global_step=0, parent=None)
        self._recipe, self._stage, self._path, self._reporter = recipe, stages.stage_named(stage), policy_path, reporter
        self._results = Results(recipe, RunFolder(recipe.output_dir))
        self._policies = GivenPolicies(self._results)
        self._loaded = Loaded(recipe, self._policies, reporter.note, policy_path, asker, crew)
        if self._stage.needs(recipe) and policy_path is not None:
            _check_checkpoint(policy_path)
        self._stage.check(recipe, self._loaded)
        if any(read.rows for read in self._stage.to_read(recipe, self._loaded.inputs)):
            for remark in check_rows(recipe, self._loaded.inputs, [self._stage]):
                reporter.note(remark)
        if any(found.name == REWARD_MODEL for found in self._stage.reads(recipe, self._results, 1)):
            _make(self._results, reporter, REWARD_MODEL)
        if self._stage.needs(recipe):
            _make(self._results, reporter, CHECKPOINT)
            if policy_path is not None:
                self.state = read_training_state(policy_path) or self.state

    def carry_out(
        self,
        round_number: int,
        policy_round: int,
        given: Mapping[Artifact, Sequence[Record]] | None = None,
        output: Path = Path(),
    ) -> Made:
        """Do the stage of a round, with the policy as the one after `policy_round` rounds."""
        is_reference_too = self._recipe.policy.reference == "previous" and policy_round < round_number
        if self._path is not None and (policy_round or is_reference_too):
            self._policies.given[policy_round] = self._path
        pipes = Pipes(self._results, given or {}, output)
        telling = telling_out_of_memory(f"round {round_number} {self._stage.name}", self._stage.memory_remedy)
        with telling, self._reporter.stage(round_number, self._stage.name) as progress:
            if self._stage.needs(self._recipe):
                place = self._path or self._results.checkpoint(0)
                if self._path and "reference" in self._stage.needs(self._recipe) and not is_reference_too:
                    self._check_vocabulary(self._path)
                self._loaded.take(load_recipe_policy(self._recipe, place), self.state, policy_round)
            surroundings = (pipes, self._loaded, NoWork(), progress, self._reporter.note)
            known = self._results.folder.begun.num_threads(policy_round)
            with computing_with(self._recipe.num_threads or known or choose_num_threads(self._recipe)):
                try:
                    done = self._stage.carry_out(
                        Context(self._recipe.of_round(round_number), round_number, *surroundings)
                    )
                finally:
                    self._loaded.release_engine()
        return Made(round_number, pipes.written, done.figures)

    def _check_vocabulary(self, path: Path) -> None:
        """Whether the policy that is given reads the same ids as the initial one, beside which it stands.

        Raises:
            AlignError: if not.
        """
        initial = load_recipe_tokenizer(self._recipe, self._results.checkpoint(0))
        check_same_vocabulary(self._loaded.inputs.policy, initial, str(path))


def _make(results: Results, reporter: Reporter, name: str) -> bool:
    """Make the run's folder with an artifact of round 0 in it, where the recipe has one made and it is not yet there.

    The first command that needs the initial policy, or the reward model, makes it, as `align train` would; the others
    find it there.

    Args:
        results: of the run.
        reporter: shown what happens.
        name: the artifact's.

    Returns:
        Whether anything was made.

    Raises:
        RunError: if the folder holds one of other settings.
    """
    recipe, folder = results.recipe, results.folder
    folder.check_usable()
    if interrupted_fork(folder) is not None:
        raise RunError(
            "a fork was interrupted in this folder", where=str(folder.path), hint="`align train` goes on with it"
        )
    making = [step for step in plan_steps(recipe) if step.round == 0 and name in _stage_of(step).writes]
    if not remaining_steps(folder, recipe, making):
        return False
    loaded = Loaded(recipe, results, reporter.note)
    if name == REWARD_MODEL:
        check_inputs(making, loaded)
    runner = StepRunner(recipe, folder, loaded, results)
    with folder.locked():
        folder.begin(dump(recipe), recipe.seed)
        settle_num_threads(folder, recipe, 0, reporter.note)
        for step in making:
            with reporter.stage(step.round, step.stage) as progress:
                runner.carry_out(step, progress)
    return True


def _stage_of(step: Step) -> Stage:
    return stages.stage_named(step.stage)


def _check_checkpoint(path: Path) -> None:
    """Refuse a run's checkpoint that is not what its manifest says; another model has nothing to compare it with.

    Raises:
        RunError: if files of it are damaged or missing.
    """
    place = path if len(path.parts) > 3 else path.resolve()
    round_folder, run = place.parent, RunFolder(place.parent.parent.parent)
    if not (run.exists and round_folder.parent.name == ROUNDS and round_folder.name.isdecimal()):
        return
    artifact = Artifact(int(round_folder.name), place.name)
    if run.manifests.holds(artifact):
        run.manifests.verified(artifact)
