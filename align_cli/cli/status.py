"""`align status`: where a run stands, whether it is at work, and how long it will take."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.options import AsJson, RunFolderPath
from align_cli.cli.output import Output, guarded

if TYPE_CHECKING:
    from align_cli.run.at_work import AtWork
    from align_cli.run.status import RunStatus

SECONDS_BETWEEN_LOOKS = 1.0


@guarded
def command(
    run: RunFolderPath,
    is_watched: Annotated[bool, typer.Option("--watch", help="Go on showing it for as long as it is at work.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a run stands: at work or not, time left, rounds, stages, memory, metrics."""
    from align_cli.run.status import run_status

    if is_watched and as_json:
        raise typer.BadParameter("--watch is for people, --json for programs: ask again as often as you like")
    talk = Output(as_json=as_json)
    if is_watched:
        _watch(talk, run)
    status = run_status(run)
    if as_json:
        talk.data(status.to_dict())
    else:
        _show(talk, status, run)


def _watch(talk: Output, run: Path) -> None:
    """Show how a run stands until it is no longer at work."""
    from align_cli.report.tables import rounds_table
    from align_cli.run.status import RUNNING, run_status

    with talk.screen() as screen:
        while (status := run_status(run)).state == RUNNING:
            lines = [_summary(status, run), *_at_work_or_not(status, run), *status.guards[-1:]]
            screen.show(lines, rounds_table(status.evaluations))
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _show(talk: Output, status: RunStatus, run: Path) -> None:
    from align_cli.report.labels import labels_table
    from align_cli.report.tables import rounds_table, scorers_table, stages_table

    talk.text(_summary(status, run))
    for line in _at_work_or_not(status, run):
        talk.text(line)
    if status.lineage is not None:
        talk.text(f"forked from {status.lineage['run']} after round {status.lineage['round']}")
    for line in status.guards:
        talk.text(line)
    if status.evaluations:
        talk.table(rounds_table(status.evaluations))
        if (others := scorers_table(status.evaluations)).rows:
            talk.table(others)
    if (labels := labels_table(status.ledger)).rows:
        talk.table(labels)
    talk.table(stages_table(status.ledger))


def _summary(status: RunStatus, run: Path) -> str:
    return f"{run}: {len(status.finished)} of {len(status.planned)} steps finished, next: {status.next_step}"


def _at_work_or_not(status: RunStatus, run: Path) -> list[str]:
    from align_cli.report.tables import size
    from align_cli.run.status import ELSEWHERE, FINISHED, RUNNING

    if status.state == FINISHED:
        return []
    if status.state == RUNNING and status.holder is not None:
        memory = status.holder.memory_bytes
        return [f"running: {status.holder}" + (f", {size(memory)} in memory" if memory else ""), *_time_left(status)]
    if status.state == ELSEWHERE:
        return [f"in use by {status.holder}, on another machine: only there it can be seen whether it still is"]
    if status.stopped_by is not None:
        return [f"not running: {status.stopped_by.what}", f"hint: {status.stopped_by.hint}"]
    again = "`align train` with its recipe, in the folder where it was begun"
    if status.goes_on_here:
        again = f"align train {shlex.quote(str(run / 'recipe.yaml'))}"
    return [f"not running: {_how_far(status)}", f"go on with: {again}"]


def _time_left(status: RunStatus) -> list[str]:
    from align_cli.report.tables import span

    now, lines = time.time(), []
    if status.at_work is not None and (status.at_work.total or status.at_work.beside):
        left = status.seconds_left_in_step(now)
        several = [one for one in (status.at_work, status.at_work.beside) if one is not None]
        lines = [_pace(one) for one in several]
        lines[-1] += "" if left is None else f", {span(left)} left" + " for both" * (len(several) > 1)
    whole = status.seconds_left(now)
    return [*lines, f"time left: {'not known yet' if whole is None else span(whole)}"]


def _pace(at_work: AtWork) -> str:
    if not at_work.total:
        return f"{at_work.step}: begins"
    return f"{at_work.step}: {at_work.done} of {at_work.total} {at_work.unit}, {at_work.per_second:.3g}/s"


def _how_far(status: RunStatus) -> str:
    if status.at_work is None:
        return f"{status.next_step} has not begun"
    at_work = status.at_work
    place = f" at {at_work.done} of {at_work.total} {at_work.unit}" if at_work.total else ""
    how = "interrupted" if status.holder is None else f"{status.holder} was killed"
    return f"{how} in {at_work.step}{place}"
