"""Rounds through one trainer: micro-batches, baselines, schedules, and what we rely on in TRL and transformers."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from trl import DPOConfig, DPOTrainer

from align_cli.methods.bilevel import response_term
from align_cli.methods.preference import expected_preference_loss, preference_margin
from align_cli.models.load import Policy, load_policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground.model import make_policy
from align_cli.training.batches import PairCollator, TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.trainer import PreferenceTrainer, SourceTerms

START = TrainingState(round=0, global_step=0, parent=None)
NUM_STEPS = 3
BATCH = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(made):
        make_policy(folder, seed)
    return made


def some_pairs(count: int, seed: int = 0) -> list[TrainingPair]:
    """Pairs of random tokens, offline and policy in turn, some with soft labels."""
    rng = random.Random(seed)

    def tokens(least: int, most: int) -> list[int]:
        return [rng.randrange(5, 150) for _ in range(rng.randint(least, most))]

    return [
        TrainingPair(
            prompt_ids=tokens(2, 9),
            chosen_ids=tokens(1, 12),
            rejected_ids=tokens(1, 12),
            label=rng.choice([1.0, 1.0, 0.7, 0.5]),
            source=index % 2,
            pair_id=index // 2,
            group_id=index // 2,
        )
        for index in range(count)
    ]


def make(
    folders: list[Path], scratch: Path, *, coefficient: float = 0.3, micro: int = BATCH, **settings: Any
) -> tuple[PreferenceTrainer, Policy, Policy]:
    policy, reference = (load_policy(folder) for folder in folders)
    schedule_spans_run = settings.pop("schedule_spans_run", True)
    reset_optimizer = settings.pop("reset_optimizer", False)
    args = DPOConfig(
        output_dir=str(scratch),
        bf16=False,
        activation_checkpointing=False,
        max_length=None,
        max_steps=settings.pop("max_steps", NUM_STEPS),
        learning_rate=settings.pop("learning_rate", 1e-3),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=BATCH // micro,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **settings,
    )
    sources = [SourceTerms("offline", 0.0), SourceTerms("dpr", coefficient, policy_responses=True)]
    trainer = PreferenceTrainer(
        policy,
        reference.model,
        sources,
        args,
        schedule_spans_run=schedule_spans_run,
        reset_optimizer=reset_optimizer,
    )
    return trainer, policy, reference


def batches(num_steps: int = NUM_STEPS, seed: int = 0) -> list[list[TrainingPair]]:
    pairs = some_pairs(num_steps * BATCH, seed)
    return [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in policy.model.state_dict().values()])


def test_the_gradient_of_a_batch_is_the_formulas(folders: list[Path], tmp_path: Path) -> None:
    """Loss and response term written out by hand, from the pure functions, in one pass."""
    trainer, policy, _ = make(folders, tmp_path, coefficient=0.7)
    batch = some_pairs(BATCH)
    trainer.model.train()
    trainer.compute_loss(trainer.model, PairCollator(policy.tokenizer.pad_token_id)(batch)).backward()
    found = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}

    mine, reference = (load_policy(folder) for folder in folders)
    pad = mine.tokenizer.pad_token_id
    prompts = [pair.prompt_ids for pair in batch]
    chosen = pad_batch(prompts, [pair.chosen_ids for pair in batch], pad)
    rejected = pad_batch(prompts, [pair.rejected_ids for pair in batch], pad)
    chosen_logps, rejected_logps = response_logps(mine.model, chosen), response_logps(mine.model, rejected)
    with torch.no_grad():
        reference_ratio = response_logps(reference.model, chosen), response_logps(reference.model, rejected)
    lengths = chosen.completion_mask_BT.sum(-1), rejected.completion_mask_BT.sum(-1)
    ratios = chosen_logps - reference_ratio[0], rejected_logps - reference_ratio[1]
    margins = preference_margin(*ratios, *lengths, "sigmoid")
    losses = expected_preference_loss(margins, torch.tensor([pair.label for pair in batch]), "sigmoid", 0.1)
    rows = [index for index, pair in enumerate(batch) if pair.source == 1]
    baselines = torch.stack([losses[[other for other in rows if other != row]].mean() for row in rows])
    terms = response_term(losses[rows], baselines, (chosen_logps + rejected_logps)[rows])
    (losses.mean() + 0.7 * terms.sum() / BATCH).backward()
    for name, parameter in mine.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_steps_do_not_depend_on_how_the_batch_is_cut(folders: list[Path], tmp_path: Path, micro: int) -> None:
    # Plain gradient descent: Adam divides by the gradient's size, which blows rounding up where it is near zero.
    descent = {"optim": "sgd", "learning_rate": 0.1}
    whole, whole_policy, _ = make(folders, tmp_path, **descent)
    whole.train_round(batches(), START)
    cut, cut_policy, _ = make(folders, tmp_path, micro=micro, **descent)
    cut.train_round(batches(), START)
    torch.testing.assert_close(weights(cut_policy), weights(whole_policy), rtol=1e-6, atol=1e-6)
    assert (weights(cut_policy) - weights(load_policy(folders[0]))).abs().max() > 1e-3
    for one, other in zip(cut.step_records, whole.step_records, strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_two_rounds_equal_one_of_both_lengths(folders: list[Path], tmp_path: Path) -> None:
    """Schedule and Adam's moments run on across rounds."""
    together, together_policy, _ = make(folders, tmp_path, max_steps=4)
    together.train_round(batches(4), START)
    apart, apart_policy, _ = make(folders, tmp_path, max_steps=4)
    state = apart.train_round(batches(4)[:2], START)
    first_records = apart.step_records
    apart.train_round(batches(4)[2:], state)
    assert torch.equal(weights(apart_policy), weights(together_policy))
    assert first_records + apart.step_records == together.step_records


def test_a_schedule_of_its_own_begins_anew_each_round(folders: list[Path], tmp_path: Path) -> None:
    trainer, _, _ = make(folders, tmp_path, schedule_spans_run=False)
    state = trainer.train_round(batches(), START)
    first = [record["learning_rate"] for record in trainer.step_records]
    trainer.train_round(batches(seed=1), state)
    assert [record["learning_rate"] for record in trainer.step_records] == first
    assert first[0] == pytest.approx(1e-3) and first[0] > first[1] > first[2] > 0
    assert state.global_step == NUM_STEPS


def test_a_longer_plan_is_followed_from_where_the_last_one_ended(folders: list[Path], tmp_path: Path) -> None:
    """Raised `rounds`: the learning rate of a schedule over six steps, from its fourth on."""
    short, _, _ = make(folders, tmp_path)
    state = short.train_round(batches(), START)
    longer, _, _ = make(folders, tmp_path, max_steps=6)
    longer.train_round(batches(seed=1), state, short.optimizer.state_dict())
    rates = [record["learning_rate"] for record in longer.step_records]
    assert rates == pytest.approx([1e-3 * (1 - step / 6) for step in (3, 4, 5)])


def test_the_optimizer_can_begin_anew_each_round(folders: list[Path], tmp_path: Path) -> None:
    found = []
    for reset in (False, True):
        trainer, policy, _ = make(folders, tmp_path, max_steps=6, reset_optimizer=reset)
        state = trainer.train_round(batches(), START)
        trainer.train_round(batches(seed=1), state)
        steps = {float(values["step"]) for values in trainer.optimizer.state_dict()["state"].values()}
        assert steps == ({3.0} if reset else {6.0})
        found.append(weights(policy))
    assert not torch.equal(*found)


def test_a_round_ends_in_evaluation_mode_and_reports_each_step(folders: list[Path], tmp_path: Path) -> None:
    calls = []
    trainer, policy, _ = make(folders, tmp_path)
    trainer.on_step = lambda: calls.append(1)
    trainer.train_round(batches(), START)
    assert not policy.model.training and len(calls) == NUM_STEPS
    record = trainer.step_records[0]
    assert {"step", "loss", "grad_norm", "learning_rate", "dpr/baseline", "dpr/response_term", "offline/loss"} <= set(
        record
    )
    assert "offline/response_term" not in record
    half = (record["dpr/loss"] + record["offline/loss"]) / 2
    assert record["loss"] == pytest.approx(half, rel=1e-5)


def test_an_equal_text_pair_costs_the_loss_at_zero_margin(folders: list[Path], tmp_path: Path) -> None:
    same = TrainingPair([5, 6], [7, 8], [7, 8], 0.5, 0, 0, 0)
    trainer, policy, _ = make(folders, tmp_path)
    losses = trainer._pair_losses(policy.model, PairCollator(0)([same])).losses_B
    assert losses.item() == pytest.approx(0.693147, abs=1e-6)


class TestWhatWeRelyOn:
    """Contracts with TRL 1.16 and transformers 5.23; a new version that breaks one breaks us."""

    def test_dpo_trainer_still_has_the_methods_that_we_replace(self) -> None:
        assert list(inspect.signature(DPOTrainer._compute_loss).parameters) == [
            "self",
            "model",
            "inputs",
            "return_outputs",
        ]
        assert list(inspect.signature(DPOTrainer._prepare_dataset).parameters)[:2] == ["self", "dataset"]
        assert list(inspect.signature(Trainer.get_batch_samples).parameters) == [
            "self",
            "epoch_iterator",
            "num_batches",
            "device",
        ]

    def test_the_mean_of_a_micro_batch_is_divided_by_the_accumulation_steps(self) -> None:
        assert DPOTrainer.loss_is_scaled_for_ga is False

    def test_a_train_call_begins_at_step_zero_with_a_new_schedule_and_keeps_the_optimizer(
        self, folders: list[Path], tmp_path: Path
    ) -> None:
        trainer, _, _ = make(folders, tmp_path)
        trainer.train_round(batches(), START)
        optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
        trainer.train_round(batches(), START)
        assert trainer.optimizer is optimizer
        assert trainer.lr_scheduler is not scheduler
        assert trainer.state.global_step == NUM_STEPS

    def test_every_trainer_wraps_the_models_forward_once_more(self, folders: list[Path], tmp_path: Path) -> None:
        _, policy, _ = make(folders, tmp_path)
        assert "forward" in vars(policy.model)

    def test_the_defaults_that_surprise_are_still_trls(self) -> None:
        fields = DPOConfig.__dataclass_fields__
        assert fields["max_length"].default == 1024
        assert fields["gradient_checkpointing"].default is True
        assert fields["bf16"].default is None

    def test_the_last_logged_step_is_kept_where_we_set_it(self, folders: list[Path], tmp_path: Path) -> None:
        trainer, _, _ = make(folders, tmp_path)
        trainer.train_round(batches(), START)
        assert trainer._globalstep_last_logged == NUM_STEPS
