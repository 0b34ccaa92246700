"""A study's results as pictures, SVG and PNG: the frontier, the paired differences, the time by stage.

The only importer of matplotlib, which is an extra: `align-cli[study]`. Equal results make equal bytes: no date, no
random ids.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.files import write_bytes
from align_cli.errors import AlignError
from align_cli.metrics.frontier import Point
from align_cli.study.definition import Definition
from align_cli.study.results import GAINS, RunFigures, group_naming
from align_cli.study.tables import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = {
    "frontier": "Every evaluation of every run, and what no other beats",
    "differences": "Differences to the first combination, paired by seed",
    "costs": "Seconds of a run by stage",
}
"""What each shows, by its file's stem."""
FORMATS: dict[str, dict[str, None]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
"""Each with the entries of its metadata that it is to go without."""
SETTINGS = {"svg.hashsalt": "align", "svg.fonttype": "none", "font.size": 9.0, "axes.grid": True, "grid.alpha": 0.3}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which people tell apart however they see colours."""

Draw = Callable[["Axes"], None]


def check_can_draw() -> None:
    """Refuse to begin what could not be drawn at its end.

    Raises:
        AlignError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise AlignError(
            f"pictures need matplotlib: {error}",
            where="align study",
            hint="pip install 'align-cli[study]', or leave pictures out with --no-pictures",
        ) from None


def draw_pictures(
    folder: Path, definition: Definition, results: Mapping[str, Any], costs: Mapping[str, Any], runs: list[RunFigures]
) -> list[str]:
    """Every picture that there are figures for.

    Returns:
        The files' names.
    """
    drawn: dict[str, Draw] = {}
    measure = next((name for name in GAINS if name in results["measures"]), None)
    if measure is not None:
        drawn["frontier"] = lambda axes: _frontier(axes, definition, results, runs, measure)
        if any(_interval(one["differences"].get(measure)) for one in results["combinations"][1:]):
            drawn["differences"] = lambda axes: _differences(axes, results, measure)
    if any(costs["combinations"].values()):
        drawn["costs"] = lambda axes: _costs(axes, costs)
    return [name for stem, draw in drawn.items() for name in _write(folder, stem, draw)]


def clear_pictures(folder: Path) -> None:
    """Remove pictures of what the study held before."""
    for stem in PICTURES:
        for kind in FORMATS:
            (folder / f"{stem}.{kind}").unlink(missing_ok=True)


def _write(folder: Path, stem: str, draw: Draw) -> list[str]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        draw(figure.subplots())
        for kind, metadata in FORMATS.items():
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, metadata=metadata, dpi=150)
            write_bytes(folder / f"{stem}.{kind}", picture.getvalue())
    return [f"{stem}.{kind}" for kind in FORMATS]


def _frontier(
    axes: Axes, definition: Definition, results: Mapping[str, Any], runs: list[RunFigures], measure: str
) -> None:
    """Every run's way, each evaluation a point, and above them the envelope of each frontier."""
    naming = group_naming(definition)
    import numpy as np

    colours: dict[str, str] = {}
    for group in results["frontiers"][measure]["groups"]:
        colours[group["name"]] = COLOURS[len(colours) % len(COLOURS)]
    for run in runs:
        path, colour = run.path(measure), colours[naming(run.run.combination)]
        axes.plot([p.kl for p in path], [p.value for p in path], color=colour, alpha=0.25, lw=0.8, marker=".", ms=4)
    for group in results["frontiers"][measure]["groups"]:
        if not group["envelope"]:
            continue
        points = [Point(*point) for point in group["envelope"]]
        furthest = max(
            point.kl for run in runs if naming(run.run.combination) == group["name"] for point in run.path(measure)
        )
        kls, values = [*(point.kl for point in points), furthest], [point.value for point in (*points, points[-1])]
        axes.step(kls, values, where="post", color=colours[group["name"]], lw=2, label=_plain(group["name"]))
    axes.set_xscale("function", functions=(_distance, np.square))  # in which runs go straight between evaluations
    axes.set_xlim(left=0.0)
    axes.set(xlabel="KL to the reference, nats a response", ylabel=TITLES[measure])
    axes.set_title("every evaluation of every run, and what no other beats", fontsize=9)
    axes.legend(fontsize=8)


def _differences(axes: Axes, results: Mapping[str, Any], measure: str) -> None:
    """Differences to the first combination with their intervals, at the end and at equal KL."""
    others = [one for one in results["combinations"] if "differences" in one]
    for offset, part, colour, label in (
        (-0.12, "differences", COLOURS[0], "at the end"),
        (0.12, "at_equal_kl", COLOURS[1], "at equal KL"),
    ):
        drawn = [(row + offset, one[part].get(measure)) for row, one in enumerate(others)]
        found = [(row, one) for row, one in drawn if _interval(one)]
        if found:
            middle = [one["mean"] for _, one in found]
            reach = [[one["mean"] - one["low"] for _, one in found], [one["high"] - one["mean"] for _, one in found]]
            axes.errorbar(middle, [row for row, _ in found], xerr=reach, fmt="o", capsize=3, color=colour, label=label)
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks(range(len(others)), [_plain(one["name"]) for one in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set(xlabel=f"difference of {TITLES[measure]}: mean and 95% interval over seeds")
    axes.set_title(f"less {_plain(results['first'])}, paired by seed", fontsize=9)
    axes.legend(fontsize=8)


def _costs(axes: Axes, costs: Mapping[str, Any]) -> None:
    """Seconds of a run by stage, one bar a combination."""
    names = [name for name, stages in costs["combinations"].items() if stages]
    left = [0.0] * len(names)
    for place, stage in enumerate(dict.fromkeys(stage for name in names for stage in costs["combinations"][name])):
        seconds = [costs["combinations"][name].get(stage, {"seconds": 0.0})["seconds"] for name in names]
        colour = COLOURS[place % len(COLOURS)]
        axes.barh([_plain(name) for name in names], seconds, left=left, label=stage, color=colour)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="seconds a run, without round 0")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _distance(kl: Any) -> Any:
    import numpy as np

    return np.sqrt(np.maximum(kl, 0.0))


def _interval(found: Mapping[str, Any] | None) -> bool:
    return found is not None and found["low"] is not None


def _plain(text: str) -> str:
    """A text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
