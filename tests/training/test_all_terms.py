"""Every term at once through the trainer, however the batch is cut: sources, baselines, weights, KL, optimism."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from small_training import (
    DESCENT,
    START,
    Models,
    Records,
    assert_same_records,
    collated,
    load_models,
    logp_alone,
    loss_and_gradients,
    make_trainer,
    random_pair,
    random_tokens,
    sampled_nearby,
    weights,
    whole_step,
)

from align_cli.methods.logprobs import token_kl
from align_cli.training.batches import Mixture, TrainingPair
from align_cli.training.collated import select_pairs
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.pair_losses import pair_losses
from align_cli.training.trainer import PreferenceTrainer

BATCH, NUM_STEPS = 16, 2
OBJECTIVE = Objective(
    (
        SourceTerms("offline"),
        SourceTerms("ddp", 0.2, policy_labels=True),
        SourceTerms("dpp", 0.2, policy_responses=True, policy_labels=True),
        SourceTerms("dpr", 0.3, policy_responses=True),
        SourceTerms("dmd", 0.3, policy_responses=True),
    ),
    kl_coefficient=0.1,
    kl_gradient="full",
    optimism_coefficient=0.01,
    importance_weight_cap=2.0,
)
OFFLINE, DDP, DPP, DPR, DMD = range(5)


def all_pairs_of_three(rng: random.Random, source: int, prompt: int, labels: tuple[float, ...]) -> list[TrainingPair]:
    """The three pairs of three responses to one prompt: each response stands in two of them."""
    prompt_ids, responses = random_tokens(rng, 2, 9), [random_tokens(rng, 1, 12) for _ in range(3)]
    return [
        TrainingPair(
            prompt_ids,
            responses[one],
            responses[two],
            label,
            source,
            pair_id=10 * prompt + number,
            prompt_id=prompt,
            response_ids=(10 * prompt + one, 10 * prompt + two),
        )
        for number, ((one, two), label) in enumerate(zip(combinations(range(3), 2), labels, strict=True))
    ]


def one_step(rng: random.Random) -> list[TrainingPair]:
    """Sixteen pairs, a source after the other, as a round's batches have them.

    Two offline and two self-labelled offline ones; three of three of the policy's responses, and a pair of another
    prompt; three of three labelled by a reward, best of four, and a pair with the reference's response; two mixed ones.
    """
    with_reference = replace(random_pair(rng, DPR, 205), of_policy=(True, False), from_reference=(False, True))
    best_of_four = [
        replace(random_pair(rng, DPR, number), other_ids=(random_tokens(rng, 1, 9), random_tokens(rng, 1, 9)))
        for number in (203, 204)
    ]
    return [
        random_pair(rng, OFFLINE, 0, label=0.7),
        random_pair(rng, OFFLINE, 1),
        random_pair(rng, DDP, 2),
        random_pair(rng, DDP, 3),
        *all_pairs_of_three(rng, DPP, 10, (1.0, 1.0, 1.0)),
        random_pair(rng, DPP, 4),
        *all_pairs_of_three(rng, DPR, 10, (1.0, 0.5, 0.8)),
        *best_of_four,
        with_reference,
        replace(random_pair(rng, DMD, 301), of_policy=(False, True)),
        replace(random_pair(rng, DMD, 302), of_policy=(False, True)),
    ]


def two_steps(models: Models) -> list[list[TrainingPair]]:
    rng = random.Random(1)
    pairs = [pair for _ in range(NUM_STEPS) for pair in one_step(rng)]
    sampled = [
        weighed if OBJECTIVE.sources[pair.source].policy_responses else pair
        for pair, weighed in zip(pairs, sampled_nearby(models, pairs), strict=True)
    ]
    return [sampled[:BATCH], sampled[BATCH:]]


class Trained(NamedTuple):
    """What two steps left."""

    weights: torch.Tensor
    records: Records


def trained(
    folders: list[Path],
    scratch: Path,
    objective: Objective,
    micro: int,
    source_grad_norms: str,
    tokens: int | None = None,
) -> Trained:
    models = load_models(folders)
    for each in models:
        each.model.double()  # Adam makes much of the last digits of the smallest gradients
    arguments = {"max_steps": NUM_STEPS, **DESCENT, "learning_rate": 1e-3}
    settings = {"batch": BATCH, "micro": micro, "arguments": arguments, "source_grad_norms": source_grad_norms}
    settings["tokens_per_pass"] = tokens
    trainer = make_trainer(models, objective, scratch, **settings)
    trainer.train_round(two_steps(load_models(folders)), START)
    return Trained(weights(models.policy), trainer.step_records)


@pytest.fixture(scope="module")
def whole(model_folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """The batch uncut, for each loss."""
    scratch = tmp_path_factory.mktemp("whole")
    return {
        loss_type: trained(model_folders, scratch, replace(OBJECTIVE, loss_type=loss_type), BATCH, "step")
        for loss_type in ("sigmoid", "ipo")
    }


@pytest.mark.parametrize(
    ("micro", "source_grad_norms", "loss_type"),
    [
        (1, "step", "sigmoid"),
        (1, "never", "sigmoid"),
        (2, "step", "sigmoid"),
        (2, "never", "ipo"),
        (4, "step", "ipo"),
        (4, "never", "sigmoid"),
        (BATCH, "never", "sigmoid"),
    ],
)
def test_with_every_term_steps_do_not_depend_on_how_the_batch_is_cut(
    model_folders: list[Path],
    tmp_path: Path,
    whole: dict[str, Trained],
    micro: int,
    source_grad_norms: str,
    loss_type: str,
) -> None:
    """Micro-batches of 1, 2 and 4 cut the prompts with three pairs, whose baselines are each other."""
    cut = trained(model_folders, tmp_path, replace(OBJECTIVE, loss_type=loss_type), micro, source_grad_norms)
    torch.testing.assert_close(cut.weights, whole[loss_type].weights, rtol=1e-6, atol=1e-6)
    assert (cut.weights - weights(load_models(model_folders).policy)).abs().max() > 1e-3
    norms = {f"{source.name}/grad_norm" for source in OBJECTIVE.sources}
    left_out = norms if source_grad_norms == "never" else set()
    expected = [
        {name: value for name, value in record.items() if name not in left_out} for record in whole[loss_type].records
    ]
    assert_same_records(cut.records, expected)


@pytest.mark.parametrize("tokens", [1, 60, 120])
def test_steps_do_not_depend_on_how_many_tokens_go_together(
    model_folders: list[Path], tmp_path: Path, whole: dict[str, Trained], tokens: int
) -> None:
    """Passes then hold different numbers of pairs, and each pair counts the same."""
    cut = trained(model_folders, tmp_path, OBJECTIVE, BATCH, "step", tokens)
    torch.testing.assert_close(cut.weights, whole["sigmoid"].weights, rtol=1e-6, atol=1e-6)
    assert_same_records(cut.records, whole["sigmoid"].records)


@pytest.mark.parametrize("micro", [4, BATCH])
def test_with_every_term_the_fast_kernels_steps_are_the_plain_ones(
    model_folders: list[Path], tmp_path: Path, whole: dict[str, Trained], micro: int
) -> None:
    """A prompt is read once for all of its responses, a response once for all of its pairs: three stand in two each."""
    plain = trained(model_folders, tmp_path, replace(OBJECTIVE, plain=True), micro, "step")
    torch.testing.assert_close(plain.weights, whole["sigmoid"].weights, rtol=1e-6, atol=1e-6)
    assert_same_records(plain.records, whole["sigmoid"].records)
    assert not torch.equal(plain.weights, whole["sigmoid"].weights)


def test_every_terms_size_is_logged_per_source(whole: dict[str, Trained]) -> None:
    record = whole["sigmoid"].records[0]

    def having(figure: str) -> set[str]:
        return {name.split("/")[0] for name in record if name.endswith(f"/{figure}")}

    everything = {source.name for source in OBJECTIVE.sources}
    assert having("loss") == having("grad_norm") == everything
    assert having("kl") == having("response_term") == having("baseline") == {"dpp", "dpr", "dmd"}
    assert having("importance_weight") == having("importance_weight_truncated") == {"dpp", "dpr", "dmd"}
    assert having("label_term") == having("confidence") == {"ddp", "dpp"}
    assert having("accuracy") == having("margin") == everything - {"ddp", "dpp"}
    assert having("optimism_term") == {"dpr"}
    assert all(0 < record[f"{name}/importance_weight"] <= 2 for name in ("dpp", "dpr", "dmd"))
    assert 0 < record["dpr/importance_weight_truncated"] < 1
    assert all(record[f"{name}/grad_norm"] > 0 for name in everything)


def test_the_gradients_of_the_sources_add_up_to_the_steps(
    model_folders: list[Path], tmp_path: Path, whole: dict[str, Trained]
) -> None:
    """Leaving a source's pairs out of the mean takes away its share; the shares together are the whole.

    KL and optimism of a part weigh what they weigh in the step, also where a round's figures measure it.
    """
    models = load_models(model_folders)
    (batch, _) = two_steps(models)
    trainer = make_trainer(models, OBJECTIVE, tmp_path, batch=BATCH)
    inputs = whole_step(trainer, collated(models, batch))
    _, together = loss_and_gradients(trainer, inputs)
    total = {name: torch.zeros_like(gradient) for name, gradient in together.items()}
    for position, source in enumerate(OBJECTIVE.sources):
        own = inputs["source"] == position
        _, shares = loss_and_gradients(trainer, select_pairs(inputs, own))
        for name, gradient in shares.items():
            total[name] += gradient
        norm = torch.nn.utils.get_total_norm(list(shares.values())).item()
        assert whole["sigmoid"].records[0][f"{source.name}/grad_norm"] == pytest.approx(norm, rel=1e-4)
    for name, gradient in together.items():
        torch.testing.assert_close(total[name], gradient, rtol=1e-4, atol=2e-5)


def test_the_kl_is_the_mean_over_the_pairs_responses(model_folders: list[Path]) -> None:
    models = load_models(model_folders)
    pair = next(pair for pair in two_steps(models)[0] if pair.other_ids)
    objective = Objective((SourceTerms("dpr", policy_responses=True),), kl_coefficient=0.1)
    alone = replace(pair, source=0)
    found = pair_losses(objective, models.policy.model, models.reference.model, collated(models, [alone])).kl_B
    by_hand = [sequence_kl(models, pair.prompt_ids, ids) for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert found.item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_every_response_of_a_batch_has_the_log_probability_that_it_has_alone(model_folders: list[Path]) -> None:
    models = load_models(model_folders)
    (batch, _) = two_steps(models)
    inputs = collated(models, batch)
    found = pair_losses(OBJECTIVE, models.policy.model, models.reference.model, inputs)
    others = [(index, ids) for index, pair in enumerate(batch) for ids in pair.other_ids]
    responses = [
        *((index, pair.chosen_ids) for index, pair in enumerate(batch)),
        *((index, pair.rejected_ids) for index, pair in enumerate(batch)),
        *others,
    ]
    assert inputs["pair_of"].tolist() == [index for index, _ in responses]
    with torch.no_grad():
        alone = [logp_alone(models.policy.model, batch[index].prompt_ids, ids).item() for index, ids in responses]
    assert found.logps_S.tolist() == pytest.approx(alone, rel=1e-5)
    of_policy = [
        OBJECTIVE.sources[pair.source].policy_responses and pair.of_policy[side] for side in (0, 1) for pair in batch
    ]
    assert found.of_policy_S.tolist() == of_policy + [True] * len(others)


class TestSharesThatDoNotDivideTheBatch:
    """KL and optimism weigh what the recipe says in every step, however many pairs the share gave it."""

    NAMES = ("offline", "dpp", "dpr")
    TERMS = tuple(SourceTerms(name, policy_responses=name != "offline", policy_labels=name == "dpp") for name in NAMES)
    ANCHORED = Objective(TERMS, kl_coefficient=0.5, kl_gradient="pathwise", optimism_coefficient=0.25)

    def batches(self, shares: tuple[float, ...], batch: int) -> list[list[TrainingPair]]:
        rng = random.Random(2)
        pools = {
            name: [random_pair(rng, source, number) for number in range(20)] for source, name in enumerate(self.NAMES)
        }
        pools["dpr"] = [replace(pair, of_policy=(True, False), from_reference=(False, True)) for pair in pools["dpr"]]
        mixture = Mixture(dict(zip(self.NAMES, shares, strict=True)), batch, seed=0)
        return mixture.round_batches(pools, 1, 5)

    @staticmethod
    def loss(trainer: PreferenceTrainer, batch: dict[str, torch.Tensor], objective: Objective) -> float:
        trainer.objective = objective
        return sum(trainer.compute_loss(trainer.model, part).item() for part in trainer.passes(dict(batch)))

    @pytest.mark.parametrize("micro", [1, 2, 4])
    @pytest.mark.parametrize(
        ("shares", "batch", "carriers"), [((0.7, 0.0, 0.3), 4, {1, 2}), ((0.6, 0.2, 0.2), 8, {3, 4})]
    )
    def test_every_step_has_the_mean_over_its_carriers(
        self,
        model_folders: list[Path],
        tmp_path: Path,
        shares: tuple[float, ...],
        batch: int,
        carriers: set[int],
        micro: int,
    ) -> None:
        models = load_models(model_folders)
        trainer = make_trainer(models, self.ANCHORED, tmp_path, batch=batch, micro=micro)
        plain = replace(self.ANCHORED, kl_coefficient=0.0, optimism_coefficient=0.0)
        batches = self.batches(shares, batch)
        assert {sum(pair.source > 0 for pair in pairs) for pairs in batches} == carriers
        for pairs in batches:
            kls = [
                sum(sequence_kl(models, pair.prompt_ids, ids) for ids in sides) / len(sides)
                for pair in pairs
                for sides in ([pair.chosen_ids, pair.rejected_ids][: 2 if pair.source == 1 else 1],)
                if pair.source
            ]
            ratios = [ratio(models, pair.prompt_ids, pair.rejected_ids) for pair in pairs if pair.source == 2]
            whole = collated(models, pairs)
            with torch.enable_grad():
                added = self.loss(trainer, whole, self.ANCHORED) - self.loss(trainer, whole, plain)
            expected = 0.5 * sum(kls) / len(kls) + 0.25 * sum(ratios) / len(ratios)
            assert added == pytest.approx(expected, rel=1e-5, abs=1e-5)


def sequence_kl(models: Models, prompt_ids: list[int], response_ids: list[int]) -> float:
    with torch.no_grad():
        ours, theirs = (
            policy.model(input_ids=torch.tensor([prompt_ids + response_ids])).logits[:, len(prompt_ids) - 1 : -1]
            for policy in models
        )
    return token_kl(ours, theirs).sum().item()


def ratio(models: Models, prompt_ids: list[int], response_ids: list[int]) -> float:
    with torch.no_grad():
        ours, theirs = (logp_alone(policy.model, prompt_ids, response_ids).item() for policy in models)
    return ours - theirs
