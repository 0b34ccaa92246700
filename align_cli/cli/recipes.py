"""`align recipes` and `align presets`: what comes with align to begin with, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.complete import preset_names, recipe_names
from align_cli.cli.options import AsJson
from align_cli.cli.output import Output, guarded

if TYPE_CHECKING:
    from align_cli.recipe.shipped import About

recipes = typer.Typer()
presets = typer.Typer()


@recipes.callback(invoke_without_command=True)
@guarded
def list_recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """The recipes that come with align, with a sentence each; `show NAME` writes one to standard output."""
    if context.invoked_subcommand is None:
        from align_cli.recipe.shipped import about, recipe_names, recipe_text

        _list({name: about(recipe_text(name)) for name in recipe_names()}, "recipe", as_json=as_json)


@recipes.command("show")
@guarded
def show_recipe(
    name: Annotated[str, typer.Argument(help="Its name, as `quickstart`.", autocompletion=recipe_names)],
) -> None:
    """A recipe, to keep and change: align recipes show quickstart > mine.yaml."""
    from align_cli.recipe.shipped import recipe_text

    Output().text(recipe_text(name).removesuffix("\n"))


@presets.callback(invoke_without_command=True)
@guarded
def list_presets(context: typer.Context, as_json: AsJson = False) -> None:
    """The methods that a recipe may name as its preset: papers, and what for; `show NAME` has the keys."""
    if context.invoked_subcommand is None:
        from align_cli.recipe.presets import preset_names, preset_text
        from align_cli.recipe.shipped import about

        _list({name: about(preset_text(name)) for name in preset_names()}, "preset", as_json=as_json)


@presets.command("show")
@guarded
def show_preset(
    name: Annotated[str, typer.Argument(help="Its name, as `sail-dpr`.", autocompletion=preset_names)],
) -> None:
    """A preset's keys: what a recipe that names it need not say."""
    from align_cli.recipe.presets import preset_names, preset_text
    from align_cli.recipe.shipped import check_known

    check_known(name, preset_names(), "preset")
    Output().text(preset_text(name).removesuffix("\n"))


def _list(known: Mapping[str, About], what: str, *, as_json: bool) -> None:
    talk = Output(as_json=as_json)
    if as_json:
        talk.data([{"name": name, **about._asdict()} for name, about in known.items()])
        return
    for name, about in known.items():
        talk.text(name)
        talk.text(f"  {about.summary}")
        if about.use:
            talk.text(f"  for {about.use}")
    talk.note(f"align {what}s show NAME writes one to standard output")
