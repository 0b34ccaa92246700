"""What a report is made from: a run's folder, as `run/reported.py` reads it; `twin.py` makes data of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from align_cli.artifacts.records import Completion, Evaluation
from align_cli.recipe import Recipe


class Alert(NamedTuple):
    """What a guard saw when a round was over."""

    round: int
    guard: str
    action: str
    message: str


@dataclass(frozen=True)
class RunFacts:
    """A run, finished or not.

    Args:
        path: its folder, as commands name it.
        state: as `align status` has it: `running`, `interrupted`, `finished` and so on.
        num_finished: steps that are finished.
        num_planned: steps that the recipe plans.
        following: the next step, or `none`.
        recipe: the whole recipe.
        versions: of packages, by name, that it was begun with.
        origin: the run and round that it was forked from, such as `runs/a@2`; None for a run of its own.
        evaluations: of its rounds, by round.
        chosen: the round that `align export` would take; None before there is one.
        why: how that was chosen.
        policies: the round whose policy each round ended with, where a guard rolled it back.
        alerts: what guards saw.
        ledger: every event.
        training: the records of each round's optimizer steps, by round.
        samples: the held-out responses of each round, by round.
        token: the text of a token id; None where no tokenizer can be read.
    """

    path: str
    state: str
    num_finished: int
    num_planned: int
    following: str
    recipe: Recipe
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    evaluations: Sequence[Evaluation] = ()
    chosen: int | None = None
    why: str = ""
    policies: Mapping[int, int] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()
    ledger: Sequence[Mapping[str, Any]] = ()
    training: Mapping[int, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    samples: Mapping[int, Sequence[Completion]] = field(default_factory=dict)
    token: Callable[[int], str] | None = None
