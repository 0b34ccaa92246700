"""`align generate`: sample the next round's prompts."""

from __future__ import annotations

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
    """Sample a round's prompts: completions as JSON Lines."""
    from align_cli.recipe import load_recipe
    from align_cli.run.single import generate_once
    from align_cli.stages.base import COMPLETIONS

    talk = Output(quiet=quiet)
    check_output_place(output)
    loaded = load_recipe(recipe, overrides or [])
    with talk.reporter() as reporter, crew_for(loaded, reporter) as crew:
        completions = generate_once(loaded, policy, reporter, crew).written[COMPLETIONS]
    talk.records(completions, output)
