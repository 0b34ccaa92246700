"""A judge's answers to questions: from the file of those that are kept, else from the server, each kept as it comes.

An answer that cannot be read is not kept, only what it cost: the next run asks again. One that was kept and that the
template of now cannot read counts as not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from align_cli.artifacts.answers import Answers
from align_cli.errors import LabelerError
from align_cli.labelers.judge.questions import Answer, Question, Reply, read_reply
from align_cli.labelers.judge.spending import Spending
from align_cli.labelers.judge.template import Template
from align_cli.recipe.sections.labelers.judge import CHAT_PATH, JudgeLabelerSection
from align_cli.servers import Endpoint, ask_all

CHARACTERS_A_TOKEN = 4


class Inquiry:
    """Asks one judge.

    Args:
        section: which model, and how it is asked.
        template: how its answers are read.
        endpoint: the server.
        answers: where they are kept.
        note: told, once each, what a user should know.
    """

    def __init__(
        self,
        section: JudgeLabelerSection,
        template: Template,
        endpoint: Endpoint,
        answers: Answers,
        note: Callable[[str], None],
    ) -> None:
        self._section, self._template, self._endpoint, self._answers = section, template, endpoint, answers
        self._spending = Spending(answers, section, endpoint.place)
        self._note, self._noted = note, set[str]()

    def answers(self, questions: Sequence[Question]) -> dict[str, Answer]:
        """The answer to each question, by its key; of those that are the same, one.

        Raises:
            LabelerError: if the server refuses or gives none, or if the budget has run out; what came is kept.
        """
        found: dict[str, Answer] = {}
        owed: dict[str, Question] = {}
        for question in questions:
            kept = self._kept(question)
            if kept is not None:
                found[question.key] = kept
            else:
                owed[question.key] = question
        if owed:
            asyncio.run(self._ask(list(owed.values()), found))
        return found

    async def _ask(self, owed: Sequence[Question], found: dict[str, Answer]) -> None:
        async def ask(question: Question, stopped: asyncio.Event) -> None:
            found[question.key] = await self._answer(question, stopped)

        async with self._endpoint.connected():
            await ask_all(owed, self._section.concurrency, ask)

    async def _answer(self, question: Question, stopped: asyncio.Event) -> Answer:
        guess = self._spending.num_tokens(_first_guess(question, self._section.max_tokens))
        came = await self._endpoint.ask(CHAT_PATH, question.body, read_reply, self._spending, stopped, guess)
        reply: Reply = came.answer
        took = self._spending.came(reply.prompt_tokens or 0, reply.completion_tokens or 0)
        value = self._template.read(reply.text)
        if value is not None:
            self._spending.keep(question.asked, {"text": reply.text, "retries": came.num_retries, **took})
        else:
            self._spending.keep_alone(took)
        self._endpoint.took(took["prompt_tokens"] + took["completion_tokens"] - guess)
        self._look_at(reply, value)
        return Answer(value, reply.text, took["prompt_tokens"], took["completion_tokens"], came.num_retries)

    def _kept(self, question: Question) -> Answer | None:
        row = self._answers.get(question.asked)
        if row is None or (value := self._template.read(row["text"])) is None:
            return None
        return Answer(value, row["text"], row["prompt_tokens"], row["completion_tokens"], row["retries"])

    def _look_at(self, reply: Reply, value: float | None) -> None:
        """Tell of what a server does otherwise than it was asked."""
        place, most = self._endpoint.place, self._section.max_tokens
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            if self._spending.is_bounded_by_tokens:
                raise LabelerError(
                    "the server does not say how many tokens an answer took, so no budget of tokens or money can hold",
                    where=f"{place}.budget",
                    hint="set budget.calls in its place; what it has answered so far is kept",
                )
            self._tell(f"{place}: the server does not say how many tokens an answer took; they count as none")
        elif most is not None and reply.completion_tokens > most:
            self._tell(f"{place}: the server's answers are longer than max_tokens ({reply.completion_tokens} > {most})")
        if value is None and reply.finish_reason == "length":
            self._tell(f"{place}: answers are cut before the verdict; max_tokens may be too low")

    def _tell(self, text: str) -> None:
        kind = text.partition("(")[0]
        if kind not in self._noted:
            self._noted.add(kind)
            self._note(text)


def _first_guess(question: Question, max_tokens: int | None) -> float:
    """How many tokens a request takes, before any has come."""
    length = sum(len(message["content"]) for message in question.body["messages"])
    return length / CHARACTERS_A_TOKEN + (max_tokens or 0)
