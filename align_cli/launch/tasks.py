"""What a follower can be told to do. Each task is sent as it stands here; its last lines are what the leader does too.

Where tensors follow a task, they come one by one, so that no process holds two copies of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from align_cli.artifacts.records import Text
from align_cli.engines.base import Request, SamplingSettings
from align_cli.errors import DivergedError
from align_cli.launch.roles import POLICY, REFERENCE
from align_cli.models.measures import OneMeasure
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.known import RoundsReference
from align_cli.training.objective import Objective

if TYPE_CHECKING:
    from align_cli.launch.follower import Hand
    from align_cli.training.parts import MomentsInParts
    from align_cli.training.trainer import PreferenceTrainer


class Stop(NamedTuple):
    """The run is over."""


class Hold(NamedTuple):
    """Have a model of this version.

    Args:
        role: which.
        version: its weights'.
        place: a folder with a model like it, perhaps of that version; None for what the recipe names.
    """

    role: str
    version: str
    place: Path | None

    def carry_out(self, hand: Hand) -> None:
        hand.meeting.answers(hand.load(self.role, self.version, self.place))


class Rename(NamedTuple):
    """What a model has become beside the leader's is of this version.

    Args:
        role: which.
        version: its weights'.
    """

    role: str
    version: str

    def carry_out(self, hand: Hand) -> None:
        hand.policies[self.role].version = self.version


class TakeWeights(NamedTuple):
    """Take the weights of a model that the leader has and no folder holds.

    Args:
        role: which.
        version: theirs.
    """

    role: str
    version: str

    def carry_out(self, hand: Hand) -> None:
        policy = hand.policies[self.role]
        policy.put(received(hand.meeting, policy.model.device), self.version)


@dataclass(frozen=True)
class Train:
    """Train a round, beside the leader.

    Args:
        batches: of the round, whole.
        start: where training stands.
        keep_every: steps between checkpoints within the round.
        objective: the round's loss; None for TRL's own.
        pairs_per_pass: as the leader has it.
        max_steps: likewise.
        has_optimizer: whether the leader's optimizer goes on; else a new one begins.
        has_optimizer_state: whether one from a checkpoint follows, behind the policy's weights.
        moments: those of a checkpoint in parts, of which each process reads its own.
    """

    batches: list[list[TrainingPair]]
    start: TrainingState
    keep_every: int | None
    objective: Objective | None
    pairs_per_pass: int
    max_steps: int
    has_optimizer: bool
    has_optimizer_state: bool
    moments: MomentsInParts | None = None

    def carry_out(self, hand: Hand) -> None:
        """A round that diverges, or whose memory runs out, does so for all ranks: the leader says how to go on."""
        trainer, policy = hand.trainer, hand.policies[POLICY]
        policy.put(received(hand.meeting, policy.model.device), policy.version)
        optimizer_state = received_state(hand.meeting) if self.has_optimizer_state else self.moments
        if not self.has_optimizer:
            trainer.optimizer = None
        trainer.objective = self.objective
        trainer.pairs_per_pass, trainer.args.max_steps = self.pairs_per_pass, self.max_steps

        try:
            trainer.train_round(
                self.batches,
                self.start,
                optimizer_state,
                keep=lambda state: _write_part(trainer),
                keep_every=self.keep_every,
                reference=RoundsReference(fetch=lambda: hand.whole(REFERENCE), let_go=hand.let_go_of_reference),
            )
        except (MemoryError, DivergedError):
            policy.model.zero_grad()
            policy.model.eval()


class GatherOptimizer(NamedTuple):
    """Give the leader this process' part of the optimizer's state."""

    def carry_out(self, hand: Hand) -> None:
        hand.trainer.optimizer_state()


@dataclass(frozen=True)
class Generate:
    """Sample batches of requests, one each rank; those beyond the last have none.

    Args:
        role: which model.
        batches: by rank.
        settings: how.
    """

    role: str
    batches: list[list[Request]]
    settings: SamplingSettings

    def carry_out(self, hand: Hand) -> None:
        rank = hand.meeting.world.rank
        requests = self.batches[rank] if rank < len(self.batches) else []
        sample = hand.engine.generate_batch
        hand.meeting.answers(sample(hand.whole(self.role), requests, self.settings) if requests else [])


@dataclass(frozen=True)
class Score:
    """Score texts by a reward model, a part each rank.

    Args:
        labeler: its name in the recipe.
        artifacts: the folders of what the run made for it, by name.
        parts: prompts and completions, by rank.
    """

    labeler: str
    artifacts: Mapping[str, Path | None]
    parts: list[tuple[Sequence[Text], Sequence[Text]]]

    def carry_out(self, hand: Hand) -> None:
        prompts, completions = self.parts[hand.meeting.world.rank]
        labeler = hand.labeler(self.labeler, self.artifacts)
        hand.meeting.answers(labeler.score(prompts, completions) if completions else [])


@dataclass(frozen=True)
class Measure:
    """Measure items by what both models say of them, a batch each rank.

    Args:
        function: `package.module:name` of align's own; called with policy, reference, items and the rest.
        batches: by rank; those beyond the last have none.
        rest: what else it takes.
    """

    function: str
    batches: list[Sequence[Any]]
    rest: tuple[Any, ...]

    def carry_out(self, hand: Hand) -> None:
        rank = hand.meeting.world.rank
        items = self.batches[rank] if rank < len(self.batches) else []
        measure = OneMeasure(self.function, hand.whole(POLICY), hand.whole(REFERENCE), *self.rest)
        hand.meeting.answers(measure.of(items) if items else [])


class Release(NamedTuple):
    """Let go of the labelers' models."""

    def carry_out(self, hand: Hand) -> None:
        for labeler in hand.labelers.values():
            labeler.release()


def _write_part(trainer: PreferenceTrainer) -> None:
    """What the leader keeps within a round, each process writes its part of; else the leader writes it all."""
    if trainer.writes_parts:
        trainer.write_parts()


class _Shape(NamedTuple):
    """A tensor that follows."""

    size: tuple[int, ...]
    dtype: torch.dtype


def send(meeting: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """The leader's tensors to all others, who know nothing of them yet."""
    meeting.say({name: _Shape(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()})
    for tensor in tensors.values():
        dist.broadcast(tensor.detach().contiguous(), 0)


def received(meeting: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """What the leader sends."""
    tensors = {}
    for name, shape in meeting.hear().items():
        tensors[name] = torch.empty(shape.size, dtype=shape.dtype, device=device)
        dist.broadcast(tensors[name], 0)
    return tensors


def send_state(meeting: Any, state: Mapping[str, Any]) -> None:
    """The state of an optimizer, from the CPU."""
    flat = {
        f"{number}.{name}": value
        for number, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    others = {
        number: {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}
        for number, values in state["state"].items()
    }
    meeting.say({**state, "state": others})
    send(meeting, flat)


def received_state(meeting: Any) -> dict[str, Any]:
    """What the leader sends of an optimizer."""
    state: dict[str, Any] = meeting.hear()
    for key, tensor in received(meeting, torch.device("cpu")).items():
        number, name = key.split(".", 1)
        state["state"].setdefault(int(number), {})[name] = tensor
    return state


def with_device(recipe: Any, local_rank: int) -> Any:
    """The recipe of a process, whose models are on the device of its number, where there are several."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or recipe.policy.device == "cpu":
        return recipe
    device = f"{kind.type}:{local_rank % torch.accelerator.device_count()}"
    return recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"device": device})})
