"""`align report`: a run, several or a study's, side by side, in one HTML file that opens from disk; its JSON twin."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli.complete import run_folders
from align_cli.cli.options import AsJson, Quiet
from align_cli.cli.output import Output, check_output_place, guarded


@guarded
def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|STUDY...",
            help="Folders of runs, or of studies.",
            show_default=False,
            autocompletion=run_folders,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html",
            help="Where the page goes, its data beside it in FILE.json; left out: report.html in the folder.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a report: rounds, frontier, curves, label and engine health, time and memory, samples; a study's tables."""
    from align_cli.run.folder.layout import REPORT
    from align_cli.run.reported import report_on, write_report
    from align_cli.study.reported import study_report

    talk = Output(quiet=quiet, as_json=as_json)
    if output is None and len(runs) > 1 and not as_json:
        raise typer.BadParameter("several folders are named, and none is the report's: name a file with -o FILE.html")
    if output == Path("-"):
        raise typer.BadParameter("a page goes into a file; --json writes its data to standard output")
    page = output or runs[0] / REPORT
    data = page.with_suffix(".json")
    if data == page:
        raise typer.BadParameter("-o names the page; its data is written beside it, in a file that ends in .json")
    for place in (page, data):
        check_output_place(str(place))
    told = shlex.join(["align", "report", *map(str, runs), *(["-o", str(output)] if output else [])])
    studies = {path: found for path in runs if (found := study_report(path)) is not None}
    folders = [
        Path(one["path"]) for path in runs for one in (studies[path]["runs"] if path in studies else [{"path": path}])
    ]
    twin = report_on(folders, told, list(studies.values()))
    if as_json and output is None:
        talk.data(twin)
        return
    write_report(twin, page, data)
    talk.note(f"the report's data is in {data}")
    talk.text(str(page))
