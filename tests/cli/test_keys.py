"""Keys by their names, as terminals send them."""

from __future__ import annotations

import pytest

from align_cli.cli.keys import keys_of


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("l", ["l"]),
        ("lr", ["l", "r"]),
        ("\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        ("\x1bOA\x1bOD", ["up", "left"]),
        ("\x1b[5~\x1b[6~\x1b[H\x1b[F", ["page up", "page down", "home", "end"]),
        ("\r\n\t\x7f\x08\x04", ["enter", "enter", "tab", "backspace", "backspace", "ctrl-d"]),
        ("\x1b[1;5Cl", ["l"]),
        ("\x1b[15~l", ["l"]),
        ("\x1b", []),
        ("\x1b\x1b[A", ["up"]),
        ("北r", ["北", "r"]),
        ("", []),
    ],
    ids=ascii,
)
def test_keys_have_names_and_unknown_sequences_are_no_letters(sent: str, keys: list[str]) -> None:
    assert keys_of(sent) == keys
