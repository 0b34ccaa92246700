"""Data: readers of other people's formats.

Each reader takes a file, a folder or a Hub id and gives plain dicts in TRL's dataset formats. Readers never shuffle,
cut, tokenise or write; what is wrong in a file is a `DataError` that names every faulty line and its remedy.
Stages, the recipe's check and `align data` call them.

    sources.py         what a name stands for
    files.py           one row at a time from .jsonl, .json, .csv and .txt, compressed or not
    tables.py          one row at a time from .parquet, a folder or the Hub
    limits.py          how much a file may hold
    strict_json.py     JSON without its traps: NaN, repeated keys
    faults.py          faults of rows, collected and shown at once
    formats/           what a row says, one file a format: a prompt, answers, and which is better
    messages.py        conversations: TRL's and ShareGPT's shapes -> one
    transcripts.py     conversations that are one text -> messages
    templates.py       instruction rows -> text
    template_fields.py what a row holds for its chat's template: tools, keyword arguments
    exchanges.py       all rows of a source through their formats, or all their faults
    rows.py            rows in TRL's formats, each with its place, and with how it reads as a conversation
    lazy.py, lines.py  as many rows as there are, in a file, and few of them in memory
    prompts.py, preferences.py, demonstrations.py     the three readers
"""

from align_cli.data.demonstrations import read_demonstrations
from align_cli.data.formats.base import Choices
from align_cli.data.preferences import read_preferences
from align_cli.data.prompts import read_prompts
from align_cli.data.rows import Rows

__all__ = ["Choices", "Rows", "read_demonstrations", "read_preferences", "read_prompts"]
