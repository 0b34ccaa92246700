"""The run that `--restart` puts out of the way, until the new one has finished its first step.

Whenever a process is killed, one whole run is found: every state below says by its name which way to go on, and each
way can be gone twice. A folder changes its state in one rename.

    .previous.partial   the old run is being put aside: what is in it goes back
    .previous           the old run, whole: it goes when the new one has finished a step, waits while the new one has
                        begun, and goes back otherwise
    .previous.back      the old run is being brought back: what is not yet in its place goes there
    .previous.gone      the old run is being removed
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from align_cli.artifacts.files import remove
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError
from align_cli.run.folder.layout import (
    LEDGER,
    LINEAGE,
    RECIPE,
    REPORT,
    REPORT_DATA,
    ROUNDS,
    RUN,
    SERVERS,
    TRACKING,
    WORK,
    Layout,
)

RUN_NAMES = (REPORT, REPORT_DATA, WORK, TRACKING, SERVERS, LEDGER, RECIPE, LINEAGE, ROUNDS, RUN)
"""What a run writes; run.json, which makes a folder a run's, is moved last of all."""

STEM = ".previous"
PARTIAL, WHOLE, BACK, GONE = ".partial", "", ".back", ".gone"
NAMES = "names.json"
"""Which of `RUN_NAMES` the old run has: what stands in the folder under another one is the new run's."""


class SetAside:
    """The room for a run that was put aside.

    Args:
        layout: the run's folder.
        check_held: called before anything is moved; raises if the folder was taken away.
    """

    def __init__(self, layout: Layout, check_held: Callable[[], None]) -> None:
        self._layout = layout
        self._check_held = check_held

    @property
    def is_there(self) -> bool:
        """Whether a run was put aside, or is on its way there or back."""
        return any(os.path.lexists(self._place(state)) for state in (PARTIAL, WHOLE, BACK, GONE))

    def put(self) -> None:
        """Make room for a new run; the old one can still be brought back.

        A run that was put aside before is the one to bring back: what has begun since then goes.
        """
        self._check_held()
        if os.path.lexists(self._place(WHOLE)):
            for name in RUN_NAMES:
                remove(self._layout.inside(name))
            return
        putting = self._place(PARTIAL)
        putting.mkdir()
        write_json(putting / NAMES, [name for name in RUN_NAMES if os.path.lexists(self._layout.inside(name))])
        for name in RUN_NAMES:
            _move(name, self._layout.root, putting)
        putting.replace(self._place(WHOLE))

    def bring_back(self) -> None:
        """Undo `put`, and remove what the new run has written since."""
        self._check_held()
        back = self._place(BACK)
        if os.path.lexists(self._place(WHOLE)):
            self._place(WHOLE).replace(back)
        if not os.path.lexists(back):
            return
        for name in (name for name in RUN_NAMES if name not in _names(back)):
            remove(self._layout.root / name)
        for name in RUN_NAMES:
            _move(name, back, self._layout.root)
        remove(back)

    def drop(self) -> None:
        """Remove the run that was put aside."""
        if os.path.lexists(self._place(WHOLE)):
            self._check_held()
            self._place(WHOLE).replace(self._place(GONE))
            remove(self._place(GONE))

    def recover(self, *, has_begun: Callable[[], bool], has_finished_a_step: Callable[[], bool]) -> None:
        """Go on with what a killed process has left.

        Args:
            has_begun: whether there is a run in the folder.
            has_finished_a_step: whether it has finished a step.
        """
        if not self.is_there:
            return
        remove(self._place(GONE))
        putting = self._place(PARTIAL)
        if os.path.lexists(putting):
            for name in RUN_NAMES:
                _move(name, putting, self._layout.root)
            remove(putting)
        if os.path.lexists(self._place(WHOLE)) and has_begun():
            if has_finished_a_step():
                self.drop()
            return
        self.bring_back()

    def _place(self, state: str) -> Path:
        return self._layout.inside(f"{STEM}{state}")


def _move(name: str, source: Path, target: Path) -> None:
    """Move one of a run's names, if it is there; what stands in its place is the other run's."""
    if os.path.lexists(source / name):
        remove(target / name)
        (source / name).replace(target / name)


def _names(folder: Path) -> list[str]:
    """The names that the run in a folder has; all of them where that is not known: then nothing is removed."""
    try:
        names = read_json(folder / NAMES)
    except DataError:
        return list(RUN_NAMES)
    return names if isinstance(names, list) else list(RUN_NAMES)
