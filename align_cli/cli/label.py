"""`align label`: score completions and pair them."""

from __future__ import annotations

from align_cli.cli.options import InputPlace, OutputPlace, Overrides, PolicyPath, Quiet, RecipePath
from align_cli.cli.output import Output, check_output_place, guarded


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    input: InputPlace = "-",
    output: OutputPlace = "-",
    policy: PolicyPath = None,
    quiet: Quiet = False,
) -> None:
    """Turn completions into preferences: JSON Lines in, JSON Lines out."""
    from align_cli.artifacts.records import Completion
    from align_cli.cli.streams import read_stream
    from align_cli.recipe import load_recipe
    from align_cli.report.tables import in_words
    from align_cli.run.single import label_once
    from align_cli.stages.base import PREFERENCES

    talk = Output(quiet=quiet)
    check_output_place(output)
    loaded = load_recipe(recipe, overrides or [])
    completions = read_stream(input, Completion)
    with talk.reporter() as reporter:
        labelled = label_once(loaded, completions, policy, reporter)
    talk.note(in_words(labelled.figures))
    talk.records(labelled.written[PREFERENCES], output)
