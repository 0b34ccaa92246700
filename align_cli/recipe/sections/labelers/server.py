"""What the sections of labelers that ask a server have in common, and what of it decides no answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.sections.labelers.base import LabelerSection
from align_cli.recipe.written.tree import shown


class ServerLabelerSection(LabelerSection):
    """A labeler that asks a server over HTTP."""

    FREE_KEYS: ClassVar[tuple[str, ...]] = (
        *LabelerSection.FREE_KEYS,
        "api_key_env",
        "concurrency",
        "max_retries",
        "timeout_seconds",
    )

    model: str = Field(min_length=1, description="the name under which the server has the model")
    api_key_env: str | None = Field(
        None, description="the environment variable that holds the key; no key is ever in a recipe"
    )
    concurrency: int = Field(8, ge=1, le=1024, description="requests under way at once")
    max_retries: int = Field(
        6, ge=0, le=100, description="times that one request is sent again, after 429, 5xx, no answer or half a one"
    )
    timeout_seconds: float = Field(120.0, gt=0, le=86400, description="how long a request may take")
    extra_body: dict[str, Any] | None = Field(
        None, description="what requests say besides, as in `{chat_template_kwargs: {enable_thinking: false}}`"
    )

    @property
    def num_requests(self) -> int:
        return 1


def no_variable(key: str, value: str | None, example: str) -> Iterator[RuleFault]:
    """The fault of a key that is no name of an environment variable."""
    if value is not None and not (value.isascii() and value.isidentifier()):
        what = f"{key} is {shown(value)}; it must be the name of an environment variable"
        yield rule_fault(key, what, f"as in {example}")


def no_address(key: str, value: str) -> Iterator[RuleFault]:
    """The fault of a key that is no address of a server."""
    if not _is_address(value):
        what = f"{key} is {shown(value)}; it must be an address"
        yield rule_fault(key, what, "as in http://127.0.0.1:8000/v1")


def _is_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or a port that there is not
        return False


def _keys_stand_in_variables(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            variable = view.labeler(name).get("api_key_env")
        except UnsoundError:
            continue
        yield from no_variable(f"labelers.{name}.api_key_env", variable, "OPENAI_API_KEY")


RULES: tuple[Rule, ...] = (_keys_stand_in_variables,)
