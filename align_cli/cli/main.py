"""The command line: `align`, and the table of its commands."""

from __future__ import annotations

import os
import sys
import threading

import typer

from align_cli.cli import chat, check, data, evaluate, export, generate, label, reward, status, train
from align_cli.cli.many import followed
from align_cli.cli.output import guarded, show_bug, show_end_of_thread, show_ignored
from align_cli.cli.process import end_at_sigterm
from align_cli.cli.streams import close_data, prepare_streams
from align_cli.errors import ExitCode

EXIT_CODES = "Exit codes: " + "; ".join(f"{code.value} {code.meaning}" for code in ExitCode) + "."

app = typer.Typer(
    name="align",
    help="Iterative, online preference alignment of language models: recipes in, aligned models out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.command)
app.command("generate")(generate.command)
app.command("label")(label.command)
app.command("evaluate")(evaluate.command)
app.command("reward")(reward.command)
app.command("check")(check.command)
app.command("data")(data.command)
app.command("status")(status.command)
app.command("export")(export.command)
app.command("chat")(chat.command)


def main() -> None:
    """Entry point of the console script."""
    prepare_streams()
    if os.environ.get("COLUMNS") == "0":  # nobody's terminal; a table has nowhere to go
        del os.environ["COLUMNS"]
    # Libraries read these when they are imported, and would otherwise write over the live table; threads of OpenMP that
    # wait for each other would keep their cores busy, and beside another process take many times as long.
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TQDM_DISABLE", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("OMP_WAIT_POLICY", "PASSIVE"),
    ):
        os.environ.setdefault(name, value)
    end_at_sigterm()
    sys.unraisablehook, threading.excepthook = show_ignored, show_end_of_thread
    guarded(_commands)()


def _commands() -> None:
    """Everything that there is; what Typer itself writes, such as help, has gone out when it ends."""
    try:
        if not followed(sys.argv[1:]):
            app()
    except SystemExit as ended:
        # What comes while Typer still reads the command line, it ends with by itself, as Ctrl-C and without a word.
        interrupt = ended.__context__.__cause__ if ended.__context__ else None
        if isinstance(interrupt, KeyboardInterrupt):
            raise interrupt from None
        raise
    finally:
        sys.excepthook = show_bug  # Typer has put one of its own there
        close_data()
