"""The labeler `reward_server`: a reward model that a server has, asked by vLLM's paths or those of kin.

    classify  {model, messages} or {model, input: [texts]}  ->  {data: [{index, probs: [r]}]}, or [{embedding: [r]}]
    pooling   likewise                                      ->  {data: [{index, data: [r]}]}
    score     {model, text_1: [prompts], text_2: [completions]}  ->  {data: [{index, score: r}]}

A conversation is sent as messages, for the server's chat template; with `tokenizer`, as the text that its template
makes, several a request. `score` takes the words of prompt and completion side by side. vLLM puts what a classifier
says through a sigmoid or a softmax unless `extra_body: {use_activation: false}` asks for the number itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Text
from align_cli.errors import LabelerError, counted
from align_cli.labelers.base import Scorer
from align_cli.models.refused import faults_of_a_model
from align_cli.models.text import plain_text
from align_cli.recipe.sections.labelers.reward_server import RewardServerLabelerSection
from align_cli.servers import Endpoint, UnreadableError, Unwatched, ask_all
from align_cli.servers.pace import Pace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REWARD_KEYS = {"classify": ("probs", "embedding"), "pooling": ("data",), "score": ("score",)}
"""Where the reward stands in an item of the answer, by endpoint."""


class NoRewardError(ValueError):
    """An answer that will not be another one when it is asked for again."""


class RewardServerLabeler(Scorer):
    """Scores completions by a reward model that a server has.

    Args:
        name: the labeler's name in the recipe.
        section: which server, and how it is asked.
        note: not told anything.
    """

    scores_once = True

    def __init__(
        self, name: str, section: RewardServerLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name = name
        self._section, self._place = section, f"labelers.{name}"
        is_several = section.endpoint == "score" or section.tokenizer is not None
        self._num_together = section.batch_size if is_several else 1
        self.batch_size = self._num_together * section.concurrency * 4
        self._endpoint = Endpoint(self._place, section.url, "url", section, Pace())

    def check(self, prompts: Sequence[Text]) -> None:
        """Scores them."""
        self.score(prompts, prompts)

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        """One reward a completion.

        Raises:
            LabelerError: if the server refuses or does not answer, or gives something that is no reward.
        """
        pairs = list(zip(prompts, completions, strict=True))
        starts = range(0, len(pairs), self._num_together)
        rewards: dict[int, list[float]] = {}

        async def ask(start: int, stopped: asyncio.Event) -> None:
            batch = pairs[start : start + self._num_together]
            rewards[start] = await self._ask(batch, stopped)

        async def ask_for_all() -> None:
            async with self._endpoint.connected():
                await ask_all(starts, self._section.concurrency, ask)

        asyncio.run(ask_for_all())
        sign = -1 if self._section.reverse else 1
        return [sign * reward for start in starts for reward in rewards[start]]

    async def _ask(self, batch: Sequence[tuple[Text, Text]], stopped: asyncio.Event) -> list[float]:
        body = {"model": self._section.model, **self._texts(batch), **(self._section.extra_body or {})}
        path, num = f"/{self._section.endpoint}", len(batch)
        try:
            came = await self._endpoint.ask(path, body, lambda data: self._rewards(data, num), Unwatched(), stopped)
        except NoRewardError as error:
            raise LabelerError(
                f"the server's answer is no reward: {error}",
                where=self._place,
                hint="a reward model gives one finite number a completion; is endpoint the one that it is served by?",
            ) from None
        return came.answer

    def _texts(self, batch: Sequence[tuple[Text, Text]]) -> dict[str, Any]:
        if self._section.endpoint == "score":
            prompts, completions = ([plain_text(pair[side]) for pair in batch] for side in (0, 1))
            return {"text_1": prompts, "text_2": completions}
        chats = [_as_chat(*pair) for pair in batch]
        if self._section.tokenizer is None:
            return {"messages": chats[0]}
        with faults_of_a_model(self._section.tokenizer):
            return {"input": [self._tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]}

    def _rewards(self, data: Any, num: int) -> list[float]:
        """The rewards in an answer, in the order of the completions.

        Raises:
            UnreadableError: if it is no answer.
            NoRewardError: if it is one, without a reward for each.
        """
        items = data.get("data") if isinstance(data, Mapping) else data
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise UnreadableError(f"it has no data: {self._endpoint.shown(str(data))}")
        if len(items) != num:
            raise NoRewardError(f"{len(items)} for {counted(num, 'completion')}")
        placed = sorted(enumerate(items), key=lambda item: item[1].get("index", item[0]))
        return [self._reward(item) for _, item in placed]

    def _reward(self, item: Mapping[str, Any]) -> float:
        found = next((item[key] for key in REWARD_KEYS[self._section.endpoint] if key in item), None)
        value = found
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, list):
            raise NoRewardError(f"{len(value)} numbers for one completion")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise NoRewardError(self._endpoint.shown(str(item if found is None else value), 100))
        return float(value)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        assert self._section.tokenizer is not None
        tokenizer = AutoTokenizer.from_pretrained(self._section.tokenizer)
        if not tokenizer.chat_template:
            what = f"the tokenizer {self._section.tokenizer} has no chat template"
            raise LabelerError(what, where=f"{self._place}.tokenizer", hint="name the reward model's own tokenizer")
        return tokenizer


def _as_chat(prompt: Text, completion: Text) -> list[dict[str, Any]]:
    turns = [(prompt, "user"), (completion, "assistant")]
    return [
        message
        for turn, role in turns
        for message in ([{"role": role, "content": turn}] if isinstance(turn, str) else turn)
    ]
