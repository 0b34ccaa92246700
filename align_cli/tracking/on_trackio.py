"""trackio: a database in the run's folder, or the Space that `train.trackio_space_id` or trackio's variables name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from align_cli.tracking.base import TrackedRun
from align_cli.tracking.points import EVALUATION_FIGURE, Point, place_of

FOLDER = "TRACKIO_DIR"


class Trackio:
    """Writes to `trackio/`."""

    def begin(self, run: TrackedRun) -> int:
        _choose_folder(run.folder.resolve() / "trackio")
        import trackio

        self._table = trackio.Table
        project = run.project or os.environ.get("TRACKIO_PROJECT") or "align"
        name = run.own_name
        self._run = trackio.init(
            project=project,
            name=name,
            space_id=run.passed.get("trackio_space_id"),
            bucket_id=run.passed.get("trackio_bucket_id"),
            config=run.config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        from trackio.sqlite_storage import SQLiteStorage

        rows = SQLiteStorage.get_logs(project, name)
        return max((place_of(row["step"], is_end=EVALUATION_FIGURE in row) for row in rows), default=-1)

    def tell(self, point: Point) -> None:
        told: dict[str, Any] = dict(point.figures)
        if point.samples:
            import pandas as pd

            told["samples"] = self._table(dataframe=pd.DataFrame([sample._asdict() for sample in point.samples]))
        self._run.log(told, step=point.step)

    def end(self, *, is_finished: bool) -> None:
        import trackio

        trackio.finish()


def _choose_folder(folder: Path) -> None:
    """trackio reads where to write once a process, when it is imported.

    Raises:
        RuntimeError: if this process keeps another run's.
    """
    if os.environ.get(FOLDER):
        return
    if "trackio" not in sys.modules:
        os.environ[FOLDER] = str(folder)
        try:
            import trackio
        finally:
            del os.environ[FOLDER]
    import trackio

    if Path(trackio.TRACKIO_DIR) != folder:
        raise RuntimeError(f"this process keeps another run in {trackio.TRACKIO_DIR}; set {FOLDER}")
