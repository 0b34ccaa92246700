"""Keys that follow a schedule: a list has one value a round, and its last value stays for all rounds after.

`load` takes a recipe with lists apart into one tree a round, each checked like any other recipe, so that a fault of a
later round stands at the value that makes it. A `MethodSection` keeps the lists; `of_round` gives a round's own values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from align_cli.recipe.sections.method import SCHEDULED
from align_cli.recipe.written.tree import Entry, KeyPath, Node, find


class RoundTree(NamedTuple):
    """What a recipe says of a round.

    Args:
        number: the first round that it holds for.
        root: the recipe's tree, with the round's values in place of lists.
    """

    number: int
    root: Node


def by_round(root: Node) -> Iterator[RoundTree]:
    """A recipe's tree for each round whose values no earlier one has; one alone where nothing follows a schedule."""
    lists = _lists(root)
    seen = set()
    for number in range(1, max(map(len, lists.values()), default=1) + 1):
        entries = {path: values[min(number, len(values)) - 1] for path, values in lists.items()}
        said = tuple(str(entry.node.value) for entry in entries.values())
        if said not in seen:
            seen.add(said)
            yield RoundTree(number, _with_entries(root, entries))


def scheduled(root: Node) -> dict[str, list[float]]:
    """The values of every key that follows a schedule, by the key below `method`."""
    return {
        ".".join(map(str, path[1:])): [float(entry.node.value) for entry in values]
        for path, values in _lists(root).items()
    }


def unfit_values(schedule: Mapping[str, Sequence[float]], replays: bool) -> Iterator[tuple[KeyPath, str, str]]:
    """Values that a round may have and a schedule may not: where, what is wrong, and the remedy.

    Args:
        schedule: from `scheduled`.
        replays: whether pairs of earlier rounds are trained on.
    """
    for key, values in schedule.items():
        path = ("method", *key.split("."))
        if key.endswith(".mixing") and any(values) and not all(values):
            what = f"method.{key} has a share of 0 in round {values.index(0) + 1}; a source is there in every round"
            yield (*path, values.index(0)), what, "begin or end with a small share, such as 0.05"
        rises = [later for later in range(1, len(values)) if values[later] and not values[later - 1]]
        if key.endswith(".gradient") and replays and rises:
            what = f"method.{key} is 0 in round {rises[0]}, whose pairs are replayed, and above 0 after it"
            hint = "begin with a small value: pairs that carry the term keep more of what was sampled"
            yield (*path, rises[0] - 1), what, hint


def _lists(root: Node) -> dict[KeyPath, Sequence[Entry]]:
    found: dict[KeyPath, Sequence[Entry]] = {}
    for key in SCHEDULED:
        path = ("method", *key.split("."))
        entry = find(root, path)
        if entry is not None and isinstance(entry.node.value, list) and entry.node.value:
            found[path] = entry.node.value
    return found


def _with_entries(root: Node, entries: Mapping[KeyPath, Entry]) -> Node:
    """A copy of the tree, down to these keys, with other values there."""
    for path, entry in entries.items():
        root = _with_entry(root, path, entry)
    return root


def _with_entry(node: Node, path: KeyPath, new: Entry) -> Node:
    old: Entry = node.value[path[0]]
    inner = new.node if len(path) == 1 else _with_entry(old.node, path[1:], new)
    use_place = new.use_place if len(path) == 1 else old.use_place
    return Node(node.place, {**node.value, path[0]: Entry(old.key_place, use_place, inner, old.is_alias)})
