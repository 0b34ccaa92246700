"""What rows are that are not the records asked for: a command of a chain that is given another one's data says so once.

Known by their keys: whatever align itself writes, and the rows of data sets.
"""

from __future__ import annotations

from typing import NamedTuple

from align_cli.artifacts.json_text import from_json
from align_cli.errors import DataError


class Stranger(NamedTuple):
    """Rows of some kind.

    Args:
        keys: what all of them have.
        words: what they are called.
        remedy: what to do with them; `{name}` is their place, `{maker}` the command that makes what was asked for.
        without: what none of them has.
    """

    keys: frozenset[str]
    words: str
    remedy: str
    without: frozenset[str] = frozenset()


MADE_FOR_NOBODY = "give it what {maker} writes"
STRANGERS = (
    Stranger(
        frozenset({"prompt", "completion", "completion_ids"}),
        "completions",
        "label them first: align label RECIPE -i {name}",
    ),
    Stranger(
        frozenset({"prompt", "chosen", "rejected", "source", "labeler"}),
        "preferences, which are labelled already",
        "train on them: align train RECIPE --preferences {name} -o DIR",
    ),
    Stranger(frozenset({"chosen", "rejected"}), "a data set's pairs", "name them in the recipe, as data.preferences"),
    Stranger(frozenset({"policy", "num_prompts", "kl"}), "an evaluation", MADE_FOR_NOBODY),
    Stranger(frozenset({"step", "loss"}), "a training's figures", MADE_FOR_NOBODY),
    Stranger(frozenset({"event", "stage"}), "a run's ledger", MADE_FOR_NOBODY),
    Stranger(
        frozenset({"prompt", "completion"}),
        "demonstrations",
        "name them in the recipe, as data.demonstrations or policy.sft.dataset",
    ),
    Stranger(
        frozenset({"messages"}), "conversations", "name them in the recipe, as data.prompts or policy.sft.dataset"
    ),
    Stranger(
        frozenset({"prompt"}),
        "prompts",
        "name them in the recipe, as data.prompts, and sample them: align generate RECIPE",
        frozenset({"chosen", "rejected", "label"}),
    ),
)
WANTED = {
    "completion": ("align generate", frozenset({"prompt", "completion", "completion_ids"})),
    "preference": ("align label", frozenset({"prompt", "chosen", "rejected"})),
}
"""What a command may ask for: what makes it, and the keys by which rows are meant to be that, though broken."""


def refuse_stranger(text: str, wanted: str, name: str) -> None:
    """Refuse rows of another kind.

    Args:
        text: the first of them in JSON, or a whole document.
        wanted: what they should be: `completion`, `preference`.
        name: their place.

    Raises:
        DataError: if it can be said what they are.
    """
    if wanted not in WANTED:
        return
    try:
        row = from_json(text)
    except ValueError:
        return
    keys = frozenset(first) if isinstance(first := row[0] if isinstance(row, list) and row else row, dict) else None
    maker, own = WANTED[wanted]
    if keys is None or own <= keys:
        return
    for stranger in STRANGERS:
        if stranger.keys <= keys and not stranger.without & keys:
            raise DataError(
                f"these are {stranger.words}; {wanted}s are wanted, one a line",
                where=name,
                hint=stranger.remedy.format(name="FILE" if name == "<stdin>" else name, maker=maker),
            )
