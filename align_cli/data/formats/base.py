"""What a format of rows is, and what its rows say: a prompt, what was answered to it, and which answer is better.

A format is one file with one `Format`, and a line in the table of `formats/__init__.py`. It says by which fields it is
recognised, and turns a row into exchanges; it knows nothing of files, of places, nor of how exchanges become prompts,
pairs or demonstrations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, NamedTuple

from align_cli.data.faults import RowError, describe, list_keys, missing_key, text_of
from align_cli.data.files import SourceRow
from align_cli.data.messages import Message, Text, assistant_message, user_message, with_system
from align_cli.data.strict_json import decode_at
from align_cli.errors import Fault, nearest

Wanted = Literal["prompts", "pairs", "demonstrations"]
"""What a source is read for."""

PROMPTS: Final = "prompts"
PAIRS: Final = "pairs"
DEMONSTRATIONS: Final = "demonstrations"
WANTED: tuple[Wanted, ...] = (PROMPTS, PAIRS, DEMONSTRATIONS)

DIFFERENT_PROMPTS = "prompts of chosen and rejected differ"
NO_SHARED_PROMPT = "chosen and rejected share no prompt"
ONE_ANSWER = "one answer alone, nothing to compare it with"
EQUAL_SCORES = "answers of the same score"
NO_ANSWER = "no answer"
WRONG_ANSWERS = "no answer that is marked as good"


@dataclass(frozen=True)
class Choices:
    """What a recipe says where a format leaves a choice.

    Args:
        criterion: which of several judgements of a row decides, such as `helpful`; None where there is one alone.
        pairs: of a prompt with more than two scored answers, the best against the worst, or all pairs.
    """

    criterion: str | None = None
    pairs: Literal["best_worst", "all"] = "best_worst"


class Answer(NamedTuple):
    """One answer to a prompt.

    Args:
        text: text or messages.
        score: higher is better; None where it has none.
        is_wrong: whether it is marked as one that nobody should learn.
    """

    text: Text
    score: float | None = None
    is_wrong: bool = False


class Verdict(NamedTuple):
    """What a dataset says of two answers.

    Args:
        chosen: the better one's place among the answers.
        rejected: the other one's.
        label: the probability that it is the better one; None where the dataset just says so; one half is a tie.
        margin: by how much it is better, in the unit of a reward model's scores; None where the dataset says nothing.
    """

    chosen: int
    rejected: int
    label: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Exchange:
    """A prompt and what was answered to it.

    Args:
        prompt: text or messages.
        answers: in the order of the row; all text or all messages where the prompt is.
        verdicts: which of two is better; where there is none, the scores of the answers tell.
        turns: the messages that a text prompt becomes for a policy that chats; empty for one user's message of it.
        kind: which of several shapes of its format the row has; empty where there is one.
    """

    prompt: Text
    answers: Sequence[Answer] = ()
    verdicts: Sequence[Verdict] = ()
    turns: Sequence[Message] = ()
    kind: str = ""

    def with_system(self, system: Any) -> Exchange:
        """The exchange as a conversation that begins with a system message; itself where there is none."""
        if system is None:
            return self
        text = text_of(system, "system")
        prompt = [user_message(self.prompt)] if isinstance(self.prompt, str) else self.prompt
        answers = [
            answer._replace(text=[assistant_message(answer.text)]) if isinstance(answer.text, str) else answer
            for answer in self.answers
        ]
        return replace(self, prompt=with_system(prompt, text), answers=answers)


class Dropped(NamedTuple):
    """Something that is left out though nothing is wrong with its row, and why."""

    reason: str


class Found(NamedTuple):
    """What was found at a place.

    Args:
        where: the row.
        fields: what it holds.
        name: its format's.
        said: what it says.
        template: what the template of a conversation gets besides its messages.
    """

    where: str
    fields: dict[str, Any]
    name: str
    said: Exchange | Dropped
    template: Mapping[str, Any] = {}


class Format(ABC):
    """One format of rows.

    Class attributes:
        name: what people call it.
        fields: what it is recognised by, in words.
        gives: what it can be read for; what most people want of it comes first.
        example: JSON in three lines: one row, or several.
        is_refused: whether it is known only to say why it cannot be read.
    """

    name: ClassVar[str]
    fields: ClassVar[str]
    gives: ClassVar[tuple[Wanted, ...]] = (PAIRS, DEMONSTRATIONS, PROMPTS)
    example: ClassVar[str]
    is_refused: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        """Whether a row is of this format, by its fields."""

    @abstractmethod
    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        """What a row says.

        Raises:
            RowError: if it cannot be used, or if a choice is missing.
        """

    def spans_rows(self, wanted: Wanted) -> bool:
        """Whether it takes several rows to say something: then `of_all` is asked, and gets them all."""
        return False

    def of_all(self, rows: Sequence[SourceRow], wanted: Wanted, choices: Choices) -> Iterator[Found | Fault]:
        """What the rows of a source say together, each at the place of a row; and what is wrong with them.

        Asked of no format but those whose `spans_rows` says so.
        """
        raise NotImplementedError


def examples_of(row_format: Format) -> list[dict[str, Any]]:
    """The rows of a format's example."""
    rows, end = [], 0
    while end < len(row_format.example):
        value, end, _ = decode_at(row_format.example, end)
        rows.append(value)
        end = len(row_format.example) - len(row_format.example[end:].lstrip())
    return rows


def holds(row: Mapping[str, Any], *names: str) -> bool:
    """Whether a row has a value at each of these keys."""
    return all(row.get(name) is not None for name in names)


def at(row: dict[str, Any], name: str, known: Iterable[str] = ()) -> Any:
    """The value at a key.

    Raises:
        RowError: if there is none.
    """
    if row.get(name) is None:
        raise missing_key(row, name, known)
    return row[name]


def number_of(value: Any, name: str) -> float:
    """The value as a float, also where it is text, as tables have it.

    Raises:
        RowError: if it is no finite number.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else float("nan")
    except (ValueError, OverflowError):
        number = float("nan")
    if number - number != 0:  # infinite, or no number
        raise RowError(f"{name!r} is {describe(value)}; it must be a number")
    return number


def chosen_criterion(scores: Mapping[str, Any], choices: Choices) -> str:
    """Which of a row's judgements decides.

    Args:
        scores: the judgements by name.
        choices: the recipe's.

    Raises:
        RowError: if there are several and none is chosen, or the chosen one is not among them.
    """
    names = list(scores)
    if choices.criterion is None and len(names) == 1:
        return names[0]
    if choices.criterion in scores:
        return str(choices.criterion)
    if choices.criterion is None:
        raise RowError(
            f"answers are judged by {list_keys(names)}, and nothing says by which of them they are compared",
            f"set data.criterion to {' or '.join(names)}",
        )
    near = nearest(choices.criterion, names)
    raise RowError(
        f"data.criterion is {describe(choices.criterion)}; answers are judged by {list_keys(names)}",
        f"did you mean {near}?" if near else f"set data.criterion to {' or '.join(names)}",
    )
