"""What a process does that follows: it waits for the leader's tasks, does its part of each, and ends with the leader.

It writes nothing and talks to nobody: what goes wrong here is told to the leader, who tells the user.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.children import ends_with
from align_cli.errors import AlignError, ExitCode
from align_cli.launch.causes import Cause, Causes, is_of_a_peer
from align_cli.launch.children import PARENT, Children
from align_cli.launch.world import World, told_world

if TYPE_CHECKING:
    from align_cli.engines.in_process import TransformersEngine
    from align_cli.labelers.base import Scorer
    from align_cli.launch.meeting import Meeting
    from align_cli.models.load import Policy
    from align_cli.recipe import Recipe
    from align_cli.training.trainer import PreferenceTrainer

LOOK_SECONDS = 1.0


class Hand:
    """All that a follower has in memory.

    Args:
        recipe: the leader's, with this process' device.
        meeting: as it sees it.
        sharding: how the model is split while it trains; None for not at all.
    """

    def __init__(self, recipe: Recipe, meeting: Meeting, sharding: Any) -> None:
        self.recipe, self.meeting, self._sharding = recipe, meeting, sharding
        self.policies: dict[str, Policy] = {}
        self.labelers: dict[str, Scorer] = {}
        self._read: dict[str, tuple[Path | None, str]] = {}
        self._let_go: set[str] = set()

    def load(self, role: str, version: str, place: Path | None) -> bool:
        """Have a model of a version, if a folder holds it; else one like it, to be filled.

        Returns:
            Whether it has that version.
        """
        from align_cli.launch.roles import POLICY
        from align_cli.models.of_recipe import load_recipe_policy

        own, is_away = self.policies.get(role), role in self._let_go
        if own is not None and own.version == version:
            return True
        if own is None or place is not None or is_away:
            found = load_recipe_policy(self.recipe, place, self.policies.get(POLICY))
            self._read[role] = (place, found.version)
            if own is None:
                self.policies[role] = found
            elif found.version == version or is_away:
                own.take_over(found)
            self._let_go.discard(role)
        return self.policies[role].version == version

    def whole(self, role: str) -> Policy:
        """A model with its weights, which are read again where they were let go."""
        from align_cli.launch.roles import POLICY
        from align_cli.models.of_recipe import load_recipe_policy

        own = self.policies[role]
        if role in self._let_go:
            place, _ = self._read[role]
            own.take_over(load_recipe_policy(self.recipe, place, self.policies[POLICY]))
            self._let_go.discard(role)
        return own

    def let_go_of_reference(self) -> None:
        """Its weights leave the memory until they are needed again, where a folder holds them."""
        from align_cli.launch.roles import REFERENCE
        from align_cli.models.memory import give_back_freed

        own = self.policies[REFERENCE]
        _, version = self._read[REFERENCE]
        if own.version == version and own.let_go():
            self._let_go.add(REFERENCE)
        give_back_freed()

    @cached_property
    def trainer(self) -> PreferenceTrainer:
        """The trainer of both models; made once, as the leader's."""
        from align_cli.artifacts.scratch import ScratchFolder
        from align_cli.launch.roles import POLICY, REFERENCE
        from align_cli.training.trainer import make_trainer

        self._scratch = ScratchFolder()
        train = self.recipe.train.model_copy(update={"report_to": "none"})
        return make_trainer(
            self.policies[POLICY],
            self.policies[REFERENCE].model,
            self.recipe.model_copy(update={"train": train}),
            self._scratch.path,
            lambda: None,
            ranks=self.meeting.ranks,
            sharding=self._sharding,
        )

    @cached_property
    def engine(self) -> TransformersEngine:
        """What samples."""
        from align_cli.engines.in_process import TransformersEngine

        return TransformersEngine(self.recipe.generate.batch_size)

    def labeler(self, name: str, artifacts: Mapping[str, Path | None]) -> Scorer:
        """A reward model of the recipe's."""
        if name not in self.labelers:
            from align_cli.labelers import Scorer, build_labeler

            labeler = build_labeler(name, self.recipe.labelers[name])
            assert isinstance(labeler, Scorer)
            self.labelers[name] = labeler
        self.labelers[name].artifact = lambda found: artifacts.get(found)
        return self.labelers[name]


def follow(world: World, children: Children | None = None) -> None:
    """Follow until the leader says that the run is over; where anything goes wrong, this process ends with it.

    Args:
        world: as this process sees it.
        children: the other followers of its machine, where it has started them.
    """
    from align_cli.launch.meeting import meet, open_place

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the leader ends them
    meeting = meet(world, open_place(world), None)
    is_over = threading.Event()
    threading.Thread(target=_end_with_the_others, args=(meeting, children, is_over), daemon=True).start()
    try:
        _work(meeting)
    except BaseException as error:
        _tell(meeting.causes, world.rank, error)
        os._exit(error.exit_code if isinstance(error, AlignError) else ExitCode.BUG)
    is_over.set()
    meeting.close()
    atexit.register(_end_at_once)


def _end_at_once() -> None:
    """Leave out the interpreter's own end, which destroys what gloo's threads still hold, and aborts the process.

    What else is registered for the end of a process is done before.
    """
    atexit.unregister(_end_at_once)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it may be gone
            stream.flush()
    os._exit(ExitCode.DONE)


def _work(meeting: Meeting) -> None:
    import torch

    from align_cli.launch.tasks import Stop, with_device

    recipe, sharding = meeting.hear()
    hand = Hand(with_device(recipe, meeting.world.local_rank), meeting, sharding)
    while True:
        task, num_threads = meeting.hear()
        if isinstance(task, Stop):
            return
        torch.set_num_threads(num_threads)
        task.carry_out(hand)


def _tell(causes: Causes, rank: int, error: BaseException) -> None:
    """Say why this process ends; of a peer that is gone, only after whoever knows more has had time to say it."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, AlignError):
        fault = error.faults[0]
        cause = Cause(rank, fault.what, fault.hint, fault.where, exit_code=int(error.exit_code))
    else:
        line = (traceback.format_exception_only(error) or [""])[-1].strip()
        cause = Cause(rank, line, trace=trace, exit_code=int(ExitCode.BUG))
    with suppress(Exception):  # the meeting place may be gone, and the leader with it
        causes.tell(cause, of_a_peer=not isinstance(error, AlignError) and is_of_a_peer(error))


def _end_with_the_others(meeting: Meeting, children: Children | None, is_over: threading.Event) -> None:
    """End this process where any other has failed, or where the leader is gone before the run is over."""
    while not is_over.wait(LOOK_SECONDS):
        try:
            if children is not None and (killed := children.dead(by_signal=True)) is not None:
                meeting.causes.tell(killed)
            has_failed = meeting.causes.first() is not None
        except Exception:  # the meeting place is gone
            has_failed = not is_over.is_set()
        if has_failed:
            os._exit(ExitCode.FAULT)


def follow_on_this_machine(world: World, number: int) -> None:
    """Follow, with all other processes of a machine that does not lead.

    Args:
        world: as the first of them sees it.
        number: of processes on the machine.
    """
    children = Children(world, number)
    try:
        follow(world, children)
    finally:
        children.end(kindly=True)


def main() -> None:
    """A follower that align started on the machine of the process that it follows into its end."""
    if not ends_with(int(os.environ.pop(PARENT))):  # where that is not seen to, the meeting place tells
        return
    world = told_world()
    assert world is not None
    follow(world)


if __name__ == "__main__":
    main()
