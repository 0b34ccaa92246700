"""Redaction on whole environments, both ways: every secret masked in whatever form, every ordinary line as it was."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import yaml

from align_cli.redaction import MASK, without_secrets
from align_cli.secret_forms import is_secret, is_secret_name

ENVIRONMENTS = sorted((Path(__file__).parent / "environments").glob("*.yaml"))
LINES = """\
run: going on after round 1 generate, with round 1 label
round 12 train: 3.5 s, 32 steps, 9.1 steps/s
round 1: win vs initial 0.62 [0.50, 0.75], reward -3.00 ± 0.25, KL 0.50 ± 0.12, length 14.8, EOS 25%
guard kl, round 3: KL to the reference is 61.2 nats, above 50
run/rounds/001/checkpoint/model.safetensors: the checksum is 4495e6a33d3cee2d6ea3d16d4c8c1982bf83d95df15cf0200d2a47c0b3eedf87
policy 9d780bad5e2f073a, reference 09025a5c0653550e, seed 7711840923364412
recipe.yaml:14:7: method.beta is -0.1; it must be above 0
hint: did you mean labelers.hidden.function?
labelers.mine: the function raised on the prompt with index 3
Traceback (most recent call last):
  File "/srv/models/rewards/reward_model_v2.py", line 217, in score
    response = client.post(url, headers={"Authorization": f"Bearer {key}", "x-api-key": os.environ["ANTHROPIC_API_KEY"]})
    judge = Judge(token=tokenizer.eos_token, api_key=settings.judge.api_key, password=None)
  File "/usr/lib/python3.11/site-packages/urllib3/connectionpool.py", line 793, in urlopen
KeyError: 'OPENAI_API_KEY'
openai.AuthenticationError: Error code: 401 - {'error': {'message': 'Incorrect API key', 'type': 'invalid_request_error'}}
requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://huggingface.co/api/whoami-v2?full=true
OSError: meta-llama/Meta-Llama-3-8B-Instruct is not a local folder; if it is private, pass a token, or log in with hf auth login
huggingface_hub.errors.GatedRepoError: Cannot access gated repo for revision 7ae557604adf67be50417f59c2c2f167def9a775
Bearer authentication failed; the bearer of news; basic authentication; Token classification; the session token expired
Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4 hf-internal-testing/tiny-random-LlamaForCausalLM sk-learn-baseline-run-2024-06-04
models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/7e27bd9f95328f0f3b08261d1252705110c806f8/tokenizer.json
torch 2.13.0+cpu, transformers 5.23.0, trl 1.16.0 on Linux-6.5.0-1025-azure-x86_64-with-glibc2.35
git+https://github.com/huggingface/trl@v1.16.0 and git@github.com:acme/align.git, mail to ada@example.org
<|im_start|>user pad_token=<pad> eos_token='</s>' max_tokens=4096 token_ids=[151644, 151645]
{'prompt': 'review of the food :', 'chosen': ' the password was good .', 'logps': [-0.5, -1.25]}
http://localhost:8000/v1/completions?model=align&n=4 answered 500; tcp://10.96.0.1:443 is closed
""".splitlines()  # noqa: E501


def read(path: Path) -> dict[str, Any]:
    """An environment; § keeps whoever scans for tokens from finding one."""
    return {"behind_names": {}, "holding": {}, **yaml.safe_load(path.read_text(encoding="utf-8").replace("§", ""))}


@pytest.fixture(params=ENVIRONMENTS, ids=lambda path: path.stem)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """One of the environments, which is the process's own."""
    read_one = read(request.param)
    held = {name: one["value"] for name, one in read_one["holding"].items()}
    monkeypatch.setattr(
        os, "environ", {**read_one["ordinary"], **read_one["secrets"], **read_one["behind_names"], **held}
    )
    yield read_one


def shown_in_many_ways(value: str) -> list[str]:
    """Texts in which somebody shows a value."""
    bare = [f"401 for {value}.", value, f"{value}{value}", f"x{value}y", f"key={value}&n=1", f"a\n{value}\nb"]
    forms = [repr(value), repr({"a": [value]}), json.dumps({"a": value}), json.dumps(value, ensure_ascii=False)]
    urls = [f"https://example.org/?q={quote(value, safe='')}", f"https://example.org/{quote_plus(value)}/x"]
    return [*bare, *forms, *urls]


def parts_of(value: str) -> list[str]:
    """Stretches of a value that must not be left over, however it was written down."""
    return [part for part in value.replace("\\", "\n").replace('"', "\n").split("\n") if len(part) > 5]


def test_every_secret_is_masked_however_it_is_shown(environment: dict[str, Any]) -> None:
    for name, value in environment["secrets"].items():
        for text in shown_in_many_ways(value):
            left = without_secrets(text)
            assert MASK in left
            assert [part for part in parts_of(value) if part in left] == [], (name, text)


def test_what_surrounds_a_secret_stays(environment: dict[str, Any]) -> None:
    for value in environment["secrets"].values():
        assert without_secrets(f"401 for {value.strip()} in round 2") == f"401 for {MASK} in round 2"


def test_every_line_of_a_secret_of_several_lines_is_masked_alone(environment: dict[str, Any]) -> None:
    for value in environment["secrets"].values():
        for line in value.splitlines()[1:-1]:
            assert without_secrets(f"> {line}") == f"> {MASK}"


def test_of_a_value_that_holds_a_secret_the_rest_stays(environment: dict[str, Any]) -> None:
    for name, held in environment["holding"].items():
        for text in (held["value"], f"{name}={held['value']}", f"> {held['value']} <", repr([held["value"]])):
            left = without_secrets(text)
            assert [part for part in held["hidden"] if part in left] == []
            assert [part for part in held["kept"] if part not in left] == []
        for part in held["hidden"]:
            if len(part) >= 12:
                assert part not in without_secrets(f"login failed for {part}")


@pytest.mark.parametrize("number", range(len(LINES)))
def test_an_ordinary_line_stays_as_it_is(number: int, environment: dict[str, Any]) -> None:
    assert without_secrets(LINES[number]) == LINES[number]


def test_the_ordinary_lines_of_an_environment_stay_as_they_are(environment: dict[str, Any]) -> None:
    for line in environment["lines"]:
        assert without_secrets(line) == line
    for name, value in environment["ordinary"].items():
        for text in (f"{name}={value}", f"export {name}={shlex.quote(value)}", repr({name: value}), value):
            assert without_secrets(text) == text


def test_a_dump_of_the_whole_environment_shows_what_is_ordinary_and_nothing_else(environment: dict[str, Any]) -> None:
    dumps = [
        "\n".join(f"{name}={value}" for name, value in os.environ.items()),
        repr(os.environ),
        json.dumps(os.environ, indent=1),
        f"environ({os.environ!r})",
    ]
    hidden = [part for value in environment["secrets"].values() for part in parts_of(value)]
    hidden += [part for held in environment["holding"].values() for part in held["hidden"]]
    for dump in dumps:
        left = without_secrets(dump)
        assert [part for part in hidden if part in left] == []
        assert [value for value in environment["ordinary"].values() if value in dump and value not in left] == []
        for name, value in environment["behind_names"].items():
            for text in (f"{name}={value}", repr({name: value})[1:-1], f'"{name}": "{value}"'):
                assert text not in left


def test_a_secret_that_might_be_a_word_is_masked_behind_a_secrets_name_and_in_a_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"PGPASSWORD": "test", "ADMIN_PASSWORD": "postgres"})
    for text, left in [
        ("PGPASSWORD=test", "PGPASSWORD=***"),
        ("{'password': 'test', 'dbname': 'test'}", "{'password': '***', 'dbname': 'test'}"),
        ("user=postgres password=postgres host=x", "user=postgres password=*** host=x"),
        ("postgres://postgres:postgres@x/test", "postgres://***@x/test"),
        ("ada:test@x", "ada:***@x"),
        ("password=tests", "password=tests"),
        ("password=latest", "password=latest"),
    ]:
        assert without_secrets(text) == left


def test_secrets_that_overlap_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"A_TOKEN": "abcd1234", "B_TOKEN": "abcd1234efgh", "C_TOKEN": "efgh5678"})
    assert without_secrets("<abcd1234efgh5678> <abcd1234> <efgh5678>") == "<***> <***> <***>"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Basic dXNlcjpodW50ZXIy", "'authorization': 'Token abc12345'", "x-api-key: abcdef0123456789",
        "https://x.org/v1?access_token=abcdefgh", "https://x.org/v1?n=1&key=abcdefgh12", "https://0123456789abcdefghij@x",
        "https:/ada:correct-horse@example.org",  # as a path, which keeps one of two slashes
        "Server=db;Database=x;Password=Winter;", "-----BEG" "IN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_keys_in_headers_queries_and_blocks_are_masked_whatever_the_environment(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    left = without_secrets(f"{text} and so on")
    assert MASK in left and left.endswith(" and so on")
    for part in ("dXNlcjpodW50ZXIy", "abc12345", "abcdef0123456789", "abcdefgh", "correct-horse", "Winter", "MIIE"):
        assert part not in left


NAMES = {
    "OPENAI_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN WANDB_API_KEY AWS_SECRET_ACCESS_KEY PGPASSWORD MYSQL_PWD DB_PASS "
    "GITHUB_PAT SLACK_WEBHOOK APITOKEN OPENAI_APIKEYS JWT TOKEN_FILE_SECRET HF_TOKEN_2 OPENAI_API_KEY_PROD "
    "clientSecret db.password SESSION_COOKIE NPM_AUTH ROOT_PW SSH_PRIVATE_KEY": True,
    "PWD OLDPWD HOME PATH SSH_AUTH_SOCK TOKENIZERS_PARALLELISM EOS_TOKEN PAD_TOKEN_ID MAX_TOKENS TOKEN_FILE COMPASS "
    "BYPASS MONKEY KEYBOARD SECRETARY PASSENGER PASSWORD_POLICY XAUTHORITY PATIENT AUTHOR GPG_KEY CACHE_KEY": False,
}


@pytest.mark.parametrize(("names", "are_secret"), NAMES.items(), ids=["secret", "harmless"])
def test_names_of_secrets_are_told_from_names_that_only_hold_such_a_word(names: str, are_secret: bool) -> None:
    assert [name for name in names.split() if is_secret_name(name) != are_secret] == []


@pytest.mark.parametrize("name", ["OPENAI_KEY", "DATABASE_URL", "HF_TOKENS", "MY_TOKEN_ID", "SENTRY_DSN"])
def test_where_a_name_leaves_it_open_the_value_decides(name: str) -> None:
    assert is_secret(name, "Zq9verysecretvalue")
    for value in ("prompt", "4096", "owner/name-7B-v0.2", "/run/secrets/key", "http://localhost:8000/v1", "a b c d e"):
        assert not is_secret(name, value)


def test_lines_are_looked_through_quickly_once_the_environment_is_known(environment: dict[str, Any]) -> None:
    without_secrets("")
    began = time.process_time()
    for line in LINES * 10:
        without_secrets(line)
    assert time.process_time() - began < 0.001 * len(LINES) * 10
