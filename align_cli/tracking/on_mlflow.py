"""MLflow: the server that `MLFLOW_TRACKING_URI` names, else a database in the run's folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.tracking.base import TrackedRun
from align_cli.tracking.points import EVALUATION_FIGURE, STEP_FIGURE, Point, place_of

URI = "MLFLOW_TRACKING_URI"
ID_TAG = "align.id"
LONGEST_VALUE = 500
PARAMS_AT_ONCE = 100
VARIABLES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""How long a server that does not answer holds up a step, and how much MLflow says, unless the user has set them."""


class MLflow:
    """Writes to `mlflow.db`, and texts to `mlflow/`."""

    def begin(self, run: TrackedRun) -> int:
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        is_local = not os.environ.get(URI)
        folder = run.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}" if is_local else os.environ[URI])
        name = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "align"
        found = self._client.get_experiment_by_name(name)
        place = (folder / "mlflow").as_uri() if is_local else None
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifact_location=place)
        known = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
        if known:
            self._id: str = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return max(self._last(STEP_FIGURE, is_end=False), self._last(EVALUATION_FIGURE, is_end=True))
        self._id = self._client.create_run(experiment, run_name=run.name, tags={ID_TAG: run.id}).info.run_id
        self._describe(run)
        return -1

    def tell(self, point: Point) -> None:
        from mlflow.entities import Metric

        if point.samples:  # first: the metrics say that the point is there
            said = {"round": point.round, "samples": [sample._asdict() for sample in point.samples]}
            self._client.log_dict(self._id, said, f"samples/round-{point.round:03d}.json")
        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), float(value), now, point.step) for name, value in point.figures.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, *, is_finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_finished else "KILLED")

    def _describe(self, run: TrackedRun) -> None:
        from mlflow.entities import Param

        self._client.log_text(self._id, run.recipe, "recipe.yaml")
        params = [Param(_name(name), str(value)[:LONGEST_VALUE]) for name, value in _flat(run.config)]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + PARAMS_AT_ONCE])

    def _last(self, figure: str, *, is_end: bool) -> int:
        history = self._client.get_metric_history(self._id, figure)
        return max((place_of(one.step, is_end=is_end) for one in history), default=-1)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree by their dotted keys."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _name(name: str) -> str:
    """A name without what MLflow refuses in one."""
    return re.sub(r"[^\w\-. :/]", "_", name)
