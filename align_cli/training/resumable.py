"""What a Trainer needs to begin in the middle: at a step, with a schedule, an optimizer and random generators.

transformers' own `.train()` always begins at step 0 with a new schedule, and its own resumption counts epochs and
pickles its state. Here a callback sets everything when training begins, and stops it when its batches are used up.
Where training stands is a `TrainingState`: a step number and what depends on it. Mixed into each trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from align_cli.training.checkpoints import TrainingState, random_state, restore_random_state
from align_cli.training.masters import keep_masters, load_with_masters

if TYPE_CHECKING:
    from align_cli.training.parts import MomentsInParts


class Resumable:
    """Trains on planned batches from where a `TrainingState` stands; the first base of a Trainer.

    The trainer appends to `step_records` when it logs a step, and then calls `step_is_logged`.
    """

    model: Any
    args: Any
    state: Any
    accelerator: Any
    data_collator: Any
    optimizer: Any
    lr_scheduler: Any
    step_records: list[dict[str, float]]

    def listen(self, on_step: Callable[[], None]) -> None:
        """Put in the callback, and take transformers' printers out; to be called once, when the trainer is made.

        `on_record` is called with the figures of each step, and which of the stage it is, from 1.
        """
        self.on_step = on_step
        self.on_record: Callable[[int, dict[str, float]], None] = lambda step, record: None
        self.step_records = []
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)  # type: ignore[attr-defined]
        self.add_callback(_BeginAndEnd(self))  # type: ignore[attr-defined]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, which works on float32 copies of weights in half precision."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if is_new:
            keep_masters(optimizer)
        return optimizer

    def plan(
        self,
        batches: list[list[Any]],
        start: TrainingState,
        first_step: int,
        optimizer_state: dict[str, Any] | MomentsInParts | None,
        seed: int,
        keep: Callable[[TrainingState], None],
        keep_every: int | None,
    ) -> None:
        """Set down what the next `.train()` does.

        Args:
            batches: all batches of the stage, those of the steps that are done included.
            start: where training stands.
            first_step: where the schedule stands.
            optimizer_state: what to put into the optimizer first; None leaves it as it is.
            seed: for the random generators, where the stage begins with them.
            keep: called with where training stands after every `keep_every` steps but the last.
            keep_every: steps between those calls; None for none.
        """
        done = start.steps or []
        self.batches, self.step_records = batches[len(done) :], list(done)
        self.start, self.start_optimizer, self.seed = start, optimizer_state, seed
        self.steps_before = start.global_step - len(done)
        self.first_step, self.stop_step = first_step, first_step + len(self.batches)
        self.keep, self.keep_every = keep, keep_every
        self.args.max_steps = max(self.args.max_steps, self.stop_step)

    def get_train_dataloader(self) -> DataLoader:
        """The batches in their order, cut into forward passes."""
        rows = [row for batch in self.batches for row in batch]
        loader: DataLoader = DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=self.args.per_device_train_batch_size,
            shuffle=False,
            collate_fn=self.data_collator,
            # A loader draws a number when it begins: from torch's own generator, one that begins in the middle of a
            # stage would leave other numbers for dropout than one that does not.
            generator=torch.Generator(),
        )
        return self.accelerator.prepare(loader)

    def step_is_logged(self) -> None:
        """A step is logged last of all, when optimizer and schedule have moved on: this is where it ends."""
        self.on_record(len(self.step_records), self.step_records[-1])
        if (
            self.keep_every
            and len(self.step_records) % self.keep_every == 0
            and self.state.global_step < self.stop_step
        ):
            with self.as_saved():
                self.keep(replace(self.state_now(), steps=list(self.step_records), random=random_state()))

    def as_saved(self) -> AbstractContextManager[None]:
        """In which the policy's model has the weights that are trained, to be saved; it has them anyhow."""
        return nullcontext()

    def own_state(self, state: Any) -> dict[int, dict[str, Any]]:
        """Of what `plan` was given of an optimizer, by parameters, what this process goes on with: all of it."""
        found: dict[int, dict[str, Any]] = state["state"]
        return found

    def state_now(self) -> TrainingState:
        """Where training stands within the stage."""
        return TrainingState(
            round=self.start.round,
            global_step=self.steps_before + len(self.step_records),
            parent=None,
            scheduler=self.lr_scheduler.state_dict(),
        )


class _BeginAndEnd(TrainerCallback):
    """Begins training where the plan says, and stops it at the plan's end."""

    def __init__(self, trainer: Resumable) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        trainer.model.train()  # the Trainer does so at a step, after what its batch is measured by was computed
        set_seed(trainer.seed)
        if trainer.start.random is not None:
            restore_random_state(trainer.start.random)
        state.global_step = trainer.first_step
        trainer._globalstep_last_logged = trainer.first_step  # type: ignore[attr-defined]
        if trainer.start_optimizer is not None:
            # Moments are the checkpoint's, settings such as weight decay the recipe's: a fork may have changed them.
            settings = trainer.optimizer.state_dict()["param_groups"]
            state = trainer.own_state(trainer.start_optimizer)
            load_with_masters(trainer.optimizer, {"state": state, "param_groups": settings})
        _set_schedule(trainer.lr_scheduler, trainer.optimizer, trainer.first_step, trainer.start.scheduler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.trainer.stop_step
        self.trainer.on_step()


def _set_schedule(scheduler: Any, optimizer: Any, step: int, state: dict[str, Any] | None) -> None:
    """Put a new schedule at the step where the last stage left it.

    The learning rate comes from the schedule as planned now, so that a run whose `rounds` were raised follows the
    longer schedule from here on.
    """
    if step and state is not None:
        # The rate that the schedule scales is the recipe's as it is now: a fork may have another one.
        # Where it stands is the plan's word too: a step that diverged has moved the schedule and did not count.
        ours = {"base_lrs": getattr(scheduler, "base_lrs", None), "last_epoch": step, "_step_count": step + 1}
        scheduler.load_state_dict({**state, **{name: ours[name] for name in ours if name in state}})
    rates = scheduler.get_last_lr()
    if isinstance(scheduler, LambdaLR):
        rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
