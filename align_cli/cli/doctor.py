"""`align doctor`: what align needs on this machine, and a recipe beside it, with a mark and a remedy for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.complete import recipe_files
from align_cli.cli.options import AsJson, Overrides
from align_cli.cli.output import Output, guarded
from align_cli.errors import ExitCode, counted

if TYPE_CHECKING:
    from align_cli.doctor.finding import Finding

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
WIDTH = 24
"""Of names, in columns; longer ones push their line on."""


@guarded
def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="A recipe, whose models and servers are looked at too.",
            show_default=False,
            autocompletion=recipe_files,
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look at versions, devices, threads, memory, disks and a recipe's servers; loads no weights, downloads nothing."""
    talk = Output(as_json=as_json)
    findings = _findings(recipe, overrides or [])
    num_failed = sum(finding.state == "fail" for finding in findings)
    num_warned = sum(finding.state == "warn" for finding in findings)
    if as_json:
        talk.data([finding._asdict() for finding in findings])
    else:
        _show(talk, findings)
        failed = counted(num_failed, "thing fails", "things fail")
        talk.text(f"\n{failed}, {counted(num_warned, 'warning')}, {len(findings) - num_failed - num_warned} ok")
    if num_failed:
        raise typer.Exit(ExitCode.FAULT)


def _findings(path: Path | None, overrides: list[str]) -> list[Finding]:
    from align_cli.doctor.machine import examine_machine
    from align_cli.doctor.needs import examine_needs, read_recipe
    from align_cli.doctor.packages import examine_packages

    recipe, of_recipe = read_recipe(path, overrides) if path is not None else (None, [])
    findings = [*examine_packages(), *examine_machine(recipe.output_dir if recipe else None), *of_recipe]
    return [*findings, *(examine_needs(recipe) if recipe is not None else ())]


def _show(talk: Output, findings: list[Finding]) -> None:
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            talk.text(area)
        talk.text(f"  {MARKS[finding.state]}  {finding.name:{WIDTH}}  {finding.what}")
        if finding.hint:
            talk.text(f"        hint: {finding.hint}")
