"""What has to hold between the keys of `generate.server`."""

from __future__ import annotations

import pytest

from align_cli.recipe import code_that_runs, resolved

COMMAND = "generate.server.command=vllm serve {model} --port {port}"
SERVER = "generate.engine=server"
HERE = "generate.server.base_urls=[http://127.0.0.1:8000/v1]"
LORA = ("policy.model_name_or_path=owner/name", "policy.lora={rank: 2}")

BROKEN = [
    ([], "generate.engine is server, and no server is named"),
    (["generate.server.concurrency=4"], "generate.engine is server, and no server is named"),
    ([HERE, COMMAND], "generate.server has base_urls and a command"),
    (
        ["generate.server.base_urls=[127.0.0.1:8000]"],
        "generate.server.base_urls is '127.0.0.1:8000'; it must be an addr",
    ),
    (["generate.server.base_urls=['http://a:1/v1', 'http://a:1/v1']"], "names 'http://a:1/v1' more than once"),
    (["generate.server.command=vllm serve {model}"], "generate.server.command has no {port}"),
    (["generate.server.command=vllm serve --port {port}"], "generate.server.command has no {model}"),
    (["generate.server.command=vllm 'serve {model} {port}"], "generate.server.command cannot be split into words"),
    ([HERE, "generate.server.num_servers=2"], "generate.server.num_servers is 2; only a command starts servers"),
    ([HERE, "generate.server.update=adapter"], "generate.server.update is adapter, and policy.lora is left out"),
    ([HERE, "generate.server.update=restart"], "generate.server.update is restart; align restarts no server"),
    ([*LORA, "policy.quantization={bits: 4}", COMMAND], "an adapter is not added to weights of fewer bits"),
    ([HERE, "generate.server.extra_body={temperature: 0.5}"], "which generate.temperature says"),
    ([HERE, "generate.server.extra_body={stream: true}"], "which align says itself"),
    ([HERE, "generate.server.extra_body={api_key: abcdef}"], "looks like a secret"),
    ([HERE, "generate.server.api_key_env=sk-1"], "it must be the name of an environment variable"),
]
SOUND = [
    [HERE],
    [COMMAND, "generate.server.num_servers=4"],
    [HERE, "generate.server.update=as_is"],
    [*LORA, HERE],
    [*LORA, COMMAND, "generate.server.update=adapter", "policy.quantization={bits: 4}"],
    [*LORA, HERE, "policy.quantization={bits: 4}"],
    [HERE, "generate.server.extra_body={priority: 1}"],
]


@pytest.mark.parametrize(("overrides", "what"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_is_a_fault_with_a_remedy(faults_of, overrides, what):
    (fault,) = faults_of(SERVER, *overrides)
    assert what in fault.what
    assert fault.hint


@pytest.mark.parametrize("overrides", SOUND, ids=" ".join)
def test_what_the_rules_allow_loads(load, overrides):
    assert load(SERVER, *overrides).generate.engine == "server"


def test_the_section_waits_where_another_engine_is_in_use(load):
    assert load("generate.server.concurrency=4").generate.server.concurrency == 4
    waiting = load(HERE, "generate.server.update=restart", "generate.engine=transformers").generate
    assert (waiting.engine, waiting.server.update) == ("transformers", "restart")


def test_a_command_is_among_the_code_that_a_recipe_runs(load):
    place = "generate.server.command: vllm serve {model} --port {port}"
    assert place in code_that_runs(load(SERVER, COMMAND))
    assert place not in code_that_runs(load(COMMAND))


def test_what_is_left_out_has_its_defaults_in_the_recipe_that_is_kept(load):
    server = resolved(load(SERVER, HERE))["generate"]["server"]
    assert (server["update"], server["concurrency"], server["compared_responses"]) == (None, 16, 64)


@pytest.mark.parametrize("name", ["vllm", "sglang", "openai"])
def test_engines_of_others_are_called_server(faults_of, name):
    (fault,) = faults_of(f"generate.engine={name}")
    assert "set generate.engine to server" in fault.hint
