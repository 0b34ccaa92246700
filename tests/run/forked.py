"""The real command line in real processes, without waiting for torch each time.

Every call is a process of its own, forked from a server that has imported torch and trl and has computed nothing. Its
standard streams are files, its working directory is the caller's choice, and it can be told where to die.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
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
        before: `manifest` (a stage's results are written, the manifest is not), `ledger` (the manifest is written, the
            ledger's finish is not), `rename` (a file or folder is whole under its temporary name) or `step` (of the
            optimizer, in the train stage: in the middle of training).
        nth: at which of these moments, from 1.
        signal: what it is sent.
    """

    before: str
    nth: int = 1
    signal: int = signal.SIGKILL


def run_align(
    *arguments: str | Path,
    cwd: Path,
    stdin: str = "",
    stop: Stop | None = None,
    collated: Path | None = None,
) -> Finished:
    """Run `align ARGUMENTS` to its end.

    Args:
        arguments: of the command line.
        cwd: the working directory.
        stdin: what it reads.
        stop: where it dies; None lets it live.
        collated: a file for the pairs that training puts into its batches, one JSON object a pair.
    """
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin, encoding="utf-8")
        process = _CONTEXT.Process(
            target=_align, args=([str(part) for part in arguments], cwd, streams, stop, collated)
        )
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"align {arguments} ran for more than {TIMEOUT_SECONDS} s: {streams[2].read_text()}")
        return Finished(process.exitcode, *(stream.read_text(encoding="utf-8") for stream in streams[1:]))


@cache
def _start_server() -> None:
    """Start the server, which looks for modules in this folder too, in the environment that `align` sets up."""
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": str(Path(__file__).parent),
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


def _align(arguments: list[str], cwd: Path, streams: list[Path], stop: Stop | None, collated: Path | None) -> None:
    from align_cli.cli.main import main

    os.chdir(cwd)
    for descriptor, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        mode, buffering = ("r", -1) if descriptor == 0 else ("w", 1)
        setattr(sys, path.name, os.fdopen(descriptor, mode, buffering, encoding="utf-8", closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if stop is not None:
        _arrange(stop)
    if collated is not None:
        _record_pairs(collated)
    sys.argv = ["align", *arguments]
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _arrange(stop: Stop) -> None:
    """Replace the one function that the process must not get through, by one that counts and then dies."""
    from align_cli.artifacts.store import TEMPORARY_SUFFIX
    from align_cli.run.folder import RunFolder
    from align_cli.training.resumable import _BeginAndEnd
    from align_cli.training.trainer import PreferenceTrainer

    owner, name, counts = {
        "manifest": (RunFolder, "finish", lambda *_, **__: True),
        "ledger": (RunFolder, "log", lambda _, event, **__: event == "finish"),
        "rename": (Path, "replace", lambda path, *_: path.name.endswith(TEMPORARY_SUFFIX)),
        "step": (
            _BeginAndEnd,
            "on_step_end",
            lambda callback, *_, **__: isinstance(callback.trainer, PreferenceTrainer),
        ),
    }[stop.before]
    _replace_method(owner, name, _dying(getattr(owner, name), counts, stop))


def _dying(method: Callable[..., Any], counts: Callable[..., bool], stop: Stop) -> Callable[..., Any]:
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += counts(*args, **kwargs)
        if calls == stop.nth and counts(*args, **kwargs):
            os.kill(os.getpid(), stop.signal)
        return method(*args, **kwargs)

    return counting


def _record_pairs(place: Path) -> None:
    """Write down every pair that the trainer's collator is given."""
    from align_cli.training.batches import PairCollator

    collate = PairCollator.__call__

    def recording(self: PairCollator, pairs: Any) -> Any:
        with place.open("a", encoding="utf-8") as stream:
            for pair in pairs:
                stream.write(json.dumps([pair.source, pair.prompt_ids, pair.chosen_ids, pair.rejected_ids]) + "\n")
        return collate(self, pairs)

    _replace_method(PairCollator, "__call__", recording)


def _replace_method(owner: type, name: str, method: Callable[..., Any]) -> None:
    setattr(owner, name, method)
