"""docs/performance.md and docs/evidence.md out of their templates here and the tables in results/. Measures nothing.

make bench                      # measures all that the first is about, for hours, and then makes the pages
make evidence                   # runs all studies that the second is about, for more hours, and then makes them
python benchmarks/page.py       # makes the pages of the tables that are there
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from align_cli.report.tables import TextTable, markdown

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PICTURES = DOCS / "pictures"
PAGES = ("performance", "evidence")
Table = list[dict[str, str]]


def main() -> None:
    """Write the pages and their pictures."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "the same picture, the same file"
    PICTURES.mkdir(exist_ok=True)
    for page in PAGES:
        template = jinja2.Template(
            (HERE / f"{page}.md.jinja").read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        (DOCS / f"{page}.md").write_text(
            template.render(
                table=text_of,
                picture=picture_of,
                study=study_of,
                differences=differences_of,
                means=means_of,
                rounds=rounds_of,
            )
        )


def text_of(name: str) -> str:
    """What a benchmark wrote, less its title; its headings stand below the page's."""
    text = re.sub(r"\A# .*\n+", "", (HERE / "results" / f"{name}.md").read_text())
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


STUDY_TABLES = {"means": "|  | seeds", "differences": "| less ", "frontier": "| best ", "costs": "|  | stage"}
"""How each of a study's tables begins."""


def study_of(name: str, *wanted: str) -> str:
    """The command of a study, what its tables are of, and those of them that are wanted."""
    command, about, *tables = text_of(name).strip().split("\n\n")
    chosen = [table for kind in wanted for table in tables if table.startswith(STUDY_TABLES[kind])]
    return "\n\n".join([command, about, *chosen]) + "\n"


def differences_of(settings: Sequence[str], pairs: Sequence[str]) -> str:
    """The paired differences of several studies as one table: every pair in every setting that has been."""
    found, heading, several = [], [""], len(settings) > 1
    for pair in pairs:
        for setting in settings:
            if not (HERE / "results" / "evidence" / f"{setting}-{pair}.md").exists():
                continue
            tables = tables_of(f"evidence/{setting}-{pair}")
            table = next(table for table in tables if next(iter(table[0])).startswith("less "))
            first, *others = table[0]
            found += [
                [f"{line[first]} {first}", *[setting] * several, *(line[key] for key in others)] for line in table
            ]
            heading = ["", *["setting"] * several, *others]
    return markdown(TextTable(heading, found)) + "\n"


def means_of(parts: Sequence[str]) -> str:
    """How the values of several keys end, as one table."""
    tables = [tables_of(f"evidence/part-{part}")[0] for part in parts]
    heading = list(tables[0][0])
    return markdown(TextTable(heading, [[line[name] for name in heading] for table in tables for line in table])) + "\n"


def rounds_of(measure: str, settings: Sequence[str], arms: Sequence[str] = ()) -> str:
    """A measure by round, means over seeds: the arms of several studies, or some of them, as one table."""
    heading, found = [], []
    for setting in settings:
        table = next(table for table in tables_of(f"evidence/{setting}-rounds") if next(iter(table[0])) == measure)
        first, *rounds = table[0]
        heading = ["", *["setting"] * (len(settings) > 1), *rounds]
        found += [
            [f"`{line[first]}`", *[setting] * (len(settings) > 1), *(line[one] for one in rounds)]
            for line in table
            if not arms or line[first] in arms
        ]
    return markdown(TextTable(heading, found)) + "\n"


def picture_of(name: str, shows: str) -> str:
    """Draw a benchmark's picture; the line of Markdown that shows it."""
    figure, axes = pyplot.subplots(figsize=(8, 3.5))
    PICTURE_OF[name](axes, *tables_of(name))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    picture = PICTURES / f"{name}.svg"
    figure.savefig(picture, metadata={"Date": None})
    pyplot.close(figure)
    return f"![{shows}]({picture.relative_to(DOCS)})\n"


def draw_train_step(axes: Axes, table: Table, *others: Table) -> None:
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


def draw_startup(axes: Axes, *tables: Table) -> None:
    """CPU seconds of every command's start, by the last table."""
    seconds = {line["`align`"].strip("`"): number(line["CPU s"]) for line in tables[-1]}
    axes.barh(list(seconds), list(seconds.values()))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("CPU seconds")
    axes.tick_params(axis="y", labelsize=7)


def draw_scale(axes: Axes, *tables: Table) -> None:
    """CPU seconds, and memory, over rows."""
    memory = axes.twinx()
    for name, table in zip(("preferences", "prompts"), tables, strict=True):
        rows = [number(line["rows"]) for line in table]
        for start, style in (("first start", "-"), ("second start", "--")):
            seconds = [number(line[f"{start}: CPU s"]) for line in table]
            axes.plot(rows, seconds, style, marker="o", label=f"{name}, {start}")
        memory.plot(rows, [number(line["first start: MiB"]) for line in table], ":", marker="s", color="grey")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows")
    axes.set_ylabel("CPU seconds")
    memory.set_ylim(0, 1000)
    memory.set_ylabel("MiB at most (dotted)")
    axes.legend(fontsize=7)


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


PICTURE_OF: dict[str, Callable[..., None]] = {
    "train_step": draw_train_step,
    "sampling": draw_sampling,
    "startup": draw_startup,
    "scale": draw_scale,
}


def tables_of(name: str) -> list[Table]:
    """A benchmark's tables, a dictionary a line."""
    found = []
    for text in re.findall(r"(?:^\|.*\n)+", text_of(name), flags=re.MULTILINE):
        heading, _, *rest = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
        found.append([dict(zip(heading, line, strict=True)) for line in rest])
    return found


def number(cell: str) -> float:
    """The first number in a cell."""
    found = re.search(r"-?\d[\d.]*", cell.replace(",", ""))
    assert found, cell
    return float(found.group())


if __name__ == "__main__":
    main()
