"""`align reward`: fit the run's reward model, and show what it is worth on held-out pairs."""

from __future__ import annotations

from align_cli.cli.many import crew_for
from align_cli.cli.options import AsJson, Overrides, Quiet, RecipePath
from align_cli.cli.output import Output, guarded


@guarded
def command(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Fit a reward model on preferences, before the first round: accuracy, length alone beside it, calibration."""
    from align_cli.recipe import load_recipe
    from align_cli.report.tables import reliability_table, reward_table
    from align_cli.run.single import reward_once

    talk = Output(quiet=quiet, as_json=as_json)
    loaded = load_recipe(recipe, overrides or [])
    with talk.reporter() as reporter, crew_for(loaded, reporter):
        report = reward_once(loaded, reporter)
    talk.data(report.to_dict(), reward_table(report))
    if not as_json:
        talk.table(reliability_table(report))
