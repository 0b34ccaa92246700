"""Thinking blocks of responses: `<think>…</think>`, and what chat templates call reasoning."""

from __future__ import annotations

import re

from align_cli.data.messages import Text

BLOCK = re.compile(r"<think>.*?(</think>\s*|\Z)", re.DOTALL)
CLOSED = re.compile(r"\A(?:(?!<think>).)*?</think>\s*", re.DOTALL)
REASONING = ("reasoning_content", "thinking")


def without_thinking(response: Text) -> Text:
    """A response without its thinking blocks, and without the white space behind each.

    A block that is never closed, as that of a response that was cut, goes on to the end; one that is closed and not
    opened was opened by the prompt, and begins with the response.
    """
    if isinstance(response, str):
        return BLOCK.sub("", CLOSED.sub("", response))
    return [
        {
            key: without_thinking(value) if key == "content" else value
            for key, value in message.items()
            if key not in REASONING
        }
        if message["role"] == "assistant"
        else message
        for message in response
    ]
