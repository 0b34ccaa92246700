"""How plain an answer's words are, in two ways of different kinds: one to train with, the other to judge by.

`EasyWords` looks words up in a public lexicon, the list of Dale and Chall (1948, revised 1995) of 3,000 words that
children of ten know; `reading_ease` is Flesch's formula (1948) of the lengths of words and sentences. As a program it
turns pairs into pairs about plain words, in the order that the lexicon has them, and leaves ties out:

    python recipes/rewards/plain_words.py PAIRS LEXICON > plain.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from align_cli.data.chats import Form, in_form
from align_cli.data.preferences import read_preferences

ENDINGS = re.compile(r"('s|s|es|ed|d|ing|ly|er|est)$")
"""With which an easy word stays easy."""


class EasyWords:
    """The share of an answer's words that are easy: from 0 to 1, and 0 without any.

    Args:
        lexicon: a text file, one easy word a line.
    """

    def __init__(self, lexicon: str) -> None:
        self.lexicon = lexicon

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [self._share(words_of(completion)) for completion in completions]

    def _share(self, words: list[str]) -> float:
        return sum(map(self._is_easy, words)) / len(words) if words else 0.0

    def _is_easy(self, word: str) -> bool:
        return not {word, ENDINGS.sub("", word), re.sub("ie[sd]$", "y", word)}.isdisjoint(self._easy)

    @cached_property
    def _easy(self) -> frozenset[str]:
        return frozenset(line.strip().lower() for line in Path(self.lexicon).read_text(encoding="utf-8").splitlines())


def reading_ease(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
    """Flesch's reading ease: about 100 where it is very easy, below 30 where it is hard; 0 without any word."""
    return [_ease(completion) for completion in completions]


def _ease(text: str) -> float:
    words = words_of(text)
    if not words:
        return 0.0
    num_sentences = max(1, len(re.findall(r"[.!?](?:\s|$)", text)))
    num_syllables = sum(map(_syllables, words))
    return 206.835 - 1.015 * len(words) / num_sentences - 84.6 * num_syllables / len(words)


def _syllables(word: str) -> int:
    """As many as there are groups of vowels, but for a silent e."""
    return max(1, len(re.findall("[aeiouy]+", word)) - (word.endswith("e") and not word.endswith("le")))


def words_of(text: str) -> list[str]:
    """Its words, in small letters."""
    return re.findall("[a-z']+", text.lower())


def about_plain_words(pairs: str, lexicon: str) -> Iterator[dict[str, Any]]:
    """The pairs whose answers differ in plainness, as conversations, the plainer one chosen."""
    score, as_chats = EasyWords(lexicon), Form("always", True, None, "keep")
    for row in in_form(read_preferences(pairs), as_chats, pairs):
        answers = [row["chosen"], row["rejected"]]
        plain, other = score([""] * 2, [answer[-1]["content"] for answer in answers])
        if plain != other:
            chosen, rejected = answers if plain > other else answers[::-1]
            yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for pair in about_plain_words(*sys.argv[1:]):
        sys.stdout.write(json.dumps(pair) + "\n")
