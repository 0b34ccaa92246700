"""Values of the design that a recipe may not use yet and what to do in their place; keys that others call otherwise.

They stand with their sections; values leave them when they are served.
"""

from __future__ import annotations

from typing import Any

from align_cli.recipe.sections import data, lora, policy, quantization, reward
from align_cli.recipe.sections.generate import NOT_SERVED_ENGINES
from align_cli.recipe.sections.labelers import NOT_SERVED_KINDS

_KEYS = policy.OTHER_NAMES | lora.OTHER_NAMES | quantization.OTHER_NAMES | data.OTHER_NAMES | reward.OTHER_NAMES
_VALUES: dict[str, dict[str, str]] = {
    "generate.engine": NOT_SERVED_ENGINES,
    "labelers.kind": NOT_SERVED_KINDS,
}


def hint_for_key(path: tuple[str | int, ...]) -> str | None:
    """What to write in place of a key that other tools have; None for any other key."""
    return _KEYS.get(".".join(map(str, path)))


def hint_for_value(path: tuple[str | int, ...], value: Any) -> str | None:
    """What to do without a value that is not served yet; None for any other value of any other key."""
    parts = [str(part) for part in path]
    if parts[:1] == ["labelers"]:
        parts = ["labelers", *parts[2:]]
    return _VALUES.get(".".join(parts), {}).get(value) if isinstance(value, str) else None
