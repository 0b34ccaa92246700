"""The only printer, and the one error boundary. Data goes to standard output, talk to standard error.

Text that models or data sets wrote is data: its control characters are shown, not obeyed, and none of it is read as
markup. A command ends with an exit code of `align_cli.errors.ExitCode`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from itertools import zip_longest
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from align_cli.artifacts.disk import disk_error
from align_cli.cli.shown import drawn, json_in, visible, visible_json
from align_cli.cli.streams import OutputClosedError, printing_as_talk, write_out
from align_cli.errors import AlignError, ExitCode, OutOfMemoryError, counted
from align_cli.models.memory import memory_fault
from align_cli.redaction import without_secrets

if TYPE_CHECKING:
    import threading

    from rich.console import Console

    from align_cli.artifacts.records import Record
    from align_cli.cli.columns import Columns
    from align_cli.cli.reporters import RunReporter
    from align_cli.cli.screen import Lines
    from align_cli.report.tables import TextTable


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is Ctrl-C by another hand."""


P = ParamSpec("P")
R = TypeVar("R")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """The error boundary: whatever ends a command early but a bug is shown in words, and has its exit code."""

    @wraps(command)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            is_terminated = isinstance(interrupt, Terminated)
            what = "terminated" if is_terminated else "interrupted"
            print(visible(without_secrets("; ".join([what, *map(str, interrupt.args)]))), file=sys.stderr)
            raise SystemExit(ExitCode.TERMINATED if is_terminated else ExitCode.INTERRUPTED) from None
        except OutputClosedError:
            raise SystemExit(ExitCode.OUTPUT_CLOSED) from None
        except Exception as error:
            fault = _fault_behind(error)
            if fault is None:
                raise
            _show(fault)
            raise SystemExit(fault.exit_code) from None

    return inner


def _fault_behind(error: Exception) -> AlignError | None:
    """What an error says to a user; None for a bug."""
    if isinstance(error, AlignError):
        return error
    lack = memory_fault(error)
    if lack is None:
        return disk_error(error)
    return OutOfMemoryError(
        f"out of memory: {lack}",
        hint="free some or raise its limit (ulimit -v), then run the same command again; or take a smaller model",
    )


def _show(error: AlignError) -> None:
    for fault, following in zip_longest(error.faults, error.faults[1:]):
        # A remedy that the next fault has too is told once, below the last of them.
        is_told_below = following is not None and following.hint == fault.hint
        print(visible(without_secrets(str(replace(fault, hint="") if is_told_below else fault))), file=sys.stderr)
    if len(error.faults) > 1 or error.not_shown:
        shown = counted(len(error.faults), "fault")
        total = f"{shown}, and {error.not_shown}" if error.not_shown else shown
        print(visible(without_secrets(total)), file=sys.stderr)


def show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug's traceback, as the interpreter would show it, without secrets: a place for `sys.excepthook`."""
    print(visible(without_secrets("".join(format_exception(kind, error, trace)))), end="", file=sys.stderr)


def end_at_once(error: AlignError) -> None:
    """Show what is wrong and end this process, where its main thread is stuck in what nothing reaches."""
    _show(error)
    sys.stderr.flush()
    os._exit(error.exit_code)


def show_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """What is raised where nobody can catch it, as by a labeler's code at exit: a place for `sys.unraisablehook`."""
    print(visible(without_secrets(f"{ignored.err_msg or 'Exception ignored in'}: {ignored.object!r}")), file=sys.stderr)
    if ignored.exc_value is not None:
        show_bug(ignored.exc_type, ignored.exc_value, ignored.exc_traceback)


def show_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    """What a thread raised, which may be one of a labeler's: a place for `threading.excepthook`."""
    if ended.exc_value is not None and ended.exc_type is not SystemExit:
        name = ended.thread.name if ended.thread is not None else "a thread"
        print(visible(without_secrets(f"Exception in thread {name}:")), file=sys.stderr)
        show_bug(ended.exc_type, ended.exc_value, ended.exc_traceback)


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
            print(visible(without_secrets(text)), file=sys.stderr)

    def warn(self, text: str) -> None:
        """One line that matters also to those who want quiet."""
        print(visible(without_secrets(f"warning: {text}")), file=sys.stderr)

    def data(self, value: Any, table: TextTable | None = None) -> None:
        """A command's answer: JSON if that is wanted or there is no table, else the table."""
        if self.as_json or table is None:
            write_out([_json(visible_json(json.dumps(value, ensure_ascii=False, indent=2)))])
        else:
            self.table(table)

    def text(self, text: str) -> None:
        """A command's answer that is text already."""
        write_out([f"{visible(text)}\n"])

    def piece(self, text: str) -> None:
        """A piece of an answer that is text, whose line goes on."""
        write_out([visible(text)])

    def columns(self, titles: Sequence[str]) -> Columns | None:
        """Answers side by side on standard output while they grow; None where that is no terminal, or a narrow one."""
        from rich.console import Console

        from align_cli.cli.columns import Columns

        console = Console(file=sys.stdout, highlight=False)
        return Columns(titles, console) if console.is_terminal and Columns.fit(len(titles), console.width) else None

    def terminal(self) -> Console | None:
        """The terminal that somebody sits before, where talk goes and keys come from; None where there is none."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        is_one = sys.stdin.isatty() and sys.stderr.isatty() and not console.is_dumb_terminal
        return console if is_one else None

    def screen(self) -> Lines:
        """Where what changes is shown: in one place of standard output's terminal, elsewhere a line now and then."""
        from rich.console import Console

        from align_cli.cli.screen import Lines, Screen

        console = Console(file=sys.stdout, highlight=False)
        return Screen(console) if console.is_terminal and not console.is_dumb_terminal else Lines(self.text)

    def table(self, table: TextTable) -> None:
        """A table on standard output; nothing where it has no rows."""
        from rich.console import Console

        if not table.rows:
            return
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=200)
        with console.capture() as captured:
            console.print(drawn(table, console))
        write_out([captured.get()])

    def records(self, records: Sequence[Record], place: str) -> None:
        """JSON Lines into a file, or to standard output for `-`."""
        self.rows([record.to_dict() for record in records], place)

    def rows(self, rows: Sequence[Mapping[str, Any]], place: str) -> None:
        """JSON Lines of plain objects likewise."""
        from align_cli.artifacts.json_text import to_json
        from align_cli.artifacts.store import write_rows

        if place == "-":
            shown = visible_json if sys.stdout.isatty() else str
            write_out(_json(shown(to_json(row))) for row in rows)
        else:
            write_rows(Path(place), rows)
            self.note(f"{counted(len(rows), 'line')} in {place}")

    @contextmanager
    def reporter(self) -> Iterator[RunReporter]:
        """What a run talks to: live on a terminal, plain lines elsewhere, nothing if quiet."""
        from rich.console import Console

        from align_cli.cli.reporters import LiveReporter, PlainReporter

        console = Console(stderr=True, highlight=False, quiet=self.quiet)
        is_live = console.is_terminal and not self.quiet
        shown = LiveReporter.showing(console) if is_live else nullcontext(PlainReporter(self.note))
        with printing_as_talk(), shown as reporter:
            yield reporter


def _json(text: str) -> str:
    """A line of JSON, or a document of lines, as standard output takes it."""
    return f"{json_in(text, sys.stdout.encoding or 'utf-8')}\n"
