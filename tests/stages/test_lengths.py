"""Rows in the policy's tokens: how long they are, and what is cut of those that are longer than they may be."""

from __future__ import annotations

from typing import Any

import pytest
from chat_models import CHATML, chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from align_cli.data.rows import Row
from align_cli.models.load import UnloadedPolicy
from align_cli.models.text import prompt_token_ids
from align_cli.stages.lengths import COMPLETION_KEY, CONTEXT, PROMPT_KEY, Limits, ReadRow, read_row

PAIR = ("chosen", "rejected")


def policy(template: str | None = None, context_length: int | None = None) -> UnloadedPolicy:
    tokenizer = chat_tokenizer(template)
    return UnloadedPolicy(tokenizer, [tokenizer.eos_token_id], context_length)


PLAIN, CHATS = policy(), policy(CHATML)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "be kind"}


def num_tokens(prompt: Any, reader: UnloadedPolicy = PLAIN) -> int:
    return len(prompt_token_ids(reader.tokenizer, prompt))


def pair(prompt: Any = "a b", chosen: Any = " c d e f", rejected: Any = " g") -> Row:
    return Row({"prompt": prompt, "chosen": chosen, "rejected": rejected}, "rows.jsonl:7")


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        (Limits(), {}),
        (Limits("refuse", 3, 4, 7), {}),
        (Limits("refuse", 2), {PROMPT_KEY: 3}),
        (Limits("refuse", None, 3), {COMPLETION_KEY: 4}),
        (Limits("refuse", None, None, 6), {CONTEXT: 7}),
        (Limits("refuse", 2, 3, 6), {PROMPT_KEY: 3, COMPLETION_KEY: 4, CONTEXT: 7}),
        (Limits("refuse", None, None, 8, reserved=5), {}),
        (Limits("refuse", None, None, 7, reserved=5), {CONTEXT: 7}),
    ],
)
def test_a_row_is_measured_by_its_prompt_its_longer_answer_and_both_together(
    limits: Limits, exceeded: dict[str, int]
) -> None:
    for answers in ({"chosen": [1] * 4, "rejected": [1]}, {"chosen": [1], "rejected": [1] * 4}):
        assert limits.exceeded_by(ReadRow({}, [1, 2, 3], answers)) == exceeded


def test_nothing_is_cut_of_a_row_that_is_no_longer_than_it_may_be_nor_where_nothing_is_to_be_cut() -> None:
    row = pair()
    whole = read_row(row, PAIR, PLAIN, Limits())
    longest = max(map(len, whole.answer_ids.values()))
    fitting = Limits("cut", len(whole.prompt_ids), longest, len(whole.prompt_ids) + longest)
    assert read_row(row, PAIR, PLAIN, fitting) == whole
    assert not whole.was_cut and whole.row is row
    for how in ("refuse", "drop"):
        assert read_row(row, PAIR, PLAIN, Limits(how, 1, 1, 2)) == whole  # type: ignore[arg-type]


def test_a_text_prompt_loses_its_beginning_at_the_border_of_a_token() -> None:
    prompt = "one two three four"
    ids = prompt_token_ids(PLAIN.tokenizer, prompt)
    read = read_row(pair(prompt), PAIR, PLAIN, Limits("cut", 5))
    assert read.was_cut and prompt.endswith(read.row["prompt"]) and len(read.prompt_ids) == 5
    assert read.prompt_ids[-4:] == ids[-4:]
    assert read.prompt_ids == prompt_token_ids(PLAIN.tokenizer, read.row["prompt"]), "a row like any other"
    assert read.row.where == "rows.jsonl:7"  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=40), st.integers(1, 30))
def test_whatever_a_text_holds_what_is_left_of_it_is_its_end_and_fits(prompt: str, room: int) -> None:
    if not PLAIN.tokenizer(prompt)["input_ids"]:
        return
    read = read_row({"prompt": prompt}, (), PLAIN, Limits("cut", room))
    assert prompt.endswith(read.row["prompt"]) and read.row["prompt"]
    assert len(read.prompt_ids) <= room or num_tokens(prompt[-1]) > room, "a character is not cut"


def test_a_conversation_loses_its_oldest_turns_and_keeps_its_system_message() -> None:
    turns = [SYSTEM, user("one"), bot("two"), user("three"), bot("four"), user("five")]
    for kept, rest in ((turns[3:], turns[2:]), (turns[5:], turns[4:])):
        wanted = [SYSTEM, *kept]
        read = read_row({"prompt": turns}, (), CHATS, Limits("cut", num_tokens(wanted, CHATS)))
        assert (read.row["prompt"], read.was_cut) == (wanted, True)
        assert num_tokens([SYSTEM, *rest], CHATS) > len(read.prompt_ids)
    begun = [*turns, bot("and")]
    read = read_row({"prompt": begun}, (), CHATS, Limits("cut", num_tokens([SYSTEM, *begun[5:]], CHATS)))
    assert read.row["prompt"] == [SYSTEM, *begun[5:]], "what the assistant has begun is gone on with"


def test_what_is_left_of_a_conversation_begins_with_the_user() -> None:
    calls = [user("one"), bot("call"), {"role": "tool", "content": "4"}, bot("four"), user("five")]
    room = num_tokens(calls[1:], CHATS)
    assert read_row({"prompt": calls}, (), CHATS, Limits("cut", room)).row["prompt"] == [user("five")]


def test_a_turn_that_is_too_long_alone_is_not_cut() -> None:
    limits = Limits("cut", num_tokens([user("x" * 20)], CHATS) - 1)
    for prompt in ([user("x" * 20)], [user("a"), bot("b"), user("x" * 20)]):
        read = read_row({"prompt": prompt}, (), CHATS, limits)
        assert (read.was_cut, read.row["prompt"]) == (False, prompt)
        assert limits.exceeded_by(read)
    text = read_row({"prompt": "some text"}, (), PLAIN, Limits("cut", context_length=4, reserved=4))
    assert not text.was_cut, "no room for any token"


def test_tools_of_a_conversation_count_and_stay() -> None:
    tools = [{"type": "function", "function": {"name": "add", "description": "d" * 30, "parameters": {}}}]
    written = policy("{{ tools | tojson }}" + CHATML)
    turns = [user("one"), bot("two"), user("three")]
    whole = read_row({"prompt": turns[2:], "tools": tools}, (), written, Limits())
    read = read_row({"prompt": turns, "tools": tools}, (), written, Limits("cut", len(whole.prompt_ids)))
    assert (read.row["prompt"], read.row["tools"], read.prompt_ids) == (turns[2:], tools, whole.prompt_ids)


@pytest.mark.parametrize("reader", [PLAIN, CHATS])
def test_a_response_loses_its_end_and_gets_none(reader: UnloadedPolicy) -> None:
    chats = reader is CHATS
    row = pair([user("q")], [bot("a b c d")], [bot("e")]) if chats else pair("q", " a b c d", " e")
    whole = read_row(row, PAIR, reader, Limits())
    stop = reader.tokenizer.eos_token_id
    assert whole.answer_ids["chosen"][-1] == whole.answer_ids["rejected"][-1] == stop
    room = len(whole.answer_ids["chosen"]) - 3
    read = read_row(row, PAIR, reader, Limits("cut", None, room))
    assert read.answer_ids["chosen"] == whole.answer_ids["chosen"][:room]
    assert stop not in read.answer_ids["chosen"]
    assert read.answer_ids["rejected"] == whole.answer_ids["rejected"], "which is short enough, and ends"
    assert (read.row["rejected"], read.prompt_ids) == (row["rejected"], whole.prompt_ids)
    text = read.row["chosen"][0]["content"] if chats else read.row["chosen"]
    assert text == reader.tokenizer.decode(read.answer_ids["chosen"]), "the text is that of the ids"
    all_but_the_end = read_row(row, PAIR, reader, Limits("cut", None, room + 2))
    assert stop not in all_but_the_end.answer_ids["chosen"], "also where all words of it are left"


@pytest.mark.parametrize(
    ("num_prompt", "num_answer", "context", "left"),
    [
        (10, 6, 12, (6, 6)),  # the prompt makes room for the answer
        (10, 6, 10, (5, 5)),  # down to half of the context, then the answer is cut
        (3, 12, 10, (3, 7)),  # a short prompt stays
        (12, 12, 9, (4, 5)),
    ],
)
def test_a_pair_beyond_the_context_loses_of_its_prompt_first_and_then_of_its_answers(
    num_prompt: int, num_answer: int, context: int, left: tuple[int, int]
) -> None:
    letters = "abcdefghijkl"
    stop = 1  # of the answer
    row = pair(letters[:num_prompt], letters[: num_answer - stop], "z")
    whole = read_row(row, PAIR, PLAIN, Limits())
    assert (len(whole.prompt_ids), whole.longest_answer) == (num_prompt, num_answer), "one token a letter"
    read = read_row(row, PAIR, PLAIN, Limits("cut", context_length=context))
    assert (len(read.prompt_ids), read.longest_answer) == left
    assert not Limits(context_length=context).exceeded_by(read)


def test_a_shorter_conversation_that_the_template_rejects_is_not_taken() -> None:
    turns = [user("one"), bot("two"), user("three")]
    talkative = policy("{% if messages|length == 1 %}{{ raise_exception('more') }}{% endif %}" + CHATML)
    read = read_row({"prompt": turns}, (), talkative, Limits("cut", num_tokens(turns, talkative) - 1))
    assert not read.was_cut
