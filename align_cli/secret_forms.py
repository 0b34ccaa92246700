"""How a secret is told from other texts: by its name, by its form, by its randomness.

- By the name of its variable or key (`PGPASSWORD`, `HF_TOKEN_2`, `clientSecret`): the last word counts, so that
  `token_file` and `PASSWORD_POLICY` are none. Where the name is not quite one (`OPENAI_KEY`, `DATABASE_URL`,
  `MY_TOKEN_ID`), its value has to look like no word, path or number.
- By its form, in any text: tokens of known services, JSON web tokens, passwords in URLs, keys in headers and queries,
  blocks of private keys.
- By its randomness, in the environment alone: a long value of an unknown name in which capitals, small letters and
  digits alternate. Hexadecimal digits are what commits, checksums and versions of weights look like, and are none.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import pairwise

_PASSWORDS = ("password", "passwords", "passwd", "passphrase", "pwd", "pass", "pw")
_SECRETS = ("token", "secret", "secrets", "apikey", "apikeys", "accesskey", "secretkey", "privatekey", "credential",
            "credentials", "creds", "auth", "authorization", "bearer", "jwt", "pat", "webhook", "cookie")  # fmt: skip
_NOUNS = frozenset((*_PASSWORDS, *_SECRETS))
_ENDINGS = ("password", "passwd", "passphrase", "pwd", "dbpass", "pgpass", "token", "secret", "apikey", "apikeys")
"""As one word with what comes before: PGPASSWORD, APITOKEN."""
_KINDS_OF_KEYS = frozenset(("api", "access", "private", "secret", "auth", "encryption", "signing", "master", "account"))
_PERHAPS = _NOUNS | {
    "key",
    "keys",
    "tokens",
    "cookies",
    "session",
    "dsn",
    "url",
    "uri",
    "salt",
    "signature",
    "webhooks",
}
_OTHER_KEYS = frozenset(("public", "gpg", "primary", "foreign", "sort", "cache", "partition"))
_OF_TOKENIZERS = frozenset(("pad", "eos", "bos", "unk", "sep", "cls", "mask", "stop", "start", "end", "special"))
_QUALIFIERS = frozenset(("prod", "production", "dev", "test", "staging", "live", "old", "new", "main", "primary",
                         "backup", "secondary", "default", "ci", "ro", "rw", "value", "b64", "base64"))  # fmt: skip
"""Behind a secret's name they say which one it is: OPENAI_API_KEY_PROD."""
_FOLDERS = frozenset({"PWD", "OLDPWD"})
"""Variables in which a shell keeps its folders, and no passwords."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Hostile texts are long: no part may try again from the middle of what it has read.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{20,}"
    r"|sk-(?:[a-z]{2,8}[0-9]{0,2}-){0,3}(?=[A-Za-z_]{0,80}[0-9])[A-Za-z0-9_]{16,}[A-Za-z0-9_-]*"
    r"|(?:gh[oprsu]|npm|gsk|r8|sk_live|sk_test|rk_live|whsec|dckr_pat|dop_v1|tgp_v1|shpat|lin_api)_[A-Za-z0-9]{16,}"
    r"|github_pat_[A-Za-z0-9_]{16,}|gl(?:pat|dt|rt|cbt|ptt|ft|agent|soat)-[A-Za-z0-9_-]{16,}"
    r"|(?:nvapi|pplx|xai)-[A-Za-z0-9_-]{32,}|pypi-AgE[A-Za-z0-9_-]{16,}|hvs\.[A-Za-z0-9_-]{20,}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}|dapi[0-9a-f]{32}|ya29\.[A-Za-z0-9_-]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|(?:xox[abeprs]|xapp)-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}|[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}"
    r"|eyJ[A-Za-z0-9_-]{8,400}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*"
    r"|[Bb]earer\s++(?=[A-Za-z._~+/-]{0,80}[0-9])[A-Za-z0-9._~+/-]{8,}=*"
    r"|(?:(?<=://)|(?<=[a-z]:/))(?!/)(?:[^\s/:@?#]*:[^\s/\"'?#]+|[A-Za-z0-9_-]{20,})(?=@)"
    r"|(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[A-Za-z0-9/_-]{16,}"
    r"|(?<=discord\.com/api/webhooks/)[0-9]+/[A-Za-z0-9_-]{16,}"
    r"|(?<=webhook\.office\.com/)webhookb2/[A-Za-z0-9@/_-]{16,}"
    r")|-----BEGIN [A-Z ]*PRIVATE KEY-----(?>(?:(?!-----END).)*)(?:-----END [A-Z ]*PRIVATE KEY-----)?",
    re.DOTALL,
)
_BEHIND_A_NAME = re.compile(
    r"[?&](?:access_token|api_key|apikey|key|token|sig|signature|password|secret|client_secret|X-Amz-(?:Signature|"
    r"Security-Token))=([^&\s\"']{8,})"
    r"|;\s?(?:AccountKey|SharedAccessKey|Password|Pwd)=([^;\s\"']+)"
    r"|authorization[\"']?\s{0,9}[:=]\s{0,9}[\"']?(?:basic|token|bearer)\s([A-Za-z0-9+/=._~-]{8,})"
    r"|(?:x-api-key|api-key|x-auth-token)[\"']?\s{0,9}:\s{0,9}[\"']?(?=[A-Za-z+/=._~-]{0,80}[0-9])"
    r"([A-Za-z0-9+/=._~-]{16,})",
    re.IGNORECASE,
)

SHORTEST = 8
"""Characters of a secret that is told from words and numbers by its looks."""

_SHORTEST_UNNAMED = 20
_SWITCHES = frozenset(("true", "false", "yes", "no", "on", "off", "none", "null"))
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HASH = re.compile(r"(?<![A-Za-z0-9])(?:[0-9a-f]{7,}|[0-9A-F]{7,})(?![A-Za-z0-9])")
_WORDY = re.compile(r"(?:[A-Z]?[a-z]*|[A-Z]+|(?:[A-Z][a-z]+)+)[0-9]{0,4}|[0-9]+[A-Za-z]{0,2}|[0-9a-f]{7,}|[0-9A-F]{7,}")


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a secret: `api_key`, `HF_TOKEN`, `clientSecret`; not `eos_token`."""
    return _secret_noun(name) is not None


def is_secret(name: str, value: str) -> bool:
    """Whether a value is a secret by its name, or by its looks where the name leaves it open."""
    words, noun = _words_of(name), _secret_noun(name)
    if name in _FOLDERS or value.lower() in _SWITCHES:
        return False
    if noun is not None:
        is_number = value.isdigit() and len(value) < SHORTEST and not noun.endswith(_PASSWORDS)
        is_place = _is_path(value) or ("://" in value and noun != "webhook")
        return value != "" and not is_number and not is_place
    is_other = any(pair[1] == "key" and pair[0] in _OTHER_KEYS for pair in pairwise(words))
    is_perhaps = not is_other and any(word in _PERHAPS or word.endswith(_ENDINGS) for word in words)
    return is_perhaps and not _OF_TOKENIZERS.intersection(words) and _is_no_word(value)


def holds_token(text: str) -> bool:
    """Whether a text holds something that looks like a token of a known service, or a password in a URL."""
    return next(spans_by_form(text), None) is not None


def spans_by_form(text: str) -> Iterator[tuple[int, int]]:
    """Where something stands in a text that has the form of a secret; begin and end of each."""
    yield from (found.span() for found in _TOKEN.finditer(text))
    yield from (found.span(found.lastindex or 0) for found in _BEHIND_A_NAME.finditer(text))


def is_random(value: str) -> bool:
    """Whether a value of whatever name is long, and no language, place or number that anybody would write."""
    if not re.fullmatch(r"[A-Za-z0-9_+/=.~-]+", value) or _is_path(value) or _is_encoded_text(value):
        return False
    value = _HASH.sub("", _UUID.sub("", value))
    is_one = sum(map(value.count, "_-")) <= len(value) / 12
    return any(map(_alternates, [re.sub("[_-]", "", value)] if is_one else re.split("[_-]", value)))


def _secret_noun(name: str) -> str | None:
    """The last word of a name, what only says which one it is left out, if it is a word for secrets."""
    words = _words_of(name)
    while len(words) > 1 and (words[-1] in _QUALIFIERS or words[-1].isdigit()):
        words.pop()
    before, last = ["", "", *words][-2:]
    if last in ("key", "keys"):
        is_secret = before in _KINDS_OF_KEYS
    else:
        is_secret = before not in _OF_TOKENIZERS and (last in _NOUNS or last.endswith(_ENDINGS))
    return last if is_secret and name not in _FOLDERS else None


def _words_of(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _is_path(value: str) -> bool:
    is_absolute = value.startswith(("/", "~/", "./", "../")) or re.match(r"[A-Za-z]:[\\/]", value) is not None
    return is_absolute and not any(_alternates(part) for part in re.split(r"[\\/]", value))


def _is_no_word(value: str) -> bool:
    """Whether a value is none of: words and numbers with signs between them, a path, a URL, a hash, a UUID."""
    if len(value) < SHORTEST or "://" in value or re.search(r"\s", value) or value.count("/") > 1 or _is_path(value):
        return False
    parts = re.split(r"[^A-Za-z0-9]+", _UUID.sub("", value))
    return any(len(part) >= SHORTEST and not _WORDY.fullmatch(part) for part in parts)


def _alternates(text: str) -> bool:
    """Whether small letters, capitals and digits alternate in it as they do by chance, and not as in WordsOfANameV2."""
    for run in re.findall(rf"[A-Za-z0-9+/]{{{_SHORTEST_UNNAMED},}}", text):
        letters = re.sub("[+/]", "", run)
        kinds = [0 if letter.islower() else 1 if letter.isupper() else 2 for letter in letters]
        changes = sum(first != second for first, second in pairwise(kinds)) / len(kinds)
        if len(set(kinds)) == 3:
            is_chance = changes >= 0.38 and sum(map(len, re.findall("[a-z]{3,}", letters))) < 0.38 * len(letters)
        else:
            is_chance = changes >= 0.3 and len(letters) >= 24 and 2 in kinds
        if is_chance:
            return True
    return False


def _is_encoded_text(value: str) -> bool:
    """Whether it is a text in base64, such as the tables that module systems keep in the environment."""
    try:
        text = base64.b64decode(value, validate=True).rstrip(b"\0\n").decode("ascii")
    except (binascii.Error, ValueError):
        return False
    return text.replace("\n", " ").isprintable()
