"""Runs that train adapters: what is kept of them, and that nothing is lost when they are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Stop, run_align
from killed_runs import differing_files, make_run, train
from run_fixtures import files_below
from safetensors.torch import load_file
from sweeps import swept
from warm_shell import with_align

from align_cli.artifacts.records import Completion
from align_cli.artifacts.store import read_records
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.run.chosen import open_run

WARM, ALL = "adapters, warm start", "adapters, all five sources, previous reference, replay"
MERGED_WARM = "adapters merged between rounds, warm start"
MERGED_ALL = "adapters merged between rounds, all five sources, previous reference, replay"
ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
IN_ROUND_2, IN_ROUND_3 = (Stop("step", 2, within=f"round {number} train") for number in (2, 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after a warm start, which nobody killed. Shared: tests that touch it take a copy."""
    folder = make_run(tmp_path_factory.mktemp("adapters") / "whole", WARM)
    done = train(folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that merges its updates, which nobody killed. Shared: tests that touch it take a copy."""
    folder = make_run(tmp_path_factory.mktemp("adapters") / "merged", MERGED_WARM)
    done = train(folder)
    assert done.code == 0, done.err
    return folder


def weights(checkpoint: Path) -> list[str]:
    return sorted(file.name for file in checkpoint.iterdir() if "adapter" in file.name or "model" in file.name)


def test_checkpoints_hold_adapters_alone(whole: Path) -> None:
    for number in range(3):
        assert weights(whole / "run" / "rounds" / f"00{number}" / "checkpoint") == ADAPTER
    config = json.loads((whole / "run" / "rounds" / "001" / "checkpoint" / ADAPTER[0]).read_text())
    assert config["base_model_name_or_path"] == "base"
    assert config["r"] == 2


def test_of_merged_updates_a_checkpoint_holds_the_sum(merged: Path, whole: Path) -> None:
    rounds = merged / "run" / "rounds"
    for number in range(3):
        assert weights(rounds / f"00{number}" / "checkpoint") == ADAPTER
        config = json.loads((rounds / f"00{number}" / "checkpoint" / ADAPTER[0]).read_text())
        assert (config["r"], config["lora_alpha"]) == (2 * (number + 1), 32 * (number + 1))
    initial, carried = (run / "run" / "rounds" / "000" / "checkpoint" for run in (merged, whole))
    assert files_below(initial) == files_below(carried)
    before, after = (load_file(rounds / number / "checkpoint" / ADAPTER[1]) for number in ("001", "002"))
    for name, tensor in before.items():
        kept = after[name][: len(tensor)] if "lora_A" in name else after[name][:, : tensor.shape[1]]
        assert torch.equal(kept, tensor)


def test_each_merged_round_begins_with_a_new_optimizer_and_the_schedule_goes_on(merged: Path) -> None:
    checkpoints = [merged / "run" / "rounds" / f"00{number}" / "checkpoint" for number in (1, 2)]
    moments = load_file(checkpoints[1] / "optimizer.safetensors")
    assert {float(step) for name, step in moments.items() if name.endswith(".step")} == {3.0}
    states = [json.loads((checkpoint / "training_state.json").read_text()) for checkpoint in checkpoints]
    assert [state["scheduler"]["last_epoch"] for state in states] == [3, 6]


def test_a_round_before_its_first_step_says_what_the_round_before_said_at_its_end(merged: Path) -> None:
    with chdir(merged):
        recipe = open_run(Path("run")).recipe
        policy = load_recipe_policy(recipe, Path("run/rounds/001/checkpoint"))
    completions = read_records(merged / "run" / "rounds" / "002" / "completions.jsonl", Completion)
    prompts, responses = [one.prompt_ids for one in completions], [one.completion_ids for one in completions]
    batch = pad_batch(prompts, responses, policy.tokenizer.pad_token_id)
    with torch.no_grad():
        before = response_logps(policy.model, batch)
        policy.begin_round(2)
        after = response_logps(policy.model, batch)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    sampled = torch.tensor([sum(one.logps) for one in completions])
    torch.testing.assert_close(before, sampled, rtol=0, atol=1e-4)


def test_many_rounds_of_merged_updates_are_warned_of(merged: Path) -> None:
    for rounds, is_warned in ((16, False), (17, True)):
        checked = run_align("check", "recipe.yaml", f"rounds={rounds}", "output_dir=other", cwd=merged)
        assert checked.code == 0
        said = " ".join(checked.err.split())
        assert ("the adapter, of rank 34, is 17 times as large as in the first" in said) == is_warned


@pytest.mark.parametrize("key", ["carry", "merge"])
def test_a_fork_may_go_on_either_way(key: str, merged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(merged, tmp_path / "copy"))
    into = ("policy.lora.between_rounds=" + key, "output_dir=fork")
    forked = run_align("train", "recipe.yaml", *into, "--from", "run@1", cwd=folder)
    assert forked.code == 0, forked.err
    rounds = folder / "fork" / "rounds"
    if key == "merge":
        assert files_below(rounds) == files_below(folder / "run" / "rounds")
    assert json.loads((rounds / "002" / "checkpoint" / ADAPTER[0]).read_text())["r"] == (4 if key == "carry" else 6)


def test_nothing_is_written_into_the_base(whole: Path, tmp_path: Path) -> None:
    assert files_below(whole / "base") == files_below(make_run(tmp_path / "fresh", WARM) / "base")


@pytest.mark.parametrize(
    ("variant", "stop"),
    swept(
        [
            (WARM, IN_ROUND_2),
            (WARM, Stop("warm-up step", 3, within="round 0 sft")),
            (ALL, Stop("step", 2, within="round 1 train")),
            (ALL, Stop("sampling", 2, within="round 2 generate")),
            (ALL, IN_ROUND_2),
            (ALL, Stop("manifest", within="round 2 evaluate")),
            (MERGED_WARM, IN_ROUND_2),
            (MERGED_WARM, Stop("manifest", within="round 1 evaluate")),
            (MERGED_ALL, IN_ROUND_2),
            (MERGED_ALL, IN_ROUND_3),
        ],
        (WARM, IN_ROUND_2),
        (MERGED_ALL, IN_ROUND_3),
    ),
    ids=lambda value: f"{value.before} {value.within}" if isinstance(value, Stop) else value,
)
def test_killed_anywhere_a_run_ends_in_the_same_bytes(
    variant: str, stop: Stop, whole: Path, merged: Path, tmp_path: Path
) -> None:
    straight = merged if variant == MERGED_WARM else whole
    if variant not in (WARM, MERGED_WARM):
        straight = make_run(tmp_path / "straight", variant)
        done = train(straight)
        assert done.code == 0, done.err
    killed = make_run(tmp_path / "killed", variant)
    assert train(killed, stop=stop).code == -signal.SIGKILL
    done = train(killed)
    assert done.code == 0, done.err
    assert differing_files(killed, straight) == []


@pytest.mark.long
def test_a_chain_of_commands_makes_what_the_first_round_makes(whole: Path, tmp_path: Path) -> None:
    folder, first = make_run(tmp_path / "chain", WARM), whole / "run" / "rounds" / "001"
    chain = (
        "align generate recipe.yaml | align label recipe.yaml -i - | align train recipe.yaml --preferences - -o next/"
    )
    done = subprocess.run(["sh", "-c", chain], cwd=folder, env=with_align(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = files_below(folder / "next"), files_below(first / "checkpoint")
    assert [name for name in ADAPTER if ours[name] != theirs[name]] == []
    evaluated = run_align("evaluate", "recipe.yaml", "--policy", "next", cwd=folder)
    assert evaluated.code == 0, evaluated.err
    assert evaluated.out.encode() == (first / "evaluation.json").read_bytes()


@pytest.mark.long
def test_a_chain_of_commands_makes_what_a_later_round_of_merged_updates_makes(merged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(merged, tmp_path / "copy"))
    policy, second = "--policy run/rounds/001/checkpoint", folder / "run" / "rounds" / "002"
    chain = (
        f"align generate recipe.yaml {policy} | align label recipe.yaml {policy} -i - | "
        f"align train recipe.yaml {policy} --preferences - -o next/"
    )
    done = subprocess.run(["sh", "-c", chain], cwd=folder, env=with_align(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = files_below(folder / "next"), files_below(second / "checkpoint")
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    evaluated = run_align("evaluate", "recipe.yaml", "--policy", "next", cwd=folder)
    assert evaluated.code == 0, evaluated.err
    assert evaluated.out.encode() == (second / "evaluation.json").read_bytes()


def test_another_base_in_the_same_place_is_noticed(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    weights = folder / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused = train(folder)
    assert refused.code == 2
    assert "the contents of policy.model_name_or_path have changed" in refused.err


def test_a_run_may_start_from_an_adapter_of_ones_own(whole: Path, tmp_path: Path) -> None:
    policy = {"lora": {"rank": None, "adapter": "adapter"}, "sft": None}
    folder = make_run(tmp_path / "mine", WARM, rounds=1, policy=policy)
    shutil.copytree(whole / "run" / "rounds" / "002" / "checkpoint", folder / "adapter")
    done = train(folder)
    assert done.code == 0, done.err
    assert "was trained on" not in done.err
    assert run_align("status", "run", cwd=folder).code == 0  # the resolved recipe, with every key, is sound
    other = whole / "run" / "rounds" / "001" / "checkpoint" / ADAPTER[1]
    shutil.copy(other, folder / "adapter")
    refused = train(folder)
    assert refused.code == 2
    assert "the contents of policy.lora.adapter have changed" in refused.err


def test_an_adapter_that_names_another_base_is_warned_of(whole: Path, tmp_path: Path) -> None:
    """One of the same shape, as a model and its instruct version are, fits without a word."""
    folder = make_run(
        tmp_path / "mine", WARM, rounds=1, policy={"lora": {"rank": None, "adapter": "adapter"}, "sft": None}
    )
    shutil.copytree(whole / "run" / "rounds" / "002" / "checkpoint", folder / "adapter")
    shutil.copytree(folder / "base", folder / "instruct")
    checked = run_align("check", "recipe.yaml", "policy.model_name_or_path=instruct", cwd=folder)
    assert checked.code == 0
    said = " ".join(checked.err.split())
    assert (
        "policy.lora.adapter was trained on base, says its adapter_config.json, and policy.model_name_or_path is "
        in said
    )


QUANTISED = {"quant_method": "gptq", "bits": 4}


def test_a_quantised_model_is_trained_by_adapters_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "mine", WARM)
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTISED}))
    (folder / "base" / "model.safetensors").write_bytes(b"")  # which nobody comes to look at
    for key in ("policy.sft=null", "policy.dtype=float32"):
        refused = train(folder, None, "policy.lora=null", key)
        assert refused.code == 2
        said = " ".join(refused.err.split())
        assert said.count("base: the model is quantised (gptq): weights of a few bits cannot be trained") == 1
        assert "hint: add policy.lora, whose adapters are trained" in said
        assert not (folder / "run").exists()
    assert "is quantised" not in run_align("check", "recipe.yaml", cwd=folder).err


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"model_name_or_path": "playground"}, "policy.lora with a new model, of which all weights have to be learnt"),
        ({"lora": {"r": 4}}, "hint: it is called rank"),
        (
            {"lora": {"use_dora": True, "between_rounds": "merge"}},
            "policy.lora.between_rounds is merge with policy.lora.use_dora, whose updates do not add up",
        ),
        ({"lora": {"adapter": "base"}}, "policy.lora.rank beside policy.lora.adapter, which brings its own"),
        ({"lora": {"rank": None, "adapter": "./nowhere"}}, "there is no such file or folder"),
        ({"lora": {"rank": None, "adapter": "base"}}, "this folder holds no adapter"),
        ({"lora": {"target_modules": ["nolayer"]}}, "nolayer"),
        ({"attn_implementation": "flash_attention_2"}, "policy.attn_implementation is flash_attention_2"),
        ({"device": "cuda"}, "policy.device is cuda, and torch finds no such device here"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    policy: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "faulty", WARM, policy=policy)
    refused = train(folder)
    assert refused.code == 2
    assert words in refused.err
    assert not (folder / "run").exists()
