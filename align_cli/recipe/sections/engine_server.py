"""`generate.server`: the servers that generate text, how they are asked, and how they get a round's weights."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.labelers.server import no_address, no_variable
from align_cli.recipe.written.tree import shown

SERVER = "server"
"""The engine that these keys are of."""
PLACE = "generate.server"
Update = Literal["restart", "adapter", "reload", "name", "as_is"]
OWN_KEYS = {
    "model": f"{PLACE}.model",
    "n": "generate.num_generations",
    "max_tokens": "generate.max_new_tokens",
    "temperature": "generate.temperature",
    "top_k": "generate.top_k",
    "top_p": "generate.top_p",
    "seed": "seed",
}
"""What of a request's body is said by a key of its own."""
NOT_EXTRA = ("prompt", "stream", "echo", "logprobs")


class ServerEngineSection(Section):
    """`server`: the servers of the engine `server`: those that are there, or a command that starts them."""

    base_urls: list[str] = Field(
        default=[], description="addresses of servers that are there, as `[http://10.0.0.5:8000/v1]`"
    )
    command: str | None = Field(
        None,
        min_length=1,
        description="starts a server, as `vllm serve {model} --port {port}`; `{number}` counts several from 0",
    )
    num_servers: int = Field(1, ge=1, le=1024, description="how many servers `command` starts")
    start_seconds: float = Field(600.0, gt=0, le=86400, description="how long a server has to become healthy")
    update: Update | None = Field(
        None,
        description="how servers get a round's weights: `restart`, with `{model}` as their folder; `adapter`, loaded "
        "beside the base under a new name; `reload`, from their folder; `name`: requests name the folder; `as_is`: "
        "they have them. null: `restart` with `command`, else `adapter` with `policy.lora`, else `reload`",
    )
    model: str | None = Field(
        None, min_length=1, description="the name under which servers have the model; null: they are asked"
    )
    api_key_env: str | None = Field(
        None, description="the environment variable that holds the key; no key is ever in a recipe"
    )
    concurrency: int = Field(16, ge=1, le=4096, description="requests under way at once at each server")
    max_retries: int = Field(
        6, ge=0, le=100, description="times that one request is sent again, and that a server may fail in a row"
    )
    timeout_seconds: float = Field(600.0, gt=0, le=86400, description="how long a request may take")
    compared_responses: int | None = Field(
        64, ge=1, description="responses of each sampling whose log-probabilities the trainer makes too; null: all"
    )
    max_logp_difference: float = Field(
        1.0,
        ge=0,
        description="nats a response by which server and trainer may differ, on average; beyond it the trainer's count",
    )
    extra_body: dict[str, Any] | None = Field(None, description="what requests say besides")


def _in_use(view: View) -> bool:
    return bool(view.get("generate.engine") == SERVER)


def _servers_are_there_or_started(view: View) -> Iterator[RuleFault]:
    if not _in_use(view):
        return
    urls, command = view.get(f"{PLACE}.base_urls"), view.get(f"{PLACE}.command")
    if not view.has(PLACE) or not (urls or command):
        hint = (
            "set generate.server.base_urls to the addresses of servers, or generate.server.command to what starts one"
        )
        yield rule_fault("generate.engine", "generate.engine is server, and no server is named", hint)
    elif urls and command:
        what = f"{PLACE} has base_urls and a command; servers are there already, or align starts them"
        yield rule_fault(f"{PLACE}.command", what, "leave one of them out")


def _addresses_are_addresses(view: View) -> Iterator[RuleFault]:
    urls = view.get(f"{PLACE}.base_urls") or []
    for url in urls:
        yield from no_address(f"{PLACE}.base_urls", url)
    for url in sorted({url for url in urls if urls.count(url) > 1}):
        yield rule_fault(f"{PLACE}.base_urls", f"{PLACE}.base_urls names {shown(url)} more than once", "name it once")


def _command_can_be_filled(view: View) -> Iterator[RuleFault]:
    command = view.get(f"{PLACE}.command")
    if not command:
        return
    key = f"{PLACE}.command"
    try:
        shlex.split(command)
    except ValueError as error:
        yield rule_fault(key, f"{key} cannot be split into words: {error}", "close its quotes, as in a shell")
        return
    for name, remedy in (("{model}", "the folder of a round's weights"), ("{port}", "a free port of align's choice")):
        if name not in command:
            what = f"{key} has no {name}, for {remedy}"
            yield rule_fault(key, what, "as in vllm serve {model} --port {port}")


def _servers_are_counted_where_they_are_started(view: View) -> Iterator[RuleFault]:
    if (number := view.get(f"{PLACE}.num_servers")) not in (None, 1) and not view.get(f"{PLACE}.command"):
        what = f"{PLACE}.num_servers is {number}; only a command starts servers"
        yield rule_fault(f"{PLACE}.num_servers", what, "name each server's address in base_urls instead")


def _weights_can_be_updated_so(view: View) -> Iterator[RuleFault]:
    if not _in_use(view) or not view.has(PLACE):
        return
    key, update, has_lora = f"{PLACE}.update", view.get(f"{PLACE}.update"), view.has("policy.lora")
    if update == "adapter" and not has_lora:
        yield rule_fault(key, f"{key} is adapter, and policy.lora is left out: all weights are trained", "set restart")
    if update == "restart" and view.get(f"{PLACE}.base_urls"):
        what = f"{key} is restart; align restarts no server that it has not started"
        yield rule_fault(key, what, "set generate.server.command in the place of base_urls, or update to reload")
    if has_lora and view.has("policy.quantization") and update in (None, "restart", "reload", "name"):
        if update is None and not view.get(f"{PLACE}.command"):
            return
        what = "policy.quantization: an adapter is not added to weights of fewer bits, as servers would need them"
        yield rule_fault(PLACE, what, f"set {key} to adapter, with a server of the quantised base")


def _extra_body_is_extra(view: View) -> Iterator[RuleFault]:
    key = f"{PLACE}.extra_body"
    for name in view.get(key) or {}:
        if name in OWN_KEYS:
            yield rule_fault(key, f"{key} has {shown(name)}, which {OWN_KEYS[name]} says", "take it out")
        elif name in NOT_EXTRA:
            yield rule_fault(key, f"{key} has {shown(name)}, which align says itself", "take it out")


def _key_stands_in_a_variable(view: View) -> Iterator[RuleFault]:
    key = f"{PLACE}.api_key_env"
    yield from no_variable(key, view.get(key), "VLLM_API_KEY")


RULES: tuple[Rule, ...] = (
    _servers_are_there_or_started,
    _addresses_are_addresses,
    _command_can_be_filled,
    _servers_are_counted_where_they_are_started,
    _weights_can_be_updated_so,
    _extra_body_is_extra,
    _key_stands_in_a_variable,
)
