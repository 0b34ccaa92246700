"""`align check`: everything that `align train` would refuse, found before it runs; what it would do, and whose code.

All but `--quick` runs the code that the recipe names, as a run does at its start: labelers are imported and called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from align_cli.cli.options import AsJson, ForkOrigin, Overrides, RecipePath
from align_cli.cli.output import Output, guarded
from align_cli.cli.streams import printing_as_talk
from align_cli.errors import AlignError, counted

if TYPE_CHECKING:
    from align_cli.recipe import Recipe

NO_CODE = "this recipe runs no code but align's own"
CODE = "code that this recipe runs:"
CODE_THAT_RAN = "code that this recipe runs (what of it is in use was run just now, to check it; --quick runs none):"


@guarded
def command(
    recipe: RecipePath,
    overrides: Overrides = None,
    origin: ForkOrigin = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at the recipe alone: no code is run, no data, no model is read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe, its data, labelers and models, and show its plan; loads no weights and begins nothing."""
    from align_cli.recipe import load_recipe

    if quick and origin is not None:
        raise typer.BadParameter("--quick looks at the recipe alone; --from looks at another run")
    talk, loaded = Output(as_json=as_json), None
    try:
        loaded = load_recipe(recipe, overrides or [])
        foreseen = None if quick else _foreseen(loaded, origin)
        _show(talk, loaded, *((foreseen.outlook, foreseen.notes) if foreseen else ([], [])), quick=quick)
    except AlignError as error:
        if not as_json:
            raise
        faults = [loaded.located(fault) if loaded is not None else fault for fault in error.faults]
        not_shown = {"not_shown": error.not_shown} if error.not_shown else {}
        talk.data({"faults": [fault.to_dict() for fault in faults], **not_shown})
        raise typer.Exit(error.exit_code) from None


def _foreseen(recipe: Recipe, origin: str | None) -> Any:
    from align_cli.run.foresight import foresee
    from align_cli.run.fork import parse_origin

    with printing_as_talk():
        return foresee(recipe, None if origin is None else parse_origin(origin))


def _show(talk: Output, recipe: Recipe, outlook: list[str], notes: list[str], *, quick: bool) -> None:
    from align_cli.recipe import code_that_runs, dump, resolved, warnings_for
    from align_cli.run.plan import plan_steps

    warnings, code, steps = warnings_for(recipe), code_that_runs(recipe), plan_steps(recipe)
    if talk.as_json:
        plan = [{"round": step.round, "stage": step.stage} for step in steps]
        said = {"outlook": outlook, "notes": notes, "warnings": warnings}
        talk.data({"faults": [], "recipe": resolved(recipe), "code": code, **said, "plan": plan})
        return
    talk.text((CODE if quick else CODE_THAT_RAN) if code else NO_CODE)
    for place in code:
        talk.text(f"  {place}")
    talk.text(f"\n{dump(recipe).rstrip()}\n")
    talk.text("plan:")
    for number in range(recipe.rounds + 1):
        stages = [step.stage for step in steps if step.round == number]
        if stages:
            talk.text(f"  round {number}: {', '.join(stages)}")
    pairs, steps_per_round = recipe.global_batch_size, recipe.train.steps_per_round
    talk.text(f"  global batch size {counted(pairs, 'pair')}, {counted(steps_per_round, 'step')} a round")
    for line in outlook:
        talk.text(f"  {line}")
    for note in notes:
        talk.note(note)
    for warning in warnings:
        talk.warn(warning)
