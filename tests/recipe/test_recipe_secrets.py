"""Keys and tokens have no place in a recipe: they are refused by their name or their look, and never shown."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from align_cli.recipe import dump
from align_cli.redaction import MASK, masked, without_secrets
from align_cli.secret_forms import holds_token, is_secret_name

HUNTER = "hunter2hunter2"
TOKENS = [
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "sk-proj-abc123def456ghi789",
    "sk-abcdefghij0123456789",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrst",
    "AKIAIOSFODNN7EXAMPLE",
    "Bearer abcdef0123456789",
    "xoxb-123456789012-abcdefghij",
    "AIzaSyA0123456789abcdefghijklmnopqrstuvw",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_DEF-123",
    "https://me:hunter2@example.org/score",
    "-----BEGIN RSA PRIVATE KEY----- abc",
]
HARMLESS_TEXTS = [
    "hf_internal/testing", "sk-learn-models", "task-0123456789-classification", "owner/name", "runs/first",
    "package.module:score", "https://example.org:8000/v1", "AKIA", "the bearer of news", "risk-free-0123456789abcdef",
    "eyJ", "a@b.org", "token",
]  # fmt: skip
SECRET_NAMES = [
    "token", "hf_token", "HF_TOKEN", "api_key", "apikey", "api-key", "apiKey", "OPENAI_API_KEY", "secret",
    "client_secret", "clientSecret", "password", "db.password", "Authorization", "access_key", "AWS_SECRET_ACCESS_KEY",
    "private_key", "credentials", "auth",
]  # fmt: skip
HARMLESS_NAMES = [
    "max_tokens", "tokens", "eos_token", "pad_token", "token_limit", "tokenizer", "key", "keyboard", "secretary",
    "api_key_env", "token_file", "monkey", "authors", "passwords_per_page", "token_ids", "PWD", "OLDPWD",
]  # fmt: skip


def with_arguments(minimal: str, arguments: str) -> str:
    """The minimal recipe with arguments for its labeler, in a block of their own."""
    lines = "".join(f"      {line}\n" for line in arguments.splitlines())
    labeler = f'  hidden:\n    kind: function\n    function: "package.module:score"\n    arguments:\n{lines}'
    first = next(line for line in minimal.splitlines() if line.startswith("  hidden:"))
    return minimal.replace(f"{first}\n", labeler)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secrets_name_is_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_names_that_only_hold_such_a_word_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("text", TOKENS)
def test_a_token_is_known_by_its_look(text: str) -> None:
    assert holds_token(text)
    assert holds_token(f"--key={text} and more")
    assert all(part not in masked(f"a {text} b") for part in (text, "hunter2", "EXAMPLE"))


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_other_texts_are_no_tokens(text: str) -> None:
    assert not holds_token(text)
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a-",
        "sk-",
        "sk-a",
        "eyJ-",
        "eyJabcdefgh.",
        "Bearer ",
        "bearer\n",
        "://a:",
        "-----BEGIN ",
        "hf_",
        "A",
        "a: ",
        "=",
    ],
)
def test_long_hostile_texts_are_looked_through_at_once(text: str) -> None:
    began = time.process_time()
    hostile = text * (256 * 1024 // len(text))
    masked(hostile)
    holds_token(hostile)
    is_secret_name(hostile)
    assert time.process_time() - began < 5


def test_an_argument_with_a_secrets_name_is_refused_with_its_place_and_the_remedy(faults_of, minimal) -> None:
    (fault,) = faults_of(text=with_arguments(minimal, f"url: here\napi_key: {HUNTER}"))
    assert str(fault) == (
        "recipe.yaml:14:7: labelers.hidden.arguments.api_key looks like a secret; a recipe is copied into the run's "
        "folder and shown\n"
        "        api_key: ***\n"
        "        ^\n"
        'hint: read it from the environment in your function: os.environ["API_KEY"]'
    )


@pytest.mark.parametrize(
    "arguments",
    [
        f"{{password: {HUNTER}}}",
        f'{{"hf_token": "{HUNTER}"}}',
        f"{{client: {{headers: {{Authorization: {HUNTER}}}}}}}",
        f"{{clients: [{{name: a}}, {{name: b, secret: {HUNTER}}}]}}",
        f"{{secrets: [{HUNTER}, x]}}",
        f"{{headers: {{Authorization: 'Basic {HUNTER}'}}}}",
        "{password: 12345678}",
        "{openai_key: Zq9very12345678secretvalue}",
        "{database_url: Zq9very12345678secretvalue}",
        *(f"{{text: '{token}'}}" for token in TOKENS),
        *(f"{{texts: [x, '{token}']}}" for token in TOKENS[:2]),
    ],
)
def test_a_secret_is_refused_at_any_depth_and_in_overrides_and_never_shown(faults_of, minimal, arguments) -> None:
    texts = [
        *faults_of(f"labelers.hidden.arguments={arguments}"),
        *faults_of(text=minimal.replace('score"}', f'score", arguments: {arguments}}}')),
    ]
    assert len(texts) >= 2
    for fault in texts:
        assert "looks like a secret" in fault.what
        assert fault.hint.startswith("read it from the environment in your function: os.environ[")
        for secret in (HUNTER, "12345678", "hunter2", *TOKENS):
            assert secret not in str(fault)


@pytest.mark.parametrize(
    "value", [f"\n{' ' * 8}{HUNTER}", f">\n{' ' * 8}{HUNTER}", f"|\n{' ' * 8}{HUNTER}", f'"{HUNTER}"']
)
def test_a_secret_on_a_line_of_its_own_is_not_shown_either(faults_of, minimal, value) -> None:
    (fault,) = faults_of(text=with_arguments(minimal, f"token: {value}".replace("\n      ", "\n")))
    assert "labelers.hidden.arguments.token looks like a secret" in fault.what
    assert HUNTER not in str(fault)


@pytest.mark.parametrize("token", TOKENS[:4])
@pytest.mark.parametrize("key", ["policy.model_name_or_path", "data.prompts", "output_dir", "train.run_name", "preset"])
def test_a_token_anywhere_in_a_recipe_is_refused_and_never_shown(faults_of, key, token) -> None:
    faults = faults_of(f"{key}=x/{token}")
    assert any("looks like a secret" in fault.what and key in fault.what for fault in faults) or key == "preset"
    assert all(token not in str(fault) for fault in faults)


def test_other_faults_beside_a_secret_do_not_show_it(faults_of, minimal) -> None:
    wrong = minimal.replace('score"}', f'score", argumnts: {{api_key: {HUNTER}}}}}')
    faults = [*faults_of(text=wrong), *faults_of(f"labelers.hidden.argumnts.api_key={HUNTER}")]
    faults += faults_of(f"method.beta={TOKENS[0]}")
    faults += faults_of(text=minimal + f"# password: {HUNTER}\nseed: x # {TOKENS[2]}\n")
    faults += faults_of(text=minimal + f"token: {HUNTER}: more\n")
    assert len(faults) >= 5
    assert all(
        HUNTER not in str(fault) and TOKENS[0] not in str(fault) and TOKENS[2] not in str(fault) for fault in faults
    )
    assert any(MASK in str(fault) for fault in faults)


@pytest.mark.parametrize(
    "arguments",
    [
        "{api_key_env: MY_KEY, token_file: /run/secrets/key}",
        "{eos_token: </s>, max_tokens: 100, use_token: true, token: null, password: ''}",
        "{url: 'http://localhost:8000/v1', model: owner/name}",
        "{text_key: prompt, sort_key: last_name, keys: [chosen, rejected], passes: 2, session: first-of-2024}",
    ],
)
def test_arguments_that_are_no_secrets_load(load, arguments) -> None:
    load(f"labelers.hidden.arguments={arguments}")


def test_names_are_looked_at_in_arguments_alone(load) -> None:
    recipe = load("labelers.token={kind: dataset}", "train.run_name=secret")
    assert "token" in recipe.labelers


def test_the_environment_is_not_read_into_a_recipe(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKENS[0])
    monkeypatch.setenv("MY_PASSWORD", HUNTER)
    recipe = load("labelers.hidden.arguments={text: '${HF_TOKEN}', other: $MY_PASSWORD}", "train.run_name=~")
    for text in (dump(recipe), json.dumps(recipe.model_dump(mode="json"))):
        assert TOKENS[0] not in text and HUNTER not in text
    assert yaml.safe_load(dump(recipe))["labelers"]["hidden"]["arguments"]["text"] == "${HF_TOKEN}"


def test_secrets_of_the_environment_are_taken_out_of_what_others_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKENS[0])
    monkeypatch.setenv("SHORT_SECRET", "abc")
    monkeypatch.setenv("HOME_FOLDER", "hunter-home")
    assert without_secrets(f"401 for {TOKENS[0]} in hunter-home abc") == "401 for *** in hunter-home abc"


def test_a_refused_recipe_is_copied_nowhere(faults_of, tmp_path: Path) -> None:
    faults_of(f"labelers.hidden.arguments.token={HUNTER}")
    assert [path.name for path in tmp_path.rglob("*")] == ["recipe.yaml"]


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system [echo no]", "!!python/object:os.system {}", "!!python/name:os.system",
        "!!python/module:os", "!!python/tuple [1]", "!<tag:yaml.org,2002:python/object/apply:os.getcwd> []",
    ],
)  # fmt: skip
def test_tags_that_build_things_of_python_are_refused_in_files_and_overrides(faults_of, minimal, value) -> None:
    for faults in (faults_of(text=f"{minimal}reviews: {value}\n"), faults_of(f"labelers.hidden.arguments.x={value}")):
        assert any("tag" in fault.what for fault in faults)
        assert all("python" in str(fault) for fault in faults if "tag" in fault.what)
