from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from align_cli.errors import RecipeError
from align_cli.playground import world
from align_cli.playground.model import ARCHITECTURES, make_model_from_scratch, make_policy, train_tokenizer

TEXTS = [
    "it's the film of the year -- don't miss it . . .",
    "a naïve café tale , 3 hours too long ?",
    "the plot is a plot is a plot .",
    "漢字 and 😀 too",
]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def scratch_model(folder: Path, **changes: object) -> None:
    settings: dict = {
        "seed": 0,
        "architecture": "llama",
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    make_model_from_scratch(folder, TEXTS, **(settings | changes))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "new" / "policy"
    make_policy(folder, 0, request.param)
    return request.param, folder


def test_a_policy_loads_like_any_downloaded_model(policy: tuple[str, Path]) -> None:
    architecture, folder = policy
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == architecture
    assert 100_000 < sum(weight.numel() for weight in model.parameters()) < 500_000
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_policy_generates_from_left_padded_prompts(policy: tuple[str, Path]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(policy[1])
    tokenizer = AutoTokenizer.from_pretrained(policy[1])
    batch = tokenizer(["review of the food :", "verdict on the film at the inn :"], return_tensors="pt", padding=True)
    assert batch.input_ids[0, 0] == tokenizer.pad_token_id
    assert set(batch) == {"input_ids", "attention_mask"}
    output = model.generate(**batch, do_sample=True, max_new_tokens=5)
    assert output.shape[0] == 2 and output.shape[1] > batch.input_ids.shape[1]


def test_every_row_of_the_playground_survives_the_tokenizer(policy: tuple[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy[1])
    rows = [(row["prompt"], row["completion"]) for row in world.sft_corpus(0)]
    for name in ("plenty", "other-writer"):
        pairs = world.preferences(name, 0) + world.eval_preferences(name, 0)
        rows += [(row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")]
    prompts, completions = ([row[side] for row in rows] for side in (0, 1))
    prompt_ids, completion_ids = tokenizer(prompts)["input_ids"], tokenizer(completions)["input_ids"]
    both_ids = tokenizer([prompt + completion for prompt, completion in rows])["input_ids"]
    assert both_ids == [first + second for first, second in zip(prompt_ids, completion_ids, strict=True)]
    assert tokenizer.batch_decode(both_ids, skip_special_tokens=True) == [prompt + rest for prompt, rest in rows]
    assert tokenizer.batch_decode(completion_ids, skip_special_tokens=True) == completions
    assert all(prompt_ids)
    num_words = sum(len(completion.split()) for completion in completions)
    assert sum(map(len, completion_ids)) == num_words, "every word is one token"
    if policy[0] == "llama":
        assert all(tokenizer.unk_token_id not in ids for ids in both_ids)


def test_a_word_that_the_playground_has_not_is_unknown_or_spelt_out(policy: tuple[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy[1])
    ids = tokenizer(" the spaceship was good")["input_ids"]
    if policy[0] == "llama":
        assert ids.count(tokenizer.unk_token_id) == 1
    else:
        assert tokenizer.decode(ids) == " the spaceship was good"
        assert len(ids) > 4


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_weights(
    policy: tuple[str, Path], tmp_path: Path
) -> None:
    architecture, folder = policy
    torch.manual_seed(123)
    make_policy(tmp_path / "same", 0, architecture)
    make_policy(tmp_path / "other", 1, architecture)
    first, same, other = (files_of(each) for each in (folder, tmp_path / "same", tmp_path / "other"))
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= first.keys()
    assert first == same
    assert [name for name in first if first[name] != other[name]] == ["model.safetensors"]


def test_making_a_policy_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make_policy(tmp_path, 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_from_scratch_has_the_sizes_asked_for(architecture: str, tmp_path: Path) -> None:
    scratch_model(tmp_path, architecture=architecture, hidden_size=24, num_hidden_layers=2)
    config = AutoModelForCausalLM.from_pretrained(tmp_path).config
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == (architecture, 24, 2)
    assert (config.num_attention_heads, config.max_position_embeddings) == (2, 64)
    assert config.vocab_size == len(tokenizer) == 300
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_byte_level_tokenizer_keeps_the_seam_and_any_text(architecture: str, tmp_path: Path) -> None:
    scratch_model(tmp_path, architecture=architecture)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "never seen ‹words› , ok ?"]:
        words = text.split(" ")
        for cut in range(1, len(words)):
            prompt, completion = " ".join(words[:cut]), " " + " ".join(words[cut:])
            prompt_ids, completion_ids = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
            assert tokenizer(text)["input_ids"] == prompt_ids + completion_ids
            assert tokenizer.decode(prompt_ids + completion_ids, skip_special_tokens=True) == text


def test_a_tokenizer_is_the_same_in_another_process() -> None:
    script = (
        "import json, sys; from align_cli.playground.model import train_tokenizer\n"
        "for architecture in sys.argv[2:]:\n"
        "    print(train_tokenizer(json.loads(sys.argv[1]), 320, architecture).backend_tokenizer.to_str())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(TEXTS), *ARCHITECTURES],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [train_tokenizer(TEXTS, 320, architecture).backend_tokenizer.to_str() for architecture in ARCHITECTURES]
    assert run.stdout.splitlines() == here


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "lama"}, "hint: did you mean llama"),
        ({"vocab_size": 100}, "vocab_size is 100; .* at least 258"),
        ({"hidden_size": 18, "num_attention_heads": 4}, "hidden_size is 18; it must be a multiple of .*, 8"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_written(
    changes: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        scratch_model(tmp_path / "model", **changes)
    assert not (tmp_path / "model").exists()


def test_importing_the_playground_loads_no_heavy_library() -> None:
    script = (
        "import sys, align_cli.playground, align_cli.playground.world\n"
        "import align_cli.playground.model, align_cli.playground.reviews\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'sklearn', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
