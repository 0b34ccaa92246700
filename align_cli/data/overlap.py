"""Whether prompts that a model is measured on are among those that it trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align_cli.artifacts import remembered
from align_cli.artifacts.json_text import to_json
from align_cli.models.text import plain_text


class Overlap(NamedTuple):
    """Evaluation prompts that are among the prompts of a source.

    Args:
        prompts: how many different evaluation prompts there are.
        same: of these, how many are there to the letter.
        alike: how many are there but for case and white space, those that are the same included.
    """

    prompts: int
    same: int
    alike: int


def overlap_of(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> Overlap:
    """Which held-out prompts are among the prompts of some rows; of large files that is remembered.

    Args:
        rows: any number of them, with a `prompt` each; gone through once.
        held_out: likewise; their prompts are in memory meanwhile.
    """
    identity, other = (getattr(one, "identity", None) for one in (rows, held_out))
    if identity is None:
        return _found(rows, held_out)
    key = remembered.key_of("overlap", identity, other or [row["prompt"] for row in held_out])
    known = remembered.recall(key)
    found = _found(rows, held_out) if known is None else Overlap(*known["overlap"])
    if known is None:
        remembered.remember(key, {"overlap": list(found)})
    return found


def _found(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> Overlap:
    alike_of = {to_json(row["prompt"]): _alike(row["prompt"]) for row in held_out}
    looked_for = set(alike_of.values())
    same, alike = set[str](), set[str]()
    for row in rows:
        if (found := _alike(row["prompt"])) in looked_for:
            alike.add(found)
            same.add(to_json(row["prompt"]))
    return Overlap(len(alike_of), len(alike_of.keys() & same), sum(one in alike for one in alike_of.values()))


def _alike(prompt: Any) -> str:
    return " ".join(plain_text(prompt).casefold().split())
