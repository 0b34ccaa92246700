"""`align evaluate`: measure a policy on held-out prompts and pairs."""

from __future__ import annotations

from pathlib import Path

from align_cli.cli.many import crew_for
from align_cli.cli.options import OutputPlace, Overrides, PolicyPath, Quiet, RecipePath
from align_cli.cli.output import Output, check_output_place, guarded


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    policy: PolicyPath = None,
    output: OutputPlace = "-",
    quiet: Quiet = False,
) -> None:
    """Measure a policy: win rates, reward, KL, length; one JSON document."""
    from align_cli.artifacts.store import write_json
    from align_cli.recipe import load_recipe
    from align_cli.run.single import evaluate_once
    from align_cli.stages.base import EVALUATION

    talk = Output(quiet=quiet)
    check_output_place(output)
    loaded = load_recipe(recipe, overrides or [])
    with talk.reporter() as reporter, crew_for(loaded, reporter) as crew:
        evaluation = evaluate_once(loaded, policy, reporter, crew).written[EVALUATION]
    if output == "-":
        talk.data(evaluation.to_dict())
    else:
        write_json(Path(output), evaluation.to_dict())
