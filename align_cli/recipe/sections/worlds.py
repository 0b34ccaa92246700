"""`playground` and `reviews`: the built-in worlds that `data` and `policy` may name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from align_cli.recipe.checking.files import empty_texts, missing_file
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View

_SENTENCES = ("reviews.liked", "reviews.disliked")


class PlaygroundSection(Section):
    """`playground`: the built-in world behind the name `playground`."""

    setting: Literal["plenty", "few", "other-writer", "almost-none"] = Field(
        "plenty", description="offline pairs: many, few and noisy, from another writer, or almost none"
    )
    num_pairs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="offline pairs for training, instead of the setting's own number; the first of more are the same",
    )
    architecture: Literal["llama", "qwen2"] = Field("llama", description="architecture of the tiny model")


class ReviewsSection(Section):
    """`reviews`: the world of real sentences behind the name `reviews`."""

    liked: str = Field(description="text file, one liked sentence a line (.txt or .txt.gz)")
    disliked: str = Field(description="text file, one disliked sentence a line (.txt or .txt.gz)")
    prompt_words: int = Field(2, ge=1, description="how many first words of a sentence make a prompt")


def _sentence_files_exist(view: View) -> Iterator[RuleFault]:
    for key in _SENTENCES:
        if view.has("reviews") and (value := view.sound(key)) is not None:
            yield from missing_file(key, value)


def _sentences_are_not_empty(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, *_SENTENCES)


FILE_RULES: tuple[Rule, ...] = (_sentence_files_exist, _sentences_are_not_empty)
