"""The only printer. Data goes to standard output, talk to standard error, faults through one boundary.

On a terminal a run shows a live table of rounds above the stage's progress bar; elsewhere plain lines. Text that models
or data sets wrote is data: its control characters are shown, not obeyed, and none of it is read as markup.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from align_cli.errors import AlignError
from align_cli.redaction import without_environment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as ProgressBars

    from align_cli.artifacts.records import Evaluation, Record
    from align_cli.report.tables import TextTable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is Ctrl-C by another hand."""


P = ParamSpec("P")
R = TypeVar("R")


def visible(text: str) -> str:
    """The text with all that a terminal would obey shown as escapes; our own line breaks and tabs stay.

    Control characters, those that reverse or hide text (U+202E, U+200B) and the separators that some terminals break
    lines at (U+2028): whatever Unicode does not call printable.
    """
    return "".join(
        character if character in "\n\t" or character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def visible_json(text: str) -> str:
    """The same for a JSON text, which stays one of the same value: there `\\u` has four digits."""
    return "".join(
        character if character == "\n" or character.isprintable() else json.dumps(character)[1:-1] for character in text
    )


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """The error boundary: a user's faults are shown without a traceback, with exit code 2."""

    @wraps(command)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            answer = command(*args, **kwargs)
            sys.stdout.flush()  # here, since at the interpreter's end a full disk could no longer be told
            return answer
        except AlignError as error:
            _show(error)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt as interrupt:
            is_terminated = isinstance(interrupt, Terminated)
            what = "terminated" if is_terminated else "interrupted"
            print("; ".join([what, *map(str, interrupt.args)]), file=sys.stderr)
            raise typer.Exit(EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has closed it, as `head` does.
            sys.stderr.close()
            raise typer.Exit(0) from None
        except Exception as error:
            from align_cli.artifacts.disk import disk_error

            fault = disk_error(error)
            if fault is None:
                raise
            _show(fault)
            _give_up_stdout()
            raise typer.Exit(EXIT_USER_ERROR) from None

    return inner


def _show(error: AlignError) -> None:
    for fault in error.faults:
        print(visible(without_environment(str(fault))), file=sys.stderr)
    if len(error.faults) > 1:
        print(f"{len(error.faults)} faults", file=sys.stderr)


def _give_up_stdout() -> None:
    """Let go of what standard output did not take; the interpreter would try once more, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def check_output_place(place: str) -> None:
    """Refuse a place that no file can be written to, before the work is done.

    Raises:
        AlignError: if it is a folder, a pipe or a device, or lies below a file.
    """
    path = Path(place)
    if place != "-" and path.exists() and not (path.is_file() or path.is_dir()):
        raise AlignError(
            "the output is a pipe or a device, not a file",
            where=place,
            hint="leave -o out, and let the shell send standard output there",
        )
    if place != "-" and path.is_dir():
        raise AlignError("the output is a folder", where=place, hint="name a file, or - for standard output")
    if place != "-" and any(parent.is_file() for parent in path.parents):
        raise AlignError("the output lies below a file", where=place, hint="name a file in a folder")


class Output:
    """What a command says.

    Args:
        quiet: no talk; data and errors only.
        as_json: data as JSON instead of tables.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json

    def note(self, text: str) -> None:
        """One line of talk."""
        if not self.quiet:
            print(visible(without_environment(text)), file=sys.stderr)

    def warn(self, text: str) -> None:
        """One line that matters also to those who want quiet."""
        print(visible(without_environment(f"warning: {text}")), file=sys.stderr)

    def data(self, value: Any, table: TextTable | None = None) -> None:
        """A command's answer: JSON if that is wanted or there is no table, else the table."""
        if self.as_json or table is None:
            print(visible_json(json.dumps(value, ensure_ascii=False, indent=2)))
        else:
            self.table(table)

    def text(self, text: str) -> None:
        """A command's answer that is text already."""
        print(visible(text))

    def table(self, table: TextTable) -> None:
        """A table on standard output; nothing where it has no rows."""
        from rich.console import Console

        if not table.rows:
            return
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=200)
        with console.capture() as drawn:
            console.print(_rich_table(table))
        sys.stdout.write(drawn.get())
        sys.stdout.flush()

    def records(self, records: Sequence[Record], place: str) -> None:
        """JSON Lines into a file, or to standard output for `-`."""
        from align_cli.artifacts.json_text import to_json
        from align_cli.artifacts.store import print_records, write_records

        if place == "-" and sys.stdout.isatty():
            for record in records:
                print(visible_json(to_json(record.to_dict())))
        elif place == "-":
            print_records(records, sys.stdout)
        else:
            write_records(Path(place), records)
            self.note(f"{len(records)} lines in {place}")

    def reporter(self) -> AbstractContextManager[RunReporter]:
        """What a run talks to: live on a terminal, plain lines elsewhere, nothing if quiet."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False, quiet=self.quiet)
        return LiveReporter.showing(console) if console.is_terminal and not self.quiet else PlainReporter.showing(self)


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


class StageProgress:
    """Counts a stage's work; a stage may start several times, such as for samples and then for scores."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.unit = "items"
        self.began = time.monotonic()

    def start(self, total: int, unit: str) -> None:
        """Work begins."""
        self.total, self.done, self.unit, self.began = total, 0, unit, time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Some of it is done."""
        self.done += amount

    def rate(self) -> str:
        """Work done a second, since the work began: loading a model or a library comes before that."""
        rate = self.done / max(time.monotonic() - self.began, 1e-3)
        return f"{rate:.0f} {self.unit}/s" if rate >= 10 else f"{rate:.1f} {self.unit}/s"


class PlainReporter(RunReporter):
    """Plain lines: one when a stage ends, and one for each evaluation."""

    def __init__(self, output: Output) -> None:
        self.output = output

    @classmethod
    @contextmanager
    def showing(cls, output: Output) -> Iterator[RunReporter]:
        """The reporter, while it is in use."""
        yield cls(output)

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[StageProgress]:
        progress, began = StageProgress(), time.monotonic()
        yield progress
        seconds = time.monotonic() - began
        work = f", {progress.done} {progress.unit}, {progress.rate()}" if progress.done else ""
        self.output.note(f"round {round_number} {stage}: {seconds:.1f} s{work}")

    def note(self, text: str) -> None:
        self.output.note(text)

    def evaluated(self, evaluation: Evaluation) -> None:
        from align_cli.report.tables import rounds_table

        table = rounds_table([evaluation])
        pairs = zip(table.columns[1:], table.rows[0][1:], strict=True)
        figures = ", ".join(f"{name} {value}" for name, value in pairs)
        self.output.note(f"round {evaluation.round}: {figures}")


ROOM_FOR_MORE = 8
"""Lines of a terminal that a live table leaves to its heading, the progress bar and notes."""


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

        self.console.print(Text(visible(without_environment(text))))

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        self.refresh()

    def _display(self) -> Any:
        from rich.console import Group

        from align_cli.report.tables import rounds_table

        latest = self.evaluations[-max(self.console.height - ROOM_FOR_MORE, 1) :]
        tables = [_rich_table(rounds_table(latest))] if latest else []
        return Group(*tables, self.bars)


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
        self.bars.update(self.task, advance=amount, rate=self.rate())


def _rich_table(table: TextTable) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD)
    for column in table.columns:
        drawn.add_column(Text(_one_line(column)), justify="right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(_one_line(cell)) for cell in row))
    return drawn


def _one_line(cell: str) -> str:
    """A cell's text, which must not look like further rows."""
    return visible(cell).replace("\n", "\\n").replace("\t", "\\t")
