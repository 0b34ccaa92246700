"""What must not be shown or kept: names that secrets go by, and texts that look like one.

Used where recipes are checked and where anything is printed. Reads the environment, and remembers nothing of it.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from itertools import pairwise

MASK = "***"

_SECRET_WORDS = frozenset(
    ("token", "secret", "secrets", "password", "passwd", "passphrase", "pwd", "apikey", "auth", "authorization",
     "bearer", "credential", "credentials")
)  # fmt: skip
_SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("auth", "key")})
_HARMLESS_WORDS = frozenset(
    ("pad", "eos", "bos", "unk", "sep", "cls", "mask", "stop", "start", "end", "special", "id", "ids", "env",
     "environment", "variable", "name", "file", "path", "limit", "count", "max", "min", "num", "per")
)  # fmt: skip
"""Beside one of these words, `token` is one of a tokenizer's, a number of them, or where a secret is to be found."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Hostile texts are long: no part may try again from the middle of what it has read.
_KEY = re.compile(r"(?<![\w-])([\w-]++)[\"']?\s*+[:=]\s*+(?=[^\s,}\]])")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}"
    r"|sk-(?=[A-Za-z_-]{0,80}[0-9])[A-Za-z0-9_-]{16,}"
    r"|gh[oprsu]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}"
    r"|eyJ[A-Za-z0-9_-]{8,400}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*"
    r"|[Bb]earer\s++[A-Za-z0-9._~+/-]{8,}=*"
    r"|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"
    r")|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_SHORTEST_IN_ENVIRONMENT = 8
_FOLDERS = frozenset({"PWD", "OLDPWD"})
"""Variables in which a shell keeps its folders, and no passwords."""


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a secret: `api_key`, `HF_TOKEN`, `clientSecret`; not `eos_token`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if name in _FOLDERS:
        return False
    if _HARMLESS_WORDS.intersection(words):
        return False
    return bool(_SECRET_WORDS.intersection(words)) or any(pair in _SECRET_PAIRS for pair in pairwise(words))


def holds_token(text: str) -> bool:
    """Whether a text holds something that looks like a token of a known service, or a password in a URL."""
    return _TOKEN.search(text) is not None


@lru_cache(maxsize=8)  # a long line may have thousands of faults, each of which shows it
def masked(text: str) -> str:
    """A line of a recipe, or an override, without what looks like a secret: from a secret's key on nothing is left."""
    for key in _KEY.finditer(text):
        if is_secret_name(key[1]):
            text = f"{text[: key.end()]}{MASK}"
            break
    return _TOKEN.sub(MASK, text)


def without_environment(text: str) -> str:
    """A text without the values of environment variables that hold secrets, whoever wrote them into it."""
    values = (value for name, value in os.environ.items() if is_secret_name(name))
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST_IN_ENVIRONMENT:
            text = text.replace(value, MASK)
    return text
