"""Completions with given scores, for the tests of every way of pairing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from align_cli.artifacts.records import Completion
from align_cli.labelers import Scorer

KEEP = {"ties": "keep", "equal_texts": "keep", "empty_texts": "keep"}
DROP = {"ties": "drop", "equal_texts": "drop", "empty_texts": "drop"}
Group = Sequence[float]


class GivenScores(Scorer):
    """A scorer that knows every completion's score by its text."""

    name = "given"
    batch_size = 7

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        return [self.scores[completion] for completion in completions]


class Drawn(NamedTuple):
    """Completions and the scorer that knows them."""

    completions: list[Completion]
    scorer: GivenScores


@pytest.fixture(scope="session")
def draw(make_completion: Callable[..., Completion]) -> Callable[..., Drawn]:
    """`draw([[1.0, 0.5], [2.0, 2.0]])`: per prompt, one completion for each score."""

    def drawn(groups: Sequence[Group], **changes: Any) -> Drawn:
        completions, scores = [], {}
        for prompt, group in enumerate(groups):
            for sample, score in enumerate(group):
                text = f" answer {prompt} {sample} ."
                scores[text] = score
                ids = [100 + prompt, 500 + sample, 1]
                completions.append(make_completion(prompt, sample, completion=text, completion_ids=ids, **changes))
        return Drawn(completions, GivenScores(scores))

    return drawn
