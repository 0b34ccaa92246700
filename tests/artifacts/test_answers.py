"""Answers that cost something: kept as they come under what was asked, whatever happens to the file beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.artifacts.answers import Answers
from align_cli.artifacts.disk import WriteError

ASKED = {"prompt": "naïve 漢字", "pair": ["a", "b"], "model": "judge", "temperature": 0.5}
ANSWER = {"verdict": 0.25, "text": "line\nand \u2028 another"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "judge.jsonl"


def test_an_answer_is_there_for_whoever_asks_the_same(path: Path) -> None:
    answers = Answers(path)
    assert answers.get(ASKED) is None
    answers.keep(ASKED, ANSWER)
    assert answers.get(ASKED) == ANSWER
    assert Answers(path).get(dict(reversed(ASKED.items()))) == ANSWER, "the order of keys asks for nothing else"


@pytest.mark.parametrize("change", [{"pair": ["b", "a"]}, {"temperature": 0.6}, {"model": "other"}, {"more": None}])
def test_whatever_else_is_asked_has_no_answer(path: Path, change: dict[str, object]) -> None:
    Answers(path).keep(ASKED, ANSWER)
    assert Answers(path).get({**ASKED, **change}) is None


@pytest.mark.parametrize("answer", [0, 0.0, False, "", [], {}])
def test_an_answer_may_be_anything_but_none(path: Path, answer: object) -> None:
    Answers(path).keep(ASKED, answer)
    found = Answers(path).get(ASKED)
    assert found == answer and found is not None


def test_the_newest_answer_wins_and_all_are_kept(path: Path) -> None:
    answers = Answers(path)
    for number in range(3):
        answers.keep(ASKED, number)
    answers.keep({"other": 1}, "x")
    for each in (answers, Answers(path)):
        assert each.get(ASKED) == 2
        assert [row["answer"] for row in each.rows()] == [0, 1, 2, "x"]


def test_what_was_spent_stands_among_the_answers_and_answers_nothing(path: Path) -> None:
    answers = Answers(path)
    answers.spent({"tokens": 7, "dollars": 0.25})
    answers.keep(ASKED, ANSWER)
    assert [sorted(row) for row in Answers(path).rows()] == [["spent"], ["answer", "for"]]
    assert Answers(path).rows()[0]["spent"] == {"tokens": 7, "dollars": 0.25}


def test_whose_an_answer_is_stands_beside_it_and_asks_for_nothing_else(path: Path) -> None:
    answers = Answers(path)
    answers.keep(ASKED, ANSWER, by={"kind": "judge"})
    answers.spent({"calls": 1}, by={"kind": "other"})
    assert [row["by"]["kind"] for row in Answers(path).rows()] == ["judge", "other"]
    assert Answers(path).get(ASKED) == ANSWER


def test_without_a_path_they_are_kept_in_memory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers = Answers()
    answers.keep(ASKED, ANSWER)
    answers.spent({"calls": 1})
    assert (answers.get(ASKED), len(answers.rows())) == (ANSWER, 2)
    assert Answers().get(ASKED) is None
    assert list(tmp_path.iterdir()) == []


def test_looking_makes_no_file(path: Path) -> None:
    assert (Answers(path).get(ASKED), Answers(path).rows()) == (None, [])
    assert not path.parent.exists()


def three_answers(path: Path) -> list[bytes]:
    for number in range(3):
        Answers(path).keep({"number": number}, f"answer {number}")
    return path.read_bytes().splitlines(keepends=True)


def answers_of(path: Path) -> list[str | None]:
    return [Answers(path).get({"number": number}) for number in range(3)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"answer 1", b"answer 2"),
        lambda line: line[:20] + b"\n",
        lambda line: b"\n",
        lambda line: b"\xff\xfe\x00 nothing of ours\n",
        lambda line: b"{}\n",
        lambda line: b"",
    ],
    ids=["a changed byte", "half a line", "an empty line", "no text", "no checksum", "a missing line"],
)
def test_a_damaged_line_is_passed_over_and_not_those_after_it(path: Path, damage: Callable[[bytes], bytes]) -> None:
    first, second, third = three_answers(path)
    path.write_bytes(first + damage(second) + third)
    assert answers_of(path) == ["answer 0", None, "answer 2"]
    Answers(path).keep({"number": 1}, "answer 1")
    assert answers_of(path) == ["answer 0", "answer 1", "answer 2"]


def test_wherever_a_kill_tore_the_last_line_the_next_answer_is_whole(path: Path) -> None:
    whole = b"".join(three_answers(path))
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    for torn in range(1, last + 1):
        path.write_bytes(whole[:-torn])
        assert answers_of(path)[:2] == ["answer 0", "answer 1"]
        Answers(path).keep({"number": 3}, "after the kill")
        assert answers_of(path)[:2] == ["answer 0", "answer 1"]
        assert Answers(path).get({"number": 3}) == "after the kill"


def test_two_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from align_cli.artifacts.answers import Answers\n"
        "answers = Answers(Path(sys.argv[1]))\n"
        "for number in range(60):\n"
        "    answers.keep({'who': sys.argv[2], 'number': number}, sys.argv[2] * 20000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), who]) for who in "xy"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    answers = Answers(path)
    assert all(answers.get({"who": who, "number": number}) == who * 20000 for who in "xy" for number in range(60))
    assert len(answers.rows()) == 120


def test_one_process_sees_what_another_kept_before_it_first_asked(path: Path) -> None:
    late = Answers(path)
    Answers(path).keep(ASKED, ANSWER)
    assert late.get(ASKED) == ANSWER


def test_what_stands_in_the_files_place_is_neither_written_to_nor_read(
    path: Path, stranger: Callable[[Path], Path]
) -> None:
    stranger(path)
    with pytest.raises(WriteError, match=r"judge\.jsonl"):
        Answers(path).get(ASKED)
    with pytest.raises(WriteError, match=r"judge\.jsonl"):
        Answers(path).keep(ASKED, ANSWER)


def test_a_link_to_answers_of_somebody_else_is_not_followed(path: Path, tmp_path: Path) -> None:
    Answers(tmp_path / "others.jsonl").keep(ASKED, "somebody else's")
    path.parent.mkdir()
    path.symlink_to(tmp_path / "others.jsonl")
    with pytest.raises(WriteError, match=r"judge\.jsonl"):
        Answers(path).get(ASKED)
