"""What the leader has of the other processes: it starts them or finds them, gives them tasks, and ends them.

They are started when there is first something for them to do, so that what is wrong with a run is said before. When one
fails, the run ends with what made the first of them fail, and none is left.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from align_cli.errors import AlignError, ExitCode, RunError
from align_cli.launch.causes import Cause, is_of_a_peer
from align_cli.launch.children import Children
from align_cli.launch.world import World, own_world

if TYPE_CHECKING:
    from align_cli.launch.meeting import Meeting
    from align_cli.models.load import Policy
    from align_cli.recipe import Recipe
    from align_cli.training.sharded import Sharding

LOOK_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""For how long the leader may be stuck in what no signal reaches, before it is ended from within."""

NEWS_SECONDS = 5.0
"""For how long it is waited for whoever knows more than that a process is gone."""


_IN_STEP = object()


class FollowerError(RunError):
    """A process that failed, and all others with it."""


class Crew:
    """The processes that follow, as the leader has them; to be entered, and started by its first task.

    Args:
        world: as the leader sees it.
        recipe: the whole recipe.
        note: told what a user should know.
        is_told: whether a launcher has started them all.
        end: shows an error and ends this process at once, where nothing else can.
    """

    def __init__(
        self,
        world: World,
        recipe: Recipe,
        note: Callable[[str], None],
        *,
        is_told: bool,
        end: Callable[[AlignError], None],
    ) -> None:
        self.world, self._recipe, self._note, self._is_told, self._end = world, recipe, note, is_told, end
        self._config = world.config if world.config is not None and is_told else recipe.launch.config
        self.sharding = _sharding(recipe, self._config)
        self._meeting: Meeting | None = None
        self._children: Children | None = None
        self._held: dict[str, object] = {}
        self._is_over = threading.Event()
        self._cause: Cause | None = None

    def __enter__(self) -> Crew:
        if self._is_told:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cause = self._why(error) if error is not None else None
        self._is_over.set()
        if self._meeting is not None:
            signal.signal(signal.SIGUSR1, self._before)
            if error is None:
                from align_cli.launch.tasks import Stop

                self.tell(Stop())
        if self._children is not None:
            self._children.end(kindly=error is None)
        if self._meeting is not None:
            with suppress(Exception):
                self._meeting.close()
        if cause is not None:
            raise _as_error(cause, self.world) from error

    def _notes(self) -> Iterator[str]:
        """What of how the model is split is otherwise than somebody may think who reads recipe or configuration."""
        stage, is_split = self._config.zero_stage, self.sharding is not None
        if is_split and stage:
            yield (
                f"note: launch: ZeRO-{stage} is carried out by torch's FSDP2, which splits the same; DeepSpeed itself "
                "is not started"
            )
        if self._recipe.checkpoints.sharded and not is_split:
            yield (
                "note: checkpoints.sharded: every process has the whole model (launch.strategy ddp), and rank 0 writes "
                "whole checkpoints"
            )

    @property
    def meeting(self) -> Meeting:
        """Where all have met; they are started by this."""
        if self._meeting is None:
            self._start()
        assert self._meeting is not None
        return self._meeting

    @property
    def number(self) -> int:
        """How many processes there are, the leader among them."""
        return self.world.number

    def tell(self, task: Any) -> None:
        """Give all others a task; the leader does its own part by itself."""
        import torch

        self.meeting.say((task, torch.get_num_threads()))

    def hold(self, role: str, policy: Policy, place: Callable[[], Path | None]) -> None:
        """Let all others have a model of the leader's.

        Args:
            role: which.
            policy: the leader's, whose version says which weights it has.
            place: finds a folder with a model like it, perhaps with its weights.
        """
        from align_cli.launch.tasks import Hold, Rename, TakeWeights, send

        held = self._held.get(role)
        if held == policy.version:
            return
        self._held[role] = policy.version
        if held is _IN_STEP:
            self.tell(Rename(role, policy.version))
            return
        self.tell(Hold(role, policy.version, place()))
        if not all(self.meeting.answers(True)):
            self.tell(TakeWeights(role, policy.version))
            send(self.meeting, policy.tensors())

    def in_step(self, role: str) -> None:
        """The others' model has become what the leader's has, beside it; it may yet get the name of its version."""
        self._held[role] = _IN_STEP

    def moved(self, role: str) -> None:
        """The leader's model has other weights than the others'."""
        self._held.pop(role, None)

    def release(self) -> None:
        """The others' labelers let go of what takes memory."""
        from align_cli.launch.tasks import Release

        if self._meeting is not None:
            self.tell(Release())

    def _start(self) -> None:
        from dataclasses import replace

        from align_cli.launch.meeting import meet, open_place

        _check_devices(self._recipe, self.world, is_told=self._is_told)
        store = open_place(self.world)
        if not self._is_told:
            self.world = replace(self.world, port=store.port)
            self._children = Children(self.world, self.world.number // self._recipe.launch.config.num_machines)
        self._meeting = meet(self.world, store, self._recipe.launch.timeout_seconds, self._check_children)
        self._before = signal.signal(signal.SIGUSR1, self._interrupted)
        threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True).start()
        self._meeting.say((self._recipe, self.sharding))
        how = "each with a part of the model while it trains" if self.sharding else "each with the whole model"
        self._note(f"{self.world.number} processes, {how}")
        for note in self._notes():
            self._note(note)

    def _check_children(self) -> None:
        if self._children is not None and (cause := self._children.dead()) is not None:
            raise _as_error(cause, self.world)

    def _seen(self, *, is_certain: bool) -> Cause | None:
        """Why a process failed: it said so, or was killed; else, it misses another, or has ended."""
        cause: Cause | None = None
        if self._meeting is not None:
            with suppress(Exception):
                causes = self._meeting.causes
                cause = causes.first() if is_certain else causes.lost()
        if cause is None and self._children is not None:
            cause = self._children.dead(by_signal=is_certain)
        return cause

    def _find_out(self) -> Cause | None:
        """The first cause, for which it is waited a while; else what else is seen."""
        end = time.monotonic() + NEWS_SECONDS
        while (cause := self._seen(is_certain=True)) is None and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        return cause or self._seen(is_certain=False)

    def _watch(self, main: int) -> None:
        """Interrupt the main thread where another process has failed; end this process where that does not help."""
        while not self._is_over.wait(LOOK_SECONDS):
            if self._seen(is_certain=True) is not None or self._seen(is_certain=False) is not None:
                self._cause = self._find_out()
                break
        if self._is_over.wait(LOOK_SECONDS):  # it may have found out by itself
            return
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end:
            signal.pthread_kill(main, signal.SIGUSR1)
            if self._is_over.wait(NEWS_SECONDS):
                return
        assert self._cause is not None
        if self._children is not None:
            self._children.end(kindly=False)
        self._end(_as_error(self._cause, self.world))

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if not self._is_over.is_set() and self._cause is not None:
            raise _as_error(self._cause, self.world)

    def _why(self, error: BaseException) -> Cause | None:
        """What made another process fail, where that is what is behind an error of the leader's."""
        if self._meeting is None or isinstance(error, AlignError) or not is_of_a_peer(error):
            return None
        line = " ".join(str(error).split())[:300]
        return self._find_out() or Cause(-1, f"another process is gone: {line}", "look at what its launcher says of it")


def crew_of(
    recipe: Recipe, note: Callable[[str], None], end: Callable[[AlignError], None], told: World | None
) -> Crew | None:
    """The crew that a run has; None for a run of one process.

    Args:
        recipe: the whole recipe.
        note: told what a user should know.
        end: shows an error and ends this process at once.
        told: the world that a launcher has told this process of.

    Raises:
        RunError: if a step's batch cannot be shared evenly by the processes that there are.
    """
    world = told or own_world(recipe)
    if world is None:
        return None
    if recipe.global_batch_size % world.number:
        raise RunError(
            f"a step has {recipe.global_batch_size} pairs, which {world.number} processes cannot share evenly",
            where="train.per_device_train_batch_size",
            hint="set it, with train.gradient_accumulation_steps, to a multiple of the number of processes",
        )
    return Crew(world, recipe, note, is_told=told is not None, end=end)


def _sharding(recipe: Recipe, config: Any) -> Sharding | None:
    """How the model is split.

    Raises:
        RunError: if a launcher asks for what the recipe's model cannot have.
    """
    precision = config.mixed_precision
    if precision is not None and not recipe.train.training_arguments.get(precision):
        raise RunError(
            f"accelerate's mixed_precision is {precision}, and train.{precision} is not true",
            where=f"train.{precision}",
            hint="set it to true, or start align without mixed precision",
        )
    if not config.is_sharded:
        return None
    if recipe.policy.quantization is not None:
        raise RunError(
            "the launcher splits the model over the processes, which weights of a few bits are not made for",
            where="policy.quantization",
            hint="start align without FSDP and DeepSpeed, or leave policy.quantization out: the base is split then",
        )
    from align_cli.training.sharded import Sharding

    asked = recipe.checkpoints.sharded
    return Sharding(config.reshards, config.layers, config.writes_parts if asked is None else asked)


def _check_devices(recipe: Recipe, world: World, *, is_told: bool) -> None:
    """Whether this machine has the devices that its processes need.

    Raises:
        RunError: if not.
    """
    import torch

    config = recipe.launch.config
    if config.uses_cpu and recipe.policy.device != "cpu" and torch.accelerator.is_available():
        raise RunError(
            f"{recipe.launch.accelerate_config} has use_cpu, and policy.device is {recipe.policy.device}",
            where="policy.device",
            hint="set policy.device to cpu",
        )
    kind = torch.accelerator.current_accelerator(check_available=True)
    there = torch.accelerator.device_count() if kind is not None else 0
    if config.wants_accelerators and kind is None:
        raise RunError(
            f"{recipe.launch.accelerate_config} asks for accelerators, and torch finds none here",
            where="launch.accelerate_config",
            hint="set distributed_type: MULTI_CPU, or use_cpu: true, there",
        )
    number = world.number // config.num_machines
    if not is_told and kind is not None and recipe.policy.device != "cpu" and number > there:
        raise RunError(
            f"{number} processes on this machine, which has {there} of {kind.type}",
            where="launch.num_processes",
            hint=f"start at most {there}, or set policy.device to cpu",
        )


def _as_error(cause: Cause, world: World) -> AlignError:
    """A cause as the user is shown it."""
    who = f"rank {cause.rank} of {world.number} processes" if cause.rank >= 0 else "the run"
    error = FollowerError(f"{who}: {cause.what}", where=cause.where, hint=cause.hint, snippet=cause.trace)
    error.exit_code = next(code for code in ExitCode if code.value == cause.exit_code)  # type: ignore[misc]
    return error
