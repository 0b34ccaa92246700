"""A round's sampling beside the training of the round before it: by servers, asked from a process of its own.

That process reads the policy from its checkpoint, so it is the same one whatever training has made of it meanwhile, and
writes into its own round's folder alone. The process of the run holds the lock, is told how far the other one is, and
waits for it before anything else begins. Whichever of the two fails first ends both. Where nothing is gained by it, as
without servers, or where the policy has no checkpoint, the two are carried out one after the other, to the same bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from align_cli.recipe import Recipe
from align_cli.recipe.sections.engine_server import SERVER
from align_cli.run.at_work import SECONDS_BETWEEN, AtWork, ToldProgress, read_at_work
from align_cli.run.isolated import hearing, step_apart
from align_cli.run.opening import Reporter
from align_cli.run.plan import Step, partner
from align_cli.run.step import StepRunner
from align_cli.stages.base import Progress


class AheadRunner:
    """Carries out steps that are ahead of their round beside the training that comes next.

    Args:
        runner: carries out all others.
        reporter: shown what happens.
    """

    def __init__(self, runner: StepRunner, reporter: Reporter) -> None:
        self._runner, self._reporter = runner, reporter
        self._recipe, self._folder = runner.recipe, runner.folder
        self._taken: Step | None = None

    def takes(self, step: Step) -> bool:
        """Whether a step is left for now, to be carried out beside the next one."""
        training = partner(self._recipe, step)
        if training is None or self._recipe.generate.engine != SERVER:
            return False
        results = self._runner.results
        has_checkpoint = results.is_kept(results.base(training.round - 1))
        if has_checkpoint and self._folder.manifests.finished(training) is None:
            self._taken = step
        return self._taken is step

    @contextmanager
    def beside(self) -> Iterator[Callable[[Progress], Progress]]:
        """While the block lasts, in which the next step is carried out, the step that was left is at work too.

        Yields:
            What makes the next step's progress one that stops it once the other has failed.

        Raises:
            AlignError: what the step that was left raises, if the block has raised nothing before.
        """
        step, self._taken = self._taken, None
        if step is None:
            yield lambda progress: progress
            return
        with self._reporter.stage(step.round, step.stage) as shown:
            other = _Beside(self._with_standing_servers(), step, shown, self._reporter.note)
            self._runner.beside = other.at_work
            try:
                yield lambda progress: _Watching(progress, other.check)
                other.wait(self._folder.lock.tell)
            except Exception:
                other.check()  # it has failed first, and what it says is the cause
                raise
            finally:
                other.end()
                self._runner.beside = lambda: None
                self._folder.manifests.forget()

    def _with_standing_servers(self) -> Recipe:
        """The recipe, with the addresses of servers that this process has started and that go on between stages."""
        from align_cli.engines.server import ServerEngine

        engine, generate = self._runner.loaded.engine, self._recipe.generate
        assert isinstance(engine, ServerEngine) and generate.server is not None
        if not (urls := engine.standing):
            return self._recipe
        there = {"base_urls": urls, "command": None, "num_servers": 1, "update": engine.update}
        server = generate.server.model_copy(update=there)
        return self._recipe.model_copy(update={"generate": generate.model_copy(update={"server": server})})


class _Beside:
    """A step at work in a process of its own, to which a thread listens."""

    def __init__(self, recipe: Recipe, step: Step, shown: Progress, note: Callable[[str], None]) -> None:
        self._step, self._shown, self._note = step, shown, note
        self._told = ""
        self._error: BaseException | None = None
        self._process = step_apart(recipe, step, "generate.rounds_ahead", is_beside=True)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def at_work(self) -> AtWork | None:
        """How far it is."""
        return read_at_work(self._told)

    def check(self) -> None:
        """Raise what it has failed of, if it has."""
        if self._error is not None:
            raise self._error

    def wait(self, tell: Callable[[str], None]) -> None:
        """Until it is over; how far it is is told now and then.

        Raises:
            AlignError: what it raises, or if it is killed.
        """
        while self._thread.is_alive():
            tell(self._told)
            self._thread.join(SECONDS_BETWEEN)
        self.check()

    def end(self) -> None:
        """End it if it is still at work."""
        self._process.end()
        self._thread.join()

    def _listen(self) -> None:
        try:
            with ToldProgress(self._step, self._shown, self._keep) as told:
                self._process.listen(hearing(told, self._note))
        except BaseException as error:  # a thread has nobody to raise to
            self._error = error

    def _keep(self, text: str) -> None:
        self._told = text


class _Watching:
    """Progress that stops whoever tells it anything once another step has failed."""

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        self._progress, self._check = progress, check

    def start(self, total: int, unit: str) -> None:
        self._check()
        self._progress.start(total, unit)

    def advance(self, amount: int = 1) -> None:
        self._check()
        self._progress.advance(amount)

    def found(self, amount: int) -> None:
        self._check()
        self._progress.found(amount)
