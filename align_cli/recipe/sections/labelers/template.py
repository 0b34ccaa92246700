"""The form of a judge's template file: which lines are the head, which the messages, and which fields stand in these.

The one reading of it. What a recipe has to know of a template comes from here, and what a judge does with one is
`labelers.judge.template`'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

FIELD = re.compile(r"\{(\{\w+\})\}|\{([^\W\d]\w*)\}")
"""A field, its name in the second group; or a doubled brace, which is text, in the first."""
_MARK = re.compile(r"---[ \t]+(system|user)\s*")


class Message(NamedTuple):
    """A message of a template.

    Args:
        role: `system` or `user`.
        content: with its fields.
        line: where its mark stands, from 1.
    """

    role: str
    content: str
    line: int


class Parts(NamedTuple):
    """A template's parts; whether they are sound is not said.

    Args:
        head: the lines before the first message, comments among them.
        messages: in their order; empty where no line begins one.
        fields: the line that each field of the messages first stands in, from 1, by its name.
    """

    head: list[str]
    messages: list[Message]
    fields: dict[str, int]


def parts_of(lines: Sequence[str]) -> Parts:
    """The parts of a template's lines."""
    marks = [number for number, line in enumerate(lines) if _MARK.fullmatch(line)]
    begin = marks[0] if marks else len(lines)
    messages = [
        Message(lines[start].split()[1], "\n".join(lines[start + 1 : end]).strip(), start + 1)
        for start, end in zip(marks, [*marks, len(lines)][1:], strict=True)
    ]
    fields: dict[str, int] = {}
    for number, line in enumerate(lines[begin:], start=begin + 1):
        for found in FIELD.finditer(line):
            if found[2]:
                fields.setdefault(found[2], number)
    return Parts(list(lines[:begin]), messages, fields)
