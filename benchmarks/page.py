"""docs/performance.md out of performance.md.jinja and the tables in results/, with pictures of them. Measures nothing.

make bench                      # measures all, for hours, and then makes the page
python benchmarks/page.py       # makes the page of the tables that are there
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import jinja2
import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

HERE = Path(__file__).parent
PAGE, PICTURES = HERE.parent / "docs" / "performance.md", HERE.parent / "docs" / "pictures"
Table = list[dict[str, str]]


def main() -> None:
    """Write the page and its pictures."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "the same picture, the same file"
    PICTURES.mkdir(exist_ok=True)
    template = jinja2.Template(
        (HERE / "performance.md.jinja").read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    PAGE.write_text(template.render(table=text_of, picture=picture_of))


def text_of(name: str) -> str:
    """A benchmark's table as it wrote it, less its title."""
    return re.sub(r"\A# .*\n+", "", (HERE / "results" / f"{name}.md").read_text())


def picture_of(name: str, shows: str) -> str:
    """Draw a benchmark's picture; the line of Markdown that shows it."""
    figure, axes = pyplot.subplots(figsize=(8, 3.5))
    PICTURE_OF[name](axes, table_of(name))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    picture = PICTURES / f"{name}.svg"
    figure.savefig(picture, metadata={"Date": None})
    pyplot.close(figure)
    return f"![{shows}]({picture.relative_to(PAGE.parent)})\n"


def draw_train_step(axes: Axes, table: Table) -> None:
    """CPU time of a step beside TRL's."""
    shown = [line for line in table if "plain" not in line["trainer"]]
    seconds = {(line["row"], line["trainer"]): number(line["CPU seconds"]) for line in shown}
    draw_groups(axes, {(row, trainer): one / seconds[row, "TRL"] for (row, trainer), one in seconds.items()})
    axes.set_xlabel("CPU time of a step, TRL's = 1")


def draw_sampling(axes: Axes, table: Table) -> None:
    """CPU time a token beside the engine's."""
    draw_groups(
        axes, {(line["row"], line["way"]): number(line["the engine is so many times as fast"]) for line in table}
    )
    axes.set_xlabel("CPU time a token drawn, the engine's = 1")


def draw_startup(axes: Axes, table: Table) -> None:
    """Seconds of every command's start."""
    names, seconds, *_ = zip(*(line.values() for line in table), strict=True)
    axes.barh([name.strip("`") for name in names], [number(cell) for cell in seconds])
    axes.axvline(0.3, color="grey", linestyle=":")
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.tick_params(axis="y", labelsize=7)


def draw_groups(axes: Axes, lengths: dict[tuple[str, str], float]) -> None:
    """A group of bars for each first part of the keys, a colour for each second part."""
    groups, colours = (list(dict.fromkeys(key[part] for key in lengths)) for part in (0, 1))
    height = 0.8 / len(colours)
    for place, colour in enumerate(colours):
        found = {index: lengths[group, colour] for index, group in enumerate(groups) if (group, colour) in lengths}
        axes.barh(
            [index + place * height for index in found], list(found.values()), height, label=colour.replace("`", "")
        )
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(groups))], groups, fontsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=7)


PICTURE_OF: dict[str, Callable[[Axes, Table], None]] = {
    "train_step": draw_train_step,
    "sampling": draw_sampling,
    "startup": draw_startup,
}


def table_of(name: str) -> Table:
    """A benchmark's first table, a dictionary a line."""
    lines = [line for line in text_of(name).splitlines() if line.startswith("|")]
    heading, _, *rest = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(heading, line, strict=True)) for line in rest if len(line) == len(heading)]


def number(cell: str) -> float:
    """The first number in a cell."""
    found = re.search(r"-?\d[\d.]*", cell.replace(",", ""))
    assert found, cell
    return float(found.group())


if __name__ == "__main__":
    main()
