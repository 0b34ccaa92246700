"""Runs of chats: what the template reads comes through every artifact, and what it cannot read is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, TOOLS, make_chat_model
from run_fixtures import Align, MakeFolder, assert_refused, read_rows, write_rows

ADDER = [{"type": "function", "function": {"name": "adder", "parameters": {}}}]
USER = {"role": "user", "content": "What is two plus two?"}
BEGUN = {"role": "assistant", "content": "It is"}

COUNTS = "def length(prompts, completions):\n    return [float(len(text)) for text in completions]\n"


def reply(text: str, **fields: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text, **fields}]


def chats(folder: Path, template: str = TOOLS, eos_token: str = "<|im_end|>") -> dict[str, Any]:
    """The keys of a recipe of chats, and the files that it reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "counts.py").write_text(COUNTS, encoding="utf-8")
    make_chat_model(folder / "model", template=template, eos_token=eos_token, context_length=256)
    prompts = [{"prompt": [USER], "tools": ADDER}, {"prompt": [USER, BEGUN]}]
    write_rows(folder / "chats.jsonl", prompts)
    write_rows(
        folder / "shown.jsonl",
        [
            {**prompts[0], "completion": reply("four", reasoning_content="two and two")},
            {**prompts[1], "completion": reply(" four")},
        ],
    )
    write_rows(
        folder / "judged.jsonl",
        [{**row, "chosen": reply(" four"), "rejected": reply(" blue")} for row in prompts],
    )
    return {
        "policy": {"model_name_or_path": "model", "chat_template_kwargs": {"tone": "Be brief."}},
        "data": {
            "prompts": "chats.jsonl",
            "demonstrations": "shown.jsonl",
            "preferences": "judged.jsonl",
            "eval_prompts": "chats.jsonl",
            "eval_preferences": "judged.jsonl",
        },
        "method__sources": {
            "offline": {"mixing": 0.5},
            "dpr": {"mixing": 0.25, "labeler": "ours"},
            "dmd": {"mixing": 0.25},
        },
        "labelers__ours": {"kind": "function", "function": "counts.py:length"},
        "evaluate": {"num_prompts": 2},
        "generate__max_new_tokens": 8,
        "rounds": 1,
    }


@pytest.fixture(scope="module")
def run_of_chats(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    make_folder(folder, **chats(folder))
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert "warning: round 0 evaluate: none of the initial policy's responses ended by itself" in done.err
    return folder


def decoded(folder: Path, ids: list[int]) -> str:
    from transformers import AutoTokenizer

    text: str = AutoTokenizer.from_pretrained(folder / "model").decode(ids)
    return text


SHOWN_TOOLS = (
    '<|im_start|>system\ntools [{"type": "function", "function": {"name": "adder", "parameters": {}}}]<|im_end|>\n'
)
TONE = "<|im_start|>system\nBe brief.<|im_end|>\n"
ASKED = "<|im_start|>user\nWhat is two plus two?<|im_end|>\n<|im_start|>assistant\n"


def test_every_artifact_holds_what_the_template_got_and_the_ids_that_it_made(run_of_chats: Path) -> None:
    expected = {True: SHOWN_TOOLS + TONE + ASKED, False: TONE + ASKED + "It is"}
    round_folder = run_of_chats / "run" / "rounds" / "001"
    rows = [
        row for name in ("completions", "preferences", "samples") for row in read_rows(round_folder / f"{name}.jsonl")
    ]
    assert {row["source"] for row in rows if "source" in row} == {"dpr", "dmd"}
    for row in rows:
        has_tools = len(row["prompt"]) == 1
        assert row.get("tools") == (ADDER if has_tools else None) and ("tools" in row) is has_tools
        assert row["chat_template_kwargs"] == {"tone": "Be brief."}
        assert decoded(run_of_chats, row["prompt_ids"]) == expected[has_tools]


def test_a_demonstration_is_chosen_with_its_reasoning_or_as_what_goes_on(run_of_chats: Path) -> None:
    pairs = read_rows(run_of_chats / "run" / "rounds" / "001" / "preferences.jsonl")
    shown = {decoded(run_of_chats, pair["chosen_ids"]) for pair in pairs if pair["source"] == "dmd"}
    assert shown == {"(two and two)four<|im_end|>", " four<|im_end|>"}


def test_rows_that_the_template_rejects_leave_nothing_behind(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    strict = "{% if 'It is' in messages[-1].content %}{{ raise_exception('one turn, please') }}{% endif %}" + CHATML
    make_folder(tmp_path, **chats(tmp_path, template=strict))
    refused = align("train", "recipe.yaml", cwd=tmp_path)
    assert_refused(refused)
    for place in ("chats.jsonl:2", "shown.jsonl:2", "judged.jsonl:2"):
        assert f"(one turn, please): {place}" in refused.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    alone = align("generate", "recipe.yaml", cwd=tmp_path)
    assert_refused(alone)
    assert "chats.jsonl:2" in alone.err and "judged.jsonl:2" not in alone.err
    assert not (tmp_path / "run").exists()


def test_pairs_from_elsewhere_that_do_not_fit_are_all_named(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    make_folder(tmp_path, **chats(tmp_path))
    long = {"prompt": [USER], "chosen": reply("a" * 400), "rejected": reply("b")}
    write_rows(tmp_path / "more.jsonl", [{**long, "chosen": reply("a")}, long, long])
    only = ("method.sources={offline: {mixing: 1.0}}", "data.demonstrations=null")
    refused = align("train", "recipe.yaml", *only, "--preferences", "more.jsonl", "-o", "next", cwd=tmp_path)
    assert_refused(refused)
    assert "2 of 3 pairs do not fit into the model's context of 256 tokens: row 1 (" in refused.err
    assert not (tmp_path / "next").exists()


def test_a_turn_that_never_ends_is_told_before_anything_is_made(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    make_folder(tmp_path, **chats(tmp_path, template=CHATML, eos_token="</s>"))
    said = align("generate", "recipe.yaml", cwd=tmp_path).err
    assert "warning: the chat template ends the assistant's turn with " in said
    assert "set eos_token_id in the model's generation_config.json to 4, the id of <|im_end|>" in said
