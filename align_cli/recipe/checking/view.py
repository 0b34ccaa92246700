"""A recipe that may be faulty, as rules see it: sound keys have values or defaults, the others stop the rule.

So what spans several keys is checked even when other keys are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from align_cli.recipe.checking.section import section_models
from align_cli.recipe.written.tree import KeyPath


class UnsoundError(Exception):
    """A rule asked for a key that has a fault of its own."""


class View:
    """Reads keys of a checked tree.

    Args:
        model: the recipe's, which knows the defaults.
        tree: the recipe as plain values.
        faulty: the key paths that have faults of their own.
    """

    def __init__(self, model: type[BaseModel], tree: dict[str, Any], faulty: AbstractSet[KeyPath]) -> None:
        self._model = model
        self._tree = tree
        self._faulty = faulty
        self._asked: dict[KeyPath, None] = {}

    def asked(self) -> tuple[KeyPath, ...]:
        """The keys that were asked for since the last call of this."""
        asked, self._asked = tuple(self._asked), {}
        return asked

    def get(self, key: str) -> Any:
        """The value of a key, or its default; None where the section that would hold it is absent.

        Raises:
            UnsoundError: if the key, something in it or a section that holds it is faulty or missing.
        """
        path = tuple(key.split("."))
        value = self._walk(path)
        if any(faulty[: len(path)] == path for faulty in self._faulty):
            raise UnsoundError
        return value

    def sound(self, key: str) -> Any:
        """As `get`, but None where the key is faulty."""
        try:
            return self.get(key)
        except UnsoundError:
            return None

    def has(self, section: str) -> bool:
        """Whether the recipe has a section; faults inside it do not matter."""
        return self._walk(tuple(section.split("."))) is not None

    def written(self, section: str) -> list[str]:
        """The keys that the recipe writes in a section.

        Raises:
            UnsoundError: if one of them is unknown, or the section is faulty.
        """
        path = tuple(section.split("."))
        value = self._walk(path)
        if any(faulty[:-1] == path for faulty in self._faulty):
            raise UnsoundError
        return [name for name, inner in (value or {}).items() if inner is not None]

    def is_null(self, key: str) -> bool:
        """Whether the recipe writes null for a key, rather than leaving it out."""
        *sections, name = key.split(".")
        value = self._walk(tuple(sections))
        return isinstance(value, dict) and name in value and value[name] is None

    def labeler_names(self) -> list[str]:
        """The labelers that the recipe defines, sound or not."""
        return list(self._walk(("labelers",)))

    def labeler(self, name: str) -> dict[str, Any]:
        """A labeler's written keys.

        Raises:
            UnsoundError: if it is faulty.
        """
        path = ("labelers", name)
        if any(faulty[:2] == path for faulty in self._faulty):
            raise UnsoundError
        labeler: dict[str, Any] = self._walk(("labelers",))[name]
        return labeler

    def leaves(self) -> Iterator[tuple[KeyPath, Any]]:
        """Every value that is written and is no section or list, with its key path."""
        stack: list[tuple[KeyPath, Any]] = [((), self._tree)]
        while stack:
            path, value = stack.pop()
            if isinstance(value, dict):
                stack.extend(((*path, name), inner) for name, inner in value.items())
            elif isinstance(value, list):
                stack.extend(((*path, index), inner) for index, inner in enumerate(value))
            else:
                yield path, value

    def _walk(self, path: tuple[str, ...]) -> Any:
        self._asked[path] = None
        models = [self._model]
        value: Any = self._tree
        for depth, part in enumerate(path):
            if value is None:
                return None
            if path[: depth + 1] in self._faulty:
                raise UnsoundError
            info = models[0].model_fields[part]
            value = value[part] if part in value else info.get_default()
            value = {} if isinstance(value, BaseModel) else value
            models = section_models(info.annotation)
        return value


@dataclass(frozen=True)
class RuleFault:
    """A broken rule: the key to point to, what is wrong, and the remedy.

    Args:
        path: the key.
        what: what is wrong.
        hint: what to do about it.
        at_key: whether to point to the key, where the value may not be shown.
        asked: the keys that the rule looked at, this one among them.
    """

    path: KeyPath
    what: str
    hint: str
    at_key: bool = False
    asked: tuple[KeyPath, ...] = ()


def rule_fault(key: str | tuple[str, ...], what: str, hint: str) -> RuleFault:
    """A broken rule at a dotted key or a key path."""
    return RuleFault(tuple(key.split(".")) if isinstance(key, str) else key, what, hint)


Rule = Callable[[View], Iterator[RuleFault]]
"""Looks at one thing across keys, and yields what is wrong with it."""
