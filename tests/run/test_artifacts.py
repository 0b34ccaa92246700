"""What a run leaves behind: exactly these files, nothing of the machine or the hour, the ids that were sampled."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path

import pytest
from run_fixtures import files_below, read_rows

from align_cli.artifacts.checksums import checksum
from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.artifacts.store import read_json, read_records

MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_state.json",
]
CHECKPOINT_FILES = sorted([*MODEL_FILES, "optimizer.safetensors"])
ROUND_FILES = [
    "completions.jsonl", "evaluation.json", "manifest.json", "preferences.jsonl", "reference_logps.jsonl",
    "samples.jsonl", "training.jsonl",
]  # fmt: skip
FIRST_ROUND_FILES = [*ROUND_FILES, "held_out_logps.jsonl"]
"""The reference says in later rounds what it said in the first."""


def rounds(finished: Path) -> Path:
    return finished / "run" / "rounds"


def text_of(name: str, content: bytes) -> str:
    """A file as text; of a file of tensors its header alone, since any word may occur by chance in its numbers."""
    if name.endswith(".safetensors"):
        content = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return content.decode()


def test_a_run_is_these_files_and_no_others(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "run").iterdir()) == [
        ".lock",
        "ledger.jsonl",
        "recipe.yaml",
        "report.html",
        "report.json",
        "rounds",
        "run.json",
    ]
    expected = {f"000/checkpoint/{name}" for name in MODEL_FILES}
    expected |= {f"000/{name}" for name in ("evaluation.json", "manifest.json", "samples.jsonl", "training.jsonl")}
    for number in ("001", "002"):
        expected |= {f"{number}/checkpoint/{name}" for name in CHECKPOINT_FILES}
        expected |= {f"{number}/{name}" for name in (FIRST_ROUND_FILES if number == "001" else ROUND_FILES)}
    assert set(files_below(rounds(finished))) == expected


def test_no_artifact_holds_a_place_a_machine_or_a_time(finished: Path) -> None:
    kept = files_below(rounds(finished)) | {"recipe.yaml": (finished / "run" / "recipe.yaml").read_bytes()}
    texts = {name: text_of(name, content) for name, content in kept.items()}
    host, absolute = socket.gethostname(), re.compile(r'"/[\w.-]+/|: /[\w.-]+/|/tmp/')
    clock = re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d|\d\d:\d\d:\d\d")
    assert [name for name, text in texts.items() if str(finished) in text or absolute.search(text)] == []
    assert [name for name, text in texts.items() if re.search(rf"\b{re.escape(host)}\b", text)] == []
    assert [name for name, text in texts.items() if clock.search(text) or '"seconds"' in text] == []


def test_every_manifest_names_every_artifact_of_its_round_with_its_checksum(finished: Path) -> None:
    for folder in sorted(rounds(finished).iterdir()):
        manifest = read_json(folder / "manifest.json")
        assert manifest["round"] == int(folder.name)
        outputs = {name: digest for stage in manifest["stages"].values() for name, digest in stage["outputs"].items()}
        assert sorted(outputs) == sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
        assert {name: checksum(folder / name) for name in outputs} == outputs


def test_each_policy_is_sampled_evaluated_and_succeeded_under_one_version(finished: Path) -> None:
    evaluations = [
        Evaluation.from_dict(read_json(folder / "evaluation.json")) for folder in sorted(rounds(finished).iterdir())
    ]
    versions = [evaluation.policy for evaluation in evaluations]
    assert len(set(versions)) == 3
    for number in (1, 2):
        folder = rounds(finished) / f"00{number}"
        state = read_json(folder / "checkpoint" / "training_state.json")
        assert (state["round"], state["global_step"], state["parent"]) == (number, 3 * number, versions[number - 1])
        sampled = {completion.policy for completion in read_records(folder / "completions.jsonl", Completion)}
        assert sampled == {versions[number - 1]}
        assert evaluations[number].kl["reference"] == versions[0]
        assert evaluations[number].against["previous"]["policy"] == versions[number - 1]
        assert evaluations[number].against["initial"]["policy"] == versions[0]


def test_the_ledger_has_a_start_and_a_finish_of_every_stage_in_order(finished: Path) -> None:
    events = read_rows(finished / "run" / "ledger.jsonl")
    steps = [(0, "sft"), (0, "evaluate")]
    steps += [(number, stage) for number in (1, 2) for stage in ("generate", "label", "train", "evaluate")]
    assert [(event["event"], event["round"], event["stage"]) for event in events] == [
        (event, *step) for step in steps for event in ("start", "finish")
    ]
    for event in events:
        spent = {"seconds", "peak_memory_bytes", "peak_gpu_memory_bytes"}
        assert set(event) - {"figures"} - spent == {"event", "time", "round", "stage"}
        if event["event"] == "finish":
            assert event["seconds"] >= 0
            assert 10**7 < event["peak_memory_bytes"] < 10**12
            assert event["figures"]
    trained = [event["figures"] for event in events if event["event"] == "finish" and event["stage"] == "train"]
    training = [read_rows(rounds(finished) / f"00{number}" / "training.jsonl") for number in (1, 2)]
    norms = [[step["grad_norm"] for step in steps] for steps in training]
    assert [figures["clipped_steps"] for figures in trained] == [sum(norm > 1 for norm in each) for each in norms]
    assert sum(figures["clipped_steps"] for figures in trained) > 0
    assert [figures["last_step"]["step"] for figures in trained] == [3, 6]
    assert {figures["global_batch_size"] for figures in trained} == {8}


def test_run_json_says_what_the_run_was_made_with(finished: Path) -> None:
    run = read_json(finished / "run" / "run.json")
    assert set(run) == {"versions", "machine", "seed", "schema_version", "num_threads", "crc32"}
    assert set(run["versions"]) >= {"align", "python", "torch", "transformers", "trl"}


def test_the_resolved_recipe_of_a_run_reads_back_to_the_same_recipe(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align_cli.recipe import dump, load_recipe

    monkeypatch.chdir(finished)
    assert load_recipe("run/recipe.yaml") == load_recipe("recipe.yaml")
    assert dump(load_recipe("recipe.yaml")) == Path("run/recipe.yaml").read_text()


def test_every_pair_holds_the_ids_that_were_sampled(finished: Path) -> None:
    for number in (1, 2):
        folder = rounds(finished) / f"00{number}"
        sampled = {
            (completion.prompt_index, completion.sample_index): completion
            for completion in read_records(folder / "completions.jsonl", Completion)
        }
        pairs = read_records(folder / "preferences.jsonl", Preference)
        assert len(sampled) == 32
        assert pairs
        for pair in pairs:
            chosen = sampled[pair.prompt_index, pair.chosen_index]
            rejected = sampled[pair.prompt_index, pair.rejected_index]
            assert pair.prompt_ids == chosen.prompt_ids == rejected.prompt_ids
            assert (pair.chosen_ids, pair.rejected_ids) == (chosen.completion_ids, rejected.completion_ids)
            assert (pair.chosen, pair.rejected) == (chosen.completion, rejected.completion)
            assert pair.policy == chosen.policy
            assert (
                (pair.chosen_by, pair.rejected_by) == (chosen.sampled_by, rejected.sampled_by) == ("policy", "policy")
            )
            assert (pair.source, pair.labeler, pair.round) == ("dpr", "ours", number)


def test_training_is_given_the_ids_that_were_sampled(finished: Path) -> None:
    collated = [json.loads(line) for line in (finished / "collated.jsonl").read_text().splitlines()]
    batches = [collated[start : start + 8] for start in range(0, len(collated), 8)]
    assert [Counter(source for source, *_ in batch) for batch in batches] == [{0: 4, 1: 4}] * 6
    for number, trained in ((1, collated[:24]), (2, collated[24:])):
        pairs = read_records(rounds(finished) / f"00{number}" / "preferences.jsonl", Preference)
        sampled = [[pair.prompt_ids, pair.chosen_ids, pair.rejected_ids] for pair in pairs]
        given = [ids for source, *ids in trained if source == 1]
        assert [ids for ids in given if ids not in sampled] == []
        assert [ids for ids in sampled if ids not in given] == [] or len(sampled) > len(given)
        assert [ids for source, *ids in trained if source == 0 and ids in sampled] == []


def test_a_checkpoint_that_is_loaded_and_saved_again_has_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    import torch

    from align_cli.models.load import load_policy
    from align_cli.training.checkpoints import read_optimizer_state, read_training_state, save_checkpoint

    folder = rounds(finished) / "002" / "checkpoint"
    policy, state = load_policy(folder), read_training_state(folder)
    assert state is not None
    groups = len(state.optimizer["param_groups"]) if state.optimizer else 0
    parameters = list(policy.model.parameters())
    sizes = [len(group["params"]) for group in state.optimizer["param_groups"]] if state.optimizer else []
    assert sum(sizes) == len(parameters)
    decayed = iter(parameters)
    optimizer = torch.optim.AdamW([{"params": [next(decayed) for _ in range(size)]} for size in sizes])
    optimizer.load_state_dict(read_optimizer_state(folder, state) or {})
    assert groups == len(optimizer.param_groups)
    assert save_checkpoint(tmp_path / "again", policy, state, optimizer) == policy.version
    assert checksum(tmp_path / "again") == checksum(folder)
