"""`align compare`: two runs' recipes and policies side by side, paired over prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.complete import run_folders
from align_cli.cli.options import AsJson
from align_cli.cli.output import Output, guarded

if TYPE_CHECKING:
    from align_cli.recipe import Difference
    from align_cli.study.comparison import Evaluated, Paired

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@K]",
        help="A run's folder, and perhaps a round.",
        show_default=False,
        autocompletion=run_folders,
    ),
]


TITLES = ("first", "second")


@guarded
def command(first: Run, second: Run, as_json: AsJson = False) -> None:
    """Compare two runs: what their recipes differ in, then their policies on the prompts that both answered."""
    from align_cli.study.comparison import evaluated_run, pair, recipe_differences

    talk = Output(as_json=as_json)
    runs = evaluated_run(first), evaluated_run(second)
    changed = recipe_differences(*runs)
    if not as_json:
        _show_runs(talk, runs, changed)
    paired = pair(*runs)
    if as_json:
        talk.data(
            {
                "recipes": [{"key": one.key, "first": one.old, "second": one.new} for one in changed],
                "evaluations": [run.evaluation.to_dict() for run in runs],
                "paired": paired.to_dict(),
            }
        )
        return
    _show_paired(talk, paired)


def _show_runs(talk: Output, runs: tuple[Evaluated, Evaluated], changed: list[Difference]) -> None:
    from align_cli.report.tables import TextTable, rounds_table

    for title, run in zip(TITLES, runs, strict=True):
        talk.text(f"{title}: {run.name}, round {run.evaluation.round}")
    talk.table(TextTable(["recipe", *TITLES], [[one.key, f"{one.old}", f"{one.new}"] for one in changed]))
    if not changed:
        talk.text("their recipes are the same")
    table = rounds_table([run.evaluation for run in runs])
    rows = [[title, *row[1:]] for title, row in zip(TITLES, table.rows, strict=True)]
    talk.table(TextTable(["", *table.columns[1:]], rows))


def _show_paired(talk: Output, paired: Paired) -> None:
    from align_cli.report.tables import TextTable

    wins, controlled, reward = paired.wins, paired.controlled, paired.reward
    rows = [
        ["the second wins against the first", _rate(wins.win_rate, wins.interval)],
        ["the same, at equal lengths", _rate(controlled.win_rate, controlled.interval)],
        ["its reward, less the first's", f"{reward.mean:+.3f} ± {reward.standard_error:.3f}"],
    ]
    if paired.against_initial is not None:
        low, high = paired.against_initial.interval
        found = f"{paired.against_initial.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows.append(["its win rate vs initial, less the first's", found])
    talk.table(TextTable([f"on {paired.num_prompts} prompts", "95% interval, or ± std. error"], rows))
    for remark in paired.remarks:
        talk.text(remark)


def _rate(rate: float, interval: tuple[float, float]) -> str:
    return f"{rate:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
