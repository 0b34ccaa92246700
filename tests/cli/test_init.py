"""`align init`: asked at a terminal, answered by options elsewhere; what it writes is what `align check` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_models import make_chat_model
from run_fixtures import Align
from terminal import CTRL_C, CTRL_D, terminal

from align_cli.recipe import load_recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"prompt": f"one {number}", "chosen": " a b", "rejected": " b"} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "rewards.py").write_text("def score(prompts, completions, **_):\n    return [1.0] * len(completions)\n")
    return tmp_path


def test_nobody_is_asked_without_a_terminal_and_every_default_is_told(folder: Path, align: Align) -> None:
    made = align("init", "mine.yaml", cwd=folder)
    assert made.code == 0, made.err
    assert made.out.splitlines() == [
        "  align check mine.yaml",
        "  align train mine.yaml --smoke",
        "  align train mine.yaml",
    ]
    for name, usual in {
        "model": "playground",
        "data": "playground",
        "labels": "function",
        "method": "sail-dpr",
    }.items():
        assert f"--{name} is not said: {usual}\n" in made.err
    assert align("check", "mine.yaml", cwd=folder).code == 0


def test_what_it_saw_of_the_data_is_told_and_stands_in_the_recipe(folder: Path, align: Align) -> None:
    make_chat_model(folder / "model")
    answers = (
        "--model",
        "model",
        "--data",
        "pairs.jsonl",
        "--labels",
        "function=rewards.py:score",
        "--hardware",
        "cpu",
    )
    made = align("init", "mine.yaml", *answers, "--method", "sail-dpr", cwd=folder)
    assert made.code == 0, made.err
    assert "pairs.jsonl: 40 pairs (pairs)" in made.err
    assert "held out, and never trained on: pairs.jsonl[90%:]" in made.err
    text = (folder / "mine.yaml").read_text()
    assert "95% of the prompts in the data have no more" in text
    checked = align("check", "mine.yaml", cwd=folder)
    assert checked.code == 0, checked.err
    assert "num_prompts: 4" in text


@pytest.mark.long
def test_five_questions_at_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal("init", "mine.yaml", cwd=folder) as shown:
        shown.until("model [playground]: ")
        shown.type("./nothing\n")
        assert "there is no such folder" in shown.until("model [playground]: ")
        shown.type("\n")
        shown.until("data [playground]: ")
        shown.type("pairs.jsonl\n")
        assert "knows the words of its own reviews" in shown.until("data [playground]: ")
        shown.type("\n")
        shown.until("labels [function]: ")
        shown.type("policy\n")
        shown.until("hardware [cpu]: ")
        shown.type("a fast one\n")
        assert "is no hardware that align knows" in shown.until("hardware [cpu]: ")
        shown.type("\n")
        shown.until("method [sail-revkl]: ")
        shown.type("sail-dpr\n")
        assert "cannot judge" in shown.until("method [sail-revkl]: ")
        shown.type("\n")
        code, rest = shown.end()
    assert code == 0
    assert "align train mine.yaml --smoke" in rest
    monkeypatch.chdir(folder)
    assert load_recipe("mine.yaml").preset == "sail-revkl"


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_whoever_leaves_in_between_has_no_recipe(folder: Path, key: str) -> None:
    with terminal("init", "mine.yaml", "--model", "playground", cwd=folder) as shown:
        shown.until("data [playground]: ")
        shown.type(key)
        code, rest = shown.end()
    assert (code, "interrupted" in rest) == (130, True)
    assert not (folder / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rewards.py"], "rewards.py: a recipe's name ends in .yaml"),
        (["mine.yaml", "--data", "pairs.jsonl"], "--model is not said, and nobody can be asked here"),
        (["mine.yaml", "--model", "a/b"], "--data is not said, and nobody can be asked here"),
        (["mine.yaml", "--model", "a/b", "--data", "pears.jsonl"], "did you mean pairs.jsonl?"),
        (["mine.yaml", "--model", "a/b", "--data", "pairs.jsonl", "--labels", "jugde"], "did you mean judge?"),
        (["mine.yaml", "--model", "a/b", "--data", "pairs.jsonl", "--labels", "function"], "which function gives the"),
        (
            ["mine.yaml", "--model", "a/b", "--data", "pairs.jsonl", "--labels", "function=reward.py:score"],
            "did you mean rewards.py?",
        ),
        (
            ["mine.yaml", "--model", "a/b", "--data", "pairs.jsonl", "--labels", "function=rewards.py"],
            "--labels function=rewards.py:helpfulness",
        ),
        (["mine.yaml", "--hardware", "0x80gb"], "write cpu, mps, or GPUs by their memory"),
        (["mine.yaml", "--method", "sail-dpx"], "did you mean sail-dp"),
    ],
)
def test_what_cannot_be_used_ends_in_words_and_writes_nothing(
    folder: Path, align: Align, arguments: list[str], said: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    refused = align("init", *arguments, cwd=folder)
    assert refused.code == 2, refused.err
    assert said in refused.err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_file_that_is_there_is_written_over_by_force_alone(folder: Path, align: Align) -> None:
    (folder / "mine.yaml").write_text("mine")
    refused = align("init", "mine.yaml", cwd=folder)
    assert (refused.code, refused.out) == (2, "")
    assert (folder / "mine.yaml").read_text() == "mine"
    assert align("init", "mine.yaml", "--force", cwd=folder).code == 0
    assert (folder / "mine.yaml").read_text() != "mine"


def test_a_schema_beside_the_recipe_is_named_in_its_first_line(folder: Path, align: Align) -> None:
    align("schema", "-o", "align.schema.json", cwd=folder)
    assert align("init", "mine.yaml", cwd=folder).code == 0
    first = (folder / "mine.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=align.schema.json"
