"""Weights & Biases: online where somebody is logged in, else kept for `wandb sync`.

A point has the same `_step` whichever process tells it, so the server drops what it has. An offline run is a file that
wandb writes late: a killed process leaves it without its end. So it is written anew from the run's artifacts, and
`wandb sync` finds one run, whole.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from align_cli.tracking.base import TrackedRun
from align_cli.tracking.points import Point

AXIS = "global_step"


class WeightsAndBiases:
    """Writes to `wandb/`."""

    def begin(self, run: TrackedRun) -> int:
        import wandb

        self._table = wandb.Table
        settings = wandb.Settings(silent=True, console="off", init_timeout=60, save_code=False)
        wandb.setup(settings=settings)  # what the process says, as of its other products, is silent too
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        run.folder.mkdir(parents=True, exist_ok=True)
        if mode == "offline":
            for folder in (run.folder / "wandb").glob(f"offline-run-*-{run.id}"):
                shutil.rmtree(folder)
        self._run = wandb.init(
            project=run.project or os.environ.get("WANDB_PROJECT") or "align",
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            mode=mode,
            resume="allow",
            config=run.config,
            allow_val_change=True,
            settings=settings,
        )
        self._run.define_metric(AXIS)
        self._run.define_metric("*", step_metric=AXIS)
        return self._run.step - 1

    def tell(self, point: Point) -> None:
        told: dict[str, Any] = {**point.figures, AXIS: point.step}
        if point.samples:
            rows = [[point.round, *sample] for sample in point.samples]
            told["samples"] = self._table(columns=["round", "prompt", "response", "score"], data=rows)
        self._run.log(told, step=point.place, commit=True)

    def end(self, *, is_finished: bool) -> None:
        self._run.finish(exit_code=0 if is_finished else 1)
