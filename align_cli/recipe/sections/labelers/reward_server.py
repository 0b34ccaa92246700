"""Labelers of kind `reward_server`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.sections.labelers.server import ServerLabelerSection, no_address


class RewardServerLabelerSection(ServerLabelerSection):
    """A labeler of kind `reward_server`: a reward model that vLLM, SGLang or kin serve."""

    FREE_KEYS: ClassVar[tuple[str, ...]] = (*ServerLabelerSection.FREE_KEYS, "url")

    kind: Literal["reward_server"] = Field(description="what gives the labels")
    url: str = Field(min_length=1, description="the server's address, as in `http://127.0.0.1:8000`")
    endpoint: Literal["classify", "score", "pooling"] = Field(
        "classify", description="where it is asked; `score` is for models of two texts side by side"
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="the Hub id or folder whose chat template writes conversations; null: the server's own does, one "
        "completion a request",
    )
    reverse: bool = Field(False, description="turn the sign, as of a cost model")
    batch_size: int = Field(16, ge=1, description="completions a request, where texts are sent and not conversations")


def _address_is_one(view: View) -> Iterator[RuleFault]:
    for name, written in _reward_servers(view):
        yield from no_address(f"labelers.{name}.url", written["url"])


def _tokenizer_has_a_use(view: View) -> Iterator[RuleFault]:
    for name, written in _reward_servers(view):
        if written.get("endpoint") == "score" and written.get("tokenizer"):
            key = f"labelers.{name}.tokenizer"
            yield rule_fault(key, f"{key} is set; the endpoint score takes two texts as they are", "leave it out")


def _reward_servers(view: View) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in view.labeler_names():
        try:
            written = view.labeler(name)
        except UnsoundError:
            continue
        if written["kind"] == "reward_server":
            yield name, written


RULES: tuple[Rule, ...] = (_address_is_one, _tokenizer_has_a_use)
