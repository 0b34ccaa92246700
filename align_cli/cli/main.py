"""The command line: `align`, and the table of its commands."""

from __future__ import annotations

import os
import sys
import threading

import typer

from align_cli.cli import (
    chat,
    check,
    compare,
    data,
    doctor,
    evaluate,
    export,
    generate,
    init,
    label,
    plan,
    recipes,
    report,
    reward,
    samples,
    schema,
    status,
    study,
    train,
)
from align_cli.cli.many import followed
from align_cli.cli.output import guarded, show_bug, show_end_of_thread, show_ignored
from align_cli.cli.process import at_work, end_at_sigterm, sparing_garbage
from align_cli.cli.streams import close_data, prepare_streams
from align_cli.errors import ExitCode

EXIT_CODES = "Exit codes: " + "; ".join(f"{code.value} {code.meaning}" for code in ExitCode) + "."

app = typer.Typer(
    name="align",
    help="Iterative, online preference alignment of language models: recipes in, aligned models out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("init")(init.command)
app.command("train")(at_work(train.command))
app.command("generate")(at_work(generate.command))
app.command("label")(at_work(label.command))
app.command("evaluate")(at_work(evaluate.command))
app.command("reward")(at_work(reward.command))
app.command("check")(at_work(check.command))
app.command("plan")(at_work(plan.command))
app.command("data")(at_work(data.command))
app.command("study")(at_work(study.command))
app.command("compare")(compare.command)  # reads runs, and that is all
app.command("status")(status.command)  # reads a run, and that is all
app.command("report")(report.command)
app.command("samples")(samples.command)
app.command("export")(at_work(export.command))
app.command("chat")(at_work(chat.command))
app.add_typer(recipes.recipes, name="recipes")
app.add_typer(recipes.presets, name="presets")
app.command("schema")(schema.command)
app.command("doctor")(doctor.command)


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
    with sparing_garbage():
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
