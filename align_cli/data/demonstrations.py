"""Demonstrations of a source for supervised fine-tuning -> `{"prompt", "completion"}`, TRL's prompt-completion format.

What a row says comes from its format (`formats/`). Of two answers the better one is shown, of scored ones the best, and
none that is marked as wrong. A text alone is shown behind an empty prompt. A `.txt` file holds one text a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from align_cli.data.exchanges import read_exchanges
from align_cli.data.formats.base import (
    DEMONSTRATIONS,
    NO_ANSWER,
    WRONG_ANSWERS,
    Answer,
    Choices,
    Dropped,
    Exchange,
    Found,
)
from align_cli.data.rows import Row, Rows, row_of
from align_cli.errors import DataError

TIE = 0.5


def read_demonstrations(name_or_path: str, *, split: str = "train", choices: Choices | None = None) -> Rows:
    """The demonstrations of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv`, `.txt` (each also `.gz`) or `.parquet` file; a folder with one data
            file a split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.
        choices: the recipe's, where a format leaves one.

    Returns:
        `{"prompt", "completion"}` dicts, with `tools` and `chat_template_kwargs` where the source has them, in the
        order of the source, at least one. Prompt and completion joined are the natural text. Each knows its place. What
        is left out is counted.

    Raises:
        DataError: for every row that shows nothing to learn, or if there is none left.
    """
    dropped = Counter[str]()
    exchanges = read_exchanges(name_or_path, split, DEMONSTRATIONS, choices or Choices())
    rows = Rows(_demonstrations(exchanges, dropped), dropped)
    if not rows:
        counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        hint = "give the keys prompt and completion"
        raise DataError(f"no row is a demonstration ({counts})", where=name_or_path, hint=hint)
    return rows


def _demonstrations(exchanges: Iterable[Found], dropped: Counter[str]) -> Iterator[Row]:
    for found in exchanges:
        best = found.said if isinstance(found.said, Dropped) else best_answer(found.said)
        if isinstance(found.said, Exchange) and isinstance(best, Answer):
            yield row_of(found, found.said, {"completion": best.text})
        elif isinstance(best, Dropped):
            dropped[best.reason] += 1


def best_answer(exchange: Exchange) -> Answer | Dropped:
    """The answer to learn from: what won most often, else scored best, else is the first; or why there is none."""
    wins = Counter(verdict.chosen for verdict in exchange.verdicts if verdict.label != TIE)
    scores = {place: answer.score for place, answer in enumerate(exchange.answers) if answer.score is not None}
    ranked = [place for place, _ in wins.most_common()] or sorted(scores, key=lambda place: -scores[place]) or [0]
    if not exchange.answers:
        return Dropped(NO_ANSWER)
    best = exchange.answers[ranked[0]]
    return Dropped(WRONG_ANSWERS) if best.is_wrong else best
