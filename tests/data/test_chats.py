"""Text and conversations: what becomes of rows for a policy that chats, or by the recipe's choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data import read_demonstrations, read_preferences, read_prompts
from align_cli.data.chats import Form, in_form
from align_cli.data.rows import Row
from align_cli.data.thinking import without_thinking
from align_cli.data.transcripts import transcript_turns
from align_cli.errors import DataError

CHATS = Form(policy_chats=True)
ALWAYS, NEVER = Form("always"), Form("never", policy_chats=True)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(folder: Path, *rows: Any) -> list[Row]:
    return read_preferences(write(folder, *rows))


TOOL = {"role": "tool", "content": "<think>5</think>"}
TRANSCRIPT = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c \n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "turns", "chosen", "kind"),
    [
        ({"prompt": "The sky is", "chosen": " blue", "rejected": " red"}, [user("The sky is")], "blue", "plain texts"),
        ({"question": "Why?", "chosen": "  so", "rejected": "no"}, [user("Why?")], " so", "plain texts"),
        (
            {"chosen": TRANSCRIPT + " yes", "rejected": TRANSCRIPT + " no"},
            [user("a"), bot("b"), user("c")],
            "yes",
            "transcripts",
        ),
        (
            {"instruction": "Spell it.", "input": "freind", "chosen": "friend", "rejected": "freind"},
            [user("Spell it.\n\nfreind")],
            "friend",
            "Alpaca rows",
        ),
        (
            {"instruction": "Say hi.", "input": "", "chosen": "hi", "rejected": "ho"},
            [user("Say hi.")],
            "hi",
            "Alpaca rows",
        ),
    ],
)
def test_a_text_pair_becomes_the_conversation_that_it_is(
    tmp_path: Path, row: dict[str, Any], turns: Any, chosen: str, kind: str
) -> None:
    (made,) = in_form(pairs(tmp_path, row), CHATS, "data.preferences")
    assert (made["prompt"], made["chosen"], made.made_of) == (turns, [bot(chosen)], kind)
    assert made.where.endswith("rows.jsonl:1")


def test_prompts_and_demonstrations_become_conversations_too(tmp_path: Path) -> None:
    path = write(tmp_path, {"instruction": "Say hi.", "output": "hi"})
    (prompt,) = in_form(read_prompts(path), CHATS, "data.prompts")
    (shown,) = in_form(read_demonstrations(path), CHATS, "data.demonstrations")
    assert prompt == {"prompt": [user("Say hi.")]}
    assert shown == {"prompt": [user("Say hi.")], "completion": [bot("hi")]}


def test_a_label_stays_and_tools_reach_the_template(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "label": 0.5, "tools": [{"name": "add"}]}
    (made,) = in_form(pairs(tmp_path, row), CHATS, "data.preferences")
    assert (made["label"], made["tools"]) == (0.5, [{"name": "add"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: 'tools' is text and not valid JSON"):
        in_form(pairs(tmp_path, {**row, "tools": "add"}), CHATS, "data.preferences")


def test_text_stays_text_where_the_policy_does_not_chat_or_the_recipe_says_never(tmp_path: Path) -> None:
    rows = pairs(tmp_path, {"prompt": "p", "chosen": " a", "rejected": " b"})
    assert in_form(rows, Form(), "k") == in_form(rows, NEVER, "k") == rows
    assert in_form(rows, ALWAYS, "k")[0]["prompt"] == [user("p")]


def test_a_mixture_is_refused_unless_it_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "p"}, {"prompt": [user("q")]}, {"prompt": "r"})
    rows = read_prompts(path)
    for form in (CHATS, Form()):
        with pytest.raises(DataError) as caught:
            in_form(rows, form, "data.prompts")
        (fault,) = caught.value.faults
        assert fault.where == "data.prompts"
        assert fault.what == f"2 rows are plain text, the first {path}:1, and 1 is a conversation, the first {path}:2"
        assert fault.hint.startswith("set data.as_chat to always,")
    assert in_form(rows, NEVER, "k") == rows
    assert [row["prompt"] for row in in_form(rows, ALWAYS, "k")] == [[user("p")], [user("q")], [user("r")]]


def test_a_text_to_learn_from_alone_is_no_conversation(tmp_path: Path) -> None:
    rows = read_demonstrations(write(tmp_path, {"text": "once upon a time"}))
    assert in_form(rows, CHATS, "k") == rows
    with pytest.raises(DataError, match="a text without a prompt is no conversation"):
        in_form(rows, ALWAYS, "k")


def test_a_system_prompt_begins_every_conversation_that_has_none(tmp_path: Path) -> None:
    own = {"role": "system", "content": "be kind"}
    rows = read_prompts(write(tmp_path, {"prompt": [user("p")]}, {"prompt": [own, user("q")]}))
    made = in_form(rows, Form(system_prompt="be brief"), "k")
    assert [row["prompt"][0]["content"] for row in made] == ["be brief", "be kind"]
    texts = read_prompts(write(tmp_path, {"prompt": "p"}))
    assert in_form(texts, Form(policy_chats=True, system_prompt="be brief"), "k")[0]["prompt"][0]["role"] == "system"
    with pytest.raises(DataError, match=r"data\.system_prompt is set, and 1 of 1 rows are plain text"):
        in_form(texts, Form(system_prompt="be brief"), "k")


@pytest.mark.parametrize(
    ("response", "left"),
    [
        ("<think>a\nb</think>\n\nfour", "four"),
        ("<think></think>four", "four"),
        ("four<think>why</think> it is", "fourit is"),
        ("so it is</think>four", "four"),
        ("<think>cut here", ""),
        ("no block <b>", "no block <b>"),
        ([{**bot("<think>a</think>four"), "reasoning_content": "b"}], [bot("four")]),
        ([bot("a"), TOOL], [bot("a"), TOOL]),
    ],
)
def test_thinking_blocks_are_taken_out_whole(response: Any, left: Any) -> None:
    assert without_thinking(response) == left


def test_thinking_is_stripped_from_responses_by_choice(tmp_path: Path) -> None:
    row = {"prompt": [user("<think>p</think>")], "chosen": [bot("<think>a</think>b")], "rejected": [bot("c")]}
    rows = pairs(tmp_path, row)
    assert in_form(rows, Form(), "k") == rows
    (made,) = in_form(rows, Form(thinking="strip"), "k")
    assert made == {"prompt": [user("<think>p</think>")], "chosen": [bot("b")], "rejected": [bot("c")]}


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (TRANSCRIPT, [user("a"), bot("b"), user("c")]),
        ("\n\nHuman: a\n\nHuman: b", [user("a"), user("b")]),
        ("\n\nHuman: a Human: b\n\nAssistant: c", [user("a Human: b"), bot("c")]),
        ("Human: a", []),
        ("so\n\nHuman: a", []),
        ("\n\nAssistant: a\n\nHuman: b", []),
        ("", []),
    ],
)
def test_a_transcript_is_read_turn_by_turn(text: str, turns: Any) -> None:
    assert transcript_turns(text) == turns
