"""The two judges: one says which of two completions is better, the other scores each.

A pair is shown in both orders, or in one that is drawn by what it says: then (a, b) and (b, a) are the same question.
Its verdict is the mean over orders of the mean over votes, so that no order weighs more for an answer that could not be
read. Two completions that read the same are a tie, and are not asked about.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from align_cli.artifacts.records import Text
from align_cli.errors import all_at_once
from align_cli.labelers.base import Comparer, Labeler, Scorer
from align_cli.labelers.judge.inquiry import Inquiry
from align_cli.labelers.judge.questions import Answer, Question, question_of
from align_cli.labelers.judge.tally import (
    check_unparsable,
    counts_of_answers,
    counts_of_orders,
    counts_of_positions,
    figures_of,
    mean_of_votes,
)
from align_cli.labelers.judge.template import Template, read_template
from align_cli.labelers.judge.texts import text_to_read
from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection
from align_cli.seeds import derive_seed
from align_cli.servers import Endpoint
from align_cli.servers.pace import Pace

ROUNDS_A_BATCH = 8
"""Times that all requests under way at once are done in a batch: its end, where some wait for the last, is rare."""


class Judge(Labeler):
    """What both judges have in common.

    Args:
        name: the labeler's name in the recipe.
        section: which model, what it is told, and how it is asked.
        note: told what a user should know.
    """

    def __init__(
        self, name: str, section: JudgeLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name = name
        self._section, self._place, self._note = section, f"labelers.{name}", note
        self._counts: Counter[str] = Counter()
        self._unparsable = ""
        num_questions = section.votes * (2 if self.gives_verdicts and section.orders == "both" else 1)
        self.batch_size = math.ceil(ROUNDS_A_BATCH * section.concurrency / num_questions)

    def check(self, prompts: Sequence[Text]) -> None:
        """Reads the template, looks for the key, and asks the server which models it has, which costs nothing."""
        all_at_once(lambda: self._template, lambda: self._endpoint.key)
        asyncio.run(self._look_at_server())

    def take_counts(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def check_counts(self, counts: Mapping[str, float]) -> None:
        """Looks at the share of answers without a verdict.

        Raises:
            LabelerError: if it is above `max_unparsable`; shows such an answer.
        """
        check_unparsable(counts, self._section.max_unparsable, self._unparsable, self._place, "max_tokens")

    def figures(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Calls, tokens, their cost where the price is known, position bias, and shares of ties, flips and nonsense."""
        return figures_of(counts, self._section.price)

    def _answers(self, questions: Sequence[Question]) -> dict[str, Answer]:
        found = self._inquiry.answers(questions)
        self._counts.update(counts_of_answers(found.values()))
        for answer in found.values():
            if answer.value is None:
                said = self._endpoint.shown(answer.text)
                self._unparsable = said or "(nothing)"
        return found

    def _questions(self, fields: Mapping[str, str]) -> list[Question]:
        """One for each vote."""
        messages = self._template.filled(fields)
        return [question_of(self._section, messages, vote) for vote in range(self._section.votes)]

    @cached_property
    def _template(self) -> Template:
        return read_template(self._section.template, self._section.gives, f"{self._place}.template")

    @cached_property
    def _endpoint(self) -> Endpoint:
        section = self._section
        pace = Pace(section.requests_per_minute, section.tokens_per_minute)
        return Endpoint(self._place, section.base_url, "base_url", section, pace)

    @cached_property
    def _inquiry(self) -> Inquiry:
        return Inquiry(self._section, self._template, self._endpoint, self.answers, self._note)

    async def _look_at_server(self) -> None:
        async with self._endpoint.connected():
            models = await self._endpoint.models()
        if models is not None and self._section.model not in models:
            names = self._endpoint.shown(", ".join(models) or "none")
            self._note(f"{self._place}: {self._section.model} is not among the models that the server names: {names}")


class ComparingJudge(Judge, Comparer):
    """Says which of two completions is better."""

    def compare(
        self,
        prompts: Sequence[Text],
        firsts: Sequence[Text],
        seconds: Sequence[Text],
        prompt_indices: Sequence[int] | None = None,
    ) -> list[float | None]:
        """The mean over orders and votes; one half for a tie, None where no answer holds a verdict.

        Raises:
            LabelerError: if the server refuses or does not answer, or if the budget has run out; what came is kept.
        """
        pairs = [tuple(map(text_to_read, pair)) for pair in zip(prompts, firsts, seconds, strict=True)]
        shown = [self._shown(*pair) for pair in pairs]
        asked = [questions for orders in shown for questions in orders.values()]
        answers = self._answers([question for questions in asked for question in questions])
        self._counts["pairs"] += len(pairs)
        return [self._verdict(orders, answers) if orders else 0.5 for orders in shown]

    def _shown(self, prompt: str, first: str, second: str) -> dict[bool, list[Question]]:
        """The questions about a pair, by whether its second completion is shown first; none where both are the same."""
        if first == second:
            return {}
        orders = (False, True) if self._section.orders == "both" else (self._is_swapped(prompt, first, second),)
        return {
            is_swapped: self._questions(
                {"prompt": prompt, "first": second if is_swapped else first, "second": first if is_swapped else second}
            )
            for is_swapped in orders
        }

    def _is_swapped(self, prompt: str, first: str, second: str) -> bool:
        low, high = sorted((first, second))
        draw = derive_seed(self._section.seed or 0, "order", json.dumps([prompt, low, high]))
        return (draw % 2 == 0) == (first == low)

    def _verdict(self, orders: Mapping[bool, list[Question]], answers: Mapping[str, Answer]) -> float | None:
        by_order = []
        for is_swapped, questions in orders.items():
            values = [answers[question.key].value for question in questions]
            self._counts.update(counts_of_positions(values))
            mean = mean_of_votes(values)
            by_order.append(1 - mean if mean is not None and is_swapped else mean)
        self._counts.update(counts_of_orders(by_order))
        return mean_of_votes(by_order)


class ScoringJudge(Judge, Scorer):
    """Scores each completion."""

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float | None]:
        """The mean over votes; None where no answer holds a score.

        Raises:
            LabelerError: if the server refuses or does not answer, or if the budget has run out; what came is kept.
        """
        asked = [
            self._questions({"prompt": text_to_read(prompt), "completion": text_to_read(completion)})
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        answers = self._answers([question for questions in asked for question in questions])
        self._counts["completions"] += len(asked)
        return [mean_of_votes([answers[question.key].value for question in questions]) for questions in asked]
