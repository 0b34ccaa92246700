"""Rows of every format with anything in the place of anything: each is read or refused in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_cli.data import Choices, read_demonstrations, read_preferences, read_prompts
from align_cli.data.chats import Form, in_form
from align_cli.data.formats import FORMATS
from align_cli.data.formats.base import examples_of
from align_cli.errors import DataError

SCALARS = [None, True, False, 0, 1, -1, 2.5, "", " ", "x", "1", "N/A", "<think>", "1" * 400, "\u2028"]
WRITTEN = ["[]", '["a"]', '[{"role": "user"}]', "\n\nHuman: a\n\nAssistant:"]
NESTED = [[], {}, [None], [1], [[]], [{}], {"": None}, {"text": "a"}, {"role": "assistant", "content": "a"}, ["a", "b"]]
ODD = st.sampled_from([*SCALARS, *WRITTEN, *NESTED])
BOT = {"role": "assistant", "content": "b"}
CHANGES = st.lists(st.tuples(st.integers(0, 30), ODD), min_size=1, max_size=3)


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, found in inner for place in ((*path, key), *places_of(found, (*path, key)))]


def changed(rows: list[Any], changes: list[tuple[int, Any]]) -> list[Any]:
    rows = copy.deepcopy(rows)
    for number, odd in changes:
        places = places_of(rows)
        *path, last = places[number % len(places)]
        holder: Any = rows
        for key in path:
            holder = holder[key]
        holder[last] = copy.deepcopy(odd)
    return rows


ROWS: dict[str, list[dict[str, Any]]] = {
    **{known.name: examples_of(known) for known in FORMATS},
    "nested tree": [{"prompt": {"role": "prompter", "text": "a", "replies": [{"role": "assistant", "text": "b"}]}}],
    "whole talks": [{"winner": "tie", "conversation_a": [BOT, BOT], "conversation_b": [BOT]}],
    "turns as text": [{"prompt": '["a"]', "response_a": '["b"]', "response_b": '["c"]', "winner_tie": 1}],
    "ranked objects": [{"question": "a", "answers": [{"answer": "b", "rank": 1}, {"text": "c", "rank": 2}]}],
    "labelled talk": [{"messages": [{"role": "user", "content": "a"}, BOT], "label": True}],
}


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, criterion=st.sampled_from([None, "helpfulness", "safer"]), every=st.booleans())
def test_rows_with_anything_in_them_are_read_or_refused(
    tmp_path: Path, name: str, changes: list[tuple[int, Any]], criterion: str | None, every: bool
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in changed(ROWS[name], changes)), encoding="utf-8")
    choices = Choices(criterion, "all" if every else "best_worst")
    for read in (read_prompts, read_demonstrations, read_preferences):
        try:
            rows = read(str(path), choices=choices)
            made = in_form(rows, Form("always", system_prompt="be brief", thinking="strip"), "data.prompts")
        except DataError as error:
            assert all(fault.what.isprintable() and fault.hint.isprintable() for fault in error.faults)
        else:
            assert made
            json.dumps(list(made), allow_nan=False).encode("utf-8")
