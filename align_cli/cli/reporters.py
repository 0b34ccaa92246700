"""What a run and its stages talk to while they work: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from align_cli.cli.shown import drawn, fits, visible
from align_cli.redaction import without_secrets
from align_cli.report.tables import rounds_table, scorers_table, span
from align_cli.run.at_work import CountedProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as ProgressBars

    from align_cli.artifacts.records import Evaluation

SECONDS_BETWEEN_LINES = 30.0
ROOM_FOR_MORE = 8
"""Lines of a terminal that a live table leaves to its heading, the progress bar and notes."""


class RunReporter:
    """What run folders and stages report to. This one shows nothing but is told everything."""

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[StageProgress]:
        """A stage begins; the context ends with it."""
        yield StageProgress()

    def note(self, text: str) -> None:
        """One line for the user."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """A round's evaluation is there."""


class StageProgress(CountedProgress):
    """A stage's work, counted, with its pace in words."""

    def __init__(self) -> None:
        super().__init__("items")

    def pace(self) -> str:
        """Work done a second, or seconds for a piece of slow work: `3.5 completions/s`, `13.8 s a step`."""
        if 0 < self.per_second < 1:
            return f"{1 / self.per_second:.1f} s a {self.unit.removesuffix('s')}"
        return f"{self.per_second:.{0 if self.per_second >= 10 else 1}f} {self.unit}/s"


class PlainReporter(RunReporter):
    """Plain lines: one when a stage ends, one for each evaluation, and one now and then while a stage is at work.

    Args:
        note: takes a line.
        seconds_between: lines about work that is not finished are at least so far apart.
    """

    def __init__(self, note: Callable[[str], None], seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self._note = note
        self._seconds_between = seconds_between

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[StageProgress]:
        title = f"round {round_number} {stage}"
        progress = _LineProgress(title, self._note, self._seconds_between)
        with progress.heard_of():
            yield progress
        seconds = time.monotonic() - progress.stage_began
        work = f", {progress.done} {progress.unit}, {progress.pace()}" if progress.done else ""
        self._note(f"{title}: {seconds:.1f} s{work}")

    def note(self, text: str) -> None:
        self._note(text)

    def evaluated(self, evaluation: Evaluation) -> None:
        table = rounds_table([evaluation])
        pairs = zip(table.columns[1:], table.rows[0][1:], strict=True)
        figures = ", ".join(f"{name} {value}" for name, value in pairs)
        self._note(f"round {evaluation.round}: {figures}")
        others = scorers_table([evaluation])
        for _, scorer, *cells in others.rows:
            said = ", ".join(f"{name} {value}" for name, value in zip(others.columns[2:], cells, strict=True))
            self._note(f"round {evaluation.round}, by {scorer}: {said}")


class _LineProgress(StageProgress):
    def __init__(self, title: str, note: Callable[[str], None], seconds_between: float) -> None:
        super().__init__()
        self._title, self._note, self._seconds_between = title, note, seconds_between
        self.stage_began = self._last = time.monotonic()
        self._telling = threading.Lock()

    @contextmanager
    def heard_of(self) -> Iterator[None]:
        """Something is said now and then, also while a long piece of work tells nothing of itself."""
        over = threading.Event()

        def listen() -> None:
            while not over.wait(self._seconds_between):
                self._tell()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            over.set()
            listener.join()

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        if self.done < self.total:
            self._tell()

    def _tell(self) -> None:
        with self._telling:
            now = time.monotonic()
            if now - self._last < self._seconds_between:
                return
            self._last = now
            work = f"{self.done} of {self.total} {self.unit}"
            if self.per_second > 0:
                left = span((self.total - self.done) / self.per_second)
                self._note(f"{self._title}: {work}, {self.pace()}, {left} left")
            else:
                self._note(f"{self._title}: {f'{work} ' * bool(self.total)}after {span(now - self.stage_began)}")


class LiveReporter(RunReporter):
    """A live table of the latest rounds above a progress bar with throughput and remaining time."""

    def __init__(self, console: Console, bars: ProgressBars) -> None:
        self.console = console
        self.bars = bars
        self.evaluations: list[Evaluation] = []
        self.refresh: Callable[[], None] = lambda: None

    @classmethod
    @contextmanager
    def showing(cls, console: Console) -> Iterator[RunReporter]:
        """The reporter, while its display is on the terminal."""
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bars = Bars(*columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True), console=console)
        reporter = cls(console, bars)
        with Live(reporter._display(), console=console, refresh_per_second=4, transient=True) as live:
            reporter.refresh = lambda: live.update(reporter._display())
            yield reporter

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[StageProgress]:
        progress = _BarProgress(self.bars, f"round {round_number} {stage}")
        try:
            yield progress
        finally:
            self.bars.remove_task(progress.task)

    def note(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(visible(without_secrets(text))))

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        self.refresh()

    def _display(self) -> Any:
        from rich.console import Group

        table = rounds_table(self.evaluations[-max(self.console.height - ROOM_FOR_MORE, 1) :])
        if not fits(table, self.console):
            table = table._replace(rows=table.rows[-1:])
        return Group(drawn(table, self.console), self.bars) if table.rows else self.bars


class _BarProgress(StageProgress):
    def __init__(self, bars: ProgressBars, title: str) -> None:
        super().__init__()
        self.bars = bars
        self.task = bars.add_task(title, total=None, rate="")

    def start(self, total: int, unit: str) -> None:
        super().start(total, unit)
        self.bars.reset(self.task, total=total, rate="")

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        self.bars.update(self.task, advance=amount, rate=self.pace())
