"""What happened in a run, event by event, with its time: for people. Nothing depends on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align_cli.artifacts.files import append_line
from align_cli.artifacts.json_text import to_json

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Ledger:
    """The run's events.

    Args:
        path: where they stand; a function, since whoever looks refuses what is no file.
    """

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with its time. That a stage has begun need not outlive the machine; its finish makes it."""
        now = time.strftime(TIME_FORMAT, time.gmtime())
        append_line(self._path(), to_json({"event": event, "time": now, **fields}), is_durable=event != "start")

    def events(self) -> list[dict[str, Any]]:
        """Every event so far; a line that a killed process left unfinished, or that is damaged, is passed over."""
        path = self._path()
        if not path.is_file():
            return []
        events = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_event(event):
                events.append(event)
        return events


def _is_event(value: Any) -> bool:
    kinds = {"event": str, "time": str, "round": int, "stage": str}
    if not isinstance(value, dict) or not all(isinstance(value.get(name), kind) for name, kind in kinds.items()):
        return False
    return value["event"] != "finish" or isinstance(value.get("seconds"), int | float)
