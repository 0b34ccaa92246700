"""What servers on loopback have in common: a thread, a count of requests, and ways to go wrong."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Body = dict[str, Any]


class Loopback:
    """A server, for the time of a `with` block; for dataclasses, whose `handler()` is the kind of `Handler`."""

    port = 0

    def __post_init__(self) -> None:
        self.asked: list[Any] = []
        self.most_at_once = self.num_under_way = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        bound = type("Bound", (self.handler(),), {"of": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def root(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def came(self, asked: Any) -> int:
        """A request came: its number."""
        with self._lock:
            self.asked.append(asked)
            self.num_under_way += 1
            self.most_at_once = max(self.most_at_once, self.num_under_way)
            return len(self.asked)

    def went(self) -> None:
        """It is answered."""
        with self._lock:
            self.num_under_way -= 1


class Handler(BaseHTTPRequestHandler):
    """Answers one connection of the server that it is `of`, by its `get()` and `post(body)`."""

    of: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def send(self, status: int, body: Any, headers: Mapping[str, str] = {}, *, half: bool = False) -> None:
        """Answer: bytes and text as they are, all else as JSON; half of it, and hang up."""
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        data = text.encode() if isinstance(text, str) else text
        with suppress(BrokenPipeError):  # who asked may be gone
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self.hang_up()

    def fail(self, fault: str, headers: Mapping[str, str] = {}) -> bool:
        """Go wrong by `drop`, or by a status and words; False where it is another fault, or none."""
        if fault == "drop":
            self.hang_up()
        elif fault[:3].isdigit():
            self.send(int(fault[:3]), {"error": {"message": fault[3:].strip() or "it went wrong"}}, headers)
        else:
            return False
        return True

    def hang_up(self) -> None:
        """Nothing more is said."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
