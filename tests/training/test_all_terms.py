"""Every term at once through the trainer: all sources, KL, importance weights, best of more than two."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOConfig

from align_cli.methods.logprobs import token_kl, token_logps
from align_cli.models.load import Policy, load_policy
from align_cli.models.scoring import pad_batch, response_logits, response_logps
from align_cli.playground.model import make_policy
from align_cli.training.batches import PairCollator, TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.trainer import PreferenceTrainer, SourceTerms

START = TrainingState(round=0, global_step=0, parent=None)
BATCH, NUM_STEPS = 8, 2
SOURCES = [
    SourceTerms("offline", kl_coefficient=0.1),
    SourceTerms("ddp", 0.2, policy_labels=True, kl_coefficient=0.1),
    SourceTerms("dpp", 0.2, policy_responses=True, policy_labels=True, kl_coefficient=0.1),
    SourceTerms("dpr", 0.3, policy_responses=True, kl_coefficient=0.1),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(made):
        make_policy(folder, seed)
    return made


def some_pairs(count: int) -> list[TrainingPair]:
    rng = random.Random(1)

    def tokens(least: int, most: int) -> list[int]:
        return [rng.randrange(5, 150) for _ in range(rng.randint(least, most))]

    pairs = []
    for index in range(count):
        source = index % 4
        others = (tokens(1, 9), tokens(1, 9)) if source == 3 else ()
        prompt, chosen, rejected = tokens(2, 9), tokens(1, 12), tokens(1, 12)
        num_tokens = len(chosen) + len(rejected) + sum(len(other) for other in others)
        # An untrained model gives each of its 191 tokens a log-probability near −5.25.
        sampled = -5.25 * num_tokens + rng.uniform(-1, 1) if source >= 2 else 0.0
        pairs.append(TrainingPair(prompt, chosen, rejected, 1.0, source, index, index // 8, others, sampled))
    return pairs


def make(folders: list[Path], scratch: Path, micro: int = BATCH, **changes: Any) -> tuple[PreferenceTrainer, Policy]:
    policy, reference = (load_policy(folder) for folder in folders)
    args = DPOConfig(
        output_dir=str(scratch),
        bf16=False,
        activation_checkpointing=False,
        max_steps=NUM_STEPS,
        optim="sgd",
        learning_rate=0.1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=BATCH // micro,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    sources = changes.pop("sources", SOURCES)
    settings = {"kl_gradient": "full", "importance_weight_cap": 2.0, **changes}
    return PreferenceTrainer(policy, reference.model, sources, args, **settings), policy


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in policy.model.state_dict().values()])


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_with_every_term_steps_do_not_depend_on_how_the_batch_is_cut(
    folders: list[Path], tmp_path: Path, micro: int
) -> None:
    pairs = some_pairs(BATCH * NUM_STEPS)
    batches = [pairs[:BATCH], pairs[BATCH:]]
    whole, whole_policy = make(folders, tmp_path)
    whole.train_round(batches, START)
    cut, cut_policy = make(folders, tmp_path, micro)
    cut.train_round(batches, START)
    torch.testing.assert_close(weights(cut_policy), weights(whole_policy), rtol=1e-6, atol=1e-6)
    for one, other in zip(cut.step_records, whole.step_records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_every_terms_size_is_logged_per_source(folders: list[Path], tmp_path: Path) -> None:
    trainer, _ = make(folders, tmp_path)
    trainer.train_round([some_pairs(BATCH)], START)
    (record,) = trainer.step_records
    assert {key for key in record if key.endswith("/response_term")} == {"dpp/response_term", "dpr/response_term"}
    assert {key for key in record if key.endswith("/label_term")} == {"ddp/label_term", "dpp/label_term"}
    assert {key for key in record if key.endswith("/kl")} == {f"{source.name}/kl" for source in SOURCES}
    assert 0 < record["importance_weight"] <= 2
    assert 0 <= record["importance_weight_truncated"] <= 1


def collated(policy: Policy, pairs: list[TrainingPair]) -> dict[str, torch.Tensor]:
    return PairCollator(policy.tokenizer.pad_token_id)(pairs)


def test_the_kl_is_the_mean_over_the_pairs_responses(folders: list[Path], tmp_path: Path) -> None:
    trainer, policy = make(folders, tmp_path)
    pair = some_pairs(4)[3]
    found = trainer._pair_losses(policy.model, collated(policy, [pair])).kl_B
    by_hand = []
    for ids in (pair.chosen_ids, pair.rejected_ids):
        batch = pad_batch([pair.prompt_ids], [ids], policy.tokenizer.pad_token_id)
        ours, theirs = response_logits(policy.model, batch), response_logits(trainer.ref_model, batch)
        by_hand.append((token_kl(ours.logits_BCV, theirs.logits_BCV) * ours.mask_BC).sum().item())
    assert found.item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_the_score_runs_over_all_responses_that_the_pair_was_chosen_from(folders: list[Path], tmp_path: Path) -> None:
    trainer, policy = make(folders, tmp_path)
    pairs = some_pairs(4)
    found = trainer._pair_losses(policy.model, collated(policy, pairs)).response_logps_B
    for pair, value in zip(pairs, found.tolist(), strict=True):
        responses = [pair.chosen_ids, pair.rejected_ids, *pair.other_ids]
        batch = pad_batch([pair.prompt_ids] * len(responses), responses, policy.tokenizer.pad_token_id)
        assert value == pytest.approx(response_logps(policy.model, batch).sum().item(), rel=1e-5)


def test_weights_are_ratios_capped_and_one_for_dataset_responses(folders: list[Path], tmp_path: Path) -> None:
    trainer, policy = make(folders, tmp_path)
    pairs = some_pairs(8)
    inputs = collated(policy, pairs)
    losses = trainer._pair_losses(policy.model, inputs)
    found = trainer._weights(losses, inputs)
    ratios = (losses.response_logps_B - inputs["sampled_logp"]).exp()
    for index, pair in enumerate(pairs):
        expected = min(ratios[index].item(), 2.0) if pair.source >= 2 else 1.0
        assert found[index].item() == pytest.approx(expected, rel=1e-5)
    assert not found.requires_grad


def test_policy_labels_follow_the_policy_and_not_what_is_stored(folders: list[Path], tmp_path: Path) -> None:
    trainer, policy = make(folders, tmp_path)
    losses = trainer._pair_losses(policy.model, collated(policy, some_pairs(4)))
    expected = losses.preference_logits_B.sigmoid()
    assert losses.labels_B[[1, 2]].tolist() == pytest.approx(expected[[1, 2]].tolist())
    assert losses.labels_B[[0, 3]].tolist() == [1.0, 1.0]


def test_token_logps_at_response_positions_are_those_of_the_sampled_tokens(folders: list[Path]) -> None:
    policy = load_policy(folders[0])
    batch = pad_batch([[5, 6]], [[7, 8]], 0)
    predicted = response_logits(policy.model, batch)
    logps = token_logps(predicted.logits_BCV, predicted.targets_BC)[predicted.mask_BC.bool()]
    full = policy.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.log_softmax(-1)
    assert logps.tolist() == pytest.approx([full[0, 1, 7].item(), full[0, 2, 8].item()], rel=1e-5)
