"""Two rewards that are fitted on pairs, of different kinds: one to train with, the other to judge by.

Both are Bradley-Terry models with a linear reward: the log-odds that one answer is preferred to another is the
difference of their rewards. `WordsReward` looks at words and pairs of words, `EncoderReward` at a sentence encoder's
embedding. Fit them on different pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from align_cli.data.preferences import read_preferences

BATCH_SIZE = 64


class _FittedReward:
    """A linear reward of features.

    Args:
        pairs: pairs in any format that align reads, as in `pairs.json[:500]`.
        strength: inverse of the weights' penalty.
    """

    def __init__(self, pairs: str, strength: float) -> None:
        self.pairs, self.strength = pairs, strength

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [float(reward) for reward in self.features(completions) @ self._weights] if completions else []

    def features(self, texts: Sequence[str]) -> Any:
        """(texts, features) numbers."""
        raise NotImplementedError

    @cached_property
    def texts(self) -> tuple[list[str], list[str]]:
        """The answers that were chosen and those that were rejected."""
        rows = [row for row in read_preferences(self.pairs) if row["chosen"] != row["rejected"]]
        chosen, rejected = ([_text(row[side]) for row in rows] for side in ("chosen", "rejected"))
        return chosen, rejected

    @cached_property
    def _weights(self) -> Any:
        import numpy
        from sklearn.linear_model import LogisticRegression

        chosen, rejected = (self.features(texts) for texts in self.texts)
        differences = chosen - rejected
        model = LogisticRegression(C=self.strength, fit_intercept=False, max_iter=1000)
        both_ways = numpy.concatenate([differences, -differences])
        return model.fit(both_ways, [1] * len(differences) + [0] * len(differences)).coef_[0]


class WordsReward(_FittedReward):
    """A reward of which words and pairs of words an answer holds (`pip install scikit-learn`)."""

    def __init__(self, pairs: str, strength: float = 0.3) -> None:
        super().__init__(pairs, strength)

    def features(self, texts: Sequence[str]) -> Any:
        return self._vectorizer.transform(texts).toarray().astype(float)

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import CountVectorizer

        chosen, rejected = self.texts
        return CountVectorizer(binary=True, ngram_range=(1, 2), min_df=2).fit([*chosen, *rejected])


class EncoderReward(_FittedReward):
    """A reward of an answer's embedding: the mean of the encoder's last states, at length one.

    Args:
        pairs: as for every fitted reward.
        encoder: a folder or a Hub id of a sentence encoder, such as `sentence-transformers/all-MiniLM-L6-v2`.
        strength: inverse of the weights' penalty.
    """

    def __init__(self, pairs: str, encoder: str, strength: float = 10.0) -> None:
        super().__init__(pairs, strength)
        self.encoder = encoder

    def features(self, texts: Sequence[str]) -> Any:
        import torch

        model, tokenizer = self._loaded
        embedded = torch.empty(len(texts), model.config.hidden_size)
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(texts), BATCH_SIZE):
            rows = by_length[start : start + BATCH_SIZE]
            inputs = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            embedded[rows] = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)
        return embedded.double().numpy()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        return AutoModel.from_pretrained(self.encoder).eval(), AutoTokenizer.from_pretrained(self.encoder)


def _text(answer: str | list[dict[str, Any]]) -> str:
    return answer if isinstance(answer, str) else str(answer[-1]["content"])
