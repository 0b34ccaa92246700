"""TensorBoard: event files, which are read for the last point when a run goes on.

The last event of a point is the figure that every point of its kind has. Where a kill cut a point off, its step is
written anew, and TensorBoard hides what older files hold from there on.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.tracking.base import TrackedRun
from align_cli.tracking.points import EVALUATION_FIGURE, STEP_FIGURE, Point, place_of

EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """Writes to a folder of the run's name in `tensorboard/`."""

    def begin(self, run: TrackedRun) -> int:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard" / run.own_name
        events = _events(folder)
        last = events[-1] if events else _Event(0, "")
        is_whole = last.tag in (STEP_FIGURE, EVALUATION_FIGURE)
        self._writer: Any = SummaryWriter(str(folder), purge_step=last.step if events and not is_whole else None)
        if not events:
            self._writer.add_text("recipe", _block(run.recipe), 0)
        return place_of(last.step, is_end=last.tag == EVALUATION_FIGURE) if is_whole else place_of(last.step) - 1

    def tell(self, point: Point) -> None:
        for number, sample in enumerate(point.samples):
            score = "" if sample.score is None else f"score {sample.score:.3g}\n\n"
            text = f"{score}{_block(sample.prompt)}\n\n{_block(sample.response)}"
            self._writer.add_text(f"samples/{number:02d}", text, point.step)
        for name, value in sorted(point.figures.items(), key=lambda one: one[0] == point.kind):
            self._writer.add_scalar(name, value, point.step)
        self._writer.flush()

    def end(self, *, is_finished: bool) -> None:
        self._writer.close()


class _Event(NamedTuple):
    step: int
    tag: str


def _events(folder: Path) -> list[_Event]:
    """What event files tell, in the order in which it was written; a torn end is passed over."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        _Event(event.step, value.tag)
        for path in sorted(folder.glob(EVENTS))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def _block(text: str) -> str:
    """Text as it is: TensorBoard reads Markdown."""
    return f"<pre>{html.escape(text)}</pre>".replace("\n\n", "\n&#8203;\n")
