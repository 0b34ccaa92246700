"""A run as a report tells of it, read from its folder, which is neither locked nor changed; the report it leaves."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_cli.artifacts.files import write_text
from align_cli.errors import first_line
from align_cli.report.facts import Alert, RunFacts
from align_cli.report.page import report_json, report_page
from align_cli.report.twin import report_twin
from align_cli.run.chosen import open_run
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import LEDGER, REPORT, REPORT_DATA
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.run.status import status_of
from align_cli.stages.base import CHECKPOINT

TOKENIZER = "tokenizer.json"


def report_on(
    paths: Sequence[Path], command: str | None = None, studies: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The data of a report on the runs in these folders.

    Args:
        paths: of the runs, those of studies among them.
        command: what makes the report; None for the plain one.
        studies: what is shown of those, as plain data.

    Raises:
        AlignError: if one holds no run, or what is in it is damaged.
    """
    told = command or shlex.join(["align", "report", *map(str, paths)])
    return report_twin([run_facts(path) for path in paths], command=told, time=now(), studies=studies)


def leave_report(path: Path, note: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Write a run's report into its folder, unless it is there and newer than the run's last event.

    A report that cannot be written fails no run.

    Args:
        path: the run's folder.
        note: told where the report is.
        warn: told why there is none, and how to make one.
    """
    try:
        layout = RunFolder(path).layout
        page, data, ledger = layout.file(REPORT), layout.file(REPORT_DATA), layout.file(LEDGER)
        if page.is_file() and data.is_file() and data.stat().st_mtime_ns >= ledger.stat().st_mtime_ns:
            return
        write_report(report_on([path]), page, data)
    except Exception as error:  # whatever it is, the run is finished
        again = shlex.join(["align", "report", str(path)])
        warn(f"the report was not written: {first_line(error)}; `{again}` makes it")
        return
    note(f"report: {page}")


def write_report(twin: Mapping[str, Any], page: Path, data: Path) -> None:
    """The page, and then its data: whoever finds the data newer than the run finds both."""
    write_text(page, report_page(twin))
    write_text(data, report_json(twin))


def last_event(path: Path) -> int | None:
    """When the ledger of the run in a folder was last written, in nanoseconds; None where there is none."""
    try:
        return (path / LEDGER).stat().st_mtime_ns
    except (OSError, ValueError):  # a folder that cannot be looked into is refused by who opens it
        return None


def run_facts(path: Path) -> RunFacts:
    """What the run in a folder has to show.

    Raises:
        AlignError: if there is none, or what is in it is damaged.
    """
    return facts_of(open_run(path), path)


def facts_of(results: Results, path: Path) -> RunFacts:
    """What a run that is open has to show, of which nothing has been read yet.

    Raises:
        AlignError: if what is in it is damaged.
    """
    status = status_of(results)
    manifests = results.folder.manifests
    rounds = [number for number in manifests.rounds() if number <= results.recipe.rounds]
    chosen, why = _chosen(results, rounds)
    origin = status.lineage
    return RunFacts(
        path=str(path),
        state=status.state,
        num_finished=len(status.finished),
        num_planned=len(status.planned),
        following=str(status.next_step),
        recipe=results.recipe,
        versions=results.folder.begun.versions(),
        origin=None if origin is None else f"{origin['run']}@{origin['round']}",
        evaluations=status.evaluations,
        chosen=chosen,
        why=why,
        policies={number: base for number in rounds if (base := manifests.base(number)) != number},
        alerts=_alerts(results.folder, status.planned),
        ledger=status.ledger,
        training={number: results.steps(number) for number in rounds},
        samples={number: found for number in rounds if (found := results.samples(number))},
        token=_token_texts(results.folder, rounds),
    )


def _chosen(results: Results, rounds: Sequence[int]) -> tuple[int | None, str]:
    """The round that would be exported: the best where rounds are compared, else the last; no weights are read."""
    compared = [item for item in results.evaluations() if item.round and "initial" in item.against]
    best = results.best_round() if compared else None
    if best is not None:
        return best, "the best by win rate against the initial policy"
    standing = [number for number in rounds if results.is_kept(number) and results.base(number) == number]
    if not standing:
        return None, ""
    return standing[-1], "the last, since no evaluation compares rounds with the initial policy"


def _alerts(folder: RunFolder, steps: Sequence[Step]) -> list[Alert]:
    found = []
    for step in steps:
        for one in (folder.manifests.finished(step) or {}).get("guards", []):
            found.append(Alert(step.round, one["guard"], one["action"], one["message"]))
    return found


def _token_texts(folder: RunFolder, rounds: Sequence[int]) -> Callable[[int], str] | None:
    """The text of a token id by the run's tokenizer; None where no checkpoint has one that can be read."""
    from tokenizers import Tokenizer

    for number in rounds:
        path = folder.layout.artifact(number, f"{CHECKPOINT}/{TOKENIZER}")
        if path.is_file():
            try:
                tokenizer = Tokenizer.from_file(str(path))
            except Exception:  # its reader raises nothing more precise, and ids alone can be shown
                return None
            return lambda token_id: str(tokenizer.decode([token_id], skip_special_tokens=False))
    return None


def now() -> str:
    """The time, as reports say it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
