"""A judge's template: what is filled in, how an answer is read, and every fault with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.errors import LabelerError
from align_cli.labelers.judge.template import Template, read_template
from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection

HEAD = "answer: \\[\\[(.*?)\\]\\]\nfirst: A\nsecond: B\ntie: C\n"
PAIRWISE = f"{HEAD}--- user\n{{prompt}} {{first}} {{second}}\n"
SCORE = "answer: last line\nlowest: 1\nhighest: 10\n--- user\n{prompt} {completion}\n"


def template_of(folder: Path, text: str) -> Template:
    path = folder / "template.txt"
    path.write_text(text, encoding="utf-8")
    gives = JudgeLabelerSection(kind="judge", base_url="http://x", model="m", template=str(path)).gives
    return read_template(str(path), gives, "labelers.j.template")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("[[A]]", 1.0),
        ("I think.\n[[b]]", 0.0),
        ("[[ C. ]]", 0.5),
        ("Not [[A]] but\n[[B]]", 0.0),
        ("**[[A]]**", 1.0),
        ("<think>[[B]]</think>[[A]]", 1.0),
        ("[[B]]</think> so [[A]]", 1.0),
        ("<think>[[A]]", None),
        ("[[D]]", None),
        ("[[A]] or rather [[D]]", None),
        ("[[A and B]]", None),
        ("A", None),
        ("", None),
    ],
)
def test_the_last_verdict_of_an_answer_counts_and_no_other_name_is_one(
    answer: str, value: float | None, tmp_path: Path
) -> None:
    assert template_of(tmp_path, PAIRWISE).read(answer) == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7.0),
        ("Good.\n\n **7.5** \n\n", 7.5),
        ("10.", 10.0),
        ("0", None),
        ("11", None),
        ("7/10", None),
        ("seven", None),
        ("nan", None),
        ("inf", None),
        ("7\nThat is all.", None),
        ("", None),
    ],
)
def test_a_score_is_a_number_within_its_bounds(answer: str, value: float | None, tmp_path: Path) -> None:
    assert template_of(tmp_path, SCORE).read(answer) == value


def test_a_template_without_a_tie_knows_none(tmp_path: Path) -> None:
    template = template_of(tmp_path, PAIRWISE.replace("tie: C\n", ""))
    assert (template.read("[[A]]"), template.read("[[C]]")) == (1.0, None)


def test_messages_are_those_of_the_file_and_doubled_braces_are_no_field(tmp_path: Path) -> None:
    text = f'{HEAD}--- system\nBe {{{{first}}}}.\n\n--- user\n{{prompt}}\n---\n{{first}} {{second}} {{"a": 1}}\n'
    messages = template_of(tmp_path, text).filled({"prompt": "P", "first": "F", "second": "S"})
    assert messages == [
        {"role": "system", "content": "Be {first}."},
        {"role": "user", "content": 'P\n---\nF S {"a": 1}'},
    ]


TEXTS = st.text(st.sampled_from("{}ab\\ \n-[]") | st.characters(codec="utf-8"), max_size=20)


@given(prompt=TEXTS, first=TEXTS, second=TEXTS)
def test_whatever_stands_in_a_text_is_filled_in_as_it_is(prompt: str, first: str, second: str) -> None:
    template = read_template("pairwise", "verdicts", "labelers.j.template")
    (message,) = template.filled({"prompt": prompt, "first": f"{first}{{second}}", "second": f"--- user{second}"})
    assert f"<prompt>\n{prompt}\n</prompt>" in message["content"]
    assert f"<reply_A>\n{first}{{second}}\n</reply_A>" in message["content"]
    assert f"<reply_B>\n--- user{second}\n</reply_B>" in message["content"]


@pytest.mark.parametrize(("name", "answer", "value"), [("pairwise", "so\n[[C]]", 0.5), ("score", "so\n[[4]]", 4.0)])
def test_the_templates_of_align_are_sound(name: str, answer: str, value: float) -> None:
    section = JudgeLabelerSection(kind="judge", base_url="http://x", model="m", template=name)
    assert section.gives == ("verdicts" if name == "pairwise" else "scores")
    assert read_template(name, section.gives, "").read(answer) == value


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (PAIRWISE.replace("{second}", ""), 6, "the field {second} is nowhere"),
        (PAIRWISE.replace("{prompt}", "{question}"), 6, "{question} is no field"),
        (
            "# of {question}\n" + PAIRWISE.replace("{prompt}", "{{question}} or\n{question}"),
            8,
            "{question} is no field",
        ),
        (PAIRWISE.replace("tie: C", "tie: C\nthird: D"), 5, "the head names third, a third answer"),
        (
            PAIRWISE.replace("tie: C", "tie: a."),
            4,
            "tie is 'a.', which is nothing but signs, or what another verdict is",
        ),
        (PAIRWISE.replace("first: A", "first: **"), 2, "first is '**', which is nothing"),
        (PAIRWISE.replace("second: B\n", ""), 1, "the head does not say second"),
        (PAIRWISE.replace("first: A", "first: A\nfirst: B"), 3, "the head says first twice"),
        (PAIRWISE.replace("first: A", "first"), 2, "'first' is no line of the head"),
        (PAIRWISE.replace("(.*?)", ".*?"), 1, "the regular expression has 0 groups; it must have one"),
        (PAIRWISE.replace("(.*?)", "(.*?"), 1, "answer is no regular expression"),
        (PAIRWISE.replace("--- user\n", ""), 5, "no line `--- user` begins what the judge is told"),
        (PAIRWISE.replace("--- user", "--- system"), 5, "there must be one --- user"),
        (f"{PAIRWISE}--- user\nand this", 5, "there must be one --- user"),
        (PAIRWISE.replace("--- user", "--- system\n\n--- user"), 5, "the system message is empty"),
        (SCORE.replace("10", "ten"), 3, "highest is 'ten'; it must be a number"),
        (SCORE.replace("10", "1"), 3, "the highest score is not above the lowest"),
        (SCORE.replace("{prompt}", "{first}"), 5, "{first} is no field"),
        (SCORE.replace("lowest: 1", "tie: 1"), 2, "the head names tie, something that no score has"),
        ("", 0, "no line `--- user`"),
    ],
)
def test_a_template_that_is_not_sound_is_refused_with_its_line(text: str, line: int, what: str, tmp_path: Path) -> None:
    with pytest.raises(LabelerError) as error:
        template_of(tmp_path, text)
    (fault,) = error.value.faults
    assert fault.where == f"{tmp_path / 'template.txt'}:{line}"
    assert fault.what.startswith(what)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "template.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelerError, match="it is not UTF-8"):
        read_template(str(tmp_path / "template.txt"), "verdicts", "labelers.j.template")
    with pytest.raises(LabelerError, match="Is a directory"):
        read_template(str(tmp_path), "verdicts", "labelers.j.template")
