"""The reward of a form: a regular expression, sections in tags, JSON.

    score = requirements that hold / requirements

TRL's `think_format_reward` is one such form, for conversations alone; here any can be named, and text is judged too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from align_cli.errors import LabelerError

_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)


class AnswerFormat:
    """The share of what is asked of an answer's form that holds: 1 for all of it, 0 for none, also of an empty answer.

    Args:
        pattern: a regular expression (Python's) that the whole answer must match; `.` matches line ends too.
        sections: names of tags that the answer must consist of, in this order: with `[think, answer]` it is
            `<think>…</think><answer>…</answer>`, each once and not empty, and only white space around them.
        json: whether the answer must be JSON, alone or in one fenced block.
        keys: keys that the JSON must have, which then is an object; they imply `json`.

    Raises:
        LabelerError: if nothing is asked for, or the pattern is none.
    """

    def __init__(
        self,
        pattern: str | None = None,
        sections: Sequence[str] = (),
        json: bool = False,
        keys: Sequence[str] = (),
    ) -> None:
        self._requirements: list[Callable[[str], bool]] = []
        if pattern is not None:
            self._requirements.append(_matches(_compiled(pattern)))
        if sections:
            self._requirements.append(_consists_of(sections))
        if json or keys:
            self._requirements.append(lambda text: _is_json(text, keys))
        if not self._requirements:
            raise LabelerError("nothing is asked of an answer's form", hint="give pattern, sections, json or keys")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [self._score(completion) for completion in completions]

    def _score(self, text: str) -> float:
        return sum(holds(text) for holds in self._requirements) / len(self._requirements)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise LabelerError(
            f"the pattern is no regular expression: {error}", hint="it is one of Python's `re`"
        ) from None


def _consists_of(names: Sequence[str]) -> Callable[[str], bool]:
    """What stands between two tags holds neither of them, so the first end is the end."""
    tags = [re.escape(name) for name in names]
    pattern = re.compile(
        r"\s*" + r"\s*".join(rf"<{tag}>((?:(?!</?{tag}>).)*)</{tag}>" for tag in tags) + r"\s*", re.DOTALL
    )

    def holds(text: str) -> bool:
        found = pattern.fullmatch(text)
        return found is not None and all(section.strip() for section in found.groups())

    return holds


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _is_json(text: str, keys: Sequence[str]) -> bool:
    fenced = _FENCED.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_refused)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
