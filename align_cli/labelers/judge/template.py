r"""A judge's template: what it is told, and how its answer is read. One text file holds both.

    # lines with # are comments
    answer: \[\[(.*?)\]\]      a regular expression with one group, whose last match counts; or: last line
    first: A                   what means that the first is better, the second, and, where ties are allowed, neither;
    second: B                  for scores, lowest: and highest: in their place
    tie: C
    --- system                 the messages: --- system, where there is one, and --- user
    You compare answers.
    --- user
    {prompt} {first} {second}  the fields; for scores {prompt} {completion}. {{prompt}} is no field

Other braces are text. What a model wrote is filled in once and never read as part of the template. Thinking blocks of
an answer are left out before it is read. An answer that names nobody, or somebody else, says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align_cli.data.thinking import without_thinking
from align_cli.errors import LabelerError, nearest
from align_cli.recipe.sections.labelers.base import Gives
from align_cli.recipe.sections.labelers.judge import TEMPLATES
from align_cli.recipe.sections.labelers.template import FIELD, Message, parts_of

FOLDER = Path(__file__).with_name("templates")
FIELDS: dict[Gives, tuple[str, ...]] = {"verdicts": ("prompt", "first", "second"), "scores": ("prompt", "completion")}
WINS = {"first": 1.0, "second": 0.0, "tie": 0.5}
"""Of a verdict: the probability that the first is better."""
HEAD: dict[Gives, tuple[str, ...]] = {
    "verdicts": ("answer", *WINS),
    "scores": ("answer", "lowest", "highest"),
}
LAST_LINE = "last line"

_AROUND = " \t*_\"'`.,:;!()[]{}<>"
"""What may stand around a verdict, as in **A**."""


@dataclass(frozen=True)
class Template:
    """A template that is sound.

    Args:
        gives: verdicts or scores.
        messages: role and text of each, with fields.
        pattern: finds the verdict in an answer; None for its last line.
        meanings: what each verdict means, by its text without what may stand around it; empty for scores.
        bounds: of scores, lowest and highest.
    """

    gives: Gives
    messages: tuple[tuple[str, str], ...]
    pattern: re.Pattern[str] | None
    meanings: Mapping[str, float]
    bounds: tuple[float, float]

    def filled(self, fields: Mapping[str, str]) -> list[dict[str, str]]:
        """The messages with these texts in them."""

        def text(found: re.Match[str]) -> str:
            return found[1] or fields[found[2]]

        return [{"role": role, "content": FIELD.sub(text, content)} for role, content in self.messages]

    def read(self, answer: str) -> float | None:
        """What an answer says: for verdicts 1, 0, or one half for a tie; a score; None where it says nothing."""
        said = self._verdict(str(without_thinking(answer)))
        if said is None:
            return None
        if self.gives == "verdicts":
            return self.meanings.get(_bare(said))
        score = _number(said.strip(_AROUND.replace(".", "")).rstrip("."))
        return score if score is not None and self.bounds[0] <= score <= self.bounds[1] else None

    def _verdict(self, answer: str) -> str | None:
        if self.pattern is None:
            return next((line for line in reversed(answer.splitlines()) if line.strip()), None)
        verdicts = [found[1] for found in self.pattern.finditer(answer)]
        return verdicts[-1] if verdicts else None


def read_template(name: str, gives: Gives, where: str) -> Template:
    """The template of a judge.

    Args:
        name: `pairwise`, `score`, `additive`, or the path of a file.
        gives: what it has to give.
        where: the key that names it, for errors.

    Raises:
        LabelerError: if it cannot be read, or is not sound; names the line.
    """
    path = FOLDER / f"{name}.txt" if name in TEMPLATES else Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the template {name} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
        raise LabelerError(what, where=where, hint=f"name a text file, or use {' or '.join(TEMPLATES)}") from None
    return _Reader(str(path), gives).template(text)


class _Reader:
    """Reads one file."""

    def __init__(self, path: str, gives: Gives) -> None:
        self._path, self._gives = path, gives

    def template(self, text: str) -> Template:
        lines = text.splitlines()
        parts = parts_of(lines)
        if not parts.messages:
            raise self._fault(len(lines), "no line `--- user` begins what the judge is told", "see docs/judge.md")
        head = self._head(parts.head)
        messages = self._messages(parts.messages)
        self._check_fields(parts.fields, len(lines))
        pattern = self._pattern(*head["answer"])
        if self._gives == "scores":
            return Template(self._gives, messages, pattern, {}, self._bounds(head))
        return Template(self._gives, messages, pattern, self._meanings(head), (0.0, 0.0))

    def _head(self, lines: list[str]) -> dict[str, tuple[str, int]]:
        """What the head says, each with its line."""
        head: dict[str, tuple[str, int]] = {}
        known = HEAD[self._gives]
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not colon or not value:
                raise self._fault(number, f"{line.strip()!r} is no line of the head", "write name: value")
            if name not in known:
                near = nearest(name, known)
                says = "a third answer" if self._gives == "verdicts" else "something that no score has"
                hint = f"did you mean {near}?" if near else f"the head has {', '.join(known)}"
                raise self._fault(number, f"the head names {name}, {says}", hint)
            if name in head:
                raise self._fault(number, f"the head says {name} twice", "leave one of them out")
            head[name] = (value, number)
        for name in known:
            if name not in head and name != "tie":
                raise self._fault(1, f"the head does not say {name}", f"add {name}: ... before the first message")
        return head

    def _messages(self, found: Sequence[Message]) -> tuple[tuple[str, str], ...]:
        for message in found:
            if not message.content:
                raise self._fault(message.line, f"the {message.role} message is empty", "write it, or leave it out")
        if [message.role for message in found] not in (["user"], ["system", "user"]):
            raise self._fault(found[0].line, "there must be one --- user, and before it at most one --- system", "")
        return tuple((message.role, message.content) for message in found)

    def _check_fields(self, used: Mapping[str, int], num_lines: int) -> None:
        wanted = FIELDS[self._gives]
        for name, number in used.items():
            if name not in wanted:
                near = nearest(name, wanted)
                hint = f"did you mean {{{near}}}? " if near else ""
                hint += f"fields are {_fields_in_words(wanted)}; {{{{{name}}}}} is text"
                raise self._fault(number, f"{{{name}}} is no field", hint)
        for name in wanted:
            if name not in used:
                raise self._fault(num_lines, f"the field {{{name}}} is nowhere", "the judge has to see it")

    def _pattern(self, value: str, number: int) -> re.Pattern[str] | None:
        if value == LAST_LINE:
            return None
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise self._fault(number, f"answer is no regular expression: {error}", "or write: last line") from None
        if pattern.groups != 1:
            what = f"the regular expression has {pattern.groups} groups; it must have one, around the verdict"
            raise self._fault(number, what, "groups that only hold together are written (?:...)")
        return pattern

    def _meanings(self, head: Mapping[str, tuple[str, int]]) -> dict[str, float]:
        meanings: dict[str, float] = {}
        for name, meaning in WINS.items():
            if name not in head:
                continue
            value, number = head[name]
            if not _bare(value) or _bare(value) in meanings:
                what = f"{name} is {value!r}, which is nothing but signs, or what another verdict is"
                raise self._fault(number, what, "give each verdict a word of its own")
            meanings[_bare(value)] = meaning
        return meanings

    def _bounds(self, head: Mapping[str, tuple[str, int]]) -> tuple[float, float]:
        bounds = []
        for name in ("lowest", "highest"):
            value, number = head[name]
            bound = _number(value)
            if bound is None:
                raise self._fault(number, f"{name} is {value!r}; it must be a number", "")
            bounds.append(bound)
        if not bounds[0] < bounds[1]:
            raise self._fault(head["highest"][1], "the highest score is not above the lowest", "")
        return bounds[0], bounds[1]

    def _fault(self, number: int, what: str, hint: str) -> LabelerError:
        return LabelerError(what, where=f"{self._path}:{number}", hint=hint)


def _bare(said: str) -> str:
    return said.strip().strip(_AROUND).casefold()


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fields_in_words(names: tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
