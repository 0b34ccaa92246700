"""Where things lie in a run's folder, and that nothing in it is a way out of it.

    recipe.yaml  run.json  ledger.jsonl  lineage.json  rounds/000/  rounds/001/  work/  tracking/  servers/  answers/
    .lock  report.html  report.json

A folder may come from elsewhere, with links or pipes in the places of files. The run's folder itself may be reached by
a link; below it none is followed.
"""

from __future__ import annotations

import os
from pathlib import Path

from align_cli.artifacts.files import FOLDER, stranger_kind
from align_cli.errors import RunError

RECIPE, RUN, LEDGER, LINEAGE = "recipe.yaml", "run.json", "ledger.jsonl", "lineage.json"
ROUNDS, WORK, LOCK, MANIFEST = "rounds", "work", ".lock", "manifest.json"
REPORT, REPORT_DATA = "report.html", "report.json"
"""What is shown of the run: no artifact, since they hold times, and a fork leaves them behind."""
TRACKING = "tracking"
"""What the trackers of `train.report_to` write: no artifact, nothing depends on it, and a fork leaves it behind."""
SERVERS = "servers"
"""What servers that generate text print, and, while they do, the weights that they read: no artifact."""
ANSWERS = "answers"
"""What labelers were told that cost money or time, by content: single commands add to it too, and `--restart` keeps it.
"""


def run_around(path: Path) -> Path | None:
    """The run that a place lies in, or will; None where it lies in none."""
    return next((parent for parent in path.resolve().parents if (parent / RUN).is_file()), None)


class Layout:
    """The names in a run's folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def inside(self, *names: str) -> Path:
        """The path of something below the folder, which need not be there.

        Raises:
            RunError: if it, or a folder on the way to it, is a link, a pipe or a device.
        """
        path = self.root
        if not all(name and name not in (".", "..") and "/" not in name for name in names):
            raise RunError(f"{'/'.join(names)!r} is no name of a run's own", where=str(self.root))
        for name in names:
            path = path / name
            try:
                kind = stranger_kind(os.lstat(path).st_mode)
            except OSError:
                continue
            if kind not in (None, FOLDER):
                raise RunError(
                    f"this is {kind}; nothing in a run's folder is followed out of it",
                    where=str(path),
                    hint="put the file itself in its place, or remove it",
                )
        return path

    def file(self, name: str) -> Path:
        """The path of a file in the folder itself, which need not be there.

        Raises:
            RunError: if there is something else in its place.
        """
        path = self.inside(name)
        if path.is_dir():
            raise RunError("this is a folder, where a file should be", where=str(path), hint="move it away")
        return path

    def folder(self, name: str) -> Path:
        """The path of a folder in the folder itself, which need not be there.

        Raises:
            RunError: if there is something else in its place.
        """
        path = self.inside(name)
        if path.is_file():
            raise RunError("this is a file, where a folder should be", where=str(path), hint="move it away")
        return path

    def artifact(self, round_number: int, name: str) -> Path:
        """Where an artifact of a round lies, or will; of one that is a folder, also a file of it."""
        return self.inside(ROUNDS, f"{round_number:03d}", *name.split("/"))

    def rounds_with(self, name: str) -> list[int]:
        """The rounds in whose folder there is something of this name, in their order."""
        folders = self.inside(ROUNDS).glob(f"*/{name}")
        return sorted(int(path.parent.name) for path in folders if path.parent.name.isdecimal())

    def damage_remedy(self, path: Path) -> str:
        """What to do about a file that is not what was written."""
        places = path.relative_to(self.root).parts
        number = int(places[1]) if places[0] == ROUNDS and places[1].isdecimal() else 0
        fork = f", go on in another output_dir with the rounds before (--from {self.root}@{number - 1})" * (number > 0)
        return f"restore it from a copy{fork}, or begin anew with --restart (removes the run in {self.root})"
