"""Servers of align's own: started by a command, waited for until they are healthy, ended with whoever started them.

A server runs below a keeper (keeper.py), which ends it when this process lets go of it or dies, whatever it dies of.
What it prints goes into a log file, whose end is shown where it does not start.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from align_cli.artifacts.children import end_within, is_about_to_close, keep_from_children
from align_cli.errors import EngineError
from align_cli.redaction import without_secrets

HOST = "127.0.0.1"
GRACE_SECONDS = 15.0
"""How long a server has to end by itself once it is asked to."""
SECONDS_BETWEEN_LOOKS = 0.25
NUM_LOG_LINES = 20
LONGEST_LOG_LINE = 300
PORT_TRIES = 3
PORT_TAKEN = ("address already in use", "address in use", "errno 98", "errno 48")
"""What servers say whose port somebody else took between our choice and their start, in small letters."""


class Command(NamedTuple):
    """What starts a server.

    Args:
        template: the command, with `{model}`, `{port}` and `{number}`, split as a shell splits it.
        place: its key in the recipe, for errors.
        start_seconds: how long it has to become healthy.
    """

    template: str
    place: str
    start_seconds: float

    def filled(self, model: str, port: int, number: int) -> list[str]:
        """The command's words for one server."""
        words = shlex.split(self.template)
        for name, value in (("{model}", model), ("{port}", str(port)), ("{number}", str(number))):
            words = [word.replace(name, value) for word in words]
        return words


class StartedServer:
    """One server that was started, healthy or not yet.

    Args:
        command: what starts it.
        model: what stands for `{model}`.
        number: which of several it is, from 0.
        log: what it prints; written anew.
    """

    def __init__(self, command: Command, model: str, number: int, log: Path) -> None:
        self.log = log
        self._command, self._model, self._number = command, model, number
        self._num_tries = 0
        self._start()

    @property
    def root(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self._port}"

    def exit_status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._keeper.poll()

    def is_healthy(self) -> bool:
        """Whether it says so by now. One whose port was taken from it is started again on another.

        Raises:
            EngineError: if it has ended.
        """
        status = self.exit_status()
        if status is not None and self._lost_its_port():
            self._start()
        elif status is not None:
            raise self.fault(f"the server ended with exit status {status} before it was healthy")
        return any(_answers(f"{self.root}{path}") for path in ("/health", "/v1/models"))

    def fault(self, what: str) -> EngineError:
        """An error about it, with the end of its log."""
        words = shlex.join(self._command.filled(self._model, self._port, self._number))
        hint = f"its whole log is {self.log}; it was started by: {words}"
        return EngineError(what, where=self._command.place, hint=hint, snippet=self.log_end())

    def log_end(self) -> str:
        """The last lines of what it printed, as an error shows them."""
        with suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join(f"  | {without_secrets(line)[:LONGEST_LOG_LINE]}" for line in lines[-NUM_LOG_LINES:])
        return ""

    def stop(self) -> None:
        """Ask it to end, and wait until it and all that it started has."""
        self.let_go()
        end_within(self._keeper, 3 * GRACE_SECONDS)

    def let_go(self) -> None:
        """Ask it to end."""
        assert self._keeper.stdin is not None
        if not self._keeper.stdin.closed:
            is_about_to_close(self._keeper.stdin.fileno())
            self._keeper.stdin.close()

    def _start(self) -> None:
        self._num_tries += 1
        self._port = free_port()
        words = self._command.filled(self._model, self._port, self._number)
        keeper = [sys.executable, "-P", str(Path(__file__).with_name("keeper.py")), str(GRACE_SECONDS), *words]
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                keeper, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        assert self._keeper.stdin is not None
        keep_from_children(self._keeper.stdin.fileno())

    def _lost_its_port(self) -> bool:
        said = self.log_end().lower()
        return self._num_tries < PORT_TRIES and any(words in said for words in PORT_TAKEN)


def start_servers(command: Command, model: str, number: int, logs: Path) -> list[StartedServer]:
    """Start several servers of one model, side by side, and wait until all are healthy.

    Args:
        command: what starts each.
        model: what stands for `{model}`.
        number: how many.
        logs: the folder of their logs.

    Raises:
        EngineError: if one ends, or is not healthy in time; the others are stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    servers: list[StartedServer] = []
    try:
        for which in range(number):
            servers.append(StartedServer(command, model, which, logs / f"server-{which}.log"))
        _wait_until_healthy(servers, command.start_seconds)
    except BaseException:
        stop_servers(servers)
        raise
    return servers


def stop_servers(servers: Sequence[StartedServer]) -> None:
    """Stop them, side by side."""
    for server in servers:
        server.let_go()
    for server in servers:
        server.stop()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
    return port


def _wait_until_healthy(servers: Sequence[StartedServer], seconds: float) -> None:
    until, waiting = time.monotonic() + seconds, list(servers)
    while waiting := [server for server in waiting if not server.is_healthy()]:
        if time.monotonic() >= until:
            raise waiting[0].fault(f"the server was not healthy within {seconds:g} seconds")
        time.sleep(SECONDS_BETWEEN_LOOKS)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(address: str) -> bool:
    with suppress(OSError, HTTPException), _OPENER.open(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False
