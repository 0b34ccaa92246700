"""How far a run is within a step: counted, written beside the lock's holder by the process at work, and read again.

`align status` reads it. For people alone: what it says is lost with a machine, and no step goes on by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Annotated, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from align_cli.artifacts.json_text import to_json
from align_cli.run.plan import Step
from align_cli.stages.base import Progress

SECONDS_BETWEEN = 2.0

Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class AtWork:
    """How far a process is within a step.

    Args:
        round: the step's round.
        stage: the step's stage.
        done: units of what is counted now, such as samples and later scores; 0 before anything is.
        total: how many there are.
        unit: what they are.
        per_second: how fast they are done; 0 where that is not known yet.
        seconds: for how long the step has been at work.
        time: when this was written, in seconds since 1970.
        beside: another step that the process is at in the meantime.
    """

    round: Count
    stage: str
    done: Count
    total: Count
    unit: Annotated[str, StringConstraints(pattern=r"^[a-z ]{0,30}$")]
    per_second: Seconds
    seconds: Seconds
    time: Seconds
    beside: AtWork | None = None

    @property
    def step(self) -> Step:
        """The step."""
        return Step(self.round, self.stage)

    @property
    def seconds_left(self) -> float | None:
        """Until what is counted now is done; None where that is not known."""
        return max(self.total - self.done, 0) / self.per_second if self.per_second else None


_AT_WORK: TypeAdapter[AtWork] = TypeAdapter(AtWork)


def read_at_work(text: str) -> AtWork | None:
    """What a process has written; None for anything else, such as a text that is being replaced."""
    try:
        return _AT_WORK.validate_json(text)
    except ValidationError:
        return None


class CountedProgress:
    """Counts a stage's work; a stage may start several times, such as for samples and then for scores."""

    def __init__(self, unit: str = "") -> None:
        self.total = 0
        self.done = 0
        self.unit = unit
        self.began = time.monotonic()
        self._found = 0

    def start(self, total: int, unit: str) -> None:
        """Work begins."""
        self.total, self.done, self.unit, self._found, self.began = total, 0, unit, 0, time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Some of it is done."""
        self.done += amount

    def found(self, amount: int) -> None:
        """Some of it was done before, and says nothing of how fast the work is."""
        self._found += amount
        self.advance(amount)

    @property
    def per_second(self) -> float:
        """Work done a second, since the work began: loading a model or a library comes before that."""
        return (self.done - self._found) / max(time.monotonic() - self.began, 1e-3)


class ToldProgress(CountedProgress):
    """Passes progress on, and writes it down now and then, and where the block that it is used in ends early.

    Args:
        step: which is at work.
        progress: told of everything.
        tell: takes a text for the lock's file.
        seconds_between: texts are at least so far apart.
        beside: how far another step is that is at work in the meantime; None where there is none.
    """

    def __init__(
        self,
        step: Step,
        progress: Progress,
        tell: Callable[[str], None],
        seconds_between: float = SECONDS_BETWEEN,
        beside: Callable[[], AtWork | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._step, self._progress, self._tell, self._seconds_between = step, progress, tell, seconds_between
        self._beside = beside
        self._step_began = self.began
        self.write()

    def start(self, total: int, unit: str) -> None:
        """Work begins."""
        self._progress.start(total, unit)
        super().start(total, unit)
        self.write()

    def advance(self, amount: int = 1) -> None:
        """Some of it is done."""
        self._progress.advance(amount)
        super().advance(amount)
        self._write_if_due()

    def found(self, amount: int) -> None:
        """Some of it was done before."""
        self._progress.found(amount)
        self._found += amount
        self.done += amount
        self._write_if_due()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.write()

    def _write_if_due(self) -> None:
        if time.monotonic() - self._written >= self._seconds_between:
            self.write()

    def write(self) -> None:
        """Write it down now."""
        self._written = now = time.monotonic()
        at_work = AtWork(
            self._step.round,
            self._step.stage,
            self.done,
            self.total,
            self.unit,
            per_second=self.per_second,
            seconds=now - self._step_began,
            time=time.time(),
            beside=self._beside(),
        )
        self._tell(to_json(asdict(at_work)))
