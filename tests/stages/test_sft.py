from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch

from align_cli.errors import DataError
from align_cli.models.load import Policy, load_policy
from align_cli.recipe import Recipe
from align_cli.stages.base import NoProgress
from align_cli.stages.sft import make_initial_policy, makes_policy

TinyRecipe = Callable[..., Recipe]
SHORT = ("policy.sft.max_steps=12", "policy.sft.per_device_train_batch_size=16")


class Made(NamedTuple):
    """An initial policy and the losses of its warm start."""

    policy: Policy
    losses: list[float]


def make(recipe: Recipe) -> Made:
    return Made(*make_initial_policy(recipe, NoProgress()))


def weights(policy: Policy) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in policy.model.state_dict().items()}


@pytest.fixture(scope="module")
def made(one_thread: None, tiny_recipe: TinyRecipe, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    return make(tiny_recipe(tmp_path_factory.mktemp("made"), *SHORT))


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A small list of texts, one a line."""
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"the cat number {n} sat on the mat .\n" for n in range(40)), encoding="utf-8")
    return str(path)


def scratch_recipe(tiny_recipe: TinyRecipe, folder: Path, dataset: str, **changes: Any) -> Recipe:
    new_model = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sft = {"dataset": dataset, "max_steps": 10, "per_device_train_batch_size": 8, "learning_rate": 0.01}
    return tiny_recipe(
        folder, policy={"from_scratch": {**new_model, "max_position_embeddings": 64}, "sft": {**sft, **changes}}
    )


def test_the_loss_of_a_warm_start_falls(made: Made) -> None:
    assert len(made.losses) == 12
    assert fmean(made.losses[-3:]) < fmean(made.losses[:3]) - 0.2


def test_a_warm_start_leaves_a_policy_ready_to_be_sampled(made: Made) -> None:
    assert not made.policy.model.training
    assert all(torch.isfinite(weight).all() for weight in made.policy.model.parameters())


def test_equal_recipes_give_equal_bytes_whatever_the_random_state(
    made: Made, tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    torch.rand(7)
    again = make(tiny_recipe(tmp_path, *SHORT))
    assert again.losses == made.losses
    assert weights(again.policy) == weights(made.policy)


def test_another_seed_gives_another_policy(made: Made, tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    other = make(tiny_recipe(tmp_path, *SHORT, "seed=1"))
    assert other.losses != made.losses
    assert weights(other.policy) != weights(made.policy)


def test_progress_counts_every_step(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    told: list[tuple[int, str] | int] = []

    class Keeping:
        def start(self, total: int, unit: str) -> None:
            told.append((total, unit))

        def advance(self, amount: int = 1) -> None:
            told.append(amount)

    make_initial_policy(tiny_recipe(tmp_path, *SHORT, "policy.sft.max_steps=3"), Keeping())
    assert told == [(3, "steps"), 1, 1, 1]


def test_without_a_warm_start_the_playgrounds_policy_is_the_untrained_one(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    first, again = (make(tiny_recipe(tmp_path, policy__sft=None)) for _ in range(2))
    assert first.losses == []
    assert first.policy.version == again.policy.version
    assert weights(first.policy) == weights(again.policy)
    qwen = make(tiny_recipe(tmp_path, "playground.architecture=qwen2", policy__sft=None))
    assert qwen.policy.model.config.model_type == "qwen2"


def test_a_folders_model_is_warm_started_from_its_own_weights(
    tiny_policy_folder: Path, tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    name = f"policy.model_name_or_path={tiny_policy_folder}"
    as_it_is = make(tiny_recipe(tmp_path, name, policy__sft=None))
    assert weights(as_it_is.policy) == weights(load_policy(tiny_policy_folder))
    warm = make(tiny_recipe(tmp_path, *SHORT, name, "policy.sft.max_steps=2"))
    assert len(warm.losses) == 2
    assert weights(warm.policy) != weights(as_it_is.policy)


def test_a_new_model_learns_its_tokenizer_and_its_texts(tiny_recipe: TinyRecipe, texts: str, tmp_path: Path) -> None:
    policy, losses = make(scratch_recipe(tiny_recipe, tmp_path, texts))
    assert (policy.model.config.hidden_size, policy.model.config.num_hidden_layers) == (16, 1)
    assert fmean(losses[-3:]) < fmean(losses[:3])
    ids = policy.tokenizer("the cat number 3 sat on the mat .")["input_ids"]
    assert len(ids) < 30, "its merges come from the texts"
    assert policy.tokenizer.decode(ids) == "the cat number 3 sat on the mat ."


def test_a_new_model_is_the_same_again(tiny_recipe: TinyRecipe, texts: str, tmp_path: Path) -> None:
    first, again = (make(scratch_recipe(tiny_recipe, tmp_path, texts)) for _ in range(2))
    assert first.losses == again.losses
    assert weights(first.policy) == weights(again.policy)


def test_only_the_completions_tokens_are_learnt(
    tiny_policy_folder: Path, tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    """The first loss is the mean over completion tokens, the end of sequence included, and over nothing else."""
    row = {"prompt": "review of the food at the inn :", "completion": " the food was good ."}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
    recipe = tiny_recipe(
        tmp_path,
        f"policy.model_name_or_path={tiny_policy_folder}",
        policy__sft={
            "dataset": str(tmp_path / "one.jsonl"),
            "max_steps": 1,
            "per_device_train_batch_size": 1,
            "warmup_steps": 0,
        },
    )
    policy = load_policy(tiny_policy_folder)
    prompt_ids, completion_ids = (policy.tokenizer(row[key])["input_ids"] for key in ("prompt", "completion"))
    response = [*completion_ids, policy.tokenizer.eos_token_id]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt_ids + response])).logits[0].double()
    logps = logits.log_softmax(-1)[len(prompt_ids) - 1 : -1].gather(-1, torch.tensor(response)[:, None])
    assert make(recipe).losses == [pytest.approx(-logps.mean().item(), abs=1e-3)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"policy__sft": None}, True),
        ({"policy": {"model_name_or_path": "./model"}}, False),
        ({"policy": {"model_name_or_path": "./model", "sft": {"dataset": "playground"}}}, True),
    ],
    ids=["warm start", "playground as it is", "a model as it is", "a model warm-started"],
)
def test_a_policy_is_made_unless_it_is_a_model_as_it_is(
    change: dict[str, Any], expected: bool, tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    assert makes_policy(tiny_recipe(tmp_path, **change)) is expected


def test_a_file_without_demonstrations_is_a_user_error(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError):
        make(tiny_recipe(tmp_path, policy__sft__dataset=str(tmp_path / "none.jsonl")))


def test_demonstrations_longer_than_the_models_context_are_refused_or_cut(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n".join("a b c d e f g h " * 40 + str(n) for n in range(8)), encoding="utf-8")
    with pytest.raises(DataError, match=r"longer|context"):
        make(scratch_recipe(tiny_recipe, tmp_path, str(path), max_steps=1))
