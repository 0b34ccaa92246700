"""Runs whose rows are longer than they may be: left out or cut alike in every round, command and check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, make_chat_model
from run_fixtures import Align, MakeFolder, assert_refused, files_below, read_rows, write_rows

COUNTS = "def length(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
SYSTEM = {"role": "system", "content": "Be brief."}
LONG_ROWS = (1, 3)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def conversation(number: int) -> list[dict[str, str]]:
    """Some have a turn before their last, which is too much."""
    before = [user("b" * 60), bot("It was blue.")] if number in LONG_ROWS else []
    return [SYSTEM, *before, user(f"What is it, {number}?")]


def folder_of_chats(make_folder: MakeFolder, folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "counts.py").write_text(COUNTS, encoding="utf-8")
    make_chat_model(folder / "model", template=CHATML, context_length=160)
    prompts = [{"prompt": conversation(number)} for number in range(6)]
    pairs = [
        {**row, "chosen": [bot("blue " * (1 + 9 * (number == 4)))], "rejected": [bot("red")]}
        for number, row in enumerate(prompts)
    ]
    write_rows(folder / "chats.jsonl", prompts)
    write_rows(folder / "judged.jsonl", pairs)
    shown = [{**row, "completion": [bot("green " * (1 + number % 2 * 11))]} for number, row in enumerate(prompts)]
    write_rows(folder / "shown.jsonl", shown)
    recipe = {
        "policy": {"model_name_or_path": "model"},
        "data": {
            "prompts": "chats.jsonl",
            "preferences": "judged.jsonl",
            "demonstrations": "shown.jsonl",
            "eval_prompts": "chats.jsonl",
            "eval_preferences": "judged.jsonl",
            "max_prompt_tokens": 70,
            "max_completion_tokens": 10,
        },
        "method__sources": {
            "offline": {"mixing": 0.5},
            "dpr": {"mixing": 0.25, "labeler": "ours"},
            "dmd": {"mixing": 0.25},
        },
        "labelers__ours": {"kind": "function", "function": "counts.py:length"},
        "evaluate": {"num_prompts": 6},
        "generate__max_new_tokens": 8,
        "generate__prompts_per_round": 6,
        "rounds": 1,
    }
    make_folder(folder, **{**recipe, **changes})
    return folder


@pytest.fixture(scope="module")
def runs(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run that cuts, and one that leaves out; what each said is in its folder."""
    made = {}
    for how in ("cut", "drop"):
        folder = folder_of_chats(make_folder, tmp_path_factory.mktemp("lengths") / how)
        done = align("train", "recipe.yaml", f"data.too_long={how}", cwd=folder)
        assert done.code == 0, done.err
        (folder / "said.txt").write_text(done.err, encoding="utf-8")
        made[how] = folder
    return made


def artifact(folder: Path, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / "run" / "rounds" / "001" / name)


def figures(folder: Path) -> dict[str, Any]:
    """What the ledger says of lengths, by stage of round 1."""
    finished = [row for row in read_rows(folder / "run" / "ledger.jsonl") if row["event"] == "finish"]
    return {row["stage"]: row["figures"].get("too_long") for row in finished if row["round"] == 1}


def test_prompts_that_are_left_out_are_never_sampled_and_the_others_keep_their_numbers(runs: dict[str, Path]) -> None:
    for name in ("completions.jsonl", "samples.jsonl"):
        rows = artifact(runs["drop"], name)
        assert {row["prompt_index"] for row in rows} == {0, 2, 4, 5}
        assert all(row["prompt"] == conversation(row["prompt_index"]) for row in rows)


def test_prompts_that_are_cut_are_what_labelers_and_training_see(runs: dict[str, Path]) -> None:
    for name in ("completions.jsonl", "samples.jsonl", "preferences.jsonl"):
        rows = artifact(runs["cut"], name)
        assert {row["prompt_index"] for row in rows} == set(range(6))
        assert all(row["prompt"] == [SYSTEM, user(f"What is it, {row['prompt_index']}?")] for row in rows)
        assert all(len(row["prompt_ids"]) <= 70 for row in rows)


def test_a_demonstration_that_is_cut_has_no_end_and_belongs_to_its_cut_prompt(runs: dict[str, Path]) -> None:
    shown = [row for row in artifact(runs["cut"], "preferences.jsonl") if row["source"] == "dmd"]
    assert {row["prompt_index"] for row in shown} == set(range(6))
    for row in shown:
        if row["prompt_index"] % 2 == 0:
            assert row["chosen_ids"][-1] == 4, "the id that ends a turn"
            continue
        assert len(row["chosen_ids"]) == 10 and 4 not in row["chosen_ids"]
        assert ("green " * 12).startswith(row["chosen"][0]["content"])


def test_what_was_left_out_and_cut_is_said_at_the_start_and_kept_in_the_ledger(runs: dict[str, Path]) -> None:
    prompts, both = {"too_long_dropped": 2}, {"too_long_dropped": 3}
    assert figures(runs["drop"])["generate"] == {"data.prompts": prompts}
    assert figures(runs["drop"])["train"] == {"data.preferences": both}
    assert figures(runs["drop"])["evaluate"] == {"data.eval_prompts": prompts, "data.eval_preferences": both}
    assert figures(runs["cut"])["generate"] == {"data.prompts": {"too_long_cut": 2}}
    assert figures(runs["cut"])["train"] == {"data.preferences": {"too_long_cut": 3}}
    assert figures(runs["cut"])["label"] == {"data.demonstrations": {"too_long_cut": 3}}
    for how, words in (("drop", "left out"), ("cut", "cut")):
        said = " ".join((runs[how] / "said.txt").read_text(encoding="utf-8").split())
        assert f"note: data.prompts: of 6 rows 2 {words}, which were too long (data.too_long)" in said
        assert f"note: data.preferences: of 6 rows 3 {words}, which were too long (data.too_long)" in said


@pytest.mark.parametrize("how", ["cut", "drop"])
def test_a_chain_of_commands_makes_what_the_round_made(
    how: str, runs: dict[str, Path], make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder, key = folder_of_chats(make_folder, tmp_path), f"data.too_long={how}"
    for arguments in (
        ("generate", "recipe.yaml", key, "-o", "completions.jsonl"),
        ("label", "recipe.yaml", key, "-i", "completions.jsonl", "-o", "preferences.jsonl"),
        ("train", "recipe.yaml", key, "--preferences", "preferences.jsonl", "-o", "next"),
    ):
        done = align(*arguments, cwd=folder)
        assert done.code == 0, done.err
    round_folder = runs[how] / "run" / "rounds" / "001"
    for name in ("completions.jsonl", "preferences.jsonl"):
        assert (folder / name).read_bytes() == (round_folder / name).read_bytes()
    weights = "checkpoint/model.safetensors"
    assert (folder / "next" / "model.safetensors").read_bytes() == (round_folder / weights).read_bytes()


@pytest.mark.long
def test_where_nothing_is_too_long_a_run_is_what_it_is_without_the_keys(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    made = []
    data = {"prompts": "chats.jsonl", "preferences": "judged.jsonl", "demonstrations": "shown.jsonl"}
    for how, limit in (("drop", 999), ("cut", 999), ("refuse", "null")):
        folder = folder_of_chats(make_folder, tmp_path / how, data=data, evaluate=None)
        limits = (f"data.max_prompt_tokens={limit}", f"data.max_completion_tokens={limit}")
        done = align("train", "recipe.yaml", f"data.too_long={how}", *limits, cwd=folder)
        assert done.code == 0, done.err
        rounds = files_below(folder / "run" / "rounds")
        made.append({name: rounds[name] for name in rounds if not name.endswith("manifest.json")})
    assert made[0] == made[1] == made[2]


def test_a_check_says_it_and_refuses_where_nothing_is_left(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder_of_chats(make_folder, tmp_path)
    refused = align("check", "recipe.yaml", cwd=tmp_path)
    assert_refused(refused)
    said = " ".join(refused.err.split())
    assert "2 of 6 prompts have more prompt tokens than data.max_prompt_tokens, 70: chats.jsonl:2 (" in said
    assert "1 of 6 pairs have an answer of more tokens than data.max_completion_tokens, 10: judged.jsonl:5 (" in said
    keys = ("data.too_long=drop", "data.max_completion_tokens=99")
    notes = json.loads(align("check", "recipe.yaml", *keys, "--json", cwd=tmp_path).out)["notes"]
    assert "note: data.eval_prompts: of 6 rows 2 left out, which were too long (data.too_long)" in notes
    none = align("check", "recipe.yaml", "data.too_long=drop", "data.max_prompt_tokens=1", cwd=tmp_path)
    assert_refused(none)
    assert "all 6 prompts are left out: they are too long (data.too_long: drop)" in " ".join(none.err.split())
    assert not (tmp_path / "run").exists()


def test_another_length_under_a_run_is_told(runs: dict[str, Path], align: Align) -> None:
    refused = align("train", "recipe.yaml", "data.too_long=drop", "data.max_prompt_tokens=71", cwd=runs["drop"])
    assert refused.code != 0
    assert "data.max_prompt_tokens was 70 and is now 71" in " ".join(refused.err.split())


def test_pairs_from_elsewhere_are_left_out_or_cut_too(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder_of_chats(make_folder, tmp_path)
    write_rows(tmp_path / "more.jsonl", read_rows(tmp_path / "judged.jsonl"))
    keys = ("method.sources={offline: {mixing: 1.0}}", "data.demonstrations=null", "data.too_long=drop")
    done = align("train", "recipe.yaml", *keys, "--preferences", "more.jsonl", "-o", "next", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "round 1 train: of 6 pairs 3 left out, which were too long" in " ".join(done.err.split())
