"""Followers that this process starts on its machine, and watches: none outlives it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from align_cli.artifacts.children import AGAIN, OUT_OF_MEMORY, end_within, killed_by
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.launch.causes import Cause
from align_cli.launch.world import World, environment_of

LAST_LINES = 15
"""Of what a follower wrote before it ended, shown where it told nothing."""

WAIT_SECONDS = 20.0
PARENT = "ALIGN_FOLLOWS"
"""The variable that names the process that a follower follows into its end."""


class Children:
    """Processes of one machine, from the second on.

    Args:
        world: as the first process of the machine sees it, with the port of the meeting place.
        number: of processes on the machine.
    """

    def __init__(self, world: World, number: int) -> None:
        self._scratch = ScratchFolder()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for local_rank in range(1, number):
            child = replace(world, rank=world.rank + local_rank, local_rank=local_rank)
            environment = {**os.environ, **environment_of(child), PARENT: str(os.getpid())}
            with self._log(child.rank).open("wb") as log:
                self._processes[child.rank] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "align_cli.launch.follower"],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def dead(self, *, by_signal: bool = False) -> Cause | None:
        """Why one of them has ended, as far as can be seen; None while all live.

        Args:
            by_signal: whether only those count that were killed, and so could tell nobody why.
        """
        for rank, process in self._processes.items():
            code = process.poll()
            if code is not None and (code < 0 or not by_signal):
                hint = f"{AGAIN}. {OUT_OF_MEMORY}" if code == -signal.SIGKILL else AGAIN
                return Cause(rank, _words(code), hint=hint, trace=self._last_lines(rank))
        return None

    def end(self, *, kindly: bool) -> None:
        """Wait until they have ended, and end those that do not.

        Args:
            kindly: whether they know that they shall.
        """
        for process in self._processes.values():
            end_within(process, WAIT_SECONDS if kindly else 0)

    def _log(self, rank: int) -> Path:
        return self._scratch.path / f"rank-{rank}.log"

    def _last_lines(self, rank: int) -> str:
        lines = self._log(rank).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def _words(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}, and told nobody why"
    return f"it was killed by {killed_by(code)}"
