"""`generate`: how the policy is sampled, and the one table of engines.

A new engine is a file in `align_cli/engines`, a line in `ENGINES` and a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from align_cli.recipe.checking.section import OneOf, Section, Usual
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections import engine_server
from align_cli.recipe.sections.engine_server import SERVER, ServerEngineSection
from align_cli.recipe.sections.method import CAP
from align_cli.recipe.sections.sources import SOURCES

ENGINES: dict[str, str] = {
    "transformers": "align_cli.engines.in_process:transformers_engine",
    SERVER: "align_cli.engines.server:ServerEngine",
}
"""What makes each engine, as `package.module:name`, of the recipe and of who is told what a user should know."""
NOT_SERVED_ENGINES = dict.fromkeys(("openai", "sglang", "vllm"), "set generate.engine to server (docs/servers.md)")


class GenerateSection(Section):
    """`generate`: how the policy is sampled."""

    engine: Annotated[str, OneOf(ENGINES)] = Field("transformers", description="what generates text")
    num_generations: int = Field(2, ge=1, description="completions a prompt (K)")
    num_reference_generations: int = Field(
        0, ge=0, description="completions a prompt that the reference samples besides, for the source dpr"
    )
    temperature: Annotated[float, Usual("1.0 samples from the policy as it is; 0.01 is all but greedy")] = Field(
        1.0, ge=1e-6, description="sampling temperature, which logits are divided by"
    )
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens; 0 keeps all")
    top_p: Annotated[float, Usual("1.0 keeps every token")] = Field(
        1.0, gt=0, le=1, description="nucleus mass; 1 keeps all"
    )
    max_new_tokens: int = Field(64, ge=1, description="longest completion, in tokens")
    prompts_per_round: int = Field(512, ge=1, description="prompts sampled each round")
    batch_size: int = Field(128, ge=1, description="sequences generated together; changes no sampled token")
    rounds_ahead: int = Field(
        0,
        ge=0,
        le=1,
        description="1: a round is sampled from the policy that the round before starts training from, by servers "
        "while that trains; its pairs are then weighed (method.importance_weight_cap)",
    )
    server: ServerEngineSection | None = None

    def code(self) -> list[str]:
        """The command that starts servers, in words, where it is in use."""
        command = self.server.command if self.server and self.engine == SERVER else None
        return [f"generate.server.command: {command}"] if command else []


def _pairs_need_two_completions(view: View) -> Iterator[RuleFault]:
    number, of_reference = view.get("generate.num_generations"), view.get("generate.num_reference_generations")
    for name, completions in (("dpp", number), ("dpr", number + of_reference)):
        if view.get(f"method.sources.{name}.mixing") and completions < 2:
            what = (
                f"generate.num_generations is {number}; a pair of the source {name} needs at least 2 completions of a "
                "prompt"
            )
            yield rule_fault("generate.num_generations", what, "set generate.num_generations to 2")
            return


def _reference_completions_have_a_use(view: View) -> Iterator[RuleFault]:
    key = "generate.num_reference_generations"
    if not (number := view.get(key)):
        return
    if not view.get("method.sources.dpr.mixing"):
        yield rule_fault(key, f"{key} is {number}; only the source dpr pairs them", f"set {key} to 0")
    if view.get("policy.reference") == "previous":
        what = f"{key} is {number}, but policy.reference is previous: the policy that a round samples is its reference"
        yield rule_fault(key, what, "raise generate.num_generations instead, or set policy.reference to initial")


def _gradient_source(view: View) -> str | None:
    """The first source whose responses carry the bilevel response term."""
    for name, source in SOURCES.items():
        if (
            source.policy_responses
            and view.get(f"method.sources.{name}.mixing")
            and view.get(f"method.sources.{name}.gradient")
        ):
            return name
    return None


def _gradient_needs_the_whole_distribution(view: View) -> Iterator[RuleFault]:
    source = _gradient_source(view)
    if source is None:
        return
    reason = "with a gradient above 0 responses must come from the policy's whole distribution"
    if (top_k := view.sound("generate.top_k")) is not None and top_k > 0:
        yield rule_fault("generate.top_k", f"generate.top_k is {top_k}; {reason}", _off("generate.top_k to 0", source))
    if (top_p := view.sound("generate.top_p")) is not None and top_p < 1:
        yield rule_fault(
            "generate.top_p", f"generate.top_p is {top_p}; {reason}", _off("generate.top_p to 1.0", source)
        )


def _gradient_corrects_for_temperature(view: View) -> Iterator[RuleFault]:
    source = _gradient_source(view)
    if source is None or _weighs(view):
        return
    if (temperature := view.get("generate.temperature")) != 1:
        what = (
            f"generate.temperature is {temperature}; with a gradient above 0 responses of another temperature than 1 "
            "need importance weights"
        )
        hint = f"set method.importance_weight_cap, such as 10, or {_off('generate.temperature to 1.0', source)[4:]}"
        yield rule_fault("generate.temperature", what, hint)


def _weights_need_the_whole_support(view: View) -> Iterator[RuleFault]:
    if not _weighs(view) or _gradient_source(view) is not None:
        return
    key_of_weights = CAP if view.get(CAP) is not None else "generate.rounds_ahead"
    for key, is_cut in (
        ("generate.top_k", view.get("generate.top_k") > 0),
        ("generate.top_p", view.get("generate.top_p") < 1),
    ):
        if is_cut:
            what = f"{key} is {view.get(key)}; importance weights cannot make up for responses that were never sampled"
            whole = "0" if key.endswith("k") else "1.0"
            yield rule_fault(key, what, f"set {key} to {whole}, or leave {key_of_weights} out")


def _weighs(view: View) -> bool:
    """Whether pairs of the policy have importance weights."""
    return view.get(CAP) is not None or bool(view.get("generate.rounds_ahead"))


def _off(remedy: str, source: str) -> str:
    return f"set {remedy}, or method.sources.{source}.gradient to 0"


RULES: tuple[Rule, ...] = (
    *engine_server.RULES,
    _pairs_need_two_completions,
    _reference_completions_have_a_use,
    _gradient_needs_the_whole_distribution,
    _gradient_corrects_for_temperature,
    _weights_need_the_whole_support,
)
