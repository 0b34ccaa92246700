"""What the sections of labelers that ask a server have in common, and what of it decides no answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from align_cli.recipe.checking.section import Usual
from align_cli.recipe.checking.view import RuleFault, rule_fault
from align_cli.recipe.sections.labelers.base import LabelerSection
from align_cli.recipe.written.tree import shown

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


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
    api_key_env: Annotated[str, Usual("the name of an environment variable, as in OPENAI_API_KEY")] | None = Field(
        None, pattern=VARIABLE, description="the environment variable that holds the key; no key is ever in a recipe"
    )
    concurrency: int = Field(8, ge=1, le=1024, description="requests under way at once")
    max_retries: int = Field(
        6, ge=0, le=100, description="times that one request is sent again, after 429, 5xx, no answer or half a one"
    )
    timeout_seconds: float = Field(120.0, gt=0, le=86400, description="how long a request may take")
    extra_body: dict[str, Any] | None = Field(
        None, description="what requests say besides, as in `{chat_template_kwargs: {enable_thinking: false}}`"
    )


def no_address(key: str, value: str) -> Iterator[RuleFault]:
    """The fault of a key that is no address of a server."""
    parts = urlsplit(value) if "[" not in value and "]" not in value else None  # half a bracket is a ValueError
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        what = f"{key} is {shown(value)}; it must be an address"
        yield rule_fault(key, what, "as in http://127.0.0.1:8000/v1")
