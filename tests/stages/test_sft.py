from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch
from at_work import AtWork, Folders, Held
from chat_models import make_chat_model
from transformers import LlamaForCausalLM

from align_cli.errors import AlignError, DataError, OutOfMemoryError
from align_cli.models.load import Policy, load_policy
from align_cli.playground.model import CONTEXT_LENGTH, make_model_from_scratch, make_policy
from align_cli.recipe import Recipe
from align_cli.run.folder.work import WorkInProgress
from align_cli.seeds import derive_seed
from align_cli.stages.base import CHECKPOINT, TRAINING, NoProgress
from align_cli.stages.inputs import Inputs
from align_cli.stages.sft import WarmStart, make_initial_policy, makes_policy
from align_cli.training.checkpoints import OPTIMIZER_NAME, TrainingState, read_training_state

TinyRecipe = Callable[..., Recipe]
SHORT = ("policy.sft.max_steps=12", "policy.sft.per_device_train_batch_size=16")


class Made(NamedTuple):
    """An initial policy and the losses of its warm start."""

    policy: Policy
    losses: list[float]


def make(recipe: Recipe) -> Made:
    return Made(*make_initial_policy(recipe, Inputs(recipe), NoProgress()))


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

    recipe = tiny_recipe(tmp_path, *SHORT, "policy.sft.max_steps=3")
    make_initial_policy(recipe, Inputs(recipe), Keeping())
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
    with pytest.raises(DataError, match=r"^policy\.sft\.dataset: 8 of 8 demonstrations do not fit into"):
        make(scratch_recipe(tiny_recipe, tmp_path, str(path), max_steps=1))


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("model") / "model", template=None)


@pytest.fixture
def begin(
    no_garbage_in_libraries: None,
    one_thread: None,
    small_model: Path,
    texts: str,
    tiny_recipe: TinyRecipe,
    tmp_path: Path,
) -> Callable[..., AtWork]:
    """`begin("policy.sft.max_steps=1", name="killed", ...)`: a process that is about to warm-start the small model."""
    sft = {"dataset": texts, "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 0.01}

    def made(*overrides: str, name: str = "whole", **options: Any) -> AtWork:
        policy = {"model_name_or_path": str(small_model), "sft": sft}
        recipe = tiny_recipe(tmp_path, "checkpoints.every_steps=1", *overrides, policy=policy)
        return AtWork(recipe, Folders({}), Held(tmp_path / name), round_number=0, **options)

    return made


def test_a_warm_start_ends_with_its_losses_and_a_checkpoint_to_begin_with(
    begin: Callable[..., AtWork], small_model: Path
) -> None:
    context = begin()
    done = WarmStart().carry_out(context)
    steps = context.held.written.pop(TRAINING)
    assert context.held.written == {}
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert done == ({"steps": 4, "final_loss": steps[-1]["loss"]}, None, None)
    made, kept = context.memory.policy_after(0), load_policy(context.held.place(CHECKPOINT))
    assert weights(made) == weights(kept) != weights(load_policy(small_model))
    assert made.version == kept.version
    assert read_training_state(context.held.place(CHECKPOINT)) == TrainingState(0, 0, None)
    assert not (context.held.place(CHECKPOINT) / OPTIMIZER_NAME).exists()
    assert context.watched.told == [(4, "steps"), 1, 1, 1, 1]


def test_a_policy_that_is_taken_untrained_has_no_losses(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    context = AtWork(tiny_recipe(tmp_path, policy__sft=None), Folders({}), Held(tmp_path / "out"), round_number=0)
    assert WarmStart().carry_out(context).figures == {"steps": 0, "final_loss": None}
    assert context.held.written == {TRAINING: []}
    assert (context.held.place(CHECKPOINT) / "model.safetensors").is_file()


def test_a_warm_start_that_was_killed_goes_on_and_ends_in_the_same_bytes(
    begin: Callable[..., AtWork], tmp_path: Path
) -> None:
    whole, work = begin(), WorkInProgress(tmp_path / "work", {"inputs": 1})
    WarmStart().carry_out(whole)
    with pytest.raises(KeyboardInterrupt):
        WarmStart().carry_out(begin(name="killed", work=work, killed_at=3))
    left = work.checkpoint()
    assert left is not None and left.name == "step-00000002" and (left / OPTIMIZER_NAME).is_file()
    within = read_training_state(left)
    assert within is not None and (within.round, within.global_step, within.parent) == (0, 2, None)
    again = begin(name="again", work=work)
    WarmStart().carry_out(again)
    assert again.watched.told == [(4, "steps"), ("found", 2), 1, 1]
    assert again.held.written == whole.held.written
    one, other = (context.held.place(CHECKPOINT) / "model.safetensors" for context in (whole, again))
    assert one.read_bytes() == other.read_bytes()


def test_a_warm_start_that_runs_out_of_memory_says_what_takes_less(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(LlamaForCausalLM, "forward", full)
    with pytest.raises(OutOfMemoryError) as caught:
        WarmStart().carry_out(begin())
    (fault,) = caught.value.faults
    assert (fault.what, fault.where) == ("out of memory: none left", "policy.sft")


def test_demonstrations_and_keys_are_looked_at_before_anything_is_loaded(
    begin: Callable[..., AtWork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = begin()
    WarmStart().check(context.recipe, context.memory)
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    empty = begin(f"policy.sft.dataset={tmp_path / 'none.jsonl'}")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "nonsense")
    with pytest.raises(AlignError) as caught:
        WarmStart().check(empty.recipe, empty.memory)
    assert ["none.jsonl" in fault.where for fault in caught.value.faults] == [True, False]
    assert caught.value.faults[1].key == "policy.sft"


def test_a_warm_starts_rows_are_read_as_it_will_learn_them(
    begin: Callable[..., AtWork], small_model: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "a b", "completion": " c"}, {"prompt": "", "completion": "d"}]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe, policy = begin(f"policy.sft.dataset={tmp_path / 'shown.jsonl'}").recipe, load_policy(small_model)
    inputs = Inputs(recipe)
    (read,) = WarmStart().to_read(recipe, inputs)
    assert (read.key, list(read.rows)) == ("policy.sft.dataset", rows)
    ids = {text: policy.tokenizer(text)["input_ids"] for text in ("a b", " c", "d")}
    stop = policy.tokenizer.eos_token_id
    assert read.read() == {}
    learnt = [(row.prompt_ids, row.answer_ids["completion"]) for row in inputs.sft_demonstrations.rows]
    assert learnt == [(ids["a b"], [*ids[" c"], stop]), ([], [*ids["d"], stop])]


def test_the_initial_policys_tokenizer_and_context_are_known_before_it_is_made(
    begin: Callable[..., AtWork], tiny_recipe: TinyRecipe, texts: str, small_model: Path, tmp_path: Path
) -> None:
    for recipe, context_length in (
        (tiny_recipe(tmp_path), CONTEXT_LENGTH),
        (tiny_recipe(tmp_path, "playground.architecture=qwen2"), CONTEXT_LENGTH),
        (scratch_recipe(tiny_recipe, tmp_path, texts, max_steps=1), 64),
        (begin("policy.sft.max_steps=1").recipe, 128),
    ):
        unloaded, made = Inputs(recipe).policy, make(recipe).policy
        assert unloaded.context_length == made.context_length == context_length
        assert list(unloaded.eos_token_ids) == made.eos_token_ids == [made.tokenizer.eos_token_id]
        assert unloaded.tokenizer.get_vocab() == made.tokenizer.get_vocab()
        assert type(unloaded.tokenizer) is type(made.tokenizer)


@pytest.mark.parametrize("seed", [0, 5])
def test_a_models_weights_are_those_of_the_runs_seed(
    tiny_recipe: TinyRecipe, texts: str, tmp_path: Path, seed: int
) -> None:
    derived = derive_seed(seed, "model") % 2**32
    make_policy(tmp_path / "playground", derived)
    untrained = make(tiny_recipe(tmp_path, f"seed={seed}", policy__sft=None)).policy
    assert weights(untrained) == weights(load_policy(tmp_path / "playground"))


def test_a_new_models_texts_are_prompts_and_completions_and_its_weights_are_those_of_the_seed(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    rows = [{"prompt": f"question {n}", "completion": f" answer {n}"} for n in range(9)]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    new = {**sizes, "max_position_embeddings": 64}
    sft = {"dataset": str(tmp_path / "shown.jsonl"), "max_steps": 1, "learning_rate": 1.0e-30, "weight_decay": 0}
    recipe = tiny_recipe(tmp_path, policy={"from_scratch": new, "sft": sft})
    made = make(recipe).policy
    make_model_from_scratch(
        tmp_path / "expected",
        [row["prompt"] + row["completion"] for row in rows],
        seed=derive_seed(0, "model") % 2**32,
        architecture="llama",
        **new,
    )
    expected = load_policy(tmp_path / "expected")
    assert made.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert Inputs(recipe).policy.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert weights(made) == weights(expected)


@pytest.mark.parametrize("of", ["playground", "a new model"])
def test_an_initial_policy_has_the_type_of_the_recipe(
    tiny_recipe: TinyRecipe, texts: str, tmp_path: Path, of: str
) -> None:
    if of == "playground":
        recipe = tiny_recipe(tmp_path, "policy.dtype=bfloat16", policy__sft=None)
    else:
        policy = scratch_recipe(tiny_recipe, tmp_path, texts, max_steps=1).policy.model_dump(exclude_none=True)
        recipe = tiny_recipe(tmp_path, policy={**policy, "dtype": "bfloat16"})
    assert make(recipe).policy.model.dtype == torch.bfloat16
