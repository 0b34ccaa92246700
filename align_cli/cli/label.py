"""`align label`: score completions, or have people judge them, and pair them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli.many import check_alone, crew_for
from align_cli.cli.options import InputPlace, Overrides, PolicyPath, Quiet, RecipePath
from align_cli.cli.output import Output, check_output_place, guarded


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    input: InputPlace = "-",
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE|-", help="Where to write; - is standard output, also when left out."
        ),
    ] = None,
    policy: PolicyPath = None,
    labeler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="In place of method.sources.dpr.labeler; `person` needs no section."),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who judges, where a person labels; else the login name.")
    ] = None,
    with_skipped: Annotated[
        bool, typer.Option("--skipped", help="Ask again about the pairs that were skipped.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the pairs that wait for a person into a new table.")
    ] = None,
    taken_in: Annotated[
        Path | None, typer.Option("--import", metavar="CSV", help="Take in the verdicts that a table was filled with.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Turn completions into preferences: JSON Lines in, JSON Lines out."""
    from align_cli.artifacts.records import Completion
    from align_cli.cli.people import Wishes, check_wishes, label_with_people, people_asked
    from align_cli.cli.streams import read_stream
    from align_cli.recipe import load_recipe
    from align_cli.recipe.chosen_labeler import chosen_labeler
    from align_cli.report.tables import figures_in_words
    from align_cli.run.single import label_once
    from align_cli.stages.base import PREFERENCES

    talk, wishes = Output(quiet=quiet), Wishes(annotator, with_skipped, export, taken_in)
    check_output_place(output or "-")
    changed = chosen_labeler(recipe, overrides or [], labeler) if labeler is not None else []
    loaded = load_recipe(recipe, [*(overrides or []), *changed])
    people = people_asked(loaded)
    if export is not None and output is not None:
        raise typer.BadParameter("--export writes no preferences: leave out -o")
    check_wishes(wishes, people)
    if people and input == "-" and sys.stdin.isatty():
        raise typer.BadParameter("a person labels at this terminal: name the completions with -i FILE")
    completions = read_stream(input, Completion)
    if people:
        check_alone("--labeler")
        is_wanted = output is not None or not (wishes.is_of_files or sys.stdout.isatty())
        labelled = label_with_people(talk, loaded, completions, policy, wishes, is_wanted=is_wanted)
        if labelled is None:
            return
    else:
        with talk.reporter() as reporter, crew_for(loaded, reporter) as crew:
            labelled = label_once(loaded, completions, policy, reporter, crew=crew)
    for line in figures_in_words(labelled.figures):
        talk.note(line)
    talk.records(labelled.written[PREFERENCES], output or "-")
