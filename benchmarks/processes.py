"""Two processes beside one: a round's sampling and training, of a model of a few million parameters on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/processes.py > benchmarks/results/processes.md

Each line is a run of `align train` with two rounds, one thread a process; what is shown is its second round, when every
process has been started and every model loaded. The runs of a repetition follow one another in turn, and are compared
within it. At the end the weights are compared with those of one process. About ten minutes where nothing
else is at work; beside other work, or with fewer cores than processes, two gain less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import yaml
from safetensors.torch import load_file
from spread import spread
from transformers import LlamaConfig, LlamaForCausalLM

from align_cli.models.load import load_policy
from align_cli.playground.model import make_policy

KINDS = {
    "one process": [],
    "two, the whole model in each": ["launch.num_processes=2"],
    "two, the model split (FSDP2)": ["launch.num_processes=2", "launch.strategy=fsdp2"],
}
WIDTH, LAYERS = 256, 6
PROMPTS, PER_PASS = 128, 8
STEPS = {16: 10, 64: 5}
"""How many steps of so many pairs."""


def write_model(folder: Path) -> int:
    """A model of the playground's words, larger than its own; how many weights it has."""
    make_policy(folder, 0)
    own = load_policy(folder).model.config
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=own.vocab_size,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=256,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model.num_parameters()


def recipe(model: Path, pairs: int) -> dict[str, Any]:
    """Two rounds of half offline pairs and half the policy's own, so many pairs a step."""
    return {
        "output_dir": "run",
        "rounds": 2,
        "num_threads": 1,
        "policy": {"model_name_or_path": str(model)},
        "data": {"prompts": "playground", "preferences": "playground"},
        "labelers": {"hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"}},
        "method": {
            "kl": {"coefficient": 0.02},
            "sources": {
                "offline": {"mixing": 0.5},
                "dpr": {"mixing": 0.5, "gradient": 0.3, "labeler": "hidden"},
            },
        },
        "generate": {"max_new_tokens": 48, "prompts_per_round": PROMPTS, "batch_size": 32},
        "train": {
            "learning_rate": 1.0e-5,
            "adam_epsilon": 1.0e-6,
            "per_device_train_batch_size": PER_PASS,
            "gradient_accumulation_steps": pairs // PER_PASS,
            "steps_per_round": STEPS[pairs],
            "source_grad_norms": "never",
        },
    }


def run(folder: Path, model: Path, pairs: int, overrides: list[str]) -> dict[str, float]:
    """Seconds of the second round's stages."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(model, pairs)))
    start = "from align_cli.cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", start, "train", "recipe.yaml", "--quiet", *overrides],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    events = [json.loads(line) for line in (folder / "run" / "ledger.jsonl").read_text().splitlines()]
    return {event["stage"]: event["seconds"] for event in events if event["event"] == "finish" and event["round"] == 2}


def apart(folder: Path, other: Path) -> float:
    """The largest difference of two runs' last weights."""
    places = [one / "run" / "rounds" / "002" / "checkpoint" / "model.safetensors" for one in (folder, other)]
    ours, theirs = map(load_file, places)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def beside(stage: str, alone: list[dict[str, float]], found: list[dict[str, float]]) -> tuple[str, str]:
    """Median seconds of a stage, and the ratios to one process within each repetition."""
    ratios = [one[stage] / two[stage] for one, two in zip(alone, found, strict=True)]
    seconds = statistics.median(one[stage] for one in found)
    return f"{seconds:.1f}", spread(ratios)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    with tempfile.TemporaryDirectory() as scratch:
        size = write_model(Path(scratch, "model"))
        rows = [row for pairs in STEPS for row in measure(Path(scratch), pairs, repetitions)]
    lines = [
        f"`python benchmarks/processes.py --repetitions {repetitions}`: {size / 1e6:.1f}M parameters, float32, CPU "
        f"with {len(os.sched_getaffinity(0))} cores, one thread a process; {2 * PROMPTS} completions; forward passes "
        f"of at most {PER_PASS} pairs; medians of {repetitions}, [least, most] of the ratios of runs in turn.",
        "",
        "| steps | | sampling, s | times as fast as one | training, s | times as fast as one | weights apart |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def measure(place: Path, pairs: int, repetitions: int) -> list[list[str]]:
    """The rows of steps of so many pairs."""
    seconds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    folders = {kind: place / f"{pairs} {number}" for number, kind in enumerate(KINDS)}
    for repetition in range(repetitions):
        for kind, overrides in KINDS.items():
            seconds[kind].append(run(Path(f"{folders[kind]} {repetition}"), place / "model", pairs, overrides))
    rows = []
    for kind, found in seconds.items():
        cells = [cell for stage in ("generate", "train") for cell in beside(stage, seconds["one process"], found)]
        weights = apart(*(Path(f"{folders[one]} 0") for one in (kind, "one process")))
        rows.append([f"{STEPS[pairs]} of {pairs} pairs", kind, *cells, f"{weights:.1e}"])
    return rows


if __name__ == "__main__":
    main()
