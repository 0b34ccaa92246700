"""Small runs to be killed, and what has to hold of them afterwards. For `test_crashes` and `benchmarks/crashes.py`.

Every stage has several batches or steps, and every one of them is kept: so there is something to go on from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from forked import Finished, Stop, run_align

NUM_PAIRS, NUM_EVAL_PAIRS, NUM_PROMPTS, NUM_DEMONSTRATIONS = 24, 8, 64, 16
LABELER = """from align_cli.playground import hidden_reward


def score(prompts, completions):
    return hidden_reward(prompts=prompts, completions=completions)
"""

Tree = dict[str, Any]

RECIPE: Tree = {
    "output_dir": "run",
    "seed": 0,
    "rounds": 2,
    "policy": {
        "model_name_or_path": "playground",
        "sft": {"dataset": "lessons.jsonl", "max_steps": 4, "per_device_train_batch_size": 8, "warmup_steps": 1},
    },
    "data": {
        "prompts": "prompts.jsonl",
        "preferences": "pairs.jsonl",
        "eval_prompts": "playground",
        "eval_preferences": "eval_pairs.jsonl",
    },
    "playground": {"setting": "few"},
    "labelers": {"ours": {"kind": "function", "function": "labeler.py:score", "batch_size": 4}},
    "method": {
        "loss_type": "dpo",
        "sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "gradient": 0.3, "labeler": "ours"}},
    },
    "generate": {"num_generations": 2, "max_new_tokens": 10, "prompts_per_round": 6, "batch_size": 4},
    "train": {
        "learning_rate": 5.0e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "steps_per_round": 3,
    },
    "evaluate": {"num_prompts": 6, "against": ["initial", "previous"], "scorer": "ours"},
    "checkpoints": {"every_steps": 1},
}
"""Per round three batches of samples, three of scores, three steps; four steps of warm start."""

ALL_SOURCES: Tree = {
    "data": {"prompts": None, "demonstrations": "demonstrations.jsonl"},
    "method": {
        "sources": {
            "offline": {"mixing": 0.2},
            "ddp": {"mixing": 0.2, "gradient": 0.2},
            "dpp": {"mixing": 0.2, "gradient": 0.2},
            "dpr": {"mixing": 0.2, "gradient": 0.3, "labeler": "ours"},
            "dmd": {"mixing": 0.2, "gradient": 0.1},
        },
        "kl": {"coefficient": 0.02},
    },
    "train": {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2, "replay_rounds": 1},
}
"""All five sources, with replay and accumulation."""

VARIANTS: dict[str, Tree] = {
    "offline and dpr": {},
    "previous reference, keep 1": {"policy": {"reference": "previous"}, "checkpoints": {"keep": 1}},
    "all five sources, replay, accumulation, keep 1": {
        **ALL_SOURCES,
        "policy": {"reference": "previous"},
        "checkpoints": {"keep": 1},
    },
    "spin": {
        "policy": {"reference": "previous"},
        "data": {"prompts": None, "demonstrations": "demonstrations.jsonl"},
        "method": {"sources": {"offline": None, "dpr": None, "dmd": {"mixing": 1.0}}},
        "generate": {"num_generations": 1, "prompts_per_round": 12},
        "train": {"schedule": "round", "reset_optimizer_each_round": True, "replay_rounds": 1},
    },
    "xpo": {
        "method": {
            "sources": {"offline": None, "dpr": {"mixing": 1.0, "gradient": 0.0, "labeler": "ours"}},
            "optimism": {"coefficient": 0.01, "on": "reference"},
        },
        "generate": {"num_generations": 1, "num_reference_generations": 1},
        "train": {"replay_rounds": 1000},
    },
    "simpo": {
        "method": {
            "loss_type": "simpo",
            "beta": 2.0,
            "simpo_gamma": 1.0,
            "sources": {"dpr": {"gradient": 0.0}},
        },
        "checkpoints": {"keep": 1},
    },
    "a loss of TRL's": {
        "method": {"loss_type": "exo_pair", "label_smoothing": 0.01, "sources": {"dpr": {"gradient": 0.0}}},
    },
    "a checkpoint every third round": {"rounds": 4, "checkpoints": {"every_rounds": 3}},
    "a checkpoint every other round, previous reference, keep 1": {
        "rounds": 3,
        "policy": {"reference": "previous"},
        "checkpoints": {"every_rounds": 2, "keep": 1},
    },
    "adapters, warm start": {"policy": {"model_name_or_path": "base", "lora": {"rank": 2}}},
    "adapters, all five sources, previous reference, replay": {
        **ALL_SOURCES,
        "policy": {"model_name_or_path": "base", "sft": None, "lora": {"rank": 2}, "reference": "previous"},
        "checkpoints": {"every_rounds": 2},
    },
    "adapters merged between rounds, warm start": {
        "policy": {"model_name_or_path": "base", "lora": {"rank": 2, "between_rounds": "merge"}},
    },
    "adapters merged between rounds, all five sources, previous reference, replay": {
        **ALL_SOURCES,
        "rounds": 3,
        "policy": {
            "model_name_or_path": "base",
            "sft": None,
            "lora": {"rank": 2, "between_rounds": "merge", "use_rslora": True, "modules_to_save": ["embed_tokens"]},
            "reference": "previous",
        },
        "checkpoints": {"every_rounds": 2, "keep": 1},
    },
    "rolled back every round": {
        "policy": {"reference": "previous"},
        "guards": {"kl": {"above": 1.0e-9, "action": "rollback"}},
        "checkpoints": {"keep": 1},
    },
}  # fmt: skip


def make_run(folder: Path, variant: str, **changes: Any) -> Path:
    """A folder with `recipe.yaml` and what it reads; equal calls make folders whose runs have equal bytes."""
    from align_cli.playground.world import eval_preferences, preferences, prompts, sft_corpus

    folder.mkdir(parents=True)
    _write_rows(folder / "prompts.jsonl", prompts(0, NUM_PROMPTS))
    _write_rows(folder / "pairs.jsonl", preferences("few", 0)[:NUM_PAIRS])
    _write_rows(folder / "eval_pairs.jsonl", eval_preferences("few", 0)[:NUM_EVAL_PAIRS])
    shown = sft_corpus(0)[:NUM_DEMONSTRATIONS]
    for name in ("demonstrations.jsonl", "lessons.jsonl"):
        _write_rows(folder / name, shown)
    (folder / "labeler.py").write_text(LABELER, encoding="utf-8")
    recipe = merged(merged(RECIPE, VARIANTS[variant]), changes)
    if recipe["policy"]["model_name_or_path"] == "base":
        _write_base(folder / "base")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return folder


def _write_base(folder: Path) -> None:
    """A model that adapters are put on; its embeddings are large enough for responses to differ."""
    import torch

    from align_cli.models.load import load_policy
    from align_cli.playground.model import make_policy

    make_policy(folder, 0)
    model = load_policy(folder).model
    with torch.no_grad():
        model.get_output_embeddings().weight *= 10.0
    model.save_pretrained(folder)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """The tree with the changes in it; None removes a key."""
    both = {**tree, **changes}
    for key, value in changes.items():
        if isinstance(value, dict):
            both[key] = merged(tree.get(key) or {}, value)
    return {key: value for key, value in both.items() if value is not None}


def train(folder: Path, stop: Stop | None = None, *overrides: str) -> Finished:
    """`align train` in the folder, with everything that it does added to `worked`."""
    return run_align("train", "recipe.yaml", *overrides, cwd=folder, stop=stop, worked=folder / "worked")


def work_done(folder: Path) -> Counter[str]:
    """How many batches and steps all processes in this folder have done, by step of the run."""
    return Counter((folder / "worked").read_text(encoding="utf-8").splitlines())


def differing_files(folder: Path, other: Path) -> list[str]:
    """The artifacts of two runs that are not the same, or not in both; and what a killed process left behind."""
    ours, theirs = _files_below(folder / "run"), _files_below(other / "run")
    artifacts = sorted(name for name in {*ours, *theirs} if name.startswith("rounds/") or name == "recipe.yaml")
    wrong = [name for name in artifacts if ours.get(name) != theirs.get(name)]
    return wrong + sorted(_everything_below(folder / "run") - _everything_below(other / "run"))


def num_artifacts(folder: Path) -> int:
    """How many files `differing_files` compares."""
    return sum(name.startswith("rounds/") or name == "recipe.yaml" for name in _files_below(folder / "run"))


def _files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
