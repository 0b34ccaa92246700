"""Names of devices, as torch has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from align_cli.recipe.checking.view import RuleFault, rule_fault
from align_cli.recipe.written.tree import dotted, shown

DEVICES = r"auto|cpu|mps|(cuda|xpu)(:\d+)?"


def no_device(path: tuple[str, ...], name: str) -> Iterator[RuleFault]:
    """The fault of a key whose value names no device that there could be."""
    if not re.fullmatch(DEVICES, name):
        what = f"{dotted(path)} is {shown(name)}; it must be auto, cpu, cuda, mps or xpu, or one of several, as cuda:1"
        yield rule_fault(path, what, "leave it out for the accelerator that torch finds")
