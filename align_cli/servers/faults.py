"""What the errors of a server mean: whether they pass, and what a user can do about those that do not."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Protocol

from align_cli.errors import AlignError, first_line
from align_cli.redaction import MASK, without_secrets

PASSING_STATUS = frozenset((408, 409, 425, 429))
NOT_THERE_STATUS = frozenset((404, 405, 501))
SPENT_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""OpenAI's words for an account without money, which come as 429 and do not pass."""
KEPT = "what it has answered so far is kept: the same command goes on from there"


class PassingError(Exception):
    """A fault that may not be there the next time.

    Args:
        what: happened, in words that follow "the server was asked, and".
        wait_seconds: how long the server asks to wait; 0 where it does not say.
        hint: what to do where it does not pass.
        is_answered: whether the server is there, and said so itself.
    """

    def __init__(self, what: str, wait_seconds: float = 0.0, hint: str = "", *, is_answered: bool = False) -> None:
        super().__init__(what)
        self.wait_seconds, self.is_answered = wait_seconds, is_answered
        self.hint = hint or KEPT


class NotThereError(Exception):
    """A path, or a model, that the server does not have.

    Args:
        what: it said.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class GoneError(Exception):
    """A request that gave up because another one met a fault, which is the one to tell."""


class Asked(Protocol):
    """Whose fault it is."""

    place: str
    base_url: str
    url_key: str
    error: type[AlignError]

    def shown(self, text: str) -> str:
        """What it wrote, in one line without the key of its requests."""
        ...

    def refused(self, status: int, said: str) -> str:
        """What to do about a request that it refuses for what the request says."""
        ...


def fault_of(error: Exception, asked: Asked) -> Exception:
    """What an error of the client's is: a `PassingError`, a `NotThereError`, or one for the user.

    Args:
        error: one of openai's, time-outs aside.
        asked: the server.
    """
    import openai

    if not isinstance(error, openai.APIStatusError):
        cause = error.__cause__ or error
        said = asked.shown(first_line(cause) or type(cause).__name__)
        hint = f"is it running, and is {asked.place}.{asked.url_key} its address? {KEPT}"
        return PassingError(f"there was no connection, or it broke: {said}", hint=hint)
    status, said = error.status_code, asked.shown(f"{error.status_code} {error.response.text}")
    is_spent = any(code in said for code in SPENT_CODES)
    if (status in PASSING_STATUS or status >= 500) and status not in NOT_THERE_STATUS and not is_spent:
        return PassingError(f"it answered {said}", retry_after(error.response.headers), is_answered=True)
    what = f"the server at {asked.base_url} refused: {said}"
    if status in NOT_THERE_STATUS:
        return NotThereError(what)
    refusal = asked.error(what, where=asked.place, hint=_hint(status, said, asked, is_spent))
    refusal.refused_with = status
    return refusal


def in_short(text: str, key: str, longest: int) -> str:
    """What a server or a model wrote, as an error shows it: one line, no secrets, not all of it."""
    line = " ".join(text.split())
    line = without_secrets(line.replace(key, MASK) if key else line)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def retry_after(headers: Mapping[str, str]) -> float:
    """How many seconds a server asks to wait; 0 where it does not say."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        return max(seconds, 0.0) if not math.isnan(seconds) else 0.0
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _hint(status: int, said: str, asked: Asked, is_spent: bool) -> str:
    if is_spent:
        return f"the account has no money left; {KEPT}"
    if status in (401, 403):
        return f"{asked.place}.api_key_env names the environment variable that holds the key"
    return asked.refused(status, said)
