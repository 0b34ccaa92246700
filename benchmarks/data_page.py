"""Every file of a folder of public data sets through the readers: what was recognised, and what was left out and why.

    python benchmarks/data_page.py FOLDER > docs/data.md

The page's other parts come from `align_cli/report/formats.py`. Takes a quarter of a minute; no text of a
file is shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from align_cli.data.files import SourceRow
from align_cli.data.formats.base import WANTED
from align_cli.data.sources import read_rows
from align_cli.errors import DataError
from align_cli.recipe.sections.data import DataSection
from align_cli.report.formats import INTRODUCTION, formats_reference
from align_cli.report.survey.figures import Survey, survey_of
from align_cli.report.survey.source import read_source
from align_cli.report.survey.tables import counted
from align_cli.report.tables import NOTHING, TextTable, markdown

PATTERN = "*.gz"
COLUMNS = ["file", "rows", "format", *WANTED, "noted", "left out, or refused"]
FILES = """## Public data sets

Whole upstream files, as `python benchmarks/data_page.py FOLDER > docs/data.md` read them; a dash is what a file
cannot be read for. Blank lines of a text file are no rows.
"""


def files_table(folder: Path) -> TextTable:
    """One row for each file below a folder."""
    return TextTable(COLUMNS, [file_row(folder, path) for path in sorted(folder.rglob(PATTERN))])


def file_row(folder: Path, path: Path) -> list[str]:
    """What became of a file."""
    num_rows = sum(isinstance(row, SourceRow) for row in read_rows(str(path), "train"))
    head = [f"`{path.relative_to(folder).as_posix()}`", str(num_rows)]
    surveys, reasons = {}, []
    for use in WANTED:
        try:
            source = read_source(str(path), "train", DataSection(), None, use)
        except DataError as error:
            reasons.append(error.faults[0].what)
        else:
            surveys[use] = survey_of(source, num_examples=0)
    if not surveys:
        reason = reasons[0].partition("; and so in ")[0].replace("|", "\\|")
        return [*head, NOTHING, *[NOTHING] * len(WANTED), "", f"refused: {reason}"]
    main = surveys[next(iter(surveys.values())).uses[0]]
    counts = [str(surveys[use].rows) if use in surveys else NOTHING for use in WANTED]
    return [*head, ", ".join(main.formats), *counts, noted(main), "" if not main.dropped else counted(main.dropped)]


def noted(survey: Survey) -> str:
    """What is told of a file beside its counts."""
    found = {
        "different prompts": survey.prompts if survey.prompts < survey.rows else 0,
        "ties": survey.ties,
        "equal answers": survey.equal,
        "empty answers": survey.empty,
    }
    told = {name: count for name, count in found.items() if count}
    return counted(told) if told else ""


def page(folder: Path) -> str:
    """The page `docs/data.md`."""
    return f"{INTRODUCTION}\n{FILES}\n{markdown(files_table(folder))}\n\n{formats_reference()}\n"


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
