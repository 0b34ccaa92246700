"""What a file says of each prompt, found by the prompt's text.

What a labeler sees of a conversation is its messages, one below the other: a system prompt, or earlier turns, stand
before the words that the file knows. So a prompt is found by its whole text, else by the longest end of it that begins
with a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from align_cli.data.sources import read_rows
from align_cli.errors import DataError, Fault, LabelerError

ValueType = TypeVar("ValueType")

SHOWN = 80
"""Characters of a prompt in a message."""


class ByPrompt(Generic[ValueType]):
    """Values by prompt.

    Args:
        pairs: prompts and their values; of a prompt that comes twice, both must say the same.
        place: the file, for messages.
        noun: what the values are, for messages.

    Raises:
        LabelerError: if a prompt has two different values.
    """

    def __init__(self, pairs: Iterable[tuple[str, ValueType]], place: str, noun: str) -> None:
        self._place, self._noun = place, noun
        self._values: dict[str, ValueType] = {}
        for prompt, value in pairs:
            if self._values.setdefault(prompt.strip(), value) != value:
                what = f"two rows have different {noun}s for the same prompt: {shown(prompt)}"
                raise LabelerError(what, where=place, hint="keep one of them")

    def of(self, prompt: str) -> ValueType:
        """The value of a prompt.

        Raises:
            LabelerError: if the file has none; it names the prompt.
        """
        for text in _ends(prompt.strip()):
            if text in self._values:
                return self._values[text]
        raise LabelerError(
            f"there is no {self._noun} for the prompt {shown(prompt)}",
            where=self._place,
            hint="every prompt of data.prompts and data.eval_prompts that this labeler sees needs one; prompts are "
            "compared by their text",
        )


def read_columns(place: str, *columns: str) -> Iterator[tuple[object, ...]]:
    """These columns of every row of a file, a folder or a Hub id.

    Raises:
        LabelerError: if a row lacks one.
        DataError: if it cannot be read.
    """
    for row in read_rows(place, "train"):
        if isinstance(row, Fault):
            raise DataError.of([row])
        for column in columns:
            if column not in row.fields:
                what = f"there is no column {column!r}; the row has {', '.join(map(repr, row.fields))}"
                raise LabelerError(what, where=row.where, hint="name the columns in the labeler's arguments")
        yield tuple(row.fields[column] for column in columns)


def shown(text: str) -> str:
    """A text's beginning, in quotes."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…")


def _ends(text: str) -> Iterator[str]:
    """The text, then each of its ends that begins with a line, the longest first."""
    yield text
    place = text.find("\n")
    while place >= 0:
        yield text[place + 1 :].lstrip()
        place = text.find("\n", place + 1)
