"""The leader's trainer: it has the others train beside it, from the weights and the state that it begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.launch.tasks import GatherOptimizer, Train, send, send_state
from align_cli.models.load import Policy
from align_cli.recipe import Recipe
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.known import RoundsReference
from align_cli.training.trainer import PreferenceTrainer, make_trainer

if TYPE_CHECKING:
    from align_cli.launch.crew import Crew
    from align_cli.training.parts import MomentsInParts


class LeadersTrainer(PreferenceTrainer):
    """Trains a round together with all other processes.

    Attributes:
        crew: the others.
        leads: the policy whose weights all begin a round with.
        share: lets the others have the models of the round, before anything else.
    """

    crew: Crew
    leads: Policy
    share: Callable[[], None]

    def train_round(
        self,
        batches: list[list[TrainingPair]],
        start: TrainingState,
        optimizer_state: dict[str, Any] | MomentsInParts | None = None,
        keep: Callable[[TrainingState], None] = lambda state: None,
        keep_every: int | None = None,
        reference: RoundsReference | None = None,
    ) -> TrainingState:
        """See `PreferenceTrainer.train_round`."""
        self.share()
        task = Train(
            batches,
            start,
            keep_every,
            self.objective,
            self.pairs_per_pass,
            self.args.max_steps,
            has_optimizer=self.optimizer is not None,
            has_optimizer_state=isinstance(optimizer_state, dict),
            moments=None if isinstance(optimizer_state, dict) else optimizer_state,
        )
        self.crew.tell(task)
        send(self.crew.meeting, self.leads.tensors())
        if isinstance(optimizer_state, dict):
            send_state(self.crew.meeting, optimizer_state)
        return super().train_round(batches, start, optimizer_state, keep, keep_every, reference)

    def optimizer_state(self) -> dict[str, Any] | None:
        """See `PreferenceTrainer.optimizer_state`; the others are told that it is wanted."""
        if self.sharded is not None and self.optimizer is not None and self._whole_optimizer_state is None:
            self.crew.tell(GatherOptimizer())
        return super().optimizer_state()


def make_leaders_trainer(
    crew: Crew,
    share: Callable[[], None],
    policy: Policy,
    reference: Any,
    recipe: Recipe,
    folder: Path,
    on_step: Callable[[], None],
) -> LeadersTrainer:
    """The trainer of a recipe, with all processes; see `make_trainer`."""
    trainer = make_trainer(
        policy,
        reference,
        recipe,
        folder,
        on_step,
        ranks=crew.meeting.ranks,
        sharding=crew.sharding,
        kind=LeadersTrainer,
    )
    assert isinstance(trainer, LeadersTrainer)
    trainer.crew, trainer.leads, trainer.share = crew, policy, share
    return trainer
