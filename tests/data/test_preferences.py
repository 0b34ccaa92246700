from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data.faults import RowError
from align_cli.data.formats import format_of
from align_cli.data.formats.base import DIFFERENT_PROMPTS, NO_SHARED_PROMPT, PAIRS, Choices, Dropped, Exchange
from align_cli.data.preferences import read_preferences
from align_cli.errors import DataError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def to_preference(row: dict[str, Any]) -> dict[str, Any] | Dropped:
    """The pair that one row gives."""
    (said,) = format_of(row, PAIRS).exchanges(row, PAIRS, Choices())
    if isinstance(said, Dropped):
        return said
    assert isinstance(said, Exchange)
    ((better, worse, label, _),) = said.verdicts
    pair = {"prompt": said.prompt, "chosen": said.answers[better].text, "rejected": said.answers[worse].text}
    return pair if label is None else {**pair, "label": label}


STANDARD = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
CONVERSATIONAL = {"prompt": [user("hi")], "chosen": [bot("good")], "rejected": [bot("bad")]}
SYSTEM = {"role": "system", "content": "be kind"}


@pytest.mark.parametrize(
    "row",
    [
        STANDARD,
        {**STANDARD, "score_chosen": 3, "source": "x"},
        {"question": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    ],
)
def test_texts_become_a_standard_pair(row: dict[str, Any]) -> None:
    assert to_preference(row) == STANDARD


@pytest.mark.parametrize(
    "row",
    [
        CONVERSATIONAL,
        {"prompt": [user("hi")], "chosen": "good", "rejected": "bad"},
        {"prompt": "hi", "chosen": [bot("good")], "rejected": [bot("bad")]},
        {"prompt": "hi", "chosen": bot("good"), "rejected": bot("bad")},
        {"prompt": [user("hi")], "chosen": [user("hi"), bot("good")], "rejected": [user("hi"), bot("bad")]},
        {"chosen": [user("hi"), bot("good")], "rejected": [user("hi"), bot("bad")]},
        {"prompt": "a title", "chosen": [user("hi"), bot("good")], "rejected": [user("hi"), bot("bad")]},
        {"chosen_messages": [user("hi"), bot("good")], "rejected_messages": [user("hi"), bot("bad")]},
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {"system": "", "question": "hi", "chosen": "good", "rejected": "bad"},
    ],
)
def test_messages_become_a_conversational_pair(row: dict[str, Any]) -> None:
    assert to_preference(row) == CONVERSATIONAL


def test_a_system_text_begins_the_prompt() -> None:
    row = {"system": "be kind", "question": "hi", "chosen": "good", "rejected": "bad"}
    assert to_preference(row) == {**CONVERSATIONAL, "prompt": [SYSTEM, user("hi")]}


def test_an_instruction_takes_the_alpaca_template() -> None:
    row = {"instruction": "Spell it.", "input": "freind", "chosen": "friend", "rejected": "freind"}
    pair = to_preference(row)
    assert isinstance(pair, dict)
    assert pair["prompt"].endswith("### Input:\nfreind\n\n### Response:\n")
    assert (pair["chosen"], pair["rejected"]) == ("friend", "freind")


def test_a_transcript_is_split_at_its_last_answer_and_keeps_the_marker() -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    pair = to_preference({"chosen": start + " yes", "rejected": start})
    assert pair == {"prompt": start, "chosen": " yes", "rejected": ""}


def test_shared_text_is_cut_between_words() -> None:
    assert to_preference({"chosen": "It is grey", "rejected": "It is green"}) == {
        "prompt": "It is",
        "chosen": " grey",
        "rejected": " green",
    }
    assert to_preference({"chosen": "It is", "rejected": "It is so"}) == {
        "prompt": "It is",
        "chosen": "",
        "rejected": " so",
    }


def test_equal_and_empty_answers_stay() -> None:
    assert to_preference({**STANDARD, "chosen": "", "rejected": ""}) == {**STANDARD, "chosen": "", "rejected": ""}
    equal = [user("hi"), bot("")]
    assert to_preference({"chosen": equal, "rejected": equal}) == {
        "prompt": [user("hi")],
        "chosen": [bot("")],
        "rejected": [bot("")],
    }


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: x", DIFFERENT_PROMPTS),
        ("\n\nHuman: a", "\n\nHuman: a\n\nAssistant: x", DIFFERENT_PROMPTS),
        ([user("a"), bot("x")], [user("b"), bot("y")], DIFFERENT_PROMPTS),
        ([SYSTEM, user("a"), bot("x")], [SYSTEM, user("b"), bot("y")], DIFFERENT_PROMPTS),
        ([user("a"), bot("x"), user("b"), bot("y")], [user("a"), bot("z"), user("b"), bot("y")], DIFFERENT_PROMPTS),
        ("yes", "no", NO_SHARED_PROMPT),
        ("grey", "green", NO_SHARED_PROMPT),
    ],
)
def test_answers_to_different_prompts_are_dropped(chosen: Any, rejected: Any, reason: str) -> None:
    assert to_preference({"chosen": chosen, "rejected": rejected}) == Dropped(reason)


def test_a_label_is_kept_as_a_float() -> None:
    pair = to_preference({**STANDARD, "label": 1})
    assert pair == {**STANDARD, "label": 1.0}
    assert isinstance(pair, dict) and isinstance(pair["label"], float)
    assert to_preference({**STANDARD, "label": None}) == STANDARD


@pytest.mark.parametrize(
    ("row", "what", "hint"),
    [
        ({"prompt": "a", "chosen": "b", "rejcted": "c"}, "there is no key 'rejected'; found", "rename 'rejcted'"),
        ({"promt": "a", "chosen": "b", "rejected": "c"}, "there is no key 'prompt'; found", "rename 'promt'"),
        ({"query": "a", "chosen": "x b", "rejected": "x c"}, "there is no key 'prompt'", "rename the prompt's key"),
        ({"input": "a", "chosen": "x b", "rejected": "x c"}, "there is no key 'prompt'", "rename the prompt's key"),
        ({"promt": "a", "chosen": [bot("b")], "rejected": [bot("c")]}, "there is no key 'prompt'", "rename 'promt'"),
        ({"messages": [user("a"), bot("b")]}, "no known format of pairs: looked for 'chosen',", "it is of the format"),
        ({**STANDARD, "chosen": 3}, "'chosen' is 3; it must be text", ""),
        ({**STANDARD, "chosen": [bot("a")]}, "'chosen' is messages and 'rejected' is text", "write both alike"),
        ({**STANDARD, "label": 1.5}, "'label' is 1.5; it must be from 0 to 1", "it is the probability"),
        ({**STANDARD, "label": True}, "'label' is true; it must be a number", "it is the probability"),
        ({**CONVERSATIONAL, "chosen": [user("a")]}, "after the prompt, 'chosen' holds user;", "leave 'prompt' out"),
        ({}, "the row is empty", "it needs the key 'chosen'"),
    ],
)
def test_a_row_that_is_no_pair_says_what_it_lacks(row: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(RowError) as caught:
        to_preference(row)
    assert caught.value.what.startswith(what)
    assert caught.value.hint.startswith(hint)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_dropped_rows_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    different = {"chosen": [user("a"), bot("x")], "rejected": [user("b"), bot("y")]}
    path = write_lines(tmp_path / "pairs.jsonl", [STANDARD, different, CONVERSATIONAL, different])
    preferences = read_preferences(path)
    assert preferences == [STANDARD, CONVERSATIONAL]
    assert preferences.dropped == {DIFFERENT_PROMPTS: 2}


def test_a_file_of_dropped_rows_alone_is_a_fault(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "pairs.jsonl", [{"chosen": "yes", "rejected": "no"}])
    with pytest.raises(DataError, match=r"no row is a pair \(chosen and rejected share no prompt: 1\)"):
        read_preferences(path)


def test_a_csv_file_gives_labels_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected,label\n"a,\nb",x,y,0.25\nc,,y,\n')
    assert read_preferences(str(path)) == [
        {"prompt": "a,\nb", "chosen": "x", "rejected": "y", "label": 0.25},
        {"prompt": "c", "chosen": "", "rejected": "y"},
    ]
