"""What children of this process must not keep open.

A lock, and the pipe that a reader waits at the other end of, live as long as the last process that has them open. A
child that user code forks has all that its parent had, whatever is marked to be closed at `exec`, and may outlive it.
"""

from __future__ import annotations

import os

_descriptors: set[int] = set()


def keep_from_children(descriptor: int) -> None:
    """From now on a child that is forked has nothing behind this descriptor."""
    _descriptors.add(descriptor)


def is_about_to_close(descriptor: int) -> None:
    """The descriptor's number may soon be another file's."""
    _descriptors.discard(descriptor)


def _let_go() -> None:
    # The number stays taken: whoever holds it in the child closes it once more.
    if _descriptors:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in _descriptors:
            os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
        _descriptors.clear()


if hasattr(os, "register_at_fork"):  # where processes are forked at all
    os.register_at_fork(after_in_child=_let_go)
