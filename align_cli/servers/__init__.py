"""Servers that labelers and engines ask, and how align starts its own; nothing of what is asked.

endpoint    one server: a request, its retries, its faults in words
pace        when requests may go out
together    several requests at once
streamed    what comes of them, as it comes
started     servers of align's own, which end with it; keeper.py sees to that
"""

from __future__ import annotations

from align_cli.servers.endpoint import Endpoint, UnreadableError, Unwatched, Watch
from align_cli.servers.together import ask_all

__all__ = ["Endpoint", "UnreadableError", "Unwatched", "Watch", "ask_all"]
