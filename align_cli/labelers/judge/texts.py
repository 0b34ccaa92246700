"""Prompts and completions as a judge reads them: the words, and who says what where several speak."""

from __future__ import annotations

import json
from typing import Any

from align_cli.artifacts.records import Text


def text_to_read(text: Text) -> str:
    """A prompt or a completion as one text.

    Args:
        text: plain text as it is; of one message its words; of several each one's behind its role.
    """
    if isinstance(text, str):
        words = text
    elif len(text) == 1:
        words = _words(text[0])
    else:
        words = "\n\n".join(f"{message.get('role')}: {_words(message)}" for message in text)
    return words.encode("utf-8", "replace").decode()  # half a surrogate cannot be sent


def _words(message: dict[str, Any]) -> str:
    parts = [str(message.get("content") or "")]
    if message.get("tool_calls"):
        parts.append(json.dumps(message["tool_calls"], ensure_ascii=False))
    return "\n".join(part for part in parts if part)
