"""Model families: tiny models of each go through two rounds, all weights trained or adapters.

Weights are drawn wide, so that responses differ and log-probabilities have something to say. Where a family looks back
over a window, it is shorter than the sequences.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from finished_runs import FinishedRun
from in_process_runs import killed_at_step, train
from run_fixtures import NUM_PROMPTS, files_below, write_rows
from sweeps import swept

from align_cli.artifacts.store import read_json
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground.model import policy_tokenizer
from align_cli.playground.world import prompts
from align_cli.training.batches import TrainingPair
from align_cli.training.collated import PairCollator

WINDOW = 8
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
}
WINDOWS = {"head_dim": 8, "sliding_window": WINDOW}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "gemma2": {**WINDOWS, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**WINDOWS, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": WINDOW},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "olmo": {"clip_qkv": 1.0},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "output_router_logits": True},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16, "output_router_logits": True},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
}
"""transformers' names, and what a family has that others have not."""

RECIPE: dict[str, Any] = {
    "preset": "sail-dpr-as-published",
    "output_dir": "run",
    "rounds": 2,
    "policy": {"model_name_or_path": "base"},
    "data": {"prompts": "prompts.jsonl", "preferences": "playground", "eval_prompts": "playground"},
    "playground": {"setting": "few"},
    "labelers": {"hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"}},
    "method": {"sources": {"dpr": {"labeler": "hidden"}}},
    "generate": {"prompts_per_round": 4, "max_new_tokens": 10, "batch_size": 4},
    "train": {"learning_rate": 1.0e-3, "per_device_train_batch_size": 4, "steps_per_round": 2},
    "evaluate": {"num_prompts": 4, "scorer": "hidden"},
}

pytestmark = pytest.mark.usefixtures("no_garbage_in_libraries", "one_thread")
Start = Callable[..., Path]
ALL_WEIGHTS, ADAPTERS = "all weights", "adapters"
POLICIES: dict[str, dict[str, Any]] = {ALL_WEIGHTS: {}, ADAPTERS: {"lora": {"rank": 2}}}
HALF, QUANTISED = "all weights in bfloat16", "adapters on 4 bits"
MORE_POLICIES = {HALF: {"dtype": "bfloat16"}, QUANTISED: {**POLICIES[ADAPTERS], "quantization": {"bits": 4}}}
BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
SOME = [("llama", ALL_WEIGHTS), ("gemma2", ALL_WEIGHTS), ("gpt2", ADAPTERS), ("qwen2_moe", ADAPTERS)]
"""What `make test-all` looks at; `make test-sweeps` at all others, in both ways."""


@dataclass(frozen=True)
class Run(FinishedRun):
    """A finished run.

    Args:
        folder: of the run.
        trained: every pair that training put into a batch.
    """

    trained: list[TrainingPair]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`start(family, trained)`: a folder of its own with a model and a recipe, gone to."""

    def make(family: str, trained: str, name: str = "whole") -> Path:
        folder = tmp_path / name
        make_model(folder / "base", family)
        write_rows(folder / "prompts.jsonl", prompts(0, NUM_PROMPTS))
        recipe = {**RECIPE, "policy": {**RECIPE["policy"], **{**POLICIES, **MORE_POLICIES}[trained]}}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        monkeypatch.chdir(folder)
        return folder

    return make


def make_model(folder: Path, family: str) -> None:
    """A model of the family with random weights, and the playground's words."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = policy_tokenizer("qwen2" if family == "qwen2" else "llama")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **{**SHAPE, **ids, **FAMILIES[family]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run_through(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Run:
    collate, trained = PairCollator.__call__, []

    def recording(self: PairCollator, pairs: Any) -> Any:
        trained.extend(pairs)
        return collate(self, pairs)

    with monkeypatch.context() as patched:
        patched.setattr(PairCollator, "__call__", recording)
        notes = train()
    assert not [note for note in notes if note.startswith("note: generate:")], "any prompts go together"
    return Run(folder / "run", trained)


def plain_model(folder: Path, round_number: int, has_adapter: bool) -> Any:
    """A round's policy as transformers and peft load it, without align."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    checkpoint = folder / "run" / "rounds" / f"{round_number:03d}" / "checkpoint"
    if not has_adapter:
        return AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), checkpoint).eval()


@pytest.mark.long
@pytest.mark.parametrize(("family", "trained"), swept(product(FAMILIES, POLICIES), *SOME))
def test_a_family_goes_through_two_rounds(
    family: str, trained: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = start(family, trained)
    run = run_through(monkeypatch, folder)

    sampled = {tuple(row.completion_ids): row for number in (1, 2) for row in run.completions(number)}
    own = [ids for pair in run.trained if pair.source == 1 for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert own
    assert {tuple(ids) for ids in own} <= sampled.keys(), "the ids that are trained are those that were sampled"
    assert max(len(pair.prompt_ids + pair.chosen_ids) for pair in run.trained) > WINDOW + 2

    model, second = plain_model(folder, 1, trained == ADAPTERS), run.completions(2)
    with torch.no_grad():
        batch = pad_batch([row.prompt_ids for row in second], [row.completion_ids for row in second], 0)
        found = response_logps(model, batch)
    said = torch.tensor([sum(row.logps) for row in second])
    torch.testing.assert_close(found, said, atol=1e-4, rtol=0)
    assert said.std() > 0.1

    for number in (1, 2):
        figures = [json.loads(line) for line in (run.round(number) / "training.jsonl").read_text().splitlines()]
        assert all(math.isfinite(value) for step in figures for value in step.values())
        assert all(step["grad_norm"] > 0 for step in figures)
    kl = read_json(run.round(2) / "evaluation.json")["kl"]["mean"]
    assert 1e-6 < kl < math.inf


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "trained"),
    [
        *swept([*product(["llama", "mixtral", "mistral"], POLICIES), ("llama", HALF)], ("mixtral", ADAPTERS)),
        pytest.param("phi3", QUANTISED, marks=BITSANDBYTES),
    ],
)
def test_killed_in_its_second_round_a_run_ends_in_the_same_bytes(
    family: str, trained: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = start(family, trained)
    train()
    killed = start(family, trained, "killed")
    with killed_at_step(monkeypatch, RECIPE["train"]["steps_per_round"] + 1):
        train()
    assert (killed / "run" / "rounds" / "001" / "checkpoint").is_dir()
    assert not (killed / "run" / "rounds" / "002" / "checkpoint").exists()
    train()
    ours, theirs = files_below(killed / "run" / "rounds"), files_below(straight / "run" / "rounds")
    assert [name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)] == []


def test_a_loss_of_trls_has_no_loss_of_a_router_beside_it(start: Start) -> None:
    folder = start("mixtral", ALL_WEIGHTS)
    train("rounds=1", "method.loss_type=exo_pair", "method.label_smoothing=0.01", "method.sources.dpr.gradient=0")
    figures = (folder / "run" / "rounds" / "001" / "training.jsonl").read_text()
    assert "loss" in figures
    assert "aux_loss" not in figures
