"""Texts without what must not be shown or kept: secrets of the environment, and whatever has the form of one.

Used where recipes are checked and where anything is printed. What is a secret is said in `secret_forms`. Those of the
environment are masked wherever they stand, also in the form that `repr`, JSON or a URL give them, and line by line. One
that might as well be a word (`test`, `postgres`) is masked only behind a secret's name, and in a URL.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

from align_cli.secret_forms import SHORTEST, is_random, is_secret, is_secret_name, spans_by_form

MASK = "***"

_IDENTITY = ("HOME", "PWD", "USER", "LOGNAME", "HOSTNAME", "VIRTUAL_ENV")
_SHORTEST_OF_ONE_KIND = 12
# Hostile texts are long: no part may try again from the middle of what it has read.
_KEY = re.compile(r"(?<![\w-])([\w-]++)[\"']?\s*+[:=]\s*+(?=[^\s,}\]])")
_VALUE = re.compile(r"[\"']?([^\s,}\]\"']{1,200}+)")
_NAMED = r"[\w.-]{0,40}(?:pass|pwd|pw|secret|token|key|auth|cred)[\w.-]{0,40}[\"']?\s{0,9}[=:]\s{0,9}[\"']?"


@lru_cache(maxsize=8)  # a long line may have thousands of faults, each of which shows it
def masked(text: str) -> str:
    """A line of a recipe, or an override, without what looks like a secret: from a secret's key on nothing is left."""
    for key in _KEY.finditer(text):
        value = _VALUE.match(text, key.end())
        if is_secret_name(key[1]) or (value is not None and is_secret(key[1], value[1])):
            text = f"{text[: key.end()]}{MASK}"
            break
    return _without(text, spans_by_form(text))


def without_secrets(text: str) -> str:
    """A text without the secrets of the environment, and without what looks like one, whoever wrote them into it."""
    known = _known(tuple(os.environ.items()))
    spans = [*spans_by_form(text), *_spans_of(known.anywhere, text)]
    if known.behind_names is not None:
        spans += [found.span(found.lastindex or 0) for found in known.behind_names.finditer(text)]
    return _without(text, spans)


class _Known(NamedTuple):
    """The secrets of an environment.

    Args:
        anywhere: texts that are masked wherever they stand.
        behind_names: finds those that might be words, in a group, where a secret stands; None if there are none.
    """

    anywhere: tuple[str, ...]
    behind_names: re.Pattern[str] | None


@lru_cache(maxsize=2)
def _known(environment: tuple[tuple[str, str], ...]) -> _Known:
    identity = [value for name, value in environment if name in _IDENTITY]
    secrets = {value.strip() for name, given in environment for value in _secrets_in(name, given)}
    words = {secret for secret in secrets if _might_be_word(secret) or any(secret in value for value in identity)}
    anywhere = {form for secret in secrets - words for form in _forms_of(secret)}
    several = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if len(word) > 2)
    behind = re.compile(rf"(?i:{_NAMED})({several})(?!\w)|:({several})(?=@)") if several else None
    return _Known(tuple(sorted(anywhere)), behind)


def _secrets_in(name: str, value: str) -> Iterator[str]:
    """The secrets in a variable of the environment: all of it or a part, a password in its URL, values in its JSON."""
    found = [value[start:stop] for start, stop in spans_by_form(value)]
    if is_secret(name, value) or is_random(value):
        found.append(value)
    for secret in found:
        yield secret
        yield from (line for line in secret.splitlines()[1:-1] if re.fullmatch(r"[^\s\"']{16,}", line))
    if "://" in value and "@" in value:
        yield from _passwords_in_url(value)
    if value.lstrip().startswith("{"):
        try:
            yield from _secrets_in_tree(json.loads(value))
        except (ValueError, RecursionError):
            return


def _passwords_in_url(value: str) -> Iterator[str]:
    try:
        password = urlsplit(value).password
    except ValueError:
        return
    if password:
        yield from {password, unquote(password)}


def _secrets_in_tree(tree: Any) -> Iterator[str]:
    for name, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(child, dict | list):
            yield from _secrets_in_tree(child)
        elif isinstance(child, str):
            yield from _secrets_in(str(name), child)


def _forms_of(secret: str) -> set[str]:
    """A secret as it is, and as others write it down."""
    escaped = {repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return {secret, *escaped, quote(secret, safe=""), quote(secret), quote_plus(secret)}


def _spans_of(secrets: Iterable[str], text: str) -> Iterator[tuple[int, int]]:
    for secret in secrets:
        start = text.find(secret)
        while start >= 0:
            yield start, start + len(secret)
            start = text.find(secret, start + len(secret))


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a mask for each stretch; where they overlap, or touch, one mask for all of it."""
    parts: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not parts:
            parts += [text[end:start], MASK]
        end = max(end, stop)
    return "".join(parts) + text[end:]


def _might_be_word(value: str) -> bool:
    is_one = re.fullmatch("[A-Z]?[a-z]+|[A-Z]+|[0-9]+", value) is not None
    return len(value) < (_SHORTEST_OF_ONE_KIND if is_one else SHORTEST)
