"""A study as a report tells of it: its tables, pictures and runs, from the files that `align study` has written."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.store import read_json
from align_cli.errors import RunError
from align_cli.study.folder import COSTS, RESULTS, runs_of_study
from align_cli.study.pictures import PICTURES
from align_cli.study.tables import tables_of
from align_cli.study.values import shown_seeds


class Caption(NamedTuple):
    """What stands above a table, and below it."""

    title: str
    note: str


TABLES = {
    "means": Caption("Means", "At the end of each run, over seeds, with 95% intervals (t)."),
    "differences": Caption(
        "Paired differences",
        "Paired by seed, with 95% intervals; also where both first come to the largest KL that both come to. Inside "
        "round 1: seeds of which one came there before its first evaluation, so that its gain was not measured.",
    ),
    "frontier": Caption("Frontier", "The best within some KL to the reference, in nats a response."),
    "costs": Caption("Costs", "The mean of a run, by stage."),
    "missing": Caption("In no mean", "Runs that did not finish, or cannot be read."),
}
MOST_PICTURE_BYTES = 2_000_000


def study_report(path: Path) -> dict[str, Any] | None:
    """What a report shows of the study in a folder, as plain data; None where there is none.

    Returns:
        `path`; `seeds` and `for_tuning`; `tables`, each with `title`, `note`, `columns` and `rows`; `pictures`, each
        with `title` and `source`; `runs`, each with `combination`, `seed` and `path`. Tables are empty before
        `align study` has written its results.

    Raises:
        AlignError: if what is there is no study's, or no run of it has begun.
    """
    folders = runs_of_study(path)
    if folders is None:
        return None
    runs = [
        {"combination": folder.parent.name, "seed": folder.name.removeprefix("seed-"), "path": str(folder)}
        for folder in folders
    ]
    told: dict[str, Any] = {"path": str(path), "seeds": "", "for_tuning": False, "tables": [], "pictures": []}
    if (path / RESULTS).is_file():
        results, costs = read_json(path / RESULTS), read_json(path / COSTS)
        try:
            told |= {
                "seeds": shown_seeds(results["seeds"]),
                "for_tuning": bool(results["for_tuning"]),
                "tables": _tables(results, costs),
            }
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise RunError(
                "it is not what `align study` wrote",
                where=str(path / RESULTS),
                hint="run `align study` again with the same arguments: it writes it anew",
            ) from None
        told["pictures"] = _pictures(path)
    return {**told, "runs": runs}


def _tables(results: Mapping[str, Any], costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"title": TABLES[name].title, "note": TABLES[name].note, "columns": table.columns, "rows": table.rows}
        for name, table in tables_of(results, costs).items()
    ]


def _pictures(path: Path) -> list[dict[str, str]]:
    """The pictures that are there, each as an address that holds all of it."""
    found = []
    for stem, title in PICTURES.items():
        file = path / f"{stem}.svg"
        if file.is_file() and file.stat().st_size <= MOST_PICTURE_BYTES:
            data = base64.b64encode(file.read_bytes()).decode()
            found.append({"title": title, "source": f"data:image/svg+xml;base64,{data}"})
    return found
