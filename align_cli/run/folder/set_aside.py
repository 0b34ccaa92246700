"""The run that `--restart` puts out of the way, until the new one has finished its first step.

Whenever a process is killed, one whole run is found: every state below says by its name which way to go on, and each
way can be gone twice. A folder changes its state in one rename.

    .previous.partial   the old run is being put aside: what is in it goes back
    .previous           the old run, whole: it goes back, unless the new one has finished a step
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
from align_cli.run.folder.layout import LEDGER, LINEAGE, RECIPE, ROUNDS, RUN, WORK, Layout

RUN_NAMES = (WORK, LEDGER, RECIPE, LINEAGE, ROUNDS, RUN)
"""What a run writes; run.json, which makes a folder a run's, is moved last of all."""

STEM = ".previous"
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
        self._aside = layout.root / STEM
        self._putting, self._back, self._gone = (
            layout.root / f"{STEM}.{state}" for state in ("partial", "back", "gone")
        )

    @property
    def is_there(self) -> bool:
        """Whether a run was put aside, or is on its way there or back."""
        return any(os.path.lexists(path) for path in (self._putting, self._aside, self._back, self._gone))

    def put(self) -> None:
        """Make room for a new run; the old one can still be brought back."""
        self._check_held()
        self._putting.mkdir()
        write_json(self._putting / NAMES, [name for name in RUN_NAMES if os.path.lexists(self._layout.root / name)])
        for name in RUN_NAMES:
            _move(name, self._layout.root, self._putting)
        self._putting.replace(self._aside)

    def bring_back(self) -> None:
        """Undo `put`, and remove what the new run has written since."""
        self._check_held()
        if os.path.lexists(self._aside):
            self._aside.replace(self._back)
        if not os.path.lexists(self._back):
            return
        for name in (name for name in RUN_NAMES if name not in _names(self._back)):
            remove(self._layout.root / name)
        for name in RUN_NAMES:
            _move(name, self._back, self._layout.root)
        remove(self._back)

    def drop(self) -> None:
        """Remove the run that was put aside."""
        if os.path.lexists(self._aside):
            self._check_held()
            self._aside.replace(self._gone)
            remove(self._gone)

    def recover(self, *, is_new_run_begun: Callable[[], bool]) -> None:
        """Go on with what a killed process has left.

        Args:
            is_new_run_begun: whether the run in the folder has finished a step.
        """
        if not self.is_there:
            return
        remove(self._gone)
        if os.path.lexists(self._putting):
            for name in RUN_NAMES:
                _move(name, self._putting, self._layout.root)
            remove(self._putting)
        if os.path.lexists(self._aside) and is_new_run_begun():
            self.drop()
        self.bring_back()


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
