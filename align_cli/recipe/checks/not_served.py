"""Keys and values of the design that a recipe may not use yet, and what to do in their place.

One table each for keys and for values. A key leaves its table when it joins `schema`.
"""

from __future__ import annotations

from typing import Any

_LABELERS = "call it from a labeler of kind function"
_PEFT = "train all weights: leave the key out"

_KEYS = {
    "policy.peft": _PEFT,
    "policy.lora": _PEFT,
}

_VALUES: dict[str, dict[str, str]] = {
    "generate.engine": dict.fromkeys(("openai", "vllm"), "set generate.engine to transformers"),
    "labelers.kind": dict.fromkeys(("policy", "reward_model", "judge", "person"), _LABELERS),
}


def hint_for_key(path: tuple[str | int, ...]) -> str | None:
    """What to do without a key that is not served yet; None for any other key."""
    return _KEYS.get(".".join(map(str, path)))


def hint_for_value(path: tuple[str | int, ...], value: Any) -> str | None:
    """What to do without a value that is not served yet; None for any other value of any other key."""
    parts = [str(part) for part in path]
    if parts[:1] == ["labelers"]:
        parts = ["labelers", *parts[2:]]
    return _VALUES.get(".".join(parts), {}).get(value) if isinstance(value, str) else None
