"""The playground's hidden reward: what a review is truly worth, known exactly.

    reward = sentiment + relevance - cost

    sentiment   the sum of the opinions' values, each opinion word counted once, times the adverb just before it;
                cut to [-2, 2]
    relevance   0.5 for each of the first two different words of the prompt's topic, -0.5 for each word of another topic
    cost        0.1 a word beyond 8, 0.5 a word short of 5, 1 where the last mark is not a full stop, 0.5 for each
                opinion or topic word said again, for each word said twice running, and for each unknown word

No text scores above 3, and a plain good review of eight words reaches it. So a heap of good words can equal a good
review but never beat one: two strong opinions fill the sentiment, repeats and excess length only cost, and what is
empty, cut short or gibberish pays for it. Grammar is not judged. Labelers reach it as
`align_cli.playground:hidden_reward`, and with an annotator's noise as `align_cli.playground.reward:NoisyReward`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from align_cli.errors import RecipeError
from align_cli.playground.grammar import ADVERBS, OPINIONS, TOPICS, topic_of, vocabulary
from align_cli.seeds import derive_seed

SENTIMENT_LIMIT = 2.0
TOPIC_WORD_VALUE = 0.5
MAX_PAID_TOPIC_WORDS = 2
LONGEST_FREE_WORDS = 8
SHORTEST_FREE_WORDS = 5
LONG_WORD_COST = 0.1
MISSING_WORD_COST = 0.5
UNFINISHED_COST = 1.0
REPEAT_COST = 0.5
UNKNOWN_WORD_COST = 0.5

MARKS = frozenset(".:,!?")

_TOPIC_OF_WORD = {word: topic for topic, words in TOPICS.items() for word in words}


class RewardParts(NamedTuple):
    """The three parts of a hidden reward; `sentiment` is in [-2, 2], `relevance` at most 1, `cost` at least 0."""

    sentiment: float
    relevance: float
    cost: float

    @property
    def total(self) -> float:
        """The reward itself; rounded, so that texts of equal worth tie exactly."""
        return round(self.sentiment + self.relevance - self.cost, 6)


def hidden_reward(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
    """The true reward of each completion; any text has one.

    Args:
        prompts: one prompt for each completion.
        completions: texts to be judged.
        _: whatever else a caller of TRL's reward functions hands over; unused.

    Returns:
        One finite score for each completion, at most 3.

    Raises:
        ValueError: if there are not as many prompts as completions.
    """
    pairs = zip(prompts, completions, strict=True)
    return [reward_parts(prompt, completion).total for prompt, completion in pairs]


def reward_parts(prompt: str, completion: str) -> RewardParts:
    """The hidden reward of one completion, taken apart."""
    tokens = completion.split()
    return RewardParts(_sentiment(tokens), _relevance(topic_of(prompt), tokens), _cost(tokens))


def _sentiment(tokens: list[str]) -> float:
    total = 0.0
    seen: set[str] = set()
    for before, word in itertools.pairwise(["", *tokens]):
        if word in OPINIONS and word not in seen:
            seen.add(word)
            total += ADVERBS.get(before, 1.0) * OPINIONS[word]
    return max(-SENTIMENT_LIMIT, min(SENTIMENT_LIMIT, total))


def _relevance(topic: str | None, tokens: list[str]) -> float:
    topics = [_TOPIC_OF_WORD[word] for word in set(tokens) if word in _TOPIC_OF_WORD]
    num_own = topics.count(topic) if topic is not None else 0
    num_other = len(topics) - num_own
    return TOPIC_WORD_VALUE * (min(num_own, MAX_PAID_TOPIC_WORDS) - num_other)


def _cost(tokens: list[str]) -> float:
    words = [token for token in tokens if token not in MARKS]
    telling = [word for word in words if word in OPINIONS or word in _TOPIC_OF_WORD]
    num_repeats = len(telling) - len(set(telling))
    num_stutters = sum(before == word for before, word in itertools.pairwise(tokens))
    num_unknown = sum(word not in _known_words() for word in words)
    return (
        LONG_WORD_COST * max(0, len(words) - LONGEST_FREE_WORDS)
        + MISSING_WORD_COST * max(0, SHORTEST_FREE_WORDS - len(words))
        + UNFINISHED_COST * (tokens[-1:] != ["."])
        + REPEAT_COST * (num_repeats + num_stutters)
        + UNKNOWN_WORD_COST * num_unknown
    )


class NoisyReward:
    """An annotator who is as noisy as the playground's pairs: the hidden reward and, of each text, noise of its own.

    The noise is Gumbel's, so of two texts, or of more, each scores highest with the probability that Bradley-Terry and
    Plackett-Luce give it (Luce and Suppes 1965). A text always has the same: who is asked twice does not change their
    mind. Used in a recipe as a function labeler with arguments.

    Args:
        temperature: scale of the noise, above 0; 1 is the noise of the playground's own labels.
        seed: another one is another annotator.

    Raises:
        RecipeError: if the temperature is not above 0.
    """

    def __init__(self, temperature: float = 1.0, seed: int = 0) -> None:
        if not temperature > 0:
            raise RecipeError(
                f"temperature is {temperature:g}; it must be above 0", hint="hidden_reward is the one without noise"
            )
        self._temperature, self._seed = temperature, seed

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        """Scores, as `hidden_reward` has them but for the noise."""
        scores = hidden_reward(prompts, completions)
        texts = zip(scores, prompts, completions, strict=True)
        return [score + self._temperature * self._gumbel(prompt, text) for score, prompt, text in texts]

    def _gumbel(self, prompt: str, completion: str) -> float:
        bits = derive_seed(self._seed, "annotator", prompt, completion) >> 11  # 52 of them, so that it is below 1
        uniform = (bits + 0.5) / 2**52
        return -math.log(-math.log(uniform))


@cache
def _known_words() -> frozenset[str]:
    """Every word of the grammar."""
    return frozenset(word.strip() for word in vocabulary())
