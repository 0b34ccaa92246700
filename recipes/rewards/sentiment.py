"""How positive an answer is, in two ways of different kinds: one to train with, the other to judge by.

`positive_words` counts by a public lexicon, VADER (Hutto and Gilbert 2014; `pip install vaderSentiment`).
`ReviewClassifier` is a linear classifier of words and pairs of words (`pip install scikit-learn`), fitted on
sentences of reviews.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def positive_words(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
    """VADER's compound score: from -1, all negative, to 1, all positive."""
    return [_lexicon().polarity_scores(completion)["compound"] for completion in completions]


class ReviewClassifier:
    """The log-odds that whoever wrote an answer likes what he writes of.

    Args:
        liked: a text file with one sentence a line, of reviews by those who liked it; `.gz` is unpacked.
        disliked: the same by those who did not.
    """

    def __init__(self, liked: str, disliked: str) -> None:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        likes, dislikes = _lines(Path(liked)), _lines(Path(disliked))
        words_and_pairs = CountVectorizer(binary=True, ngram_range=(1, 2))
        self.model = make_pipeline(words_and_pairs, LogisticRegression(solver="liblinear"))
        self.model.fit([*likes, *dislikes], [True] * len(likes) + [False] * len(dislikes))

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [float(logit) for logit in self.model.decision_function(completions)]


def _lines(path: Path) -> list[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="latin-1") as file:
        return [line for line in file if line.strip()]


@cache
def _lexicon():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
