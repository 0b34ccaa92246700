"""When the next request may go out: so many requests and so many tokens a minute, evenly spread over it."""

from __future__ import annotations

import time
from collections.abc import Callable

MINUTE = 60.0


class Pace:
    """Gives out turns, in the order in which they are asked for.

    Args:
        requests_per_minute: the most requests; None for no limit.
        tokens_per_minute: the most tokens; None for no limit.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_a_request = MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = MINUTE / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._after_requests = self._after_tokens = self._held_until = clock()

    def turn(self, num_tokens: float = 0.0) -> float:
        """Take the next turn.

        Args:
            num_tokens: that the request is expected to take; `correct` says later what it took.

        Returns:
            In how many seconds it is.
        """
        now = self._clock()
        start = max(now, self._after_requests, self._after_tokens, self._held_until)
        self._after_requests = start + self._seconds_a_request
        self._after_tokens = start + num_tokens * self._seconds_a_token
        return start - now

    def correct(self, num_tokens: float) -> None:
        """A request took so many tokens more than was expected; fewer, where negative."""
        self._after_tokens += num_tokens * self._seconds_a_token

    def hold(self, seconds: float) -> None:
        """No turn within so many seconds: the server has asked for that."""
        self._held_until = max(self._held_until, self._clock() + seconds)
