"""`align check`: validate a recipe; show what it expands to, what would run, and which code it would run."""

from __future__ import annotations

from align_cli.cli.options import AsJson, Overrides, RecipePath
from align_cli.cli.output import Output, guarded


@guarded
def command(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Validate a recipe and show its plan; loads no model."""
    from align_cli.recipe import code_that_runs, dump, load_recipe, resolved, warnings_for
    from align_cli.run.plan import plan_steps

    talk = Output(as_json=as_json)
    loaded = load_recipe(recipe, overrides or [])
    warnings, code, steps = warnings_for(loaded), code_that_runs(loaded), plan_steps(loaded)
    if as_json:
        plan = [{"round": step.round, "stage": step.stage} for step in steps]
        talk.data({"recipe": resolved(loaded), "code": code, "warnings": warnings, "plan": plan})
        return
    talk.text("code that this recipe runs:" if code else "this recipe runs no code but align's own")
    for place in code:
        talk.text(f"  {place}")
    talk.text(f"\n{dump(loaded).rstrip()}\n")
    talk.text("plan:")
    for number in range(loaded.rounds + 1):
        stages = [step.stage for step in steps if step.round == number]
        if stages:
            talk.text(f"  round {number}: {', '.join(stages)}")
    pairs, steps_per_round = loaded.global_batch_size, loaded.train.steps_per_round
    talk.text(f"  global batch size {pairs} pairs, {steps_per_round} steps a round")
    for warning in warnings:
        talk.warn(warning)
