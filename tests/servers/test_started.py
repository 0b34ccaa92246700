"""Servers of align's own: real processes that start, do not start, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from ended import all_gone

from align_cli.errors import EngineError
from align_cli.servers import started
from align_cli.servers.started import Command, start_servers, stop_servers

SERVER = '''"""A server that is healthy after a while, with a child that no SIGTERM ends."""

import http.server, os, signal, subprocess, sys, time

port, folder = int(sys.argv[1]), sys.argv[2]
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
with open(os.path.join(folder, "pids"), "a") as file:
    file.write(f"{os.getpid()}\\n{child.pid}\\n")
print("loading the weights", flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.time() > healthy_at else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


healthy_at = time.time() + 0.3
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Command]:
    """`command("more words", seconds=5)`: starts the server above, whose processes' numbers go into `pids`."""
    (tmp_path / "server.py").write_text(SERVER)

    def make(more: str = "", seconds: float = 30.0) -> Command:
        template = f"{sys.executable} {tmp_path}/server.py {{port}} {tmp_path} --model {{model}} {more}"
        return Command(template, "generate.server.command", seconds)

    return make


def pids_in(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().splitlines()]


def script_failing_with(tmp_path: Path, text: str) -> Command:
    (tmp_path / "fails.py").write_text(text)
    return Command(f"{sys.executable} {tmp_path}/fails.py {{model}} {{port}}", "generate.server.command", 30.0)


def test_a_server_is_healthy_when_it_is_there_and_gone_with_all_its_children_when_it_is_stopped(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    (server,) = start_servers(command(), "folder/of weights", 1, tmp_path / "logs")
    assert urllib.request.urlopen(f"{server.root}/health").status == 200
    pids = pids_in(tmp_path)
    assert psutil.Process(pids[0]).cmdline()[-1] == "folder/of weights", "one word, whatever is in it"
    assert "loading the weights" in (tmp_path / "logs" / "server-0.log").read_text()
    stop_servers([server])
    assert all_gone(pids, 1.0)
    assert server.exit_status() is not None


def test_several_servers_have_ports_and_logs_of_their_own(command: Callable[..., Command], tmp_path: Path) -> None:
    servers = start_servers(command("--number {number}"), "m", 3, tmp_path)
    try:
        assert len({server.root for server in servers}) == 3
        assert sorted(path.name for path in tmp_path.glob("*.log")) == [f"server-{n}.log" for n in range(3)]
        numbers = [psutil.Process(pid).cmdline()[-1] for pid in pids_in(tmp_path)[::2]]
        assert sorted(numbers) == ["0", "1", "2"]
    finally:
        stop_servers(servers)
    assert all_gone(pids_in(tmp_path), 1.0)


def test_a_server_that_ends_before_it_is_healthy_is_told_of_with_the_end_of_its_log(tmp_path: Path) -> None:
    lines = "import sys\nfor n in range(50): print('line', n)\nsys.exit('out of memory: token hf_" + "a" * 34 + "')"
    with pytest.raises(EngineError, match="ended with exit status 1 before it was healthy") as raised:
        start_servers(script_failing_with(tmp_path, lines), "m", 1, tmp_path)
    (fault,) = raised.value.faults
    assert fault.where == "generate.server.command"
    assert "line 49" in fault.snippet
    assert "line 2\n" not in fault.snippet
    assert "out of memory" in fault.snippet
    assert "hf_aaaa" not in fault.snippet
    assert str(tmp_path / "server-0.log") in fault.hint


def test_a_server_that_never_gets_healthy_is_told_of_and_stopped(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="was not healthy within 1 seconds") as raised:
        start_servers(script_failing_with(tmp_path, "import time; print('hm', flush=True); time.sleep(600)")._replace(
            start_seconds=1.0
        ), "m", 1, tmp_path)  # fmt: skip
    assert "| hm" in raised.value.faults[0].snippet


def test_where_one_of_several_does_not_start_the_others_are_stopped(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    template = command().template
    only_first = f"{sys.executable} -c \"import os, sys; sys.argv[1] == '0' or sys.exit(7); os.execv(sys.argv[2], sys.argv[2:])\" {{number}} {template}"  # noqa: E501
    with pytest.raises(EngineError, match="exit status 7"):
        start_servers(Command(only_first, "generate.server.command", 30.0), "m", 2, tmp_path)
    assert all_gone(pids_in(tmp_path) if (tmp_path / "pids").exists() else [], 2.0)


@pytest.mark.long
def test_a_server_whose_port_was_taken_starts_again_on_another(
    command: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        free_port = started.free_port
        monkeypatch.setattr(started, "free_port", lambda: ports.pop() if ports else free_port())
        (server,) = start_servers(command(), "m", 1, tmp_path)
        assert server.root != f"http://127.0.0.1:{taken.getsockname()[1]}"
        stop_servers([server])


STARTER = """
import sys, time
from pathlib import Path
from align_cli.servers.started import Command, start_servers
start_servers(Command(sys.argv[1], "generate.server.command", 30.0), "m", 1, Path(sys.argv[2]))
print("healthy", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_no_server_outlives_whoever_started_it_nor_does_its_child(
    number: signal.Signals, command: Callable[..., Command], tmp_path: Path
) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, command().template, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "healthy\n"
    pids = pids_in(tmp_path)
    starter.send_signal(number)
    starter.wait()
    assert all_gone(pids)


def test_a_fork_of_whoever_started_a_server_does_not_keep_it(command: Callable[..., Command], tmp_path: Path) -> None:
    forks = STARTER.replace("print(", "import os\nif os.fork() == 0: time.sleep(20); os._exit(0)\nprint(")
    starter = subprocess.Popen(
        [sys.executable, "-c", forks, command().template, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "healthy\n"
    starter.kill()
    starter.wait()
    assert all_gone(pids_in(tmp_path))


def test_should_the_keeper_be_killed_the_server_is_too(command: Callable[..., Command], tmp_path: Path) -> None:
    (server,) = start_servers(command(), "m", 1, tmp_path)
    pid, child = pids_in(tmp_path)
    os.kill(server._keeper.pid, signal.SIGKILL)
    try:
        assert all_gone([pid])
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_child_of_a_server_that_is_killed_goes_with_it(command: Callable[..., Command], tmp_path: Path) -> None:
    (server,) = start_servers(command(), "m", 1, tmp_path)
    pid, child = pids_in(tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert all_gone([pid, child])
    assert server._keeper.wait(10) == 128 + signal.SIGKILL
    assert server.exit_status() == 128 + signal.SIGKILL
