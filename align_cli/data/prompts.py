"""Prompts of a source -> `{"prompt": text or messages}`, TRL's prompt-only format.

What a row says comes from its format (`formats/`). A pair gives the prompt that `read_preferences` gives it, so that
both are the same to the letter; pairs that it drops are left out. A `.txt` file holds one prompt a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from align_cli.data.exchanges import read_exchanges
from align_cli.data.formats.base import PROMPTS, Choices, Dropped, Found
from align_cli.data.rows import Row, Rows, row_of
from align_cli.errors import DataError


def read_prompts(name_or_path: str, *, split: str = "train", choices: Choices | None = None) -> Rows:
    """The prompts of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv`, `.txt` (each also `.gz`) or `.parquet` file; a folder with one data
            file a split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.
        choices: the recipe's, where a format leaves one.

    Returns:
        `{"prompt": ...}` dicts, with `tools` and `chat_template_kwargs` where the source has them, in the order of the
        source, at least one; repeated prompts stay. Each knows its place in the source. What is left out is counted.

    Raises:
        DataError: for every row without a usable prompt, a blank one included, or if there is no prompt at all.
    """
    dropped = Counter[str]()
    rows = Rows(_prompts(read_exchanges(name_or_path, split, PROMPTS, choices or Choices()), dropped), dropped)
    if not rows:
        raise DataError("no row holds a prompt that can be told", where=name_or_path, hint="give it as a key 'prompt'")
    return rows


def _prompts(exchanges: Iterable[Found], dropped: Counter[str]) -> Iterator[Row]:
    for found in exchanges:
        if isinstance(found.said, Dropped):
            dropped[found.said.reason] += 1
        else:
            yield row_of(found, found.said, {})
