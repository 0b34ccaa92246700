"""What stands for the way in which a policy reads: two with the same identity make the same tokens of every text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from align_cli.artifacts.json_text import to_json
from align_cli.models.text import PolicyText

CLOCK = "strftime_now"
"""What chat templates call for the date, by transformers' name."""

PLACES = ("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "truncation", "padding")
"""What of a tokenizer says where it lies, or how texts come together in a batch, and nothing of what becomes of one."""


def identity_of(policy: PolicyText) -> str | None:
    """A digest of everything that decides which tokens a policy reads; None where that is not all known.

    That is so of a tokenizer that is code, or no fast one, and of a chat template that reads the clock.
    """
    tokenizer: Any = policy.tokenizer
    is_known = tokenizer.is_fast and type(tokenizer).__module__.startswith("transformers.")
    if not is_known or CLOCK in template_texts(policy):
        return None
    rules = {key: value for key, value in json.loads(tokenizer.backend_tokenizer.to_str()).items() if key not in PLACES}
    settings = {name: repr(value) for name, value in sorted(tokenizer.init_kwargs.items()) if name not in PLACES}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    known = [type(tokenizer).__qualname__, rules, settings, special, tokenizer.chat_template]
    figures = [sorted(policy.eos_token_ids), tokenizer.eos_token_id, tokenizer.bos_token_id, policy.context_length]
    return hashlib.sha256(to_json([*known, *figures]).encode()).hexdigest()


def template_texts(policy: PolicyText) -> str:
    """The chat template; all of them, where the policy has several."""
    template = policy.tokenizer.chat_template
    return "\n".join(template.values()) if isinstance(template, dict) else template or ""
