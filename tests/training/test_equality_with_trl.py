"""Where a loss is TRL's too, align's training is TRL's: on one batch, and over steps.

For `sigmoid`, `ipo` and `hinge` that is the limit of coefficients 0, hard labels and no KL; for the losses that TRL
alone has, TRL's own block runs on align's batches; SimPO is TRL's experimental `CPOTrainer`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from small_training import (
    DESCENT,
    START,
    Models,
    assert_same_gradients,
    collated,
    load_models,
    loss_and_gradients,
    make_trainer,
    random_pair,
    token_logps_alone,
    training_arguments,
    weights,
)
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOTrainer

from align_cli.recipe import Recipe
from align_cli.recipe.sections.losses import ALIGNS_ALONE, LOSS_TYPE_ALIASES, OWN_LOSSES, LossType
from align_cli.recipe.sections.method import MethodSection
from align_cli.training.batches import TrainingPair
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.trainer import PreferenceTrainer
from align_cli.training.trainer import make_trainer as make_recipe_trainer
from align_cli.training.zero_margin import loss_at_zero_margin

OWN = ["sigmoid", "ipo", "hinge"]
TRL_OWN: list[dict[str, Any]] = [
    {"loss_type": "exo_pair", "label_smoothing": 0.1},
    {"loss_type": "nca_pair"},
    {"loss_type": "robust", "label_smoothing": 0.1},
    {"loss_type": "robust"},
    {"loss_type": "bco_pair"},
    {"loss_type": "sppo_hard"},
    {"loss_type": "aot"},
    {"loss_type": "aot", "label_smoothing": 0.2},
    {"loss_type": "aot_unpaired"},
    {"loss_type": "aot_unpaired", "label_smoothing": 0.2},
    {"loss_type": "apo_zero"},
    {"loss_type": "apo_down"},
    {"loss_type": "discopop"},
    {"loss_type": "discopop", "discopop_tau": 0.5},
    {"loss_type": "sft"},
    {"loss_type": "sigmoid_norm"},
    {"loss_type": "sigmoid", "f_divergence_type": "forward_kl"},
    {"loss_type": "ipo", "f_divergence_type": "js_divergence"},
    {"loss_type": "hinge", "f_divergence_type": "alpha_divergence"},
    {"loss_type": "sigmoid", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    {"loss_type": "sigmoid", "use_weighting": True},
    {"loss_type": "ipo", "use_weighting": True},
    {"loss_type": "sigmoid", "ld_alpha": 0.3},
    {"loss_type": "ipo", "ld_alpha": 0.0},
    {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    {"loss_type": ["ipo", "hinge"]},
]
"""Every loss that TRL computes, with the options that it looks at."""

MakeRecipe = Callable[..., Recipe]
Folders = list[Path]


def named(options: dict[str, Any]) -> str:
    return " ".join(str(value) for value in options.values())


@pytest.fixture(scope="module")
def pairs() -> list[TrainingPair]:
    """Sixteen pairs of random tokens, of many lengths."""
    rng = random.Random(0)
    return [random_pair(rng, source=0, number=index) for index in range(16)]


@pytest.fixture
def recipe_of(tiny_recipe: MakeRecipe, tmp_path: Path) -> MakeRecipe:
    """A recipe of offline pairs with this method, which has no terms besides its loss."""

    def make(options: dict[str, Any], **train: Any) -> Recipe:
        changes = {f"method__{key}": value for key, value in options.items()}
        train = {"steps_per_round": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3, **train}
        return tiny_recipe(
            tmp_path, rounds=1, method__sources={"offline": {"mixing": 1.0}}, method__beta=0.2, train=train, **changes
        )

    return make


def trl_trainer(models: Models, args: DPOConfig, pairs: list[TrainingPair]) -> DPOTrainer:
    """TRL's own trainer on the same token ids, which it would otherwise make from text."""

    class TokensPassThrough(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = [
        {"prompt_ids": pair.prompt_ids, "chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids}
        for pair in pairs
    ]
    return TokensPassThrough(
        models.policy.model,
        models.reference.model,
        args,
        processing_class=models.policy.tokenizer,
        train_dataset=Dataset.from_list(rows),
    )


def as_trl_has_it(options: dict[str, Any]) -> dict[str, Any]:
    losses = options["loss_type"]
    return {"beta": 0.2, **options, "loss_type": losses if isinstance(losses, list) else [losses]}


def own_trainer(models: Models, loss_type: str, folder: Path, coefficient: float = 0.0) -> PreferenceTrainer:
    """align's loss, without anything that TRL's does not have unless a coefficient is given."""
    objective = Objective((SourceTerms("dpr", coefficient, policy_responses=True),), loss_type=loss_type, beta=0.2)
    return make_trainer(models, objective, folder, batch=4, arguments={"max_steps": 4, **DESCENT})


def assert_equal_on_a_batch(
    ours: PreferenceTrainer, models: Models, folders: Folders, options: dict[str, Any], pairs: list[TrainingPair]
) -> None:
    our_inputs = collated(models, pairs)
    our_loss, our_gradients = loss_and_gradients(ours, our_inputs)
    args = training_arguments(Path(ours.args.output_dir), **as_trl_has_it(options))
    theirs = trl_trainer(load_models(folders), args, pairs)
    their_inputs = theirs.data_collator([theirs.train_dataset[index] for index in range(len(pairs))])
    for key, tensor in their_inputs.items():
        assert torch.equal(tensor, our_inputs[key]), key
    their_loss, their_gradients = loss_and_gradients(theirs, their_inputs)
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=1e-6)
    assert_same_gradients(our_gradients, their_gradients, rtol=1e-5, atol=1e-6)


def assert_equal_after_steps(
    ours: PreferenceTrainer, models: Models, folders: Folders, options: dict[str, Any], pairs: list[TrainingPair]
) -> None:
    """Four steps of four pairs in the same order, with the same schedule."""
    ours.train_round([pairs[start : start + 4] for start in range(0, 16, 4)], START)
    steps = {"max_steps": 4, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential", **DESCENT}
    their_models = load_models(folders)
    args = training_arguments(Path(ours.args.output_dir), **as_trl_has_it(options), **steps)
    trl_trainer(their_models, args, pairs).train()
    torch.testing.assert_close(weights(models.policy), weights(their_models.policy), rtol=1e-5, atol=1e-6)
    assert (weights(models.policy) - weights(load_models(folders).policy)).abs().max() > 1e-3


@pytest.mark.parametrize("loss_type", OWN)
def test_loss_and_gradients_on_a_batch_are_trls(
    loss_type: str, model_folders: Folders, pairs: list[TrainingPair], tmp_path: Path
) -> None:
    models = load_models(model_folders)
    ours = own_trainer(models, loss_type, tmp_path)
    assert_equal_on_a_batch(ours, models, model_folders, {"loss_type": loss_type}, pairs)


def test_the_comparison_notices_a_coefficient(
    model_folders: Folders, pairs: list[TrainingPair], tmp_path: Path
) -> None:
    """The equality above can fail: a response term changes the gradients by far more than its tolerance."""
    found = []
    for coefficient in (0.0, 0.3):
        models = load_models(model_folders)
        trainer = own_trainer(models, "sigmoid", tmp_path, coefficient)
        found.append(loss_and_gradients(trainer, collated(models, pairs))[1])
    plain, bilevel = found
    assert max((plain[name] - bilevel[name]).abs().max().item() for name in plain) > 1e-3


@pytest.mark.parametrize("loss_type", OWN)
def test_weights_after_several_steps_are_trls(
    loss_type: str, model_folders: Folders, pairs: list[TrainingPair], tmp_path: Path
) -> None:
    models = load_models(model_folders)
    ours = own_trainer(models, loss_type, tmp_path)
    assert_equal_after_steps(ours, models, model_folders, {"loss_type": loss_type}, pairs)


def test_every_loss_of_trl_is_compared() -> None:
    served = set(LossType.__origin__.__args__)  # type: ignore[attr-defined]
    compared = {loss for options in as_lists(TRL_OWN) for loss in options["loss_type"]} | {*OWN, *ALIGNS_ALONE}
    assert compared == served
    assert set(LOSS_TYPE_ALIASES.values()) <= served and set(OWN_LOSSES) <= served
    used = {key for options in TRL_OWN for key in options}
    assert {*MethodSection.TRL_OPTIONS, "loss_weights"} <= used


def as_lists(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [as_trl_has_it(options) for options in cases]


@pytest.mark.parametrize("options", TRL_OWN, ids=named)
def test_a_loss_that_is_trls_own_runs_as_trl_has_it(
    options: dict[str, Any], model_folders: Folders, pairs: list[TrainingPair], recipe_of: MakeRecipe, tmp_path: Path
) -> None:
    """From the recipe's keys through the trainer that a run makes of them."""
    recipe = recipe_of(options)
    assert recipe.method.uses_trl_loss
    models = load_models(model_folders)
    ours = make_recipe_trainer(models.policy, models.reference.model, recipe, tmp_path, lambda: None)
    assert ours.objective is None
    assert_equal_on_a_batch(ours, models, model_folders, options, pairs)


@pytest.mark.parametrize("options", [*({"loss_type": loss} for loss in OWN), *TRL_OWN], ids=named)
def test_the_loss_of_a_policy_that_equals_its_reference_is_known_where_it_depends_on_nothing_else(
    options: dict[str, Any], model_folders: Folders, pairs: list[TrainingPair], recipe_of: MakeRecipe, tmp_path: Path
) -> None:
    """On policies and pairs that are nothing alike."""
    recipe, found = recipe_of(options), []
    for folder, start in ((model_folders[0], 0), (model_folders[1], 8)):
        models = load_models([folder, folder])
        trainer = make_recipe_trainer(models.policy, models.reference.model, recipe, tmp_path, lambda: None)
        loss, _ = loss_and_gradients(trainer, collated(models, pairs[start : start + 8]))
        found.append(loss.item())
    known = loss_at_zero_margin(recipe.method)
    if known is None:
        assert abs(found[0] - found[1]) > 1e-3
    else:
        assert found == pytest.approx([known, known], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"loss_type": "nca_pair"}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}],
    ids=named,
)
def test_weights_after_several_steps_of_trls_own_losses_are_trls(
    options: dict[str, Any], model_folders: Folders, pairs: list[TrainingPair], recipe_of: MakeRecipe, tmp_path: Path
) -> None:
    models = load_models(model_folders)
    recipe = recipe_of(options, steps_per_round=4, **DESCENT)
    ours = make_recipe_trainer(models.policy, models.reference.model, recipe, tmp_path, lambda: None)
    assert_equal_after_steps(ours, models, model_folders, options, pairs)
    assert [record["step"] for record in ours.step_records] == [1, 2, 3, 4]
    assert {"loss", "grad_norm", "learning_rate", "rewards/margins", "rewards/accuracies"} <= set(ours.step_records[0])


def test_trls_figures_are_means_over_the_steps_micro_batches(
    model_folders: Folders, pairs: list[TrainingPair], recipe_of: MakeRecipe, tmp_path: Path
) -> None:
    records = []
    for micro in (4, 2):
        models = load_models(model_folders)
        cut = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 4 // micro}
        recipe = recipe_of({"loss_type": "nca_pair"}, **DESCENT, **cut)
        trainer = make_recipe_trainer(models.policy, models.reference.model, recipe, tmp_path, lambda: None)
        trainer.train_round([pairs[:4]], START)
        records += trainer.step_records
    whole, cut_record = records
    for name in ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "learning_rate"):
        assert cut_record[name] == pytest.approx(whole[name], rel=1e-5), name


@pytest.mark.parametrize("loss_type", ["hinge", "sft", "apo_zero", "sigmoid_norm"])
def test_hinge_and_sft_cannot_be_weighed_in_trl(
    loss_type: str, model_folders: Folders, pairs: list[TrainingPair], tmp_path: Path
) -> None:
    """TRL 1.16 multiplies the weights in place, which autograd refuses for these two: no recipe may ask for it."""
    models = load_models(model_folders)
    options = {"loss_type": [loss_type], "use_weighting": True}
    trainer = make_trainer(models, None, tmp_path, arguments=options)
    if loss_type in ("hinge", "sft"):
        with pytest.raises(RuntimeError, match=r"in-?place|single memory location"):
            loss_and_gradients(trainer, collated(models, pairs))
    else:
        loss_and_gradients(trainer, collated(models, pairs))


def test_simpo_is_trls_experimental_one(model_folders: Folders, pairs: list[TrainingPair], tmp_path: Path) -> None:
    """`CPOTrainer.cpo_loss` as it stands, on log-probabilities that are averaged over tokens as it does."""
    beta, gamma = 2.0, 1.3
    models = load_models(model_folders)
    objective = Objective((SourceTerms("offline"),), loss_type="simpo", beta=beta, gamma=gamma)
    ours = make_trainer(models, objective, tmp_path, batch=16)
    our_loss, our_gradients = loss_and_gradients(ours, collated(models, pairs))

    theirs = SimpleNamespace(
        loss_type="simpo",
        beta=beta,
        simpo_gamma=gamma,
        alpha=0.0,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    their_models = load_models(model_folders)
    averages = [
        torch.stack(
            [
                token_logps_alone(their_models.policy.model, pair.prompt_ids, getattr(pair, side)).mean()
                for pair in pairs
            ]
        )
        for side in ("chosen_ids", "rejected_ids")
    ]
    losses, *_ = CPOTrainer.cpo_loss(theirs, *averages)
    torch.testing.assert_close(our_loss, losses.mean().detach(), rtol=1e-5, atol=1e-6)
    losses.mean().backward()
    expected = {name: p.grad for name, p in their_models.policy.model.named_parameters() if p.grad is not None}
    # One sequence at a time there, a padded batch here: other orders of the same sums.
    assert_same_gradients(our_gradients, expected, rtol=1e-4, atol=1e-5)
