"""`align train`: every round of a recipe; with `--preferences`, the train stage alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.many import check_alone, crew_for
from align_cli.cli.options import AsJson, ForkOrigin, Overrides, PolicyPath, Quiet, RecipePath
from align_cli.cli.output import Output, guarded
from align_cli.errors import AlignError, GuardError

if TYPE_CHECKING:
    from align_cli.recipe import Recipe


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    preferences: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Train one round on these pairs beside the recipe's offline share."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="With --preferences: the new checkpoint.")
    ] = None,
    policy: PolicyPath = None,
    restart: Annotated[bool, typer.Option("--restart", help="Remove the run that is there and begin anew.")] = False,
    origin: ForkOrigin = None,
    is_smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Two steps of every stage with the longest rows, to fail early; nothing is kept."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run every round of a recipe; run it again to go on where it stopped."""
    talk = Output(quiet=quiet, as_json=as_json)
    if is_smoke:
        if restart or origin is not None or preferences is not None or output is not None or policy is not None:
            raise typer.BadParameter("--smoke goes with a recipe and overrides alone")
        check_alone("--smoke")
        _smoke(talk, recipe, overrides or [])
    elif preferences is None:
        if output is not None or policy is not None:
            raise typer.BadParameter("-o and --policy go with --preferences; the recipe's output_dir holds a run")
        _all_rounds(talk, recipe, overrides or [], restart, origin)
    else:
        if output is None:
            raise typer.BadParameter("--preferences needs -o DIR for the new checkpoint")
        if restart or origin is not None:
            raise typer.BadParameter("--restart and --from are for whole runs, not for one stage")
        _one_stage(talk, recipe, overrides or [], preferences, policy, output)


def _all_rounds(talk: Output, path: Path, overrides: list[str], restart: bool, origin: str | None) -> None:
    from align_cli.recipe import load_recipe, warnings_for
    from align_cli.report.tables import rounds_table
    from align_cli.run.folder.layout import RECIPE
    from align_cli.run.fork import parse_origin
    from align_cli.run.loop import align_rounds
    from align_cli.run.reported import last_event, leave_report

    forked_from = parse_origin(origin) if origin is not None else None
    recipe = load_recipe(path, overrides)
    for warning in warnings_for(recipe):
        talk.warn(warning)
    folder = Path(recipe.output_dir)
    before = last_event(folder)
    try:
        with talk.reporter() as reporter, crew_for(recipe, reporter, isolates=recipe.launch.isolate) as crew:
            evaluations = align_rounds(recipe, reporter, restart=restart, origin=forked_from, crew=crew)
    except KeyboardInterrupt as interrupt:
        again = "`align train` with the same recipe goes on where it stopped" + ", without --restart" * restart
        if not restart and _holds_recipe(folder, recipe):
            again = f"`align train {shlex.quote(str(folder / RECIPE))}` goes on where it stopped"
        raise type(interrupt)(again) from None
    except GuardError:  # which is an end too, and the one that is looked into; who is refused has changed nothing
        if last_event(folder) != before:
            leave_report(folder, talk.note, talk.warn)
        raise
    leave_report(folder, talk.note, talk.warn)
    talk.data([evaluation.to_dict() for evaluation in evaluations], rounds_table(evaluations))


def _holds_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether the recipe that lies with a run is this one, to the letter: then its path will do to go on with."""
    from align_cli.recipe import resolved
    from align_cli.run.folder import RunFolder

    try:
        return resolved(RunFolder(path).recipe()) == resolved(recipe)
    except AlignError:
        return False


def _smoke(talk: Output, path: Path, overrides: list[str]) -> None:
    from align_cli.report.tables import stages_table
    from align_cli.run.smoke import smoke

    with talk.reporter() as reporter:
        events = smoke(path, overrides, reporter)
    talk.data([event for event in events if event["event"] == "finish"], stages_table(events))


def _one_stage(
    talk: Output, path: Path, overrides: list[str], preferences: str, policy: Path | None, output: Path
) -> None:
    from align_cli.artifacts.records import Preference
    from align_cli.cli.streams import read_stream
    from align_cli.recipe import load_recipe
    from align_cli.run.single import train_once

    recipe = load_recipe(path, overrides)
    pairs = read_stream(preferences, Preference)
    with talk.reporter() as reporter, crew_for(recipe, reporter) as crew:
        made = train_once(recipe, pairs, policy, output, reporter, crew)
    talk.note(f"round {made.round} is in {output}: loss {made.figures['last_step']['loss']:.3f}")
