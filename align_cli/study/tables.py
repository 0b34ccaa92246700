"""A study's results as tables: of text for people, of numbers for programs."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align_cli.report.tables import FOR_TUNING, NOTHING, TextTable, markdown, span
from align_cli.study.costs import SHARED
from align_cli.study.results import CONTROLLED, KL, REWARD, WIN, by_scorer
from align_cli.study.values import shown_seeds, written_seeds

TITLES = {
    WIN: "win vs initial",
    CONTROLLED: "LC vs initial",
    REWARD: "reward",
    KL: "KL",
    "length": "length",
    "eos_rate": "EOS",
    "distinct_2": "distinct-2",
    "pair_accuracy": "pair acc.",
}
SHOWN = (WIN, CONTROLLED, REWARD, KL, "length", "pair_accuracy")
SHORT = {**TITLES, WIN: "win", CONTROLLED: "LC"}
ENDS = ("mean", "low", "high", "num_seeds")


def tables_of(results: Mapping[str, Any], costs: Mapping[str, Any]) -> dict[str, TextTable]:
    """All that have rows, for people, by what they show, in the order in which they are read."""
    found = [
        ("means", means_table(results)),
        ("differences", differences_table(results)),
        *(("frontier", frontier_table(results, measure)) for measure in list(results["frontiers"])[:1]),
        ("costs", costs_table(costs)),
        ("missing", missing_table(results)),
    ]
    return {name: table for name, table in found if table.rows}


def heading(results: Mapping[str, Any]) -> str:
    """What the tables are of."""
    tuning = FOR_TUNING if results["for_tuning"] else ""
    return f"{shown_seeds(results['seeds'])}{tuning}; means and 95% intervals over seeds (t), at the end of each run"


def as_markdown(results: Mapping[str, Any], costs: Mapping[str, Any], folder: Path) -> str:
    """The command that a study is made by, and its tables: what goes into a page as it is.

    Args:
        results: as in `results.json`.
        costs: as in `costs.json`.
        folder: the study's, as it was named.
    """
    tables = "\n\n".join(markdown(table) for table in tables_of(results, costs).values())
    return f"```bash\n{command_line(results, folder)}\n```\n\n{heading(results).capitalize()}.\n\n{tables}\n"


def command_line(results: Mapping[str, Any], folder: Path) -> str:
    """What a shell makes the study by, a line for each axis."""
    words = [["align", "study", results["recipe"], *results["overrides"]]]
    words += [["--over", f"{key}={','.join(values)}"] for key, values in results["over"].items()]
    words += [["--seeds", written_seeds(results["seeds"]), *["--tune"] * results["for_tuning"]]]
    words += [["-o", str(folder)]]
    return " \\\n  ".join(shlex.join(line) for line in words)


def means_table(results: Mapping[str, Any]) -> TextTable:
    """One row a combination: means over seeds with their 95% intervals."""
    shown = [name for name in SHOWN if name in results["measures"]]
    shown += [name for name in results["measures"] if name not in TITLES]
    rows = [
        [one["name"], str(len(one["seeds"])), *(_mean(one["figures"].get(name), _digits(name)) for name in shown)]
        for one in results["combinations"]
    ]
    return TextTable(["", "seeds", *(_title(name) for name in shown)], rows)


def differences_table(results: Mapping[str, Any]) -> TextTable:
    """One row a combination but the first: how much it lies above the first, paired by seed; also at equal KL."""
    gains = [name for name in (WIN, CONTROLLED) if name in results["measures"]] or [REWARD]
    gains = [name for name in gains if name in results["measures"]]
    compared = [name for name in (*gains, KL) if name in results["measures"]]
    columns = [f"less {results['first']}", "seeds", *(f"Δ {SHORT[name]}" for name in compared)]
    columns += [f"Δ {SHORT[name]} at equal KL" for name in gains] + ["at KL", "inside round 1"] * bool(gains)
    rows = []
    for one in results["combinations"]:
        if "differences" not in one:
            continue
        differences, at_equal = one["differences"], one["at_equal_kl"]
        num_seeds = max((found["num_seeds"] for found in differences.values() if found), default=0)
        cells = [_mean(differences[name], _digits(name), signed=True) for name in compared]
        cells += [_mean(at_equal[name], _digits(name), signed=True) for name in gains]
        if gains:
            found = at_equal[gains[0]]
            cells += [NOTHING] * 2 if found is None else [f"{found['kl']:.2f}", _share_of_seeds(found)]
        rows.append([one["name"], str(num_seeds), *cells])
    return TextTable(columns, rows)


def _share_of_seeds(found: Mapping[str, Any]) -> str:
    """How many seeds' KL at which they are compared was passed before a first evaluation."""
    return f"{found['num_inside_first_round']} of {found['num_seeds']}"


def frontier_table(results: Mapping[str, Any], measure: str) -> TextTable:
    """One row a frontier: the best within some KL, and how much that is above the first frontier's, paired by seed."""
    frontier = results["frontiers"][measure]
    columns = [f"best {TITLES[measure]} within", *(f"KL {level:.2g}" for level in frontier["levels"])]
    rows = []
    for group in frontier["groups"] if frontier["levels"] else []:
        rows.append([group["name"], *(_mean(found, _digits(measure)) for found in group["values"])])
        if group["differences"] is not None:
            lines = (_mean(found, _digits(measure), signed=True) for found in group["differences"])
            rows.append([f"less {frontier['groups'][0]['name']}", *lines])
    return TextTable(columns, rows)


def costs_table(costs: Mapping[str, Any]) -> TextTable:
    """One row a combination and stage: the mean of a run."""
    rows = []
    for name, stages in costs["combinations"].items():
        rows += [
            _cost_row(name if place == 0 else "", stage, cost) for place, (stage, cost) in enumerate(stages.items())
        ]
        if stages:
            rows.append(_cost_row("", "together", {key: sum(cost[key] for cost in stages.values()) for key in _COSTS}))
    shared = list(costs["shared"].items())
    rows += [_cost_row(SHARED if place == 0 else "", stage, cost) for place, (stage, cost) in enumerate(shared)]
    return TextTable(["", "stage", "time a run", "tokens sampled", "labeler calls"], rows)


def missing_table(results: Mapping[str, Any]) -> TextTable:
    """One row a run that is in no mean, and why."""
    return TextTable(["missing", "why"], [[one["run"], one["why"]] for one in results["missing"]])


def combinations_csv(results: Mapping[str, Any]) -> str:
    """One row a combination: its settings, and every figure with its interval and number of seeds."""
    keys, measures = list(results["over"]), results["measures"]
    frame = {
        "figures": measures,
        "differences": measures,
        "at_equal_kl": list(results["frontiers"]),
    }
    prefixes = {"figures": "", "differences": "difference_", "at_equal_kl": "at_equal_kl_"}
    columns = ["name", *keys]
    ends = {"figures": ENDS, "differences": ENDS, "at_equal_kl": (*ENDS, "kl", "num_inside_first_round")}
    columns += [
        f"{prefixes[part]}{name}_{end}" for part, names in frame.items() for name in names for end in ends[part]
    ]
    rows = []
    for one in results["combinations"]:
        row = [one["name"], *(one["settings"][key] for key in keys)]
        for part, names in frame.items():
            for name in names:
                found = (one.get(part) or {}).get(name) or {}
                row += [found.get(end) for end in ends[part]]
        rows.append(row)
    return _csv(columns, rows)


def evaluations_csv(results: Mapping[str, Any]) -> str:
    """One row an evaluation of any run."""
    measures = results["measures"]
    rows = [
        [run["combination"], run["seed"], one["round"], one["round"] == run["final_round"]]
        + [one.get(name) for name in measures]
        for run in results["runs"]
        for one in run["evaluations"]
    ]
    return _csv(["combination", "seed", "round", "is_final", *measures], rows)


_COSTS = ("seconds", "tokens", "questions")


def _cost_row(name: str, stage: str, cost: Mapping[str, float]) -> list[str]:
    seconds = cost["seconds"]
    time = f"{seconds:.1f}s" if seconds < 60 else span(seconds)
    return [name, stage, time, *(f"{cost[key]:,.0f}" if cost[key] else NOTHING for key in _COSTS[1:])]


def _title(measure: str) -> str:
    return TITLES.get(measure) or f"win by {measure.removeprefix(by_scorer(''))}"


def _digits(measure: str) -> int:
    return 1 if measure == "length" else 3 if measure.startswith((WIN, CONTROLLED)) else 2


def _mean(found: Mapping[str, Any] | None, digits: int, *, signed: bool = False) -> str:
    """`0.724 [0.698, 0.750]`; the mean alone where one seed shows no spread."""
    if found is None:
        return NOTHING
    sign = "+" if signed else ""
    mean = f"{found['mean']:{sign}.{digits}f}"
    if found["low"] is None:
        return mean
    return f"{mean} [{found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f}]"


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
