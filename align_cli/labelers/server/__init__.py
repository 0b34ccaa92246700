"""Servers that labelers ask: requests with their retries, at a pace, several at once; nothing of what is asked."""

from __future__ import annotations

from align_cli.labelers.server.endpoint import Endpoint, UnreadableError, Watch
from align_cli.labelers.server.together import ask_all

__all__ = ["Endpoint", "UnreadableError", "Watch", "ask_all"]
