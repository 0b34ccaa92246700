"""An `align` for shells, in pipes and scripts, that does not wait for torch: a server forks what it asks for.

    with_align(environment)  # the program is the first `align` on its path

The program hands its words, folder, environment and standard streams to the server, passes signals on, and ends as the
process does that the server forks; when the program is killed, so is that process.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import forked
from warm_children import MAIN, be, fork_them

PROGRAM = f"""#!{sys.executable} -IS
import json, os, signal, socket, sys

signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ignored = [number for number in signals if signal.getsignal(number) == signal.SIG_IGN]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
with socket.socket(socket.AF_UNIX) as server:
    server.connect(ADDRESS)
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), ignored]).encode()
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for number in signals:
        if number not in ignored:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    code = int(server.recv(8) or b"-9")
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def with_align(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with the program on its path."""
    return {**environment, "PATH": os.pathsep.join([str(programs()), environment["PATH"]])}


@cache
def programs() -> Path:
    """A folder with the program alone, whose server lives as long as this process."""
    forked._start_server()
    folder = Path(tempfile.mkdtemp(prefix="align-programs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        multiprocessing.get_context("forkserver").Process(target=_serve, args=[listening], daemon=True).start()
    program = folder / "align"
    program.write_text(PROGRAM.replace("ADDRESS", repr(address)))
    program.chmod(0o755)
    return folder


def _serve(listening: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.sentinel not in select.select([listening, parent.sentinel], [], [])[0]:  # it ends with the tests
        program, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve_one(program)
        program.close()


def _serve_one(program: socket.socket) -> None:
    """Fork what a program asks for, and wait for its end beside it."""
    length, streams, *_ = socket.recv_fds(program, 4, 3)
    with program.makefile("rb") as stream:
        arguments, folder, variables, ignored = json.loads(stream.read(int.from_bytes(length, "big")))
    pid = os.fork()
    if pid == 0:
        program.close()
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        _be_align(arguments, folder, variables, streams)
    for descriptor in streams:
        os.close(descriptor)
    for descriptor in (0, 1, 2):  # of pytest, perhaps
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    ended = os.pidfd_open(pid)
    while ended not in (ready := select.select([ended, program], [], [])[0]):
        told = program.recv(1) if program in ready else b""
        os.kill(pid, told[0] if told else signal.SIGKILL)
        if not told:
            break
    program.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _be_align(arguments: list[str], folder: str, variables: dict[str, str], streams: Any) -> None:
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    os.chdir(folder)
    fork_them()
    be(["-c", MAIN, *arguments], variables)
