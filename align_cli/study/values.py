"""What the command line says of a study: `KEY=A,B,C` of `--over`, and `--seeds`. Reads text alone, no recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from align_cli.errors import AlignError, Fault

TUNING_SEED = 1000
"""Seeds from here on are for tuning: settings that were chosen on a seed look better on it than on others."""

MOST_SEEDS = 1000
OWN_KEYS = {"seed": "--seeds says which", "output_dir": "-o names the study's folder, which has one for each run"}
CLOSING = {"[": "]", "{": "}", "(": ")"}

NAMED = re.compile(r"""(?P<name>[^{\["'=]+?)\s*=\s*(?P<value>[{\["'].*)""", re.DOTALL)
"""A name in front of a mapping, a list or a text in quotes, as `online={dpr: {mixing: 1}}`."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What such a name is made of: what folders and shells take as it is."""


class Axis(NamedTuple):
    """A key and the values that a study gives it, as texts of YAML, each with its name in front where it has one."""

    key: str
    values: tuple[str, ...]


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """`KEY=A,B,C`, one axis a text; a comma within brackets or quotes separates nothing.

    Raises:
        AlignError: with every fault of them.
    """
    axes: list[Axis] = []
    faults: list[Fault] = []
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        axis = Axis(key, split_values(values))
        fault = _fault_of(axis, text, bool(equals)) or _named_before(axis, axes)
        axes.append(axis)
        faults += [] if fault is None else [fault]
    if faults:
        raise AlignError.of(faults)
    return axes


def _fault_of(axis: Axis, text: str, has_equals: bool) -> Fault | None:
    where = f"--over {text}"
    if not has_equals or not axis.key:
        return Fault("it must name a key and its values", where, "as in --over method.beta=0.05,0.1,0.2")
    if axis.key in OWN_KEYS:
        return Fault(f"{axis.key} is no key to go over", where, OWN_KEYS[axis.key])
    if not all(axis.values):
        return Fault("one of the values is empty", where, "write null where a key should have no value")
    odd = [name for name in (named(value)[0] for value in axis.values) if name and not NAME.fullmatch(name)]
    if odd:
        hint = "a name is of A to Z, digits and ._-: NAME={...}; in quotes the whole is the value"
        return Fault(f"{odd[0]!r} is no name for a value", where, hint)
    twice = [value for place, value in enumerate(axis.values) if value in axis.values[:place]]
    if twice:
        return Fault(f"{axis.key} is to be {twice[0]} twice", where, "name every value once")
    return None


def _named_before(axis: Axis, axes: Sequence[Axis]) -> Fault | None:
    if axis.key not in [other.key for other in axes]:
        return None
    return Fault(f"there are two --over of {axis.key}", f"--over {axis.key}", "name all of its values in one of them")


def split_values(text: str) -> tuple[str, ...]:
    """A text at its commas, but for those within brackets or quotes; spaces around a value are not its own."""
    parts, open_brackets, quote = [""], [], ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in CLOSING:
            open_brackets.append(CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character == "," and not open_brackets:
            parts.append("")
            continue
        parts[-1] += character
    return tuple(part.strip() for part in parts)


def named(text: str) -> tuple[str | None, str]:
    """A value's own name, None where it has none, and the value."""
    found = NAMED.fullmatch(text)
    return (found["name"], found["value"]) if found else (None, text)


def parse_seeds(text: str, *, for_tuning: bool) -> tuple[int, ...]:
    """`10` is seeds 0 to 9, of a study for tuning 1000 to 1009; `3,4,7` is those, and `3,` is seed 3 alone.

    Raises:
        AlignError: for anything else, and for a seed that is named twice, or that is not for this.
    """
    where, usage = f"--seeds {text}", "as in --seeds 10 for the seeds 0 to 9, or --seeds 3,4,7"
    parts = [part.strip() for part in text.split(",")]
    is_list = len(parts) > 1
    parts = parts[:-1] if is_list and not parts[-1] else parts
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise AlignError("seeds are whole numbers, at least 0", where=where, hint=usage)
    numbers = [int(part) for part in parts]
    if not is_list:
        if not 1 <= numbers[0] <= MOST_SEEDS:
            raise AlignError(f"a study has from 1 to {MOST_SEEDS} seeds", where=where, hint=usage)
        first = TUNING_SEED if for_tuning else 0
        return tuple(range(first, first + numbers[0]))
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise AlignError(f"seed {twice[0]} is named twice", where=where, hint="name every seed once")
    wrong = [number for number in numbers if (number >= TUNING_SEED) != for_tuning]
    if wrong:
        hint = (
            f"--tune takes seeds from {TUNING_SEED} on, so that no table is on the seeds that chose its settings"
            if for_tuning
            else f"seeds from {TUNING_SEED} on are for --tune; report on others"
        )
        raise AlignError(f"seed {wrong[0]} is {'not ' * for_tuning}one for tuning", where=where, hint=hint)
    return tuple(numbers)


def written_seeds(seeds: Sequence[int]) -> str:
    """Seeds as `--seeds` takes them: `10`, `3,4,7`, `3,`; what `parse_seeds` reads as these again."""
    if list(seeds) in (list(range(first, first + len(seeds))) for first in (0, TUNING_SEED)):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + "," * (len(seeds) == 1)


def shown_seeds(seeds: Sequence[int]) -> str:
    """Seeds in words: `seed 3`, `seeds 0 to 9`, `seeds 3, 4, 7`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
