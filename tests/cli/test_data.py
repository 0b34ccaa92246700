"""`align data`: what a source holds, and its rows in TRL's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_models import make_chat_model
from run_fixtures import Align

ROWS = [
    {"prompt": "one", "chosen": " a", "rejected": " b"},
    {"prompt": "two", "chosen": " same", "rejected": " same"},
]
SAFE = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, *rows: Any) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("pairs.jsonl", *ROWS)
    write("safe.jsonl", SAFE)
    write("shown.jsonl", {"prompt": "hi", "completion": " ho"})
    write("held_out.jsonl", {"prompt": "one"}, {"prompt": "three"})
    write("odd.jsonl", {"query": "a"})
    write("prompts.jsonl", {"prompt": "a"})
    return tmp_path


def test_a_source_is_shown_with_its_figures_its_lengths_and_examples(folder: Path, align: Align) -> None:
    shown = align("data", "pairs.jsonl", "--eval", "held_out.jsonl", cwd=folder)
    assert (shown.code, shown.err) == (0, "")
    words = " ".join(shown.out.split())
    assert "format 2 pairs" in words and "equal answers 1" in words
    assert "of 2 evaluation prompts here 1," in words
    assert "words mean 5% 25% 50% 75% 95% 99% longest" in words
    assert "example 1: pairs.jsonl:1, the shortest, 2 in all" in words
    none = align("data", "pairs.jsonl", "--examples", "0", cwd=folder)
    assert "example" not in none.out


def test_json_holds_the_same_figures_in_the_policys_tokens(folder: Path, align: Align) -> None:
    make_chat_model(folder / "model")
    shown = align("data", "pairs.jsonl", "--policy", "model", "--json", cwd=folder)
    assert (shown.code, shown.err) == (0, "")
    found = json.loads(shown.out)
    assert (found["unit"], found["chats"], found["made_of"]) == ("tokens", 2, {"plain texts": 2})
    assert found["examples"][0]["parts"][1]["tokens"] == ["a", "<|im_end|>"]
    kept = json.loads(align("data", "pairs.jsonl", "data.as_chat=never", "--policy", "model", "--json", cwd=folder).out)
    assert kept["chats"] == 0


def test_rows_are_written_in_trls_format(folder: Path, align: Align) -> None:
    done = align("data", "pairs.jsonl", "-o", "trl.jsonl", cwd=folder)
    assert (done.code, done.err) == (0, "2 lines in trl.jsonl\n")
    assert [json.loads(line) for line in (folder / "trl.jsonl").read_text().splitlines()] == ROWS
    piped = align("data", "shown.jsonl", "data.as_chat=always", "-o", "-", cwd=folder)
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    assert (json.loads(piped.out), piped.err) == (chat, "")


def test_rows_that_are_too_long_are_not_written(folder: Path, align: Align) -> None:
    make_chat_model(folder / "model", template=None)
    rows = [
        {"prompt": "a b c d e f", "chosen": " g", "rejected": " h"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def written(how: str) -> list[str]:
        keys = ("data.max_prompt_tokens=5", f"data.too_long={how}")
        done = align("data", "long.jsonl", *keys, "--policy", "model", "-o", "-", cwd=folder)
        assert (done.code, done.err) == (0, "")
        return [json.loads(line)["prompt"] for line in done.out.splitlines()]

    assert written("refuse") == ["a b c d e f", "a"]
    assert written("drop") == ["a"]
    cut, short = written("cut")
    assert "a b c d e f".endswith(cut) and 1 < len(cut) < 11 and short == "a"


def test_a_choice_is_made_by_key_and_its_lack_is_told(folder: Path, align: Align) -> None:
    refused = align("data", "safe.jsonl", cwd=folder)
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == "hint: set data.criterion to helpful or safer"
    written = align("data", "safe.jsonl", "data.criterion=safer", "-o", "-", cwd=folder)
    assert json.loads(written.out) == {"prompt": "p", "chosen": "b", "rejected": "a"}


def test_what_a_source_is_read_for_can_be_asked(folder: Path, align: Align) -> None:
    found = json.loads(align("data", "pairs.jsonl", "--for", "prompts", "--json", cwd=folder).out)
    assert (found["use"], found["rows"]) == ("prompts", 2)
    refused = align("data", "prompts.jsonl", "--for", "pairs", cwd=folder)
    assert refused.code == 2
    assert "it is of the format 'prompt', which gives prompts" in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["odd.jsonl"], "odd.jsonl:1: no known format of prompts: looked for 'messages',"),
        (["pairs.jsonl", "--for", "pears"], "--for is 'pears'; it must be one of pairs, demonstrations, prompts"),
        (["pairs.jsonl", "data.critrion=a"], "unknown key data.critrion"),
        (["pairs.jsonl", "rounds=3"], "rounds is no key of data"),
        (["pairs.jsonl", "data.as_chat=perhaps"], "data.as_chat is 'perhaps'; it must be one of auto, always, never"),
        (["pears.jsonl"], "pears.jsonl: there is no such file"),
        (["pairs.jsonl", "data.max_prompt_tokens=5"], "count a policy's tokens"),
        (["playground"], "playground: this is a built-in world, which is made and not read"),
        (["pairs.jsonl", "--policy", "./nothing"], "./nothing: there is no such model folder"),
        (["pairs.jsonl", "-o", "."], ".: the output is a folder"),
    ],
)
def test_what_cannot_be_read_ends_in_words(folder: Path, align: Align, arguments: list[str], said: str) -> None:
    refused = align("data", *arguments, cwd=folder)
    assert refused.code == 2
    assert said in " ".join(refused.err.replace("│", " ").split())
    assert refused.out == ""


def test_all_faults_of_the_keys_are_told_at_once(folder: Path, align: Align) -> None:
    refused = align("data", "pairs.jsonl", "data.pairs=most", "data.thinking=3", "seed=1", cwd=folder)
    assert [line.split(":")[0] for line in refused.err.splitlines() if ": " in line and not line.startswith("hint")]
    assert "3 faults" in refused.err
