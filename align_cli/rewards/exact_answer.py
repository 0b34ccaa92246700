"""The reward of a right final answer, as of GSM8K and other questions that end in a number or a word.

An answer's final answer is the first of these that is there:

    1. what stands behind the last `####`, to the end of the line
    2. what the last `\\boxed{…}` holds
    3. what stands behind the last "answer is", "answer:" or "answer =", to the end of the line
    4. the last number of the text

Of 1 to 3 the first number counts. Numbers are compared as numbers: 1,234.0 is 1234, `\\frac{1}{2}` and 1/2 are 0.5, and
signs of currency and of percent are dropped, so 50% is 50. A minus belongs to the number that it touches, unless it
touches a word or a number before it as well, as in 10-20. One with a space behind it does where nothing can be taken
from: at the start of 1 to 3, behind a sign such as = and behind an opening bracket; in 3 - 5 and before an item of a
list it does not. Where the gold answer is no number, words are compared:
without regard to case, spaces and a full stop, and never by rule 4.

Symbolic answers (`2x + 1`, sets, intervals) are not compared. math-verify does that; it brings sympy and an ANTLR
runtime along, and stops its parser by signals, which a run has for itself. A function of one's own that calls it is a
labeler too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from align_cli.errors import LabelerError
from align_cli.rewards.by_prompt import ByPrompt, read_columns, shown

RIGHT, WRONG = 1.0, 0.0

Answer = Fraction | str

MOST_DIGITS = 400
"""Of a number; longer ones are no answers, and would take long to compare."""

_SPACING = re.compile(r"\\[,!;: ]|\{,\}|[\u00a0\u2009\u202f]")
_SYMBOLS = re.compile(r"(?<=[-+])\\?[$€£][^\S\n]+|\\?[$€£%]|\\text\s*\{|\\left|\\right|\*\*")
_MINUS = re.compile("[\u2212\u2013\ufe63\uff0d]")
"""The minus itself, and what is written for it: a dash, and its small and wide forms."""
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([-+]?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]}}.])(?P<sign>[-+])(?P<space>[^\S\n]?))?(?<![\w.])(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,2}}(?!\d))?"
    rf"(?:\s?/\s?(?:{_DIGITS}(?:\.\d+)?))?"
)
_BEFORE_A_SIGN = "=<>≈~:,;(["
"""Behind which a sign is a number's own, though a space stands between them."""
_MARKS = (
    re.compile(r"####[ \t]*(?P<rest>[^\n]*)"),
    re.compile(r"\\boxed\s*(?P<rest>\{)"),
    re.compile(r"\banswer(?:\s+is\b\s*:?|\s*[:=])[ \t]*(?P<rest>[^\n]*)", re.IGNORECASE),
)


class ExactAnswer:
    """1 where an answer's final answer is the gold one, else 0, also where there is none.

    Args:
        gold: the gold answers: a file, a folder or a Hub id in any format that `align data` reads demonstrations from
            (GSM8K's own, for one), or, with both columns named, any JSON, JSON Lines, CSV or parquet.
        prompt_column: the column of the prompt's text; with `answer_column`.
        answer_column: the column of the gold answer: a number, a text, or a solution that ends in one of the marks.

    Raises:
        LabelerError: if a gold answer has no final answer, or a prompt two different ones.
        DataError: if they cannot be read.
    """

    def __init__(self, gold: str, prompt_column: str | None = None, answer_column: str | None = None) -> None:
        if (prompt_column is None) != (answer_column is None):
            raise LabelerError("prompt_column and answer_column go together", where=gold, hint="name both, or neither")
        rows = _columns(gold, prompt_column, answer_column) if prompt_column and answer_column else _known_format(gold)
        self._gold = ByPrompt(((prompt, _gold_answer(answer, prompt, gold)) for prompt, answer in rows), gold, "answer")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [self._score(*pair) for pair in zip(prompts, completions, strict=True)]

    def _score(self, prompt: str, completion: str) -> float:
        gold = self._gold.of(prompt)
        found = final_number(completion) if isinstance(gold, Fraction) else final_words(completion)
        return RIGHT if found == gold else WRONG


def final_number(text: str) -> Fraction | None:
    """The number that a text ends in, by the rules above; None without any."""
    for marked in _marked(text):
        numbers = _numbers(marked, is_answer=True)
        if numbers:
            return numbers[0]
    numbers = _numbers(text, is_answer=False)
    return numbers[-1] if numbers else None


def final_words(text: str) -> str | None:
    """What a text marks as its final answer, for comparison; None where nothing is marked."""
    return next((words for marked in _marked(text) if (words := _as_words(marked))), None)


def _gold_answer(answer: str, prompt: str, place: str) -> Answer:
    """Of a text without any mark, the text itself where it is one number or one line of words."""
    marked = next((words for one in _marked(answer) if (words := _as_words(one))), None)
    whole = marked if marked is not None else _as_words(answer)
    numbers = _numbers(whole, is_answer=True)
    if numbers and (marked is not None or _NUMBER.fullmatch(_plain(whole).strip())):
        return numbers[0]
    if whole and "\n" not in answer.strip():
        return whole
    found = final_number(answer)
    if found is None:
        what = f"the gold answer of the prompt {shown(prompt)} has no final answer: {shown(answer)}"
        raise LabelerError(what, where=place, hint="let it end in #### and the answer")
    return found


def _known_format(gold: str) -> Iterator[tuple[str, str]]:
    from align_cli.data.demonstrations import read_demonstrations
    from align_cli.models.text import plain_text

    for row in read_demonstrations(gold):
        yield plain_text(row["prompt"]), plain_text(row["completion"])


def _columns(gold: str, prompt_column: str, answer_column: str) -> Iterator[tuple[str, str]]:
    for prompt, answer in read_columns(gold, prompt_column, answer_column):
        yield str(prompt), str(answer)


def _marked(text: str) -> Iterator[str]:
    """What the last mark of each kind points to."""
    for mark in _MARKS:
        found = None
        for found in mark.finditer(text):  # noqa: B007  the last one is wanted
            pass
        if found is not None:
            yield _braced(text, found.end()) if found["rest"] == "{" else found["rest"]


def _braced(text: str, start: int) -> str:
    """From there to the brace that closes; to the end where none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[start:place]
    return text[start:]


def _numbers(text: str, *, is_answer: bool) -> list[Fraction]:
    """The numbers of a text.

    Args:
        text: as it was written.
        is_answer: whether it is nothing but an answer, so that what it starts with is no item of a list.
    """
    plain = _plain(text)
    found = (_number(_signed(match, is_answer)) for match in _NUMBER.finditer(plain))
    return [number for number in found if number is not None]


def _signed(match: re.Match[str], is_answer: bool) -> str:
    """A number with the sign before it, where that is its own."""
    if not match["space"]:
        return match.group()
    text, place = match.string, match.start()
    while place and text[place - 1] in " \t":
        place -= 1
    is_own = text[place - 1] in _BEFORE_A_SIGN if place else is_answer
    return match.group() if is_own else match.group()[len(match["sign"] + match["space"]) :]


def _plain(text: str) -> str:
    """Without what surrounds numbers: currency, percent, LaTeX's spaces; fractions with a slash, one kind of minus."""
    return _SYMBOLS.sub("", _LATEX_FRACTION.sub(r"\1/\2", _MINUS.sub("-", _SPACING.sub("", text))))


def _number(text: str) -> Fraction | None:
    text = "".join(text.replace(",", "").split())
    if len(text) > MOST_DIGITS:
        return None
    numerator, _, denominator = text.partition("/")
    try:
        return Fraction(numerator) / Fraction(denominator or 1)
    except ZeroDivisionError:
        return None


def _as_words(text: str) -> str:
    return " ".join(_plain(text).casefold().strip(" .{}()").split())
