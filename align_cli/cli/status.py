"""`align status`: where a run stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli.options import AsJson
from align_cli.cli.output import Output, guarded


@guarded
def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)], as_json: AsJson = False
) -> None:
    """Show where a run stands: rounds, stages, times, metrics."""
    from align_cli.report.tables import rounds_table, stages_table
    from align_cli.run.status import run_status

    talk = Output(as_json=as_json)
    status = run_status(run)
    if as_json:
        talk.data(status.to_dict())
        return
    talk.text(f"{run}: {len(status.finished)} of {len(status.planned)} steps finished, next: {status.next_step}")
    if status.lineage is not None:
        talk.text(f"forked from {status.lineage['run']} after round {status.lineage['round']}")
    for line in status.guards:
        talk.text(line)
    if status.evaluations:
        talk.table(rounds_table(status.evaluations))
    talk.table(stages_table(status.ledger))
