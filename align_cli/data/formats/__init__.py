"""The formats of rows that are known, and which of them a row is of.

A format is one file here with one `Format` (see `base.py`), and a line in the table; the first that recognises a row
reads it. `docs/data.md` is made of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_cli.data.faults import RowError, list_keys, missing_key, misspelling_of
from align_cli.data.formats.base import DEMONSTRATIONS, PAIRS, Format, Wanted, holds
from align_cli.data.formats.conversation import Conversation
from align_cli.data.formats.fine_grained import FineGrained
from align_cli.data.formats.instruction import Alpaca, AlpacaEval
from align_cli.data.formats.openassistant import OpenAssistant
from align_cli.data.formats.pairs import KNOWN_KEYS, LONG_NAMES, NAMES, Pairs
from align_cli.data.formats.plain_text import PlainText
from align_cli.data.formats.prompt import Prompt
from align_cli.data.formats.question import MarkedSolutions, Question
from align_cli.data.formats.ranked import Ranked
from align_cli.data.formats.single_answers import HelpSteer, Kto
from align_cli.data.formats.turns import BenchmarkAnswers, Turns
from align_cli.data.formats.two_answers import Arena, SafeRlhf, SignedPreference
from align_cli.data.formats.ultrafeedback import UltraFeedback

FORMATS: tuple[Format, ...] = (
    Pairs(),
    UltraFeedback(),
    SafeRlhf(),
    Arena(),
    SignedPreference(),
    Ranked(),
    HelpSteer(),
    Kto(),
    OpenAssistant(),
    FineGrained(),
    MarkedSolutions(),
    Conversation(),
    Prompt(),
    AlpacaEval(),
    Alpaca(),
    Question(),
    Turns(),
    PlainText(),
    BenchmarkAnswers(),
)
"""Those with more fields stand before those that are recognised by fewer."""

MAIN_KEYS = {
    "pairs": ("chosen", "rejected", "chosen_messages", "rejected_messages"),
    "prompts": ("messages", "conversations", "prompt", "instruction", "question", "turns", "text"),
    "demonstrations": ("completion", "messages", "conversations", "output", "text", "prompt", "instruction"),
}
"""What most people's rows have, by what is wanted of them: a key like one of these is likely a misspelling."""

PARTNERS = (("prompt", "completion"), ("completion", "prompt"), ("instruction", "output"), ("output", "instruction"))
"""What a demonstration lacks that has one of its two keys."""


def format_of(row: Mapping[str, Any], wanted: Wanted) -> Format:
    """The format of a row.

    Raises:
        RowError: if it is of none that gives what is wanted.
    """
    for known in FORMATS:
        if wanted in known.gives and known.recognises(row, wanted):
            return known
    raise _unknown(dict(row), wanted)


def _unknown(row: dict[str, Any], wanted: Wanted) -> RowError:
    if not row:
        return missing_key(row, MAIN_KEYS[wanted][0])
    pair = next((names for names in (NAMES, LONG_NAMES) if not row.keys().isdisjoint(names)), None)
    if wanted == PAIRS and pair is not None:
        return missing_key(row, next(name for name in pair if row.get(name) is None), KNOWN_KEYS)
    partner = next((name for key, name in PARTNERS if holds(row, key)), None)
    if wanted == DEMONSTRATIONS and partner is not None:
        return missing_key(row, partner, MAIN_KEYS[wanted])
    for misspelt in misspelling_of(MAIN_KEYS[wanted], row):
        return missing_key(row, misspelt)
    looked_for = list_keys(MAIN_KEYS[wanted])
    others = sum(wanted in known.gives for known in FORMATS) - 1
    return RowError(
        f"no known format of {wanted}: looked for {looked_for}, and for the fields of {others} more formats; found "
        f"{list_keys(row)}",
        _known_otherwise(row) or "docs/data.md shows the fields of every format; rename the row's to those of one",
    )


def _known_otherwise(row: dict[str, Any]) -> str:
    """What else a row can be read for, in words; empty where nothing is."""
    for known in FORMATS:
        uses = [use for use in known.gives if known.recognises(row, use)]
        if uses:
            return f"it is of the format {known.name!r}, which gives {' and '.join(uses)}"
    return ""
