"""What was found of one thing that align needs."""

from __future__ import annotations

from typing import Literal, NamedTuple

from align_cli.errors import AlignError

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One thing, and how it is.

    Args:
        area: what it belongs to: `packages`, `machine`, `recipe`.
        name: the thing.
        state: `fail` is what a run would be refused for.
        what: how it is, in a line.
        hint: the remedy; empty where none is needed.
    """

    area: str
    name: str
    state: State
    what: str
    hint: str = ""


def failures(area: str, name: str, error: AlignError) -> list[Finding]:
    """What an error says, a finding for each of its faults."""
    return [
        Finding(area, name, "fail", f"{fault.where}: {fault.what}" if fault.where else fault.what, fault.hint)
        for fault in error.faults
    ]
