"""`align status`: where a run stands, or a study, whether it is at work, and how long it will take."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.complete import run_folders
from align_cli.cli.options import AsJson
from align_cli.cli.output import Output, guarded
from align_cli.errors import counted

if TYPE_CHECKING:
    from align_cli.report.tables import TextTable
    from align_cli.run.at_work import AtWork
    from align_cli.run.status import RunStatus
    from align_cli.study.standing import StudyStatus

SECONDS_BETWEEN_LOOKS = 1.0
MOST_FAULTS = 5
IN_USE = "in use by {holder}, on another machine: only there it can be seen whether it still is"


@guarded
def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|STUDY",
            help="A run's folder: its output_dir; or a study's.",
            show_default=False,
            autocompletion=run_folders,
        ),
    ],
    is_watched: Annotated[bool, typer.Option("--watch", help="Go on showing it for as long as it is at work.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a run stands, or a study: at work or not, time left, rounds, stages, memory, metrics."""
    from align_cli.run.status import RUNNING, RunStatus

    if is_watched and as_json:
        raise typer.BadParameter("--watch is for people, --json for programs: ask again as often as you like")
    talk, look = Output(as_json=as_json), _looking_at(run)
    if is_watched:
        with talk.screen() as screen:
            while (status := look()).state == RUNNING:
                screen.show(*_glance(status, run))
                time.sleep(SECONDS_BETWEEN_LOOKS)
    status = look()
    if as_json:
        talk.data(status.to_dict())
    elif isinstance(status, RunStatus):
        _show(talk, status, run)
    else:
        lines, table = _glance(status, run)
        for line in lines:
            talk.text(line)
        talk.table(table)


def _looking_at(path: Path) -> Callable[[], RunStatus | StudyStatus]:
    """What says how the run, or the study, in a folder stands now."""
    from align_cli.run.status import run_status
    from align_cli.study import STUDY

    if not (path / STUDY).is_file():
        return partial(run_status, path)
    from align_cli.study.standing import StudyToWatch

    return StudyToWatch(path).look


def _glance(status: RunStatus | StudyStatus, path: Path) -> tuple[list[str], TextTable]:
    """The lines and the table that say most of it."""
    from align_cli.report.tables import rounds_table
    from align_cli.run.status import RunStatus

    if not isinstance(status, RunStatus):
        return _lines_of_study(status, path), _runs_table(status)
    lines = [_summary(status, path), *_at_work_or_not(status, path), *status.guards[-1:]]
    return lines, rounds_table(status.evaluations)


def _lines_of_study(study: StudyStatus, path: Path) -> list[str]:
    from align_cli.report.tables import span
    from align_cli.run.status import ELSEWHERE, INTERRUPTED, RUNNING

    counts = ", ".join(f"{number} {state}" for state, number in study.counts.items())
    others = f"; {study.others} more in the folder, asked for before" if study.others else ""
    lines = [f"{path}: a study of {counted(len(study.runs), 'run')}: {counts}{others}"]
    if study.state == RUNNING:
        left = study.seconds_left(time.time())
        lines += [f"running: {study.holder}", f"time left: {'not known yet' if left is None else span(left)}"]
    elif study.state == ELSEWHERE:
        lines.append(IN_USE.format(holder=study.holder))
    elif study.state == INTERRUPTED:
        lines.append("not running: `align study` with the same arguments goes on where it stopped")
    faulty = [run for run in study.runs if run.why]
    lines += [f"{run.name}: {run.why}" for run in faulty[:MOST_FAULTS]]
    lines += [f"... and {len(faulty) - MOST_FAULTS} more"] * (len(faulty) > MOST_FAULTS)
    return [*lines, f"what it found: {path / 'tables.md'}"] if study.has_tables else lines


def _runs_table(study: StudyStatus) -> TextTable:
    """One row a run that has begun: how far it is, and its latest evaluation; those at work come last."""
    from align_cli.report.tables import NOTHING, TextTable, win
    from align_cli.run.status import FINISHED, RUNNING

    order, rows = {FINISHED: 0, RUNNING: 2}, []
    for run in sorted(study.runs, key=lambda run: order.get(run.state, 1)):
        if run.status is None:
            rows += [[run.name, run.state, *[NOTHING] * 4]] if run.why else []
            continue
        figures = [NOTHING] * 3
        for latest in run.status.evaluations[-1:]:
            figures = [str(latest.round), win(latest.against.get("initial")), f"{latest.kl['mean']:.2f}"]
        rows.append([run.name, run.state, f"{len(run.status.finished)} of {len(run.status.planned)}", *figures])
    return TextTable(["run", "state", "steps", "round", "win vs initial", "KL"], rows)


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
        return [IN_USE.format(holder=status.holder)]
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
