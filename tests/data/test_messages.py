from __future__ import annotations

from typing import Any

import pytest

from align_cli.data.faults import RowError
from align_cli.data.messages import is_reply, to_messages, with_system, without_last_reply

USER = {"role": "user", "content": "hi"}
REPLY = {"role": "assistant", "content": "ho"}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "hi"},
        {"role": "user", "content": "hi", "loss_weight": 0.0, "tool_calls": None},
        {"from": "human", "value": "hi"},
        {"from": "user", "value": "hi", "role": None, "content": None},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "value": "i"}]},
    ],
)
def test_every_known_shape_becomes_role_and_content(message: dict[str, Any]) -> None:
    assert to_messages([message], "messages") == [USER]
    assert to_messages(message, "messages") == [USER]


def test_foreign_role_names_are_translated() -> None:
    names = ["system", "developer", "human", "gpt", "observation"]
    messages = to_messages([{"from": name, "value": ""} for name in names], "conversations")
    assert [message["role"] for message in messages] == ["system", "system", "user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("hi", "'m' is 'hi'; it must be a list of messages"),
        ([], "'m' is an empty list; it must hold at least one message"),
        (["hi"], "'m[0]' is 'hi'; it must be a message"),
        ([{"role": "user"}], "'m[0]': there is no key 'content'; found 'role'"),
        ([{"role": "user", "content": None}], "'m[0]': 'content' is null; it must hold a value"),
        ([USER, {"role": "assistent", "content": ""}], "'m[1].role' is 'assistent'; it must be one of "),
        ([{"role": 3, "content": ""}], "'m[0].role' is 3; it must be text"),
        ([{"role": "user", "content": 3}], "'m[0].content' is 3; it must be text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "'m[0].content[0]' is an object of type 'image'; only "),
        ([{"role": "user", "content": [{"type": "text"}]}], "'m[0].content[0]' has no key 'text'; found 'type'"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "'m[0].tool_calls[0]' is an empty object; it "),
        ([{"role": "assistant", "content": "", "tool_calls": "[{"}], "'m[0].tool_calls' is text and not valid JSON "),
        ([{"role": "assistant", "content": "", "function_call": {"name": "f"}}], "'m[0]' holds 'function_call'"),
        ([{"role": "assistant", "content": "", "thinking": 3}], "'m[0].thinking' is 3; it must be text"),
        ('[{"role": "user", "content": "hi"]', "'m' looks like messages written as JSON, and is not valid JSON at "),
        ("[{'role': 'user', 'content': 'hi'}]", "'m' looks like messages written as JSON, and is not valid JSON at "),
        ('[{"role": "user", "role": "user", "content": ""}]', "'m': the key 'role' is given twice"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(value: Any, what: str) -> None:
    with pytest.raises(RowError) as caught:
        to_messages(value, "m")
    assert caught.value.what.startswith(what)


def test_a_system_message_is_added_once_and_only_if_it_says_something() -> None:
    system = {"role": "system", "content": "be kind"}
    assert with_system([USER], "be kind") == [system, USER]
    assert with_system([system, USER], "be rude") == [system, USER]
    assert with_system([USER], " ") == [USER]


def test_the_last_reply_is_what_the_assistant_says_at_the_end() -> None:
    assert without_last_reply([USER, REPLY, USER, REPLY, REPLY]) == [USER, REPLY, USER]
    assert without_last_reply([USER]) == [USER]
    assert without_last_reply([REPLY]) == []


def test_a_reply_holds_no_words_of_the_user() -> None:
    tool = {"role": "tool", "content": "42"}
    assert is_reply([REPLY]) and is_reply([REPLY, tool, REPLY])
    assert not is_reply([]) and not is_reply([USER]) and not is_reply([REPLY, USER, REPLY]) and not is_reply([tool])
