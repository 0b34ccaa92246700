"""A world of real sentences: prompts, preferences and two judges from one file of liked sentences and one of disliked.

The hash of a sentence alone decides what it is for, so no run seed moves one across (`PARTS`):

    labeler, scorer       each fits a `SentimentClassifier` of its own, one to train with and one to evaluate with;
                          together they are the policy's SFT corpus and the source of its offline pairs
    prompts, evaluation   give the training and the evaluation prompts; the policy never sees how they go on

A prompt is the first words of a sentence. Whitespace is normalised, so prompt + completion is the sentence.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from align_cli.errors import DataError, LabelerError, RecipeError, nearest

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PARTS: dict[str, int] = {"labeler": 40, "scorer": 40, "prompts": 12, "evaluation": 8}
"""The share of the sentences in each part, in percent."""

SFT_PARTS = ("labeler", "scorer")
CLASSIFIER_PARTS = ("labeler", "scorer")
HELD_OUT_PAIRS_PERCENT = 10


class Sentence(NamedTuple):
    """One sentence and which of the two files it stands in."""

    text: str
    is_liked: bool


def read_sentences(path: Path) -> list[str]:
    """The sentences of a text file, one a line: whitespace normalised, blank lines and duplicates left out.

    Args:
        path: a `.txt`, or gzipped where the name ends with `.gz`; UTF-8, or else Latin-1.

    Raises:
        DataError: if the file cannot be read or holds no sentence.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            "there is no such file", where=str(path), hint="give a text file with one sentence a line"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), hint="give a .txt or a .txt.gz file") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    sentences = dict.fromkeys(" ".join(line.split()) for line in text.split("\n"))
    sentences.pop("", None)
    if not sentences:
        raise DataError("holds no sentence", where=str(path), hint="give a text file with one sentence a line")
    return list(sentences)


def part_of(sentence: str) -> str:
    """The part of `PARTS` that a sentence belongs to, whichever file it stands in."""
    percent = _hash(sentence) % 100
    for part, share in PARTS.items():
        if percent < share:
            return part
        percent -= share
    raise AssertionError("the shares of PARTS sum to less than 100")


def prompts(liked: Path, disliked: Path, prompt_words: int) -> list[dict]:
    """Training prompts: rows of `prompt`, each text once and none that is an evaluation prompt.

    Raises:
        DataError: if a file cannot be used, or no sentence of this part is longer than `prompt_words`.
    """
    return _prompt_rows(liked, disliked, prompt_words, part="prompts")


def eval_prompts(liked: Path, disliked: Path, prompt_words: int) -> list[dict]:
    """Evaluation prompts: rows of `prompt`, each text once and none that is a training prompt.

    Raises:
        DataError: if a file cannot be used, or no sentence of this part is longer than `prompt_words`.
    """
    return _prompt_rows(liked, disliked, prompt_words, part="evaluation")


def sft_corpus(liked: Path, disliked: Path, prompt_words: int) -> list[dict]:
    """What the policy learns to write from: rows of `prompt`, the first words, and `completion`, the rest.

    Raises:
        DataError: if a file cannot be used, or no sentence of these parts is longer than `prompt_words`.
    """
    sentences = [sentence for sentence in read_labelled(liked, disliked) if part_of(sentence.text) in SFT_PARTS]
    rows = []
    for sentence in sentences:
        prompt, completion = split_sentence(sentence.text, prompt_words)
        if completion:
            rows.append({"prompt": prompt, "completion": completion})
    if not rows:
        raise _too_short(liked, prompt_words)
    return rows


def preferences(liked: Path, disliked: Path, prompt_words: int) -> list[dict]:
    """Offline pairs: rows of `prompt`, `chosen` (a liked sentence's rest) and `rejected` (a disliked one's).

    Both sentences begin with the prompt, both come from the SFT corpus, and neither is in another pair.

    Raises:
        DataError: if a file cannot be used, or no two sentences share their first `prompt_words` words.
    """
    return list(_split_pairs(liked, disliked, prompt_words).training)


def eval_preferences(liked: Path, disliked: Path, prompt_words: int) -> list[dict]:
    """The pairs, one in ten, that `preferences` leaves out; they share no sentence with it.

    Raises:
        DataError: if a file cannot be used, or no two sentences share their first `prompt_words` words.
    """
    return list(_split_pairs(liked, disliked, prompt_words).held_out)


class SentimentClassifier:
    """A judge of how much a text is liked: a logistic regression on its words and pairs of neighbouring words.

    Used in a recipe as a function labeler with arguments. Each word or pair counts once however often it is said, so
    repeating a good word gains nothing, but lists of different good words do score: a judge that can be gamed, as real
    ones can. It is fitted when first asked; the same files give the same judge.

    Args:
        liked: path of the file of liked sentences.
        disliked: path of the file of disliked sentences.
        part: which sentences to fit on, `labeler` or `scorer`.

    Raises:
        RecipeError: if there is no such part.
        DataError: if a file cannot be used, or has no sentence in this part.
    """

    def __init__(self, liked: str, disliked: str, part: str) -> None:
        if part not in CLASSIFIER_PARTS:
            close = nearest(part, CLASSIFIER_PARTS)
            raise RecipeError(
                f"part is {part!r}; it must be {' or '.join(CLASSIFIER_PARTS)}",
                hint=f"did you mean {close}?" if close else "train with one and evaluate with the other",
            )
        sentences = read_labelled(Path(liked), Path(disliked))
        self._fitting = [sentence for sentence in sentences if part_of(sentence.text) == part]
        self._held_out = [sentence for sentence in sentences if part_of(sentence.text) not in CLASSIFIER_PARTS]
        if len({sentence.is_liked for sentence in self._fitting}) < 2:
            raise DataError(
                f"the {part} part has no sentence of one of the two kinds", where=liked, hint="give more sentences"
            )

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        """The log-odds that prompt and completion together were written by someone who liked it.

        Raises:
            ValueError: if there are not as many prompts as completions.
            LabelerError: if scikit-learn is not installed.
        """
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return [float(logit) for logit in self._model.decision_function(texts)] if texts else []

    def accuracy(self) -> float:
        """The share of right signs, in [0, 1], on sentences that neither classifier was fitted on.

        Raises:
            DataError: if there are no such sentences.
        """
        if not self._held_out:
            raise DataError("no sentence is left to measure accuracy on", hint="give more sentences")
        logits = self([""] * len(self._held_out), [sentence.text for sentence in self._held_out])
        right = sum((logit > 0) == sentence.is_liked for logit, sentence in zip(logits, self._held_out, strict=True))
        return right / len(self._held_out)

    @cached_property
    def _model(self) -> Pipeline:
        try:
            from sklearn.feature_extraction.text import CountVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError:
            raise LabelerError(
                "SentimentClassifier needs scikit-learn, which is not installed", hint="pip install scikit-learn"
            ) from None
        words_and_pairs = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\S+")
        model = make_pipeline(words_and_pairs, LogisticRegression(C=1.0, solver="liblinear"))
        return model.fit([text for text, _ in self._fitting], [is_liked for _, is_liked in self._fitting])


def read_labelled(liked: Path, disliked: Path) -> list[Sentence]:
    """The sentences of both files, in the order of their hashes; one that stands in both says nothing and is left out.

    Raises:
        DataError: if a file cannot be used, or one has no sentence of its own.
    """
    liked_texts, disliked_texts = read_sentences(liked), read_sentences(disliked)
    in_both = set(liked_texts) & set(disliked_texts)
    for path, texts in ((liked, liked_texts), (disliked, disliked_texts)):
        if in_both.issuperset(texts):
            raise DataError(
                "has no sentence that the other file has not", where=str(path), hint="give two different files"
            )
    sentences = [Sentence(text, True) for text in liked_texts] + [Sentence(text, False) for text in disliked_texts]
    return sorted((each for each in sentences if each.text not in in_both), key=lambda each: _hash(each.text))


def split_sentence(sentence: str, prompt_words: int) -> tuple[str, str]:
    """A sentence's first words, and its rest with the space before it; the rest is empty where nothing is left.

    Raises:
        DataError: if `prompt_words` is below 1.
    """
    if prompt_words < 1:
        raise DataError(f"prompt_words is {prompt_words}; a prompt needs at least 1 word")
    prompt = " ".join(sentence.split(" ")[:prompt_words])
    return prompt, sentence[len(prompt) :]


class _Pairs(NamedTuple):
    training: list[dict]
    held_out: list[dict]


def _split_pairs(liked: Path, disliked: Path, prompt_words: int) -> _Pairs:
    pairs = sorted(_pair_up(read_labelled(liked, disliked), prompt_words), key=_hash_pair)
    if not pairs:
        raise DataError(
            f"no liked and disliked sentence share their first {prompt_words} words",
            where=str(liked),
            hint="lower prompt_words",
        )
    num_held_out = len(pairs) * HELD_OUT_PAIRS_PERCENT // 100
    return _Pairs(training=pairs[num_held_out:], held_out=pairs[:num_held_out])


def _pair_up(sentences: list[Sentence], prompt_words: int) -> Iterator[dict]:
    rests: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for text, is_liked in sentences:
        prompt, rest = split_sentence(text, prompt_words)
        if rest and part_of(text) in SFT_PARTS:
            rests[prompt, is_liked].append(rest)
    for prompt in {prompt: None for prompt, _ in rests}:
        for chosen, rejected in zip(rests[prompt, True], rests[prompt, False], strict=False):
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _prompt_rows(liked: Path, disliked: Path, prompt_words: int, *, part: str) -> list[dict]:
    sentences = read_labelled(liked, disliked)
    first_words = {name: _first_words(sentences, name, prompt_words) for name in ("prompts", "evaluation")}
    in_both = set(first_words["prompts"]).intersection(first_words["evaluation"])
    texts = [text for text in first_words[part] if text not in in_both or _keeper_of(text) == part]
    if not texts:
        raise _too_short(liked, prompt_words)
    return [{"prompt": text} for text in texts]


def _first_words(sentences: list[Sentence], part: str, prompt_words: int) -> list[str]:
    splits = [split_sentence(text, prompt_words) for text, _ in sentences if part_of(text) == part]
    return list(dict.fromkeys(prompt for prompt, rest in splits if rest))


def _keeper_of(prompt: str) -> str:
    # Sentences of both parts begin so. Giving all such prompts to one part would leave the other only rare beginnings.
    share = PARTS["prompts"] + PARTS["evaluation"]
    return "prompts" if _hash(prompt) % share < PARTS["prompts"] else "evaluation"


def _too_short(liked: Path, prompt_words: int) -> DataError:
    return DataError(
        f"no sentence for this use is longer than prompt_words, {prompt_words}",
        where=str(liked),
        hint="lower prompt_words, or give more sentences",
    )


def _hash_pair(pair: dict) -> int:
    return _hash("\n".join((pair["prompt"], pair["chosen"], pair["rejected"])))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
