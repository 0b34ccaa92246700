"""What stays in memory between steps: inputs, labelers, engine, policy, reference, trainer, and where training stands.

Policy and reference are always the same objects, because the trainer holds them: what changes is their weights. Where a
round's policy comes from is the caller's word: a run's folder, or the paths of single commands.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from align_cli.artifacts.answers import Answers
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.engines import build_engine
from align_cli.engines.base import Engine
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import RunError
from align_cli.labelers import Labeler, build_labeler
from align_cli.labelers.person import Asker, PersonLabeler
from align_cli.labelers.reward_model import RewardModelLabeler
from align_cli.launch.crew import Crew
from align_cli.launch.engine import SharedEngine
from align_cli.launch.roles import POLICY, REFERENCE
from align_cli.launch.scoring import SharedMeasure, SharedScorer
from align_cli.models.devices import find_device
from align_cli.models.load import Policy
from align_cli.models.measures import OneMeasure
from align_cli.models.memory import give_back_freed
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.recipe import Recipe
from align_cli.run.folder.begun import MicroBatch
from align_cli.run.folder.layout import ANSWERS, RUN, SERVERS, TRACKING, Layout
from align_cli.stages.inputs import Inputs
from align_cli.stages.said_before import SaidBefore
from align_cli.training.checkpoints import (
    OPTIMIZER_NAME,
    TrainingState,
    parts_in,
    read_optimizer_state,
    read_training_state,
)

if TYPE_CHECKING:
    from align_cli.training.trainer import PreferenceTrainer


def tracking_folder(recipe: Recipe) -> Path:
    """Where trackers keep what they are told."""
    chosen = recipe.train.logging_dir
    return Path(chosen) if chosen else Layout(Path(recipe.output_dir)).folder(TRACKING)


class Policies(Protocol):
    """Where the policies of a run's rounds are."""

    def base(self, round_number: int) -> int:
        """The round whose policy the one after this round starts from."""
        ...

    def is_kept(self, round_number: int) -> bool:
        """Whether a round's policy has a checkpoint, or is the recipe's model as it is."""
        ...

    def checkpoint(self, round_number: int) -> Path | None:
        """The checkpoint of a round; None where the initial policy is the recipe's model as it is.

        Raises:
            RunError: if it is missing, was let go, or is not what was written.
        """
        ...

    def artifact(self, name: str) -> Path | None:
        """What round 0 made besides its policy, by its name, verified; None before it is there."""
        ...

    def best_round(self) -> int | None:
        """The round to go back to; None where nothing says which."""
        ...

    def has_same_optimizer(self, round_number: int) -> bool:
        """Whether a round, which may be another run's, was trained with the optimizer that the recipe names."""
        ...

    def micro_batches(self) -> dict[int, MicroBatch]:
        """Pairs a forward pass from a round on, by round, where the memory did not hold the recipe's."""
        ...

    def remember_micro_batch(self, round_number: int, micro_batch: MicroBatch) -> None:
        """Keep that for the processes that come after this one."""
        ...


class Loaded:
    """A recipe at work. See `stages.base.Loaded` for what each part is for.

    Args:
        recipe: the whole recipe.
        policies: where they are.
        note: told what a user should know.
        reader: the model that reads the inputs; None is the initial policy.
        asker: has people judge pairs, for labelers of kind `person`; None where nobody can be asked.
        crew: the processes that work beside this one; None for none.

    Raises:
        AlignError: if there is no device like `policy.device`.
    """

    def __init__(
        self,
        recipe: Recipe,
        policies: Policies,
        note: Callable[[str], None] = lambda text: None,
        reader: Path | None = None,
        asker: Asker | None = None,
        crew: Crew | None = None,
    ) -> None:
        if recipe.policy.device not in ("auto", "cpu"):
            find_device(recipe.policy.device)
        self.recipe = recipe
        self.inputs = Inputs(recipe, reader)
        self.note = note
        self.state = TrainingState(round=0, global_step=0, parent=None)
        self._policies = policies
        self._asker = asker
        self._crew = crew
        self._labelers: dict[str, Labeler] = {}
        self._policy: Policy | None = None
        self._policy_round = -1
        self._reference: Policy | None = None
        self._reference_round = -1
        self._reference_is_let_go = False
        self.said_before: Mapping[str, SaidBefore] = defaultdict(SaidBefore)
        self._trainer: PreferenceTrainer | None = None
        self._scratch: ScratchFolder | None = None
        self._optimizer_round = -1
        self.replay: Callable[[int], None] = _cannot_replay
        """Trains a round again, in memory; the run's steps know how."""

    @cached_property
    def engine(self) -> Engine:
        """What generates text."""
        layout = Layout(Path(self.recipe.output_dir))
        engine = build_engine(
            self.recipe, self.note, lambda: layout.folder(SERVERS) if layout.file(RUN).is_file() else None
        )
        if self._crew is None or not isinstance(engine, TransformersEngine):
            return engine
        return SharedEngine(engine, self._crew, self._shared)

    def release_engine(self) -> None:
        """The engine lets go of what is not to be held between stages."""
        if "engine" in self.__dict__:
            self.engine.release()

    def labeler(self, name: str) -> Labeler:
        """The labeler with this name, made once, with those that it asks in its turn."""
        if name not in self._labelers:
            section, layout = self.recipe.labelers[name], Layout(Path(self.recipe.output_dir))
            answers = Answers(layout.folder(ANSWERS) / f"{name}.jsonl")
            labeler = build_labeler(name, section, self.note, answers)
            if self._crew is not None and isinstance(labeler, RewardModelLabeler):
                labeler = SharedScorer(labeler, self._crew, section.artifacts())
            labeler.artifact = self._policies.artifact
            if isinstance(labeler, PersonLabeler):
                labeler.asker = self._asker
            labeler.members = {member: self.labeler(member) for member in section.asks()}
            self._labelers[name] = labeler
        return self._labelers[name]

    def release_labelers(self) -> None:
        """Labelers let go of what takes memory; the next stage that asks one has it back."""
        for labeler in self._labelers.values():
            labeler.release()
        if self._crew is not None:
            self._crew.release()

    def measure(self, function: str, policy: Policy, reference: Policy, *rest: Any) -> OneMeasure:
        """A measure of items by what both models say of them, taken in all processes that there are.

        Args:
            function: `package.module:name` of it; called with policy, reference, items and the rest.
            policy: the one.
            reference: the other.
            rest: what else it takes.
        """
        if self._crew is None or policy is not self._policy or reference is not self._reference:
            return OneMeasure(function, policy, reference, *rest)
        self._share_both()
        return SharedMeasure(self._crew, function, policy, reference, *rest)

    def _shared(self, policy: Policy) -> str | None:
        """Let the other processes have a model, and say by which name; None for one that they cannot have."""
        assert self._crew is not None
        if policy is not self._policy and policy is not self._reference:
            return None
        if self._policy is not None:  # first: adapters share the base that it brings
            self._crew.hold(POLICY, self._policy, lambda: self._place(self._policy_round))
        if policy is self._policy:
            return POLICY
        self._crew.hold(REFERENCE, policy, lambda: self._place(self._reference_round))
        return REFERENCE

    def _share_both(self) -> None:
        assert self._policy is not None and self._reference is not None
        self._shared(self._policy)
        self._shared(self._reference)

    def _place(self, round_number: int) -> Path | None:
        """A folder with a model like a round's: its own checkpoint, or the newest before it."""
        base = self._policies.base(round_number)
        return self._policies.checkpoint(base if self._policies.is_kept(base) else self._newest_kept(round_number))

    def made(self, policy: Policy) -> None:
        """This is the initial policy."""
        self.take(policy, self.state, 0)

    def take(self, policy: Policy, state: TrainingState, round_number: int) -> None:
        """This is the policy after so many rounds, and where its training stands."""
        self._policy, self._policy_round, self.state = policy, round_number, state
        if self._crew is not None:
            self._crew.moved(POLICY)

    def policy_after(self, round_number: int) -> Policy:
        """The policy after this many rounds: the one in memory, else from the newest checkpoint up to there.

        Rounds since that checkpoint are trained again.
        """
        if self._policy is None:
            self._load(self._newest_kept(round_number))
        while self._policy_round < round_number:
            self._go_on_to(self._policy_round + 1)
        if self._policy is None or self._policy_round != round_number:
            raise RuntimeError(f"the policy in memory is of round {self._policy_round}, not {round_number}")
        return self._policy

    def another_policy(self, round_number: int) -> Policy:
        """The policy after this many rounds, beside the one that is trained."""
        return self._loaded_from(self._policies.checkpoint(self._policies.base(round_number)))

    def reference_for(self, round_number: int, *, in_name: bool = False) -> Policy:
        """The reference of a round's training and evaluation: always the same object, since the trainer holds it.

        Ask for the policy first: rounds that are trained again on the way to it move the reference.

        Args:
            round_number: which round.
            in_name: whether its version is enough, and weights that were let go may be away.
        """
        if self._policy is None and self.recipe.policy.lora:  # of which the first to be loaded is trained
            self._load(self._newest_kept(max(round_number - 1, 0)))
        wanted = max(round_number - 1, 0) if self.recipe.policy.reference == "previous" else 0
        is_kept, stood = self._policies.is_kept(self._policies.base(wanted)), self._policy_round
        if self._reference is None and is_kept:
            self._reference, self._reference_round = self.another_policy(wanted), wanted
        if self._reference is None or self._reference_round != wanted:
            if stood > wanted and not is_kept:
                self._load(self._newest_kept(wanted))
            policy = self.another_policy(wanted) if stood != wanted and is_kept else self.policy_after(wanted)
            assert self._reference is not None  # training a round again has loaded one
            is_held = policy is self._policy
            (self._reference.become if is_held else self._reference.take_over)(policy)
            self._reference_round, self._reference_is_let_go = wanted, False
            if stood > wanted and not is_kept:
                self.policy_after(stood)
        if self._reference_is_let_go and not in_name:
            self._reference.take_over(self.another_policy(wanted))
            self._reference_is_let_go = False
        return self._reference

    def let_go_of_reference(self) -> None:
        """Its weights leave the memory until it is asked for again, where they can be had again from a checkpoint."""
        if self._reference is not None and self._policies.is_kept(self._policies.base(self._reference_round)):
            self._reference_is_let_go = self._reference.let_go()
            give_back_freed()

    def trainer(self, round_number: int) -> PreferenceTrainer:
        """The trainer of the policy and the reference in memory; made once, as transformers wants it."""
        if self._trainer is None:
            from align_cli.training.trainer import make_trainer

            assert self._policy is not None and self._reference is not None
            arguments = (self._policy, self._reference.model, self.recipe, self._trainer_folder(), lambda: None)
            if self._crew is None:
                self._trainer = make_trainer(*arguments)
            else:
                from align_cli.launch.leader import make_leaders_trainer

                self._trainer = make_leaders_trainer(self._crew, self._share_both, self._policy, *arguments[1:])
            # transformers collects garbage at each `train()`: a quarter of a second, were it to look at libraries too.
            gc.collect()
            gc.freeze()
        self._trainer.follow(self.recipe.of_round(round_number))
        self._trainer.pairs_per_pass = self._micro_batch(round_number)
        return self._trainer

    def _trainer_folder(self) -> Path:
        """What the trainer may write to at any time: where transformers' trackers do, or a folder that nobody keeps."""
        if not self.recipe.train.other_trackers:
            self._scratch = ScratchFolder()  # as long as the trainer
            return self._scratch.path
        return tracking_folder(self.recipe)

    def _micro_batch(self, round_number: int) -> int:
        """Pairs in a forward pass of a round: the recipe's, unless the memory has not held so many before."""
        wanted = found = self.recipe.train.per_device_train_batch_size
        for number, (recipes, held) in sorted(self._policies.micro_batches().items()):
            if number <= round_number and recipes == wanted:
                found = held
        return found

    def halved(self, round_number: int, micro_batch: int) -> None:
        """From this round on a forward pass holds so many pairs, also in the processes that come after this one."""
        recipes = self.recipe.train.per_device_train_batch_size
        self._policies.remember_micro_batch(round_number, MicroBatch(recipes, micro_batch))

    def go_on_within(self, round_number: int, checkpoint: Path) -> bool:
        """Take policy and state from a checkpoint within a round's training; False if it holds no such state."""
        state = read_training_state(checkpoint)
        if state is None:
            return False
        self._put_in(
            self._read_in_parts(round_number, checkpoint, state)
            if parts_in(checkpoint)
            else self._loaded_from(checkpoint)
        )
        self._policy_round, self.state = round_number - 1, state
        return True

    def optimizer_state(self, round_number: int) -> dict[str, Any] | None:
        """What the optimizer begins a round with; None where the one in memory, or a new one, is right."""
        base = self._policies.base(round_number - 1)
        is_right = self._optimizer_round == round_number - 1 or self.recipe.begins_with_new_optimizer
        if base == 0 or is_right:
            return None
        checkpoint = self._policies.checkpoint(base)
        state = read_training_state(checkpoint) if checkpoint else None
        if checkpoint is None or state is None or state.optimizer is None:
            return None
        if not self._policies.has_same_optimizer(base):
            why = "train.optim is another one now; it begins without the old one's moments"
        elif not (checkpoint / OPTIMIZER_NAME).is_file():
            why = (
                f"the optimizer's moments of round {base} were let go (checkpoints.optimizer); it begins with new ones"
            )
        else:
            return read_optimizer_state(checkpoint, state)
        self.note(f"round {round_number} train: {why}")
        return None

    def begin_again(self, round_number: int) -> None:
        """Put policy, reference and state back to where the round's training began."""
        self._load(self._newest_kept(round_number - 1))
        self.policy_after(round_number - 1)
        self.reference_for(round_number, in_name=True)

    def trained(self, round_number: int, state: TrainingState) -> None:
        """The policy in memory is now the one after this round, and its training stands there."""
        self.state = state
        self._policy_round = round_number
        if self._trainer is not None and self._trainer.optimizer is not None:
            self._optimizer_round = round_number
        if self._crew is not None:
            self._crew.in_step(POLICY)

    def fall_back(self, round_number: int) -> int | None:
        """Give up a round whose training diverged: put back the best round's policy, and say which round that is."""
        base = self._policies.best_round()
        if self.recipe.guards.non_finite.action != "rollback" or base is None:
            return None
        self.roll_back(base)
        return base

    def roll_back(self, base: int) -> None:
        """Go on from the policy of an earlier round; training stands where it is."""
        self._put_in(self._loaded_from(self._policies.checkpoint(base)))

    def _loaded_from(self, checkpoint: Path | None) -> Policy:
        """A policy from its checkpoint; adapters share the base of the one in memory."""
        return load_recipe_policy(self.recipe, checkpoint, self._policy)

    def _read_in_parts(self, round_number: int, checkpoint: Path, state: TrainingState) -> Policy:
        """A policy from a checkpoint in parts, which has weights alone: the rest is that of any round before."""
        from align_cli.training.parts import read_weights

        policy = self.another_policy(self._newest_kept(round_number - 1))
        read_weights(checkpoint, policy.model)
        policy.version = f"{state.parent} after step {state.global_step}"
        return policy

    def _load(self, round_number: int) -> None:
        """Take a round's policy from its checkpoint, and where training stands after the round.

        Where a guard gave the round's policy up, these are two checkpoints.
        """
        self._put_in(self.another_policy(round_number))
        self._policy_round, self.state = round_number, self._state_after(round_number)

    def _newest_kept(self, round_number: int) -> int:
        """The last round up to this one whose policy has a checkpoint."""
        return max(number for number in range(round_number + 1) if self._policies.is_kept(number))

    def _go_on_to(self, round_number: int) -> None:
        """The policy of a finished round, from that of the round before."""
        if self._policies.is_kept(round_number):
            self._load(round_number)
            return
        self.note(f"round {round_number} train: done again, since the round left no checkpoint")
        self.replay(round_number)
        if self._policies.base(round_number) != round_number:
            self.roll_back(self._policies.base(round_number))

    def _put_in(self, policy: Policy) -> None:
        """Let the policy in memory be this one; the trainer goes on holding the same object."""
        if self._crew is not None:
            self._crew.moved(POLICY)
        if self._policy is None:
            self._policy = policy
            return
        self._policy.become(policy)
        self._policy.model.zero_grad()
        self._policy.model.eval()  # what went wrong went wrong in the midst of training
        self._optimizer_round = -1
        if self._trainer is not None:
            self._trainer.optimizer = None

    def _state_after(self, round_number: int) -> TrainingState:
        """Where training stands after a round, by its own checkpoint."""
        checkpoint = self._policies.checkpoint(round_number)
        state = read_training_state(checkpoint) if checkpoint else None
        if state is None and round_number == 0:  # a model of somebody else's
            return TrainingState(round=0, global_step=0, parent=None)
        if state is None:
            raise RunError("the checkpoint holds no training state", where=str(checkpoint))
        return state


def _cannot_replay(round_number: int) -> None:
    raise RuntimeError(f"round {round_number} has no checkpoint, and nobody here can train it again")
