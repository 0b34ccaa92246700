"""The whole study on one screen: is the folder its own, every run that is left, what they say, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.files import write_text
from align_cli.artifacts.store import write_json
from align_cli.errors import AlignError
from align_cli.study.costs import costs_of_study
from align_cli.study.definition import Definition
from align_cli.study.folder import COSTS, EVALUATIONS, PAGE, RESULTS, TABLE, StudyFolder
from align_cli.study.pictures import check_can_draw, clear_pictures, draw_pictures
from align_cli.study.results import collect, summarise
from align_cli.study.tables import as_markdown, combinations_csv, evaluations_csv
from align_cli.study.work import Work, default_jobs


class Studied(NamedTuple):
    """What a study found, as in `results.json`, what that took, as in `costs.json`, and the pictures' names."""

    results: dict[str, Any]
    costs: dict[str, Any]
    pictures: list[str]


def carry_out_study(
    definition: Definition,
    path: Path,
    command: Sequence[str],
    note: Callable[[str], None],
    *,
    jobs: int | None = None,
    with_pictures: bool = True,
) -> Studied:
    """Do what is left of a study, and say what all of it shows.

    Args:
        definition: what is studied.
        path: the study's folder; runs in it that are finished are not done again.
        command: the program and the words of it that `align train` is, without what follows.
        note: told how it goes.
        jobs: runs at a time, at least 1; None is one a core where the models are small, else one.
        with_pictures: whether they are drawn.

    Raises:
        AlignError: before anything is written, if the folder holds another study, or nothing could be drawn.
    """
    if jobs is not None and jobs < 1:
        raise AlignError(f"--jobs is {jobs}; it must be at least 1", where="--jobs", hint="it is runs at a time")
    folder = StudyFolder(path)
    folder.check_usable(definition)
    if with_pictures:
        check_can_draw()
    with folder.locked():
        folder.write_definition(definition)
        others = folder.others(definition.runs)
        if others:
            note(
                f"not in these tables, as they were not asked for: {', '.join(others[:5])}"
                + ", ..." * (len(others) > 5)
            )
        failed = Work(definition, folder, command, jobs or default_jobs(definition), note).carry_out()
        runs = collect(definition, folder, failed)
        results, costs = summarise(definition, runs), costs_of_study(definition, folder, runs)
        write_json(path / RESULTS, results)
        write_json(path / COSTS, costs)
        write_text(path / TABLE, combinations_csv(results))
        write_text(path / EVALUATIONS, evaluations_csv(results))
        write_text(path / PAGE, as_markdown(results, costs, path))
        clear_pictures(path)
        pictures = draw_pictures(path, definition, results, costs, runs) if with_pictures else []
    return Studied(results, costs, pictures)
