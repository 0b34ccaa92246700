"""The reference of recipe keys as Markdown, made from the schema itself."""

from __future__ import annotations

from align_cli.recipe import KeyDoc, describe_keys
from align_cli.report.tables import TextTable, markdown

INTRODUCTION = """# Every key of a recipe

Made from the schema by `make docs`. Keys are dotted paths, as in overrides: `align train recipe.yaml method.beta=0.2`.
Any other key of transformers' TrainingArguments may stand in `train` and passes through. Keys that labelers of some
kinds have say first of which.
"""


def keys_page() -> str:
    """The page `docs/recipe.md`."""
    rows = [[f"`{key.path}`", key.type, key.range, key.default, _meaning(key)] for key in describe_keys()]
    return f"{INTRODUCTION}\n{markdown(TextTable(['key', 'type', 'range', 'default', 'meaning'], rows))}\n"


def _meaning(key: KeyDoc) -> str:
    """What a key is for, behind the kinds of labelers that have it."""
    return f"of kind {' and '.join(key.kinds)}: {key.description}" if key.kinds else key.description
