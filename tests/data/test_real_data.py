"""Public data sets with their measured traps; see the manifest beside them. Offensive text never enters a message."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data import read_demonstrations, read_preferences, read_prompts
from align_cli.data.formats.base import DIFFERENT_PROMPTS, EQUAL_SCORES, ONE_ANSWER, Choices
from align_cli.data.rows import Rows
from align_cli.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> str:
    if not (SHARED / name).exists():
        pytest.skip(f"the shared data file {name} is not here")
    return str(SHARED / name)


def num_empty(preferences: Rows) -> int:
    return sum(not (row["chosen"].strip() and row["rejected"].strip()) for row in preferences)


def num_equal(preferences: Rows) -> int:
    return sum(row["chosen"] == row["rejected"] for row in preferences)


def test_hh_rlhf_is_split_into_prompts_and_last_replies() -> None:
    path = shared("hh-rlhf/harmless-base/test.jsonl.gz")
    preferences = read_preferences(path)
    # Figures first, assertions on them alone: pytest shows the operands of a failed one.
    num_rows, dropped, num_blank = len(preferences), preferences.dropped, num_empty(preferences)
    assert (num_rows, dropped, num_blank) == (2307, {DIFFERENT_PROMPTS: 5}, 4)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        transcripts = {json.loads(line)["chosen"] for line in lines}
    is_whole = all(row["prompt"] + row["chosen"] in transcripts for row in preferences)
    assert is_whole
    ends_at_marker = all(row["prompt"].endswith("\n\nAssistant:") for row in preferences)
    assert ends_at_marker
    is_same = [row["prompt"] for row in read_prompts(path)] == [row["prompt"] for row in preferences]
    assert is_same


def test_rasbt_pairs_take_the_alpaca_template() -> None:
    preferences = read_preferences(shared("rasbt/instruction-data-with-preference.json.gz"))
    assert (len(preferences), preferences.dropped, num_equal(preferences)) == (1100, {}, 6)
    assert len(preferences) - len({row["prompt"] for row in preferences}) == 25
    assert preferences[0]["prompt"].endswith("### Input:\nfreind --> friend\n\n### Response:\n")


@pytest.mark.parametrize(
    ("name", "count"), [("llamafactory/dpo_en_demo.json.gz", 300), ("llamafactory/v1_dpo_demo.jsonl.gz", 10)]
)
def test_llamafactory_pairs_become_conversations(name: str, count: int) -> None:
    preferences = read_preferences(shared(name))
    assert (len(preferences), preferences.dropped) == (count, {})
    for row in preferences:
        assert [len(row["chosen"]), len(row["rejected"])] == [1, 1]
        assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
        assert row["prompt"][-1]["role"] == "user"


def test_kto_rows_are_paired_by_their_prompts_and_the_bad_ones_are_not_shown() -> None:
    path = shared("llamafactory/kto_en_demo.json.gz")
    preferences = read_preferences(path)
    assert len(preferences) == 1
    assert preferences.dropped == {ONE_ANSWER: 294, EQUAL_SCORES: 2}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        num_good = sum(row["label"] for row in json.load(file))
    assert (len(read_demonstrations(path)), num_good) == (150, 150)


def test_the_six_judgements_of_four_predictions_are_six_pairs_and_0_is_a_tie() -> None:
    preferences = read_preferences(shared("finegrained-rlhf/dev_feedback.json.gz"))
    assert (len(preferences), preferences.dropped) == (3000, {})
    assert sum(row.get("label") == 0.5 for row in preferences) == 384
    assert len({row["prompt"] for row in preferences[:6]}) == 1
    assert preferences[0]["prompt"].endswith("When does bloom by troye sivan come out?")


def test_a_right_and_a_wrong_solution_make_a_pair() -> None:
    path = shared("gsm8k/example_model_solutions.jsonl.gz")
    preferences = read_preferences(path)
    assert (len(preferences), preferences.dropped) == (731, {EQUAL_SCORES: 588})
    every = read_preferences(path, choices=Choices(pairs="all"))
    assert len(every) == 2429
    assert len(read_demonstrations(path)) == 731 + 588 - 432, "432 questions have no right solution"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fastchat/judge_prompts.jsonl.gz", "no known format of prompts: looked for 'messages',"),
        ("fastchat/mt_bench/reference_answer_gpt-4.jsonl.gz", "these are a model's answers to a benchmark"),
        ("fastchat/vicuna_bench/reference_answer_gpt-4.jsonl.gz", "these are a model's answers to a benchmark"),
    ],
)
def test_files_that_hold_neither_prompts_nor_pairs_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(shared(name))
    (fault,) = caught.value.faults
    assert fault.what.startswith(reason)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gsm8k/train.jsonl.gz", 7473),
        ("gsm8k/test.jsonl.gz", 1319),
        ("gsm8k/example_model_solutions.jsonl.gz", 1319),
        ("finegrained-rlhf/dev_feedback.json.gz", 500),
        ("nltk/subjectivity_plot.txt.gz", 5000),
        ("nltk/opinion_negative-words.txt.gz", 4817),
        ("nltk/opinion_positive-words.txt.gz", 2040),
        ("fastchat/vicuna_bench/question.jsonl.gz", 80),
        ("fastchat/mt_bench/question.jsonl.gz", 80),
        ("fastchat/dummy_conversation.json.gz", 500),
        ("llamafactory/kto_en_demo.json.gz", 300),
        ("llamafactory/alpaca_en_demo.json.gz", 999),
        ("nltk/rt-polarity.neg.txt.gz", 5331),
        ("rasbt/instruction-data.json.gz", 1100),
    ],
)
def test_prompts_are_found_in_every_format(name: str, count: int) -> None:
    prompts = read_prompts(shared(name))
    assert len(prompts) == count
    assert all(set(row) == {"prompt"} for row in prompts)


def test_the_first_turn_of_a_benchmark_is_a_user_message() -> None:
    prompts = read_prompts(shared("fastchat/vicuna_bench/question.jsonl.gz"))
    assert all([message["role"] for message in row["prompt"]] == ["user"] for row in prompts)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fastchat/dummy_conversation.json.gz", 500),
        ("llamafactory/alpaca_en_demo.json.gz", 999),
        ("llamafactory/dpo_en_demo.json.gz", 300),
        ("gsm8k/test.jsonl.gz", 1319),
        ("nltk/rt-polarity.pos.txt.gz", 5331),
        ("rasbt/instruction-data.json.gz", 1100),
    ],
)
def test_demonstrations_are_found_in_every_format(name: str, count: int) -> None:
    rows: list[dict[str, Any]] = read_demonstrations(shared(name))
    assert len(rows) == count
    assert all(list(row) == ["prompt", "completion"] for row in rows)
