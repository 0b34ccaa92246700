"""Whether the trackers that a recipe names are installed: looked at before anything is loaded, and nothing imported."""

from __future__ import annotations

import importlib.util

from align_cli.errors import RecipeError
from align_cli.recipe import Recipe


def check_installed(recipe: Recipe) -> None:
    """Find the packages of the trackers in `train.report_to`.

    Raises:
        RecipeError: for those that are not installed, with what installs them.
    """
    missing = [name for name in recipe.train.trackers if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        what = f"train.report_to names {' and '.join(missing)}, which {verb} not installed"
        hint = f"pip install 'align-cli[{','.join(missing)}]', or change train.report_to"
        raise RecipeError.of([recipe.fault("train.report_to", what, hint)])
