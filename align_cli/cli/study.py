"""`align study`: a recipe's settings and seeds compared, through the ordinary loop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli.options import AsJson, Overrides, Quiet, RecipePath
from align_cli.cli.output import Output, guarded
from align_cli.errors import ExitCode, counted

TRAIN = (sys.executable, "-P", "-c", "from align_cli.cli.main import main; main()", "train")
"""`align train` by the interpreter that is at work; like the installed command, it finds no modules in the folder that
it is called from."""


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=A,B,C",
            help="A key and its values, NAME={...} where one is long; several make every combination. The others are "
            "compared with the first.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N|A,B,C", help="How many seeds, from 0 on; or which.")
    ] = "10",
    for_tuning: Annotated[
        bool, typer.Option("--tune", help="For choosing settings: seeds from 1000 on, which no reported table has.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="The study's folder.", show_default=False)
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", help="Runs at a time; one a core for small models, else one.", show_default=False
        ),
    ] = None,
    with_pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Whether pictures are drawn (SVG, PNG).")
    ] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe under several settings and seeds, and compare them; run it again to go on, or with more of them."""
    from align_cli.study import STUDY
    from align_cli.study.definition import define, remarks
    from align_cli.study.loop import carry_out_study
    from align_cli.study.values import parse_axes, parse_seeds

    if output is None:
        raise typer.BadParameter("a study needs -o DIR for its runs and tables")
    talk = Output(quiet=quiet, as_json=as_json)
    axes, numbers = parse_axes(over or []), parse_seeds(seeds, for_tuning=for_tuning)
    definition = define(recipe, overrides or [], axes, numbers, for_tuning=for_tuning)
    for remark in remarks(definition, begins=not (output / STUDY).is_file()):
        talk.warn(remark)
    try:
        studied = carry_out_study(definition, output, TRAIN, talk.note, jobs=jobs, with_pictures=with_pictures)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)("`align study` with the same arguments goes on where it stopped") from None
    _show(talk, studied.results, studied.costs)
    pictures = counted(len(studied.pictures), "picture") if studied.pictures else "no pictures"
    talk.note(f"results.json, tables.md, table.csv, runs.csv, costs.json and {pictures} are in {output}")
    if studied.results["missing"]:
        talk.warn(f"{counted(len(studied.results['missing']), 'run')} of {len(definition.runs)} did not finish")
        raise typer.Exit(ExitCode.FAULT)
    if not for_tuning and len(definition.combinations) > 2:
        talk.note(
            "what is chosen from this table looks better in it than it is: choose with --tune, report on other seeds"
        )


def _show(talk: Output, results: dict, costs: dict) -> None:
    from align_cli.study.tables import heading, tables_of

    if talk.as_json:
        talk.data({**results, "costs": costs})
        return
    talk.text(heading(results))
    for table in tables_of(results, costs).values():
        talk.table(table)
