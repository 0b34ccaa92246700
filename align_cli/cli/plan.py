"""`align plan`: what is left of a run, and what it will take; with `--measure`, by a short measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.many import check_alone
from align_cli.cli.options import AsJson, Overrides, Quiet, RecipePath
from align_cli.cli.output import Output, guarded
from align_cli.cli.streams import printing_as_talk

if TYPE_CHECKING:
    from align_cli.run.prospect import Prospect

UNMEASURED = "counts are the most that there can be, sizes about right; --measure adds time and memory"
UNMEASURED_REST = "time, memory and sizes are those of this run's own steps so far; --measure measures anew"


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    is_measured: Annotated[
        bool,
        typer.Option("--measure", help="Do short pieces of every stage, in a folder that goes, and tell from these."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what is left of a run: steps, pairs, tokens, labelers' calls and cost, disk; measured, time and memory."""
    from align_cli.run.prospect import prospect_of

    talk = Output(quiet=quiet, as_json=as_json)
    if is_measured:
        check_alone("--measure")
        with talk.reporter() as reporter:
            prospect = prospect_of(recipe, overrides or [], reporter)
    else:
        with printing_as_talk():
            prospect = prospect_of(recipe, overrides or [])
    _show(talk, prospect)


def _show(talk: Output, prospect: Prospect) -> None:
    from align_cli.report.plan_tables import labelers_table, plan_table
    from align_cli.report.tables import size, span

    plan = prospect.to_dict()
    if talk.as_json:
        talk.data(plan)
        return
    for line in prospect.outlook:
        talk.text(line)
    if (spent := prospect.spent) is not None:
        memory = f", {size(spent.memory)} in memory" if spent.memory else ""
        steps = f"{spent.num_steps} of {spent.num_steps + len(prospect.steps)} steps"
        talk.text(f"so far: {steps} in {span(spent.seconds)}{memory}, {size(spent.disk)} on disk")
    if not prospect.steps:
        return
    talk.table(plan_table(plan))
    talk.table(labelers_table(plan))
    for note in prospect.notes:
        talk.note(note)
    if prospect.measurement is None:
        talk.note(UNMEASURED if prospect.seconds is None else UNMEASURED_REST)
