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


def overlaps_of(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Sequence[Mapping[str, Any]]]) -> list[Overlap]:
    """Which prompts of each held-out source are among the prompts of some rows; of large files that is remembered.

    Args:
        rows: any number of them, with a `prompt` each; gone through once, however many sources are held out.
        held_out: the sources; their prompts are in memory meanwhile.
    """
    identity = getattr(rows, "identity", None)
    if identity is None:
        return _found(rows, held_out)
    others = [getattr(one, "identity", None) or [row["prompt"] for row in one] for one in held_out]
    keys = [remembered.key_of("overlap", identity, other) for other in others]
    known = {key: Overlap(*entry["overlap"]) for key in keys if (entry := remembered.recall(key)) is not None}
    unknown = {key: one for key, one in zip(keys, held_out, strict=True) if key not in known}
    found = dict(zip(unknown, _found(rows, list(unknown.values())) if unknown else (), strict=True))
    for key, one in found.items():
        remembered.remember(key, {"overlap": list(one)})
    return [(known | found)[key] for key in keys]


def _found(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Sequence[Mapping[str, Any]]]) -> list[Overlap]:
    alike_of = [{to_json(row["prompt"]): _alike(row["prompt"]) for row in one} for one in held_out]
    looked_for = {alike for one in alike_of for alike in one.values()}
    same, alike = set[str](), set[str]()
    for row in rows:
        if (found := _alike(row["prompt"])) in looked_for:
            alike.add(found)
            same.add(to_json(row["prompt"]))
    return [Overlap(len(one), len(one.keys() & same), sum(text in alike for text in one.values())) for one in alike_of]


def _alike(prompt: Any) -> str:
    return " ".join(plain_text(prompt).casefold().split())
