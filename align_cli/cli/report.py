"""`align report`: one run, or several side by side, in one HTML file that opens from disk; and its JSON twin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli.options import AsJson, Quiet
from align_cli.cli.output import Output, check_output_place, guarded


@guarded
def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html",
            help="Where the page goes, its data beside it in FILE.json; left out: report.html in the run's folder.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a report: rounds, frontier, curves, label and engine health, time and memory, samples."""
    from align_cli.artifacts.files import write_text
    from align_cli.report.page import report_json, report_page
    from align_cli.run.folder.layout import REPORT
    from align_cli.run.reported import report_on

    talk = Output(quiet=quiet, as_json=as_json)
    if output is None and len(runs) > 1 and not as_json:
        raise typer.BadParameter("several runs have no folder in common: name a file with -o FILE.html")
    if output == Path("-"):
        raise typer.BadParameter("a page goes into a file; --json writes its data to standard output")
    page = output or runs[0] / REPORT
    data = page.with_suffix(".json")
    if data == page:
        raise typer.BadParameter("-o names the page; its data is written beside it, in a file that ends in .json")
    for place in (page, data):
        check_output_place(str(place))
    twin = report_on(runs)
    if as_json and output is None:
        talk.data(twin)
        return
    write_text(page, report_page(twin))
    write_text(data, report_json(twin))
    talk.note(f"the report's data is in {data}")
    talk.text(str(page))
