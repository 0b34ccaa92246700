"""Preference pairs of a source -> `{"prompt", "chosen", "rejected"}`, TRL's explicit format.

What a row says comes from its format (`formats/`): two answers, of which one is better, or any number of them with
scores. Of scored answers, `data.pairs` says whether the best is compared with the worst or all are; those of the same
score are no pair. Nothing else is left out here: ties that a dataset states keep their label of one half, and empty or
equal completions stay; whoever pairs and trains decides on those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations

from align_cli.data.exchanges import read_exchanges
from align_cli.data.formats.base import (
    EQUAL_SCORES,
    NO_ANSWER,
    ONE_ANSWER,
    PAIRS,
    Choices,
    Dropped,
    Exchange,
    Found,
    Verdict,
)
from align_cli.data.rows import Row, Rows, row_of
from align_cli.data.sources import is_text_file
from align_cli.errors import DataError


def read_preferences(name_or_path: str, *, split: str = "train", choices: Choices | None = None) -> Rows:
    """The preference pairs of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv` (each also `.gz`) or `.parquet` file; a folder with one data file a
            split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.
        choices: the recipe's, where a format leaves one.

    Returns:
        `{"prompt", "chosen", "rejected"}` dicts and, where the source has them, `label`, `margin`, `tools` and
        `chat_template_kwargs`, in the order of the source, at least one: the first three all text, or all messages.
        Prompt and completion joined are the natural text. Each knows its place. What is no pair though nothing is wrong
        with it, such as two responses to different prompts, is left out and counted.

    Raises:
        DataError: for every row that cannot be used, or if there is no pair.
    """
    if is_text_file(name_or_path):
        raise DataError(
            "a text file holds no pairs", where=name_or_path, hint="use .jsonl with prompt, chosen and rejected"
        )
    choices = choices or Choices()
    dropped = Counter[str]()
    rows = Rows(_pairs(read_exchanges(name_or_path, split, PAIRS, choices), choices, dropped), dropped)
    if not rows:
        counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise DataError(f"no row is a pair ({counts})", where=name_or_path, hint="give the prompt as a key 'prompt'")
    return rows


def _pairs(exchanges: Iterable[Found], choices: Choices, dropped: Counter[str]) -> Iterator[Row]:
    for found in exchanges:
        for said in [found.said] if isinstance(found.said, Dropped) else verdicts_on(found.said, choices):
            if isinstance(said, Dropped):
                dropped[said.reason] += 1
            elif isinstance(found.said, Exchange):
                chosen, rejected = (found.said.answers[place].text for place in (said.chosen, said.rejected))
                extra = {name: value for name in ("label", "margin") if (value := getattr(said, name)) is not None}
                yield row_of(found, found.said, {"chosen": chosen, "rejected": rejected}, **extra)


def verdicts_on(exchange: Exchange, choices: Choices) -> Iterator[Verdict | Dropped]:
    """Which pairs an exchange gives: those that its dataset states, or those that the scores of its answers make."""
    if exchange.verdicts:
        yield from exchange.verdicts
        return
    scores = {place: answer.score for place, answer in enumerate(exchange.answers) if answer.score is not None}
    if len(scores) < 2:
        yield Dropped(ONE_ANSWER if scores else NO_ANSWER)
        return
    best_first = sorted(scores, key=lambda place: -scores[place])
    best_worst = [(best_first[0], min(scores, key=lambda place: scores[place]))]
    for better, worse in combinations(best_first, 2) if choices.pairs == "all" else best_worst:
        yield Verdict(better, worse) if scores[better] > scores[worse] else Dropped(EQUAL_SCORES)
