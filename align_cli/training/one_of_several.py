"""A trainer that is one of several processes: where its weights lie while it trains, and what it saves of them.

Each process takes a share of every batch. It has all of the model (`sharded` is None), or trains a part of a twin that
is split over all of them; then what is saved is either put together or written in parts. One process alone is one of
one. Mixed into the trainer of preferences, which says what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from align_cli.errors import DivergedError, OutOfMemoryError
from align_cli.models.load import Policy
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.training.checkpoints import WrittenParts, split_optimizer_state
from align_cli.training.masters import state_with_masters
from align_cli.training.ranks import Ranks
from align_cli.training.resumable import Resumable

if TYPE_CHECKING:
    from align_cli.training.sharded import ShardedModel, Sharding


class OneOfSeveral(Resumable):
    """What a trainer does as one of the processes that train together.

    Attributes:
        ranks: the processes.
        sharded: how the model is split over them; None where each has all of it.
        ref_model: the reference, as it is asked.
    """

    ref_model: torch.nn.Module

    def join(self, policy: Policy, reference: torch.nn.Module, ranks: Ranks, sharding: Sharding | None) -> Policy:
        """Become one of the processes; to be called first.

        Returns:
            The policy with the model that is trained: its own, or the twin that is split.
        """
        self.ranks = ranks
        self.sharded: ShardedModel | None = None
        self._whole_optimizer_state: dict[str, Any] | None = None
        if sharding is None:
            return policy
        from align_cli.training.sharded import ShardedModel

        self.sharded = ShardedModel(policy, reference, sharding, ranks.number)
        return replace(policy, model=self.sharded.twin)

    @contextmanager
    def split(self) -> Iterator[None]:
        """While training, the weights are where they are trained.

        Raises:
            OutOfMemoryError: if the memory of one process does not hold its part: the others wait for it in the midst
                of a forward pass, where no word of it reaches them.
        """
        if self.sharded is None:
            yield
            return
        self.sharded.take_in()
        of_whole, self.ref_model = self.ref_model, self.sharded.reference
        try:
            with out_of_memory_as_memory_error():
                yield
        except DivergedError:  # which all of them find
            self.sharded.give_back()
            raise
        except MemoryError as error:
            raise OutOfMemoryError(
                f"out of memory: {error}",
                where="train",
                hint="halve train.per_device_train_batch_size and double train.gradient_accumulation_steps, which is "
                "the same global batch; then run the same command again",
            ) from None
        finally:
            self.ref_model = of_whole
        self.sharded.give_back()

    def running_out_together(self) -> AbstractContextManager[None]:
        """A stretch of work in which memory runs out for all or for none; parts of a split model wait for each other
        within it, and `split` ends that.
        """
        return self.ranks.running_out_together() if self.sharded is None else nullcontext()

    def add_up(self) -> None:
        """The gradients are of the whole batch; those of a split model were added up on the backward pass."""
        if self.sharded is None:
            self.ranks.add_up(self.model.parameters())

    @property
    def gradient_scale(self) -> int:
        """FSDP takes the mean of the processes' gradients, where their sum is meant."""
        return 1 if self.sharded is None else self.ranks.number

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """The policy's model has the weights that are trained, while it is saved."""
        if self.sharded is None or self.writes_parts:
            yield
            return
        self._whole_optimizer_state = self._gathered_state(self.sharded)
        self.sharded.give_back(to_save=True)
        yield
        self.sharded.take_in()
        self._whole_optimizer_state = None

    def optimizer_state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of the optimizer, on rank 0. Where it is split, every process has to ask; while
        `as_saved` lasts, none has to."""
        if self.optimizer is None or self._whole_optimizer_state is not None:
            return self._whole_optimizer_state
        return state_with_masters(self.optimizer) if self.sharded is None else self._gathered_state(self.sharded)

    def _gathered_state(self, sharded: ShardedModel) -> dict[str, Any]:
        """Rank 0, which writes it, has it; in the others' memory there need be no room for it."""
        return sharded.whole_state(state_with_masters(self.optimizer), is_kept=self.ranks.rank == 0)

    @property
    def writes_parts(self) -> bool:
        """Whether what is kept within a round is written by each process, which holds a part of it."""
        return self.sharded is not None and self.sharded.writes_parts

    def write_parts(self, folder: Path | None = None) -> WrittenParts:
        """Write this process' part of where training stands, within a step; every process has to ask.

        Args:
            folder: what rank 0 asks for; the others write there too.
        """
        from align_cli.training.parts import write_parts

        place = self.ranks.leaders(folder)
        assert place is not None
        moments, rest = split_optimizer_state(state_with_masters(self.optimizer))
        return WrittenParts(write_parts(place, self.ranks, self.model, moments), rest)

    def own_state(self, state: Any) -> dict[int, dict[str, Any]]:
        """See `Resumable.own_state`; its parts where they are split."""
        from align_cli.training.parts import MomentsInParts

        if isinstance(state, MomentsInParts):
            return state.of(self.optimizer)
        whole = super().own_state(state)
        return whole if self.sharded is None else self.sharded.own_state(whole, self.optimizer)
