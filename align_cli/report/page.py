"""A report's page: one HTML file that holds all that it shows, and asks nobody for anything.

Every text is escaped by Jinja2; the data stands in a script that is no program, with nothing in it that would end one.
The page's own rules forbid it to load anything, and to run a script that is not among those written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import SURROGATES
from align_cli.report.tables import FOR_TUNING, NOTHING, estimate, size, span, win

SCRIPTS = ("uplot.min.js", "report.js")
STYLES = ("uplot.min.css", "report.css")
TEMPLATE = "report.html.jinja"
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""What could end a script, or begin a comment in it; inside JSON's strings alone, where it means the same."""


class Cell(NamedTuple):
    """A cell of a table.

    Args:
        text: what is read.
        value: what a difference from the baseline is made of; None without.
        digits: of that difference.
    """

    text: str
    value: float | None = None
    digits: int = 2


class Table(NamedTuple):
    """A table with a heading for each column, and what a row is of."""

    columns: list[str]
    rows: list[tuple[Any, list[Cell]]]


def report_json(twin: Mapping[str, Any]) -> str:
    """The data as a file of its own."""
    return _json(twin) + "\n"


def report_page(twin: Mapping[str, Any]) -> str:
    """The page that shows the data."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"span": span, "size": size, "sections": _sections, "count": _count}
    scripts = [_asset(name) for name in SCRIPTS]
    runs = twin["runs"]
    page = environment.from_string(_asset(TEMPLATE)).render(
        title=_title(twin),
        twin=twin,
        data=embedded_json(twin),
        styles=[_asset(name) for name in STYLES],
        scripts=scripts,
        policy=_content_policy(scripts),
        beside=beside_table(runs) if len(runs) > 1 else None,
        studies=twin.get("studies", []),
        NOTHING=NOTHING,
        FOR_TUNING=FOR_TUNING,
    )
    return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", page)


def embedded_json(value: Any) -> str:
    """JSON that can stand in an HTML script, whatever texts are in it."""
    text = _json(value)
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """One row a round: win rates with intervals, raw and at equal lengths, n, and the other figures."""
    opponents = list(dict.fromkeys(name for one in rounds for name in one["against"]))
    columns = [title for name in opponents for title in (f"win vs {name}", f"LC vs {name}")]
    return Table(
        [*columns, "n", "reward", "KL", "length", "EOS", "distinct-2", "pair acc."],
        [(one, [*_win_cells(one, opponents), *_other_cells(one)]) for one in rounds],
    )


def scorers_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """One row a round and scorer beside the one that decides."""
    said = [(one, name, found) for one in rounds for name, found in one["other_scorers"].items()]
    opponents = list(dict.fromkeys(name for _, _, found in said for name in found["against"]))
    columns = [title for name in opponents for title in (f"win vs {name}", f"LC vs {name}")]
    rows = [
        ({"round": one["round"], "name": name}, [*_win_cells(found, opponents), _estimate(found["reward"])])
        for one, name, found in said
    ]
    return Table([*columns, "reward"], rows)


def labels_table(labels: Mapping[str, Any]) -> Table:
    """One row a round: ties, margins, length, agreement."""
    rounds = labels["rounds"]
    names = list(dict.fromkeys(name for one in rounds for name in one["agreement"]))
    columns = ["ties", "margin", "longer won", "length-only acc.", *(f"agree: {name}" for name in names)]
    rows = []
    for one in rounds:
        shares = [_share(one["tie_share"]), _number(one["margin"]), _number(one["longer_won"])]
        shares.append(_number(one["length_accuracy"]))
        rows.append((one, [*shares, *(_number(one["agreement"].get(name)) for name in names)]))
    return Table(columns, rows)


def figures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row an entry, one column a figure that any of them has."""
    names = list(dict.fromkeys(name for one in rows for name in one["figures"]))
    cells = [(one, [_figure(one["figures"].get(name)) for name in names]) for one in rows]
    return Table([name.replace("_", " ") for name in names], cells)


def beside_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Rounds side by side: one row a round, and of each run its win rate against the initial policy, reward and KL."""
    numbers = sorted({one["round"] for run in runs for one in run["rounds"]})
    by_run = [{one["round"]: one for one in run["rounds"]} for run in runs]
    rows = [({"round": number}, [_beside_cell(found.get(number)) for found in by_run]) for number in numbers]
    return Table([run["path"] for run in runs], rows)


def _beside_cell(one: Mapping[str, Any] | None) -> Cell:
    if one is None:
        return Cell(NOTHING)
    wins, said = one["against"].get("initial"), [f"KL {one['kl']['mean']:.2f}"]
    if one["reward"] is not None:
        said.insert(0, f"reward {one['reward']['mean']:.2f}")
    if wins is not None:
        said[:0] = [_win(wins, "").text, f"LC {_win(wins, 'length_controlled_').text}"]
    return Cell(" · ".join(said))


def _sections(run: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of a run, by name."""
    return {
        "rounds": rounds_table(run["rounds"]),
        "scorers": scorers_table(run["rounds"]),
        "labels": labels_table(run["labels"]),
        "labelers": figures_table(run["labels"]["labelers"]),
        "engine": figures_table(run["engine"]),
    }


def _win_cells(one: Mapping[str, Any], opponents: Sequence[str]) -> list[Cell]:
    found = [one["against"].get(name) for name in opponents]
    return [_win(wins, kind) for wins in found for kind in ("", "length_controlled_")]


def _other_cells(one: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(_count(one["num_prompts"])),
        _estimate(one["reward"]),
        _estimate(one["kl"]),
        Cell(f"{one['length']['mean']:.1f}", one["length"]["mean"], 1),
        _share(one["eos_rate"]),
        _number(one["distinct_2"]),
        _number(one["pair_accuracy"]),
    ]


def _win(wins: Mapping[str, Any] | None, kind: str) -> Cell:
    return Cell(win(wins, kind), None if wins is None else wins.get(f"{kind}win_rate"))


def _estimate(values: Mapping[str, Any] | None) -> Cell:
    return Cell(estimate(values, 2), None if values is None else values["mean"])


def _number(value: float | None) -> Cell:
    return Cell(NOTHING) if value is None else Cell(f"{value:.2f}", value)


def _share(value: float | None) -> Cell:
    return Cell(NOTHING) if value is None else Cell(f"{value:.0%}", value)


def _figure(value: float | None) -> Cell:
    if value is None:
        return Cell(NOTHING)
    is_whole = float(value).is_integer() or abs(value) >= 1000
    return Cell(_count(value) if is_whole else f"{value:.3g}", value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _title(twin: Mapping[str, Any]) -> str:
    runs, studies = twin["runs"], twin.get("studies", [])
    if len(studies) == 1 and len(studies[0]["runs"]) == len(runs):
        return f"Study {studies[0]['path']}"
    return str(runs[0]["path"]) if len(runs) == 1 else f"{len(runs)} runs side by side"


def _content_policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded, and these scripts alone run."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"


@cache
def _asset(name: str) -> str:
    return (files("align_cli.report") / "assets" / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """Compact JSON; half a surrogate pair, which no file can hold, makes all of it ASCII."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return json.dumps(value, allow_nan=False, separators=(",", ":")) if SURROGATES.search(text) else text
