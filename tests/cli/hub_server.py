"""A Hub of one's own on the loopback: who is asking, repositories, and commits of small files.

It answers what `huggingface_hub` asks when a folder is uploaded. Every file is taken in the commit itself, as the Hub
takes small ones.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a1b2c3d4e5" * 3


class Hub:
    """What the server holds: repositories with their files, whether they are private, and cards that it has looked at.

    Args:
        may_write: whether repositories can be made.
    """

    def __init__(self, may_write: bool = True) -> None:
        self.may_write = may_write
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.cards: list[str] = []
        self.endpoint = ""


@contextmanager
def hub_server(hub: Hub) -> Iterator[str]:
    """The server while it answers; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing is told."""

        def do_GET(self) -> None:
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                return self._answer(401, {"error": "Invalid credentials in Authorization header"})
            path = self.path.partition("?")[0]
            if path == "/api/whoami-v2":
                return self._answer(200, {"type": "user", "name": "me", "auth": {"type": "access_token"}})
            repository = "/".join(path.split("/")[3:5])
            if repository in hub.files and "/tree/" in path:
                found = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0"}
                    for name, data in hub.files[repository].items()
                ]
                return self._answer(200, found)
            if repository in hub.files:
                siblings = [{"rfilename": name} for name in hub.files[repository]]
                return self._answer(200, {"id": repository, "sha": "0" * 40, "siblings": siblings, "private": True})
            return self._answer(404, {"error": f"nothing at {path}"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path == "/api/repos/create":
                return self._create(json.loads(body))
            if self.path == "/api/validate-yaml":
                hub.cards.append(json.loads(body)["content"])
                return self._answer(200, {"errors": [], "warnings": []})
            repository = "/".join(self.path.split("/")[3:5])
            if "/preupload/" in self.path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self._answer(200, {"files": files})
            if "/commit/" in self.path:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.files[repository][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    elif entry["key"] == "deletedFile":
                        del hub.files[repository][entry["value"]["path"]]
                return self._answer(200, {"commitOid": "1" * 40, "commitUrl": f"{hub.endpoint}/{repository}/commit/1"})
            return self._answer(404, {"error": f"nothing at {self.path}"})

        def _create(self, wanted: dict[str, Any]) -> None:
            repository = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if not hub.may_write:
                return self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
            is_new = repository not in hub.files
            if is_new:
                hub.files[repository], hub.private[repository] = (
                    {},
                    wanted.get("private") or wanted.get("visibility") == "private",
                )
            address = {"url": f"{hub.endpoint}/{repository}", "id": repository, "name": repository}
            return self._answer(200 if is_new else 409, address)

        def _answer(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub.endpoint
    finally:
        server.shutdown()
        server.server_close()
