"""Judges and reward servers in a recipe: what they answer with, what has to hold between their keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import Fault
from align_cli.recipe import Recipe

Load = Callable[..., Recipe]
FaultsOf = Callable[..., list[Fault]]

JUDGE = "labelers.j={kind: judge, base_url: 'http://127.0.0.1:8000/v1', model: m}"
SERVER = "labelers.r={kind: reward_server, url: 'http://127.0.0.1:8000', model: m}"


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        (
            "labelers.j.base_url=127.0.0.1:8000",
            "labelers.j.base_url is '127.0.0.1:8000'; it must be an address",
            "as in",
        ),
        (
            "labelers.j.base_url=http://h/v1/chat/completions",
            "labelers.j.base_url is 'http://h/v1/chat/completions'; the path of a request is added to it",
            "leave out /chat/completions",
        ),
        (
            "labelers.j.votes=3",
            "labelers.j.votes is 3, and labelers.j.temperature is 0: all votes",
            "set labelers.j.temp",
        ),
        ("labelers.j.budget={money: 5}", "labelers.j.budget.money is 5, and labelers.j.price is left out", "set"),
        ("labelers.j.budget={calls: 0}", "labelers.j.budget.calls is 0; it must be at least 1", ""),
        ("labelers.j.budget={euros: 5}", "unknown key labelers.j.budget.euros", ""),
        ("labelers.j.price={input: 1}", "labelers.j.price.output is missing", "add it: of a million tokens of answers"),
        ("labelers.j.max_unparsable=20", "labelers.j.max_unparsable is 20; it must be at least 0 and at most 1", ""),
        ("labelers.j.orders=two", "labelers.j.orders is 'two'; it must be one of both, one", ""),
        ("labelers.j.extra_body={n: 4}", "labelers.j.extra_body has 'n', which labelers.j.votes says", "take it out"),
        ("labelers.j.extra_body={stream: true}", "labelers.j.extra_body has 'stream'; answers are read whole", "take"),
        ("labelers.j.template=judge.txt", "labelers.j.template: there is no file 'judge.txt'", ""),
        ("labelers.j.api_key=abc", "unknown key labelers.j.api_key", "did you mean labelers.j.api_key_env?"),
        (
            "labelers.j.api_key_env=my key",
            "labelers.j.api_key_env is 'my key'; it must be the name",
            "as in OPENAI_API_KEY",
        ),
        (
            "labelers.j.api_key_env=sk-abcdefghij0123456789",
            "labelers.j.api_key_env looks like a secret",
            "name the environment variable that holds it: api_key_env",
        ),
        (
            "labelers.j.extra_body={auth: {api_key: hunter2hunter2}}",
            "labelers.j.extra_body.auth.api_key looks like a secret",
            "name the environment variable",
        ),
        ("labelers.r.url=http://h:99999", "labelers.r.url is 'http://h:99999'; it must be an address", "as in"),
        ("labelers.j.base_url='http://[h'", "labelers.j.base_url is 'http://[h'; it must be an address", "as in"),
        ("labelers.r.url=ftp://h", "labelers.r.url is 'ftp://h'; it must be an address", "as in"),
        ("labelers.r.endpoint=rerank", "labelers.r.endpoint is 'rerank'; it must be one of classify, score", ""),
    ],
)
def test_a_fault_says_what_and_what_to_do(override: str, what: str, hint: str, faults_of: FaultsOf) -> None:
    found = faults_of(JUDGE, SERVER, override)
    assert any(fault.what.startswith(what) and fault.hint.startswith(hint) for fault in found), found
    assert "hunter2" not in str(found) and "sk-abc" not in str(found)


@pytest.mark.parametrize("address", ["http://[::1]:8000/v1", "https://h/v1", "http://h:8000"])
def test_addresses_of_every_form_are_taken(address: str, load: Load) -> None:
    assert load(JUDGE, SERVER, f"labelers.j.base_url='{address}'", f"labelers.r.url='{address}'")


def test_a_tokenizer_for_two_texts_has_no_use(faults_of: FaultsOf) -> None:
    found = faults_of(SERVER, "labelers.r.endpoint=score", "labelers.r.tokenizer=rm")
    assert [fault.key for fault in found] == ["labelers.r.tokenizer"]


@pytest.mark.parametrize(
    ("template", "gives"),
    [("pairwise", "verdicts"), ("score", "scores"), ("one.txt", "scores"), ("two.txt", "verdicts")],
)
def test_what_a_judge_answers_with_is_said_by_its_template(template: str, gives: str, load: Load) -> None:
    Path("one.txt").write_text("--- user\n{prompt} {completion}", encoding="utf-8")
    Path("two.txt").write_text("--- user\n{prompt} {first} {second}", encoding="utf-8")
    assert load(JUDGE, f"labelers.j.template={template}").labelers["j"].gives == gives


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ("# not {completion}, but two\n--- user\n{prompt} {first} {second}", "verdicts"),
        ("answer: {completion}(.)\n--- user\n{prompt} {first} {second}", "verdicts"),
        ("--- user\n{prompt} {first} {second} {{completion}}", "verdicts"),
        ("# not {first} or {second}\n--- system\nOf {completion}\n--- user\n{prompt}", "scores"),
        ("\ufeff--- user\n{completion} {prompt}", "scores"),
        ("{prompt} {completion}", "verdicts"),
    ],
)
def test_only_a_field_of_its_messages_says_what_a_template_gives(text: str, gives: str, load: Load) -> None:
    Path("own.txt").write_text(text, encoding="utf-8")
    assert load(JUDGE, "labelers.j.template=own.txt").labelers["j"].gives == gives


def test_the_users_own_template_is_a_file_that_stages_depend_on(load: Load) -> None:
    Path("two.txt").write_text("--- user\n{prompt} {first} {second}", encoding="utf-8")
    assert load(JUDGE, "labelers.j.template=two.txt").labelers["j"].files() == {"template": "two.txt"}
    assert load(JUDGE).labelers["j"].files() == {}


def test_a_judge_labels_and_evaluates(load: Load) -> None:
    recipe = load(JUDGE, "method.sources.dpr.labeler=j", "evaluate.scorer=hidden")
    assert recipe.labelers["j"].max_unparsable == 0.2
