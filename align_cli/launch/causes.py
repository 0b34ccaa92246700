"""What made the first process fail: told by whoever fails, once for all, through the place where they met.

A process whose peer is gone fails too, and so do all. What they say of that counts only where nobody says more.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch.distributed import TCPStore

FIRST, LOST = "align/failed", "align/lost"
"""Under these names stand the first cause, and the first that a process says of another that is gone."""

OF_PEERS = re.compile(r"connection|peer|gloo|nccl|socket|broken pipe|timed? ?out|recv|store", re.IGNORECASE)
"""What errors of torch's process groups say, when another process is gone."""


class Cause(NamedTuple):
    """Why a process ended.

    Args:
        rank: of the process.
        what: in a sentence.
        hint: the remedy; may be empty.
        where: a key or a path; may be empty.
        trace: the traceback of a bug; empty for others.
        exit_code: that the command ends with.
    """

    rank: int
    what: str
    hint: str = ""
    where: str = ""
    trace: str = ""
    exit_code: int = 2


class Causes:
    """What is told at a meeting place of why processes end.

    Args:
        store: a connection of its own: one that somebody waits at lets nobody else through.
    """

    def __init__(self, store: TCPStore) -> None:
        self._store = store

    def tell(self, cause: Cause, *, of_a_peer: bool = False) -> None:
        """Tell why this process ends; the first who does is believed."""
        self._store.compare_set(LOST if of_a_peer else FIRST, "", json.dumps(cause))

    def first(self) -> Cause | None:
        """The first cause, if any is told.

        Raises:
            Exception: if the meeting place is gone.
        """
        return self._read(FIRST)

    def lost(self) -> Cause | None:
        """What the first says of another that is gone."""
        return self._read(LOST)

    def _read(self, key: str) -> Cause | None:
        if not self._store.check([key]):
            return None
        return Cause(*json.loads(self._store.get(key)))


def is_of_a_peer(error: BaseException) -> bool:
    """Whether an error says that another process is gone, rather than what went wrong here."""
    return type(error).__module__.split(".")[0] in ("torch", "builtins") and bool(OF_PEERS.search(str(error)))
