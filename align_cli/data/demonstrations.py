"""Demonstrations of a source for supervised fine-tuning -> `{"prompt", "completion"}`, TRL's prompt-completion format.

What a row says comes from its format (`formats/`). Of two answers the better one is shown, of scored ones the best, and
none that is marked as wrong. A text alone is shown behind an empty prompt. A `.txt` file holds one text a line.
"""

from __future__ import annotations

from collections import Counter

from align_cli.data.exchanges import read_exchanges
from align_cli.data.formats.base import DEMONSTRATIONS, Answer, Choices, Dropped, Exchange
from align_cli.data.rows import Row, row_of
from align_cli.errors import DataError

TIE = 0.5


def read_demonstrations(name_or_path: str, *, split: str = "train", choices: Choices | None = None) -> list[Row]:
    """The demonstrations of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv`, `.txt` (each also `.gz`) or `.parquet` file; a folder with one data
            file a split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.
        choices: the recipe's, where a format leaves one.

    Returns:
        `{"prompt", "completion"}` dicts, with `tools` and `chat_template_kwargs` where the source has them, in the
        order of the source, at least one. Prompt and completion joined are the natural text. Each knows its place.

    Raises:
        DataError: for every row that shows nothing to learn, or if there is none left.
    """
    rows = []
    for found in read_exchanges(name_or_path, split, DEMONSTRATIONS, choices or Choices()):
        if not isinstance(found.said, Dropped) and (best := best_answer(found.said)) is not None:
            rows.append(row_of(found, found.said, {"completion": best.text}))
    if not rows:
        raise DataError("no row is a demonstration", where=name_or_path, hint="give the keys prompt and completion")
    return rows


def best_answer(exchange: Exchange) -> Answer | None:
    """The answer to learn from: what won most often, else scored best, else is the first; None where none is good."""
    wins = Counter(verdict.chosen for verdict in exchange.verdicts if verdict.label != TIE)
    scores = {place: answer.score for place, answer in enumerate(exchange.answers) if answer.score is not None}
    ranked = [place for place, _ in wins.most_common()] or sorted(scores, key=lambda place: -scores[place]) or [0]
    good = [exchange.answers[place] for place in ranked[:1] if exchange.answers]
    return next((answer for answer in good if not answer.is_wrong), None)
