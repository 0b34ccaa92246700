"""What a judge has cost so far, by all that its file of answers records, and the budget that bounds it.

The file spans stages, rounds and runs into one folder, and so does the budget. It is called by the labeler's name,
which may have been another model's before, or a person's: what these answered is not of this judge's budget.

Calls are every request that went out, those that came to nothing too; tokens are what the server counted. What is under
way when a budget of tokens or money runs out is let finish: it is exceeded by at most as many answers as are under way
at once. A budget of calls never is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from align_cli.artifacts.answers import Answers
from align_cli.errors import LabelerError
from align_cli.recipe.sections.labelers.judge import BudgetSection, JudgeLabelerSection, PriceSection

MILLION = 1_000_000
COUNTED = ("calls", "prompt_tokens", "completion_tokens")


def cost(price: PriceSection, prompt_tokens: float, completion_tokens: float) -> float:
    """What so many tokens cost."""
    return (price.input * prompt_tokens + price.output * completion_tokens) / MILLION


class Spending:
    """What was spent. Told of every request; see `servers.Watch`.

    Args:
        answers: those that are kept, and what else was spent.
        section: which model, its budget and its price.
        place: the labeler's key in the recipe, for errors.
    """

    def __init__(self, answers: Answers, section: JudgeLabelerSection, place: str) -> None:
        self._answers, self._price, self._place = answers, section.price, place
        self._budget = section.budget or BudgetSection()
        self._by = {"kind": section.kind, "model": section.model}
        self._num_under_way = 0
        self._spent: Counter[str] = Counter()
        for row in answers.rows():
            self._add(self._cost_of(row))

    def sends(self) -> None:
        """A request is about to go out.

        Raises:
            LabelerError: if the budget has run out.
        """
        self._check()
        self._num_under_way += 1

    def failed(self) -> None:
        """It came to nothing."""
        self._num_under_way -= 1
        took = {"calls": 1}
        self._add(took)
        self.keep_alone(took)

    def came(self, prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
        """It came; what it took has to be kept, beside it or alone.

        Returns:
            What it took.
        """
        self._num_under_way -= 1
        took = {"calls": 1, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        self._add(took)
        return took

    def keep(self, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer with what it took."""
        self._answers.keep(asked, dict(answer), self._by)

    def keep_alone(self, took: Mapping[str, int]) -> None:
        """Keep what was spent on what is not kept itself."""
        self._answers.spent(took, self._by)

    def num_tokens(self, first_guess: float) -> float:
        """Tokens that the next request will take: the mean of those before it."""
        tokens = self._spent["prompt_tokens"] + self._spent["completion_tokens"]
        return tokens / self._spent["calls"] if tokens else first_guess

    @property
    def is_bounded_by_tokens(self) -> bool:
        """Whether it can be held only where the server counts tokens."""
        return self._budget.tokens is not None or self._budget.money is not None

    def _cost_of(self, row: Mapping[str, Any]) -> Mapping[str, int]:
        """What a row of the file has cost this judge; nothing where it is somebody else's.

        Older rows do not say whose they are; a judge's have tokens.
        """
        if row.get("by", self._by) != self._by:
            return {}
        if "spent" in row:
            return dict(row["spent"])
        answer = row["answer"]
        is_judges = isinstance(answer, dict) and "completion_tokens" in answer
        return {"calls": 1, **answer} if is_judges else {}

    def _add(self, took: Mapping[str, int]) -> None:
        self._spent.update({name: took.get(name, 0) for name in COUNTED})

    def _check(self) -> None:
        spent, budget = self._spent, self._budget
        tokens = spent["prompt_tokens"] + spent["completion_tokens"]
        if budget.calls is not None and spent["calls"] + self._num_under_way >= budget.calls:
            raise self._out("calls", budget.calls, f"{spent['calls'] + self._num_under_way} requests were sent")
        if budget.tokens is not None and tokens >= budget.tokens:
            raise self._out("tokens", budget.tokens, f"{tokens} tokens were used")
        if budget.money is not None and self._price is not None:
            money = cost(self._price, spent["prompt_tokens"], spent["completion_tokens"])
            if money >= budget.money:
                raise self._out("money", budget.money, f"{money:.6g} was spent")

    def _out(self, name: str, bound: float, spent: str) -> LabelerError:
        return LabelerError(
            f"the budget of {bound:g} {name} has run out: {spent} so far, over all runs into this folder",
            where=f"{self._place}.budget.{name}",
            hint="what it has answered is kept: raise the budget, and the same command goes on from there",
        )
