"""Final answers: where an answer says them, and that numbers are compared as numbers."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.data.prompts import read_prompts
from align_cli.errors import DataError, LabelerError
from align_cli.rewards import ExactAnswer
from align_cli.rewards.exact_answer import final_number, final_words

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl.gz"
QUESTIONS = [
    {"question": "Ann has 2 figs and eats 1. How many are left?", "answer": "2 - 1 = <<2-1=1>>1\n#### 1"},
    {"question": "What do 30 pens at $40.5 cost?", "answer": "30 * 40.5 = <<30*40.5=1215>>1,215\n#### 1,215"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", 42),
        ("x = -\t5", -5),
        ("so it is -\n5", 5),
        ("3\t/\n4", Fraction(3, 4)),
        ("so 3 + 4 = 7.\n#### 1,234\n", 1234),
        ("#### $18.00 per day", 18),
        ("#### 5\nno, wait\n#### 6\nin all 7", 6),
        (r"thus \boxed{42}, of 100", 42),
        (r"\boxed{1} is wrong, it is \boxed{\frac{3}{4}} of 8", Fraction(3, 4)),
        (r"\boxed{\text{about } 12\text{ cm}}", 12),
        (r"\boxed{1{,}000}", 1000),
        (r"\boxed{-\dfrac{1}{2}}", Fraction(-1, 2)),
        ("The answer is 42. I used 3 steps", 42),
        ("the answer is: **7** apples of 9", 7),
        ("The ANSWER is $1,000,000.50!", Fraction("1000000.5")),
        ("Answer: 3/4 of 5", Fraction(3, 4)),
        ("answer = -2 and not 3", -2),
        ("The answer is unknown, but it may be 12", 12),
        ("first 3, then 4, in all 12.", 12),
        ("It costs $3.50", Fraction("3.5")),
        ("50%", 50),
        ("about −7 degrees", -7),
        ("10-5", 5),
        ("7 - 3 = 4", 4),
        ("x2 = 9, y3", 9),
        ("1,2,3", 3),
        (".5", Fraction(1, 2)),
        ("2.50", Fraction("2.5")),
        ("1e3", 1000),
        ("1 / 4", Fraction(1, 4)),
        ("####", None),
        ("no number", None),
        ("", None),
        ("x1", None),
        ("5/0", None),
        ("9" * 500, None),
        ("1" * 5000 + " and 12", 12),
        ("12 and " + "1" * 5000, 12),
    ],
)
def test_the_number_that_a_text_ends_in(text: str, number: Any) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize("minus", ["-", "−", "–", "﹣", "－"])
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-5", -5),
        ("it is -5.", -5),
        ("$-5", -5),
        ("-$5", -5),
        ("-$ 5", -5),
        ("(-5)", -5),
        ("**-5**", -5),
        ("x=-5", -5),
        ("-.5", Fraction(-1, 2)),
        ("-1/2", Fraction(-1, 2)),
        (r"$-\frac{1}{2}$", Fraction(-1, 2)),
        (r"$\frac{-1}{2}$", Fraction(-1, 2)),
        ("1e-2", Fraction(1, 100)),
        ("from 3 to -5", -5),
        ("3 * -5", -5),
        ("3 - -5", -5),
        ("x = - 5", -5),
        ("the sum: - 5", -5),
        ("(- 5)", -5),
        (r"\boxed{- 5}", -5),
        ("#### - 5", -5),
        ("#### - $5", -5),
        ("The answer is - 5", -5),
        ("answer = - 1/2", Fraction(-1, 2)),
        ("- 5", 5),
        ("Fruit:\n- 5 figs", 5),
        ("Fruit:\n  - $5", 5),
        ("3 - 5", 5),
        ("(3) - 5", 5),
        ("5% - 3%", 3),
        ("$10 - $20", 20),
        ("x - 5", 5),
        ("ten - 5", 5),
        ("in 3.\n- 5", 5),
        ("3-5", 5),
        ("$10-$20", 20),
        ("10-20", 20),
        ("10 - 20", 20),
        ("#### 10 - 20", 10),
        ("in 2024-01-15", 15),
        ("pages 3-5-7", 7),
        ("+5", 5),
        ("3 + 5", 5),
    ],
)
def test_a_minus_is_a_numbers_own_where_nothing_can_be_taken_from(text: str, number: Any, minus: str) -> None:
    assert final_number(text.replace("-", minus)) == number


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [("- 5", "#### -5", "#### 5"), ("−5", "it is -5", "it is 5"), ("3 - 5", "#### 3 - 5", "#### 3")],
)
def test_a_gold_answer_is_one_number_with_its_sign_or_words(tmp_path: Path, gold: str, right: str, wrong: str) -> None:
    place = write(tmp_path / "gold.jsonl", [{"q": "How many?", "a": gold}])
    reward = ExactAnswer(place, prompt_column="q", answer_column="a")
    assert reward(["How many?"] * 2, [right, wrong]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("#### 1", r"\boxed{2}"), (r"\boxed{1}", "the answer is 2"), ("the answer is 1", "2 in all")],
)
def test_marks_count_in_their_order_wherever_they_stand(earlier: str, later: str) -> None:
    assert final_number(f"{earlier}\n{later}") == 1
    assert final_number(f"{later}\n{earlier}") == 1


@given(st.text(alphabet="0123456789.,/-+$%#\\{}boxedanswri e\n", max_size=80))
def test_no_text_is_too_strange_to_be_read(text: str) -> None:
    final_number(text)
    final_words(text)


@given(st.fractions(max_denominator=10**6))
def test_a_number_is_itself_however_it_is_written(number: Fraction) -> None:
    written = [f"{number.numerator}/{number.denominator}", f"$ \\frac{{{number.numerator}}}{{{number.denominator}}} $"]
    if number.denominator == 1:
        written += [f"{number.numerator:,}.000", f"{number.numerator}%", f"**{number.numerator}**"]
    for text in written:
        assert final_number(f"The answer is {text}.") == number


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("1 is left.\n#### 1", 1.0),
        ("One. The answer is 1.0", 1.0),
        ("2 were there, 1 left, so 1", 1.0),
        ("#### 2", 0.0),
        ("no idea", 0.0),
        ("", 0.0),
    ],
)
def test_answers_to_gsm8k_are_right_or_wrong(tmp_path: Path, completion: str, score: float) -> None:
    reward = ExactAnswer(write(tmp_path / "gold.jsonl", QUESTIONS))
    assert reward([QUESTIONS[0]["question"]], [completion]) == [score]
    assert reward(prompts=[row["question"] for row in QUESTIONS], completions=["x", "It is $1215.00"]) == [0.0, 1.0]


def test_columns_can_be_named_in_any_table(tmp_path: Path) -> None:
    rows = [{"q": "How many?", "a": 3.0, "more": None}, {"q": "Which colour?", "a": "Dark  Blue."}]
    gold = write(tmp_path / "gold.jsonl", rows)
    reward = ExactAnswer(gold, prompt_column="q", answer_column="a")
    answers = ["3", "three", "The answer is dark blue", "dark blue", r"\boxed{Dark blue}", "#### red"]
    prompts = ["How many?"] * 2 + ["Which colour?"] * 4
    assert reward(prompts, answers) == [1, 0, 1, 0, 1, 0]
    (tmp_path / "gold.csv").write_text("q,a\nHow many?,3\n", encoding="utf-8")
    assert ExactAnswer(str(tmp_path / "gold.csv"), "q", "a")(["How many?"], ["3.0"]) == [1]


def test_a_prompt_is_found_behind_a_system_prompt_and_earlier_turns(tmp_path: Path) -> None:
    reward = ExactAnswer(write(tmp_path / "gold.jsonl", QUESTIONS))
    assert reward([f"Think.\nHello\nHi!\n  {QUESTIONS[0]['question']}\n"], ["1"]) == [1]


def test_a_prompt_without_a_gold_answer_is_named(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", QUESTIONS)
    with pytest.raises(LabelerError) as caught:
        ExactAnswer(gold)([QUESTIONS[0]["question"], "How long is " + "very " * 99], ["1", "2"])
    (fault,) = caught.value.faults
    assert (fault.where, fault.what[:59]) == (gold, "there is no answer for the prompt 'How long is very very ve")
    assert len(fault.what) < 130


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (
            [{"q": "p", "a": "1"}, {"q": "p ", "a": "2"}],
            {},
            "two rows have different answers for the same prompt: 'p '",
        ),
        ([{"q": "p", "a": "so\nit is"}], {}, "the gold answer of the prompt 'p' has no final answer"),
        ([{"q": "p", "a": ""}], {}, "has no final answer"),
        ([{"q": "p"}], {}, "there is no column 'a'; the row has 'q'"),
        ([{"q": "p", "a": "1"}], {"answer_column": None}, "prompt_column and answer_column go together"),
    ],
)
def test_what_is_no_gold_answer_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], arguments: dict[str, Any], message: str
) -> None:
    gold = write(tmp_path / "gold.jsonl", rows)
    with pytest.raises(LabelerError) as caught:
        ExactAnswer(gold, **{"prompt_column": "q", "answer_column": "a"} | arguments)
    assert message in str(caught.value)
    assert "gold.jsonl" in str(caught.value)


def test_the_same_answer_twice_is_one(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", [{"q": "p", "a": "1"}, {"q": "p", "a": "1.0"}])
    assert ExactAnswer(gold, "q", "a")(["p"], ["1"]) == [1]


def test_a_file_that_is_not_there_or_of_no_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        ExactAnswer(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no known format"):
        ExactAnswer(write(tmp_path / "strange.jsonl", [{"colour": "blue"}]))


def test_gsm8k_as_it_is_published_grades_its_own_solutions_right() -> None:
    if not GSM8K.exists():
        pytest.skip("the shared data are not here")
    reward = ExactAnswer(str(GSM8K))
    prompts = [row["prompt"] for row in read_prompts(str(GSM8K))]
    golds = [reward._gold.of(prompt) for prompt in prompts]
    assert len(golds) == 1319 and all(isinstance(gold, Fraction) for gold in golds)
    assert set(reward(prompts, [f"Let me see. The answer is ${float(gold):,.2f}." for gold in golds])) == {1.0}
    assert set(reward(prompts, [f"7 steps\n#### {gold + 1}" for gold in golds])) == {0.0}


def test_published_solutions_are_marked_as_their_publishers_marked_them() -> None:
    path = GSM8K.with_name("example_model_solutions.jsonl.gz")
    if not path.exists():
        pytest.skip("the shared data are not here")
    marks = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            gold, solutions = final_number(row["ground_truth"]), [one for one in row.values() if isinstance(one, dict)]
            marks += [(final_number(one["solution"]) == gold, one["is_correct"]) for one in solutions]
    assert len(marks) == 5276
    assert sum(ours is theirs for ours, theirs in marks) == 5276
