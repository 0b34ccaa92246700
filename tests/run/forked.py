"""The real command line in real processes, without waiting for torch each time.

Every call is a process of its own, forked from a server that has imported torch and trl and has computed nothing. Its
standard streams are files, its working directory is the caller's choice, and it can be told where to die.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 240

_CONTEXT = multiprocessing.get_context("forkserver")


class Finished(NamedTuple):
    """A process that has ended: its exit code (negative: the signal that ended it), and what it wrote."""

    code: int
    out: str
    err: str


class Stop(NamedTuple):
    """Where a process dies.

    Args:
        before: what it must not get through, one of:

            `manifest` (a stage's results are written, the manifest is not), `ledger` (the manifest is written, the
            ledger's finish is not), `rename` (a file or folder is whole under its temporary name), `step` (of the
            optimizer, in the train stage: in the middle of training), `warm-up step`, `sampling` and `scoring` (of a
            batch), `append` (to a journal), `fsync`, `replace`, `rmtree`, `unlink`;

            `after` and one of these, such as `after fsync`: when it is done;

            `amid append` (half of the bytes are there) and `amid checkpoint` (half of the weights' file is there);

            `time`: after `seconds`.
        nth: at which of these moments, from 1.
        signal: what it is sent.
        within: the step in which alone moments are counted, such as `round 1 train`; None counts in all.
        seconds: for `time`.
    """

    before: str
    nth: int = 1
    signal: int = signal.SIGKILL
    within: str | None = None
    seconds: float = 0.0


def run_align(
    *arguments: str | Path,
    cwd: Path,
    stdin: str = "",
    stop: Stop | None = None,
    collated: Path | None = None,
    worked: Path | None = None,
    moments: Path | None = None,
    prepare: str | None = None,
    forks: bool = True,
) -> Finished:
    """Run `align ARGUMENTS` to its end.

    Args:
        arguments: of the command line.
        cwd: the working directory.
        stdin: what it reads.
        stop: where it dies; None lets it live.
        collated: a file for the pairs that training puts into its batches, one JSON object a pair.
        worked: a file for what the process does, one line a batch or step of the optimizer: `round 1 train: step`.
        moments: a file for how often each moment came where a process can be stopped, as one JSON object.
        prepare: `module:name` of a function that the process calls first.
        forks: whether it forks what it starts of align (`warm_children`); never where there is something to prepare.
    """
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin, encoding="utf-8")
        told = (stop, collated, worked, moments, prepare, forks)
        process = _CONTEXT.Process(target=_align, args=([str(part) for part in arguments], cwd, streams, *told))
        process.start()
        if stop is not None and stop.before == "time":
            process.join(stop.seconds)
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, stop.signal)
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"align {arguments} ran for more than {TIMEOUT_SECONDS} s: {streams[2].read_text()}")
        return Finished(process.exitcode, *map(_written, streams[1:]))


def _written(stream: Path) -> str:
    """What a process wrote to a stream; nothing where it was killed before it opened it."""
    return stream.read_text(encoding="utf-8") if stream.exists() else ""


@cache
def _start_server() -> None:
    """Start the server, which looks for modules in this folder too, in the environment that `align` sets up."""
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [before.get("PYTHONPATH")])]),
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    try:
        _CONTEXT.set_forkserver_preload(["forked_warm"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _align(
    arguments: list[str],
    cwd: Path,
    streams: list[Path],
    stop: Stop | None,
    collated: Path | None,
    worked: Path | None,
    moments: Path | None,
    prepare: str | None,
    forks: bool,
) -> None:
    from warm_children import fork_them

    from align_cli.cli.main import main

    os.chdir(cwd)
    tempfile.tempdir = str(streams[0].parent)  # a killed process leaves its temporary folders behind
    for descriptor, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        mode, buffering = ("r", -1) if descriptor == 0 else ("w", 1)
        setattr(sys, path.name, os.fdopen(descriptor, mode, buffering, encoding="utf-8", closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare is not None:
        resolve_name(prepare)()
    elif forks:
        fork_them()
    course = _Course()
    if stop is not None and stop.before != "time":
        _arrange(stop, course)
    if collated is not None:
        _record_pairs(collated)
    if worked is not None:
        _record_work(worked, course)
    counts = _counted_moments() if moments is not None else {}
    sys.argv = ["align", *arguments]
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if moments is not None:
            moments.write_text(json.dumps(counts), encoding="utf-8")


class _Course:
    """Follows the run from step to step."""

    def __init__(self) -> None:
        from align_cli.run.step import StepRunner

        self.step: str | None = None
        carry_out = StepRunner.carry_out

        def following(runner: StepRunner, step: Any, progress: Any) -> Any:
            self.step = str(step)
            return carry_out(runner, step, progress)

        _replace_method(StepRunner, "carry_out", following)


class _Moment(NamedTuple):
    """A function that is called at a moment, and which of its calls count."""

    owner: Any
    name: str
    counts: Callable[..., bool] = lambda *_, **__: True


def _moments() -> dict[str, _Moment]:
    from align_cli.artifacts.files import TEMPORARY_SUFFIX
    from align_cli.artifacts.journal import Journal
    from align_cli.engines.in_process import TransformersEngine
    from align_cli.labelers.function import FunctionLabeler
    from align_cli.run.folder.ledger import Ledger
    from align_cli.run.folder.manifests import Manifests
    from align_cli.training.resumable import _BeginAndEnd
    from align_cli.training.sft import SupervisedTrainer
    from align_cli.training.trainer import PreferenceTrainer

    def is_of(kind: type) -> Callable[..., bool]:
        return lambda callback, *_, **__: isinstance(callback.trainer, kind)

    return {
        "manifest": _Moment(Manifests, "finish"),
        "ledger": _Moment(Ledger, "log", lambda _, event, **__: event == "finish"),
        "rename": _Moment(Path, "replace", lambda path, *_: path.name.endswith(TEMPORARY_SUFFIX)),
        "step": _Moment(_BeginAndEnd, "on_step_end", is_of(PreferenceTrainer)),
        "warm-up step": _Moment(_BeginAndEnd, "on_step_end", is_of(SupervisedTrainer)),
        "sampling": _Moment(TransformersEngine, "generate_batch"),
        "scoring": _Moment(FunctionLabeler, "_score_batch"),
        "append": _Moment(Journal, "append"),
        "fsync": _Moment(os, "fsync"),
        "replace": _Moment(os, "replace"),
        "rmtree": _Moment(shutil, "rmtree"),
        "unlink": _Moment(os, "unlink"),
    }


def _amid_moments() -> dict[str, tuple[_Moment, Callable[..., None]]]:
    """Moments in the middle of a write, and what is written of it by then."""
    from transformers import PreTrainedTokenizerBase

    from align_cli.artifacts.journal import Journal, line_of

    def append_half(journal: Journal, rows: Any) -> None:
        written = b"".join(line_of(row) for row in rows)
        if journal._stream is not None:
            journal._stream.write(written[: len(written) // 2])
            journal._stream.flush()

    def keep_half_of_the_weights(_: Any, folder: str | Path, **__: Any) -> None:
        (weights,) = Path(folder).glob("*model.safetensors")  # all of them, or an adapter's
        os.truncate(weights, weights.stat().st_size // 2)

    return {
        "append": (_Moment(Journal, "append"), append_half),
        "checkpoint": (_Moment(PreTrainedTokenizerBase, "save_pretrained"), keep_half_of_the_weights),
    }


def _arrange(stop: Stop, course: _Course) -> None:
    """Replace the one function that the process must not get through, by one that counts and then dies."""
    when = next((word for word in ("after", "amid") if stop.before.startswith(word)), "before")
    name = stop.before.removeprefix(f"{when} ")
    moment, prepare = _amid_moments()[name] if when == "amid" else (_moments()[name], lambda *_, **__: None)
    method, calls = getattr(moment.owner, moment.name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        is_moment = stop.within in (None, course.step) and moment.counts(*args, **kwargs)
        calls += is_moment
        is_due = is_moment and calls == stop.nth
        if is_due and when != "after":
            prepare(*args, **kwargs)
            os.kill(os.getpid(), stop.signal)
        result = method(*args, **kwargs)
        if is_due and when == "after":
            os.kill(os.getpid(), stop.signal)
        return result

    _replace_method(moment.owner, moment.name, counting)


def _counted_moments() -> dict[str, int]:
    """How often each moment has come so far; goes on counting."""
    amid = {f"amid {name}": moment for name, (moment, _) in _amid_moments().items()}
    found = _moments() | amid
    counts = dict.fromkeys(found, 0)
    for name, moment in found.items():
        _replace_method(moment.owner, moment.name, _counting(moment, name, counts))
    return counts


def _counting(moment: _Moment, name: str, counts: dict[str, int]) -> Callable[..., Any]:
    method = getattr(moment.owner, moment.name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        counts[name] += moment.counts(*args, **kwargs)
        return method(*args, **kwargs)

    return counting


def _record_work(place: Path, course: _Course) -> None:
    """Write down every batch that is begun and every step of the optimizer that is done."""
    for name in ("sampling", "scoring", "warm-up step", "step"):
        moment = _moments()[name]
        _replace_method(moment.owner, moment.name, _recording(moment, name, place, course))


def _recording(moment: _Moment, name: str, place: Path, course: _Course) -> Callable[..., Any]:
    method = getattr(moment.owner, moment.name)

    def recording(*args: Any, **kwargs: Any) -> Any:
        if course.step is not None and moment.counts(*args, **kwargs):
            with place.open("a", encoding="utf-8") as stream:
                stream.write(f"{course.step}: {name}\n")
        return method(*args, **kwargs)

    return recording


def _record_pairs(place: Path) -> None:
    """Write down every pair that the trainer's collator is given to train on, and none that the reference scores."""
    from align_cli.training.collated import PairCollator
    from align_cli.training.trainer import PreferenceTrainer

    collate, ask_reference, of_reference = PairCollator.__call__, PreferenceTrainer._ask_reference, [False]

    def recording(self: PairCollator, pairs: Any) -> Any:
        with place.open("a", encoding="utf-8") as stream:
            for pair in [] if of_reference[0] else pairs:
                stream.write(json.dumps([pair.source, pair.prompt_ids, pair.chosen_ids, pair.rejected_ids]) + "\n")
        return collate(self, pairs)

    def asking(self: PreferenceTrainer, pairs: Any) -> Any:
        of_reference[0] = True
        try:
            return ask_reference(self, pairs)
        finally:
            of_reference[0] = False

    _replace_method(PairCollator, "__call__", recording)
    _replace_method(PreferenceTrainer, "_ask_reference", asking)


def _replace_method(owner: Any, name: str, method: Callable[..., Any]) -> None:
    """In this process alone, and in none that it forks."""
    as_it_was, here = getattr(owner, name), os.getpid()

    def of_process(*args: Any, **kwargs: Any) -> Any:
        return (method if os.getpid() == here else as_it_was)(*args, **kwargs)

    setattr(owner, name, of_process)
