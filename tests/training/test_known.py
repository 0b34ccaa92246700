"""What is known before a step: the reference is asked once a round, and the losses of sampling need no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import (
    DESCENT,
    START,
    Models,
    assert_same_records,
    collated,
    load_models,
    logp_alone,
    make_trainer,
    random_pair,
    random_tokens,
    weights,
)

from align_cli.artifacts.checksums import response_digest
from align_cli.artifacts.journal import Journal
from align_cli.models.head import head_of
from align_cli.models.layout import shares_prompts
from align_cli.training.batches import TrainingPair
from align_cli.training.known import Key, Logps, ReferenceLogps, RoundsReference
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.pair_losses import pair_losses, reference_columns, sampled_losses

BATCH, NUM_STEPS = 8, 3
SOURCES = (
    SourceTerms("offline"),
    SourceTerms("dpp", 0.3, policy_responses=True, policy_labels=True),
    SourceTerms("dpr", 0.3, policy_responses=True),
)
LOSSES = [{"loss_type": "sigmoid"}, {"loss_type": "ipo"}, {"loss_type": "hinge"}, {"loss_type": "simpo", "gamma": 0.5}]


def sampled(models: Models, pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
    """The pairs with what the policy says of their responses now, as if it had just sampled them."""

    def logps(pair: TrainingPair) -> tuple[float, float]:
        sides = pair.chosen_ids, pair.rejected_ids
        with torch.no_grad():
            chosen, rejected = (logp_alone(models.policy.model, pair.prompt_ids, ids).item() for ids in sides)
        return chosen, rejected

    return [replace(pair, policy_logps=logps(pair)) if pair.source else pair for pair in pairs]


def round_of_pairs(models: Models) -> list[list[TrainingPair]]:
    """Three steps; half of each step's pairs are the step's before, best of three among them."""
    rng = random.Random(3)
    pairs = [
        random_pair(rng, number % 3, number, label=rng.choice([1.0, 0.7])) for number in range(BATCH + 2 * BATCH // 2)
    ]
    pairs[2] = replace(pairs[2], other_ids=(random_tokens(rng, 1, 9),))
    made = sampled(models, pairs)
    return [made[start : start + BATCH] for start in range(0, NUM_STEPS * BATCH // 2, BATCH // 2)]


def trained(folders: list[Path], scratch: Path, objective: Objective, **settings: Any) -> tuple[Any, Models]:
    models = load_models(folders)
    arguments = {"max_steps": NUM_STEPS, **DESCENT, "learning_rate": 1e-3}
    trainer = make_trainer(models, objective, scratch, batch=BATCH, arguments=arguments, **settings)
    return trainer, models


def counted(model: Any) -> list[tuple[int, bool]]:
    """The rows of each pass from here on, and whether a gradient is wanted of it."""
    shares_prompts(model)
    head_of(model)
    passes: list[tuple[int, bool]] = []

    def note(module: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        passes.append((len(keywords["input_ids"]), torch.is_grad_enabled()))

    model.register_forward_hook(note, with_kwargs=True)
    return passes


@pytest.mark.parametrize("settings", LOSSES, ids=lambda settings: settings["loss_type"])
def test_losses_at_sampling_time_are_those_of_the_policy_that_sampled(
    settings: dict[str, Any], model_folders: list[Path]
) -> None:
    models, objective = load_models(model_folders), Objective(SOURCES, **settings)
    pairs = [pair for pair in round_of_pairs(models)[0] if pair.source]
    inputs = collated(models, pairs)
    inputs |= reference_columns(objective, models.reference.model, inputs)
    with torch.no_grad():
        expected = pair_losses(objective, models.policy.model, models.reference.model, inputs).losses_B
    torch.testing.assert_close(sampled_losses(objective, inputs), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("micro", [2, BATCH])
def test_the_reference_is_asked_about_a_pair_once_a_round(
    micro: int, model_folders: list[Path], tmp_path: Path
) -> None:
    trainer, models = trained(model_folders, tmp_path, Objective(SOURCES), micro=micro, source_grad_norms="step")
    batches, passes = round_of_pairs(models), counted(models.reference.model)
    trainer.train_round(batches, START)
    distinct = {(pair.source, pair.pair_id) for batch in batches for pair in batch}
    assert len(distinct) == 16
    assert sum(rows for rows, _ in passes) in (len(distinct), 2 * len(distinct))  # a row a pair, or a response
    assert not any(wants_gradient for _, wants_gradient in passes)


def test_baselines_take_no_pass_of_the_policy_where_sampling_says_the_losses(
    model_folders: list[Path], tmp_path: Path
) -> None:
    trainer, models = trained(model_folders, tmp_path, Objective(SOURCES), micro=2)
    batches, passes = round_of_pairs(models), counted(models.policy.model)
    trainer.train_round(batches, START)
    assert all(wants_gradient for _, wants_gradient in passes)
    assert len(passes) == NUM_STEPS * BATCH // 2


def test_baselines_move_with_the_losses(model_folders: list[Path], tmp_path: Path) -> None:
    """By as much as those of the step before had moved; at the first step they are what they were at sampling."""
    trainer, models = trained(model_folders, tmp_path, Objective(SOURCES))
    batches = round_of_pairs(models)
    trainer.train_round(batches, START)
    first, second, third = trainer.step_records
    for source, name in ((1, "dpp"), (2, "dpr")):
        assert first[f"{name}/loss_drift"] == pytest.approx(0, abs=1e-5)
        assert abs(second[f"{name}/loss_drift"]) > 1e-4
        for before, record, batch in ((first, second, batches[1]), (second, third, batches[2])):
            at_sampling = mean_at_sampling(models, trainer.objective, batch, source)
            expected = at_sampling + before[f"{name}/loss_drift"]
            assert record[f"{name}/baseline"] == pytest.approx(expected, rel=1e-5)


def mean_at_sampling(models: Models, objective: Objective, batch: list[TrainingPair], source: int) -> float:
    inputs = collated(models, batch)
    inputs |= reference_columns(objective, models.reference.model, inputs)
    return sampled_losses(objective, inputs)[inputs["source"] == source].mean().item()


def test_one_pair_that_does_not_know_it_has_all_measured_anew(model_folders: list[Path], tmp_path: Path) -> None:
    trainer, models = trained(model_folders, tmp_path, Objective(SOURCES), micro=2)
    batches, passes = round_of_pairs(models), counted(models.policy.model)
    forgetful = next(number for number, pair in enumerate(batches[2]) if pair.source)
    batches[2][forgetful] = replace(batches[2][forgetful], policy_logps=None)
    trainer.train_round(batches, START)
    assert not all(wants_gradient for _, wants_gradient in passes)


@pytest.mark.parametrize("kl", [0.0, 0.1])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_steps_do_not_depend_on_how_a_batch_is_cut(
    micro: int, kl: float, model_folders: list[Path], tmp_path: Path
) -> None:
    found = []
    for pairs_per_pass in (micro, BATCH):
        objective = Objective(SOURCES, kl_coefficient=kl, importance_weight_cap=2.0)
        trainer, models = trained(model_folders, tmp_path, objective, micro=pairs_per_pass)
        trainer.train_round(round_of_pairs(load_models(model_folders)), START)
        found.append((weights(models.policy), trainer.step_records))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=5e-6)
    assert_same_records(found[0][1], found[1][1])


@pytest.mark.parametrize("on_all", [False, True])
@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo"])
def test_with_a_kl_the_reference_runs_over_what_carries_it_alone(
    loss_type: str, on_all: bool, model_folders: list[Path], tmp_path: Path
) -> None:
    """The rest was known before; nothing of it is taken for something else."""
    objective = Objective(SOURCES, loss_type, kl_coefficient=0.1, kl_on_all=on_all, optimism_coefficient=0.01)
    trainer, models = trained(model_folders, tmp_path, objective)
    batch = [
        replace(pair, of_policy=(True, number % 2 == 0), from_reference=(number % 3 == 0, False))
        for number, pair in enumerate(round_of_pairs(models)[0])
    ]
    inputs = collated(models, batch)
    whole = {**inputs, **reference_columns(objective, models.reference.model, inputs)}
    trainer.know([batch])
    (part,) = trainer.passes(dict(inputs))
    found, expected = (
        pair_losses(objective, models.policy.model, models.reference.model, columns) for columns in (part, whole)
    )
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-5, atol=1e-5, msg=name)
    assert (found.kl_B > 0).sum() == (BATCH if on_all else sum(pair.source > 0 for pair in batch))


class Reference:
    """Says of each pair's responses a number that is the pair's own, and notes whom it was asked about together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.told: list[str] = []

    def score(self, pairs: Sequence[TrainingPair]) -> dict[Key, Logps]:
        self.asked.append([pair.pair_id for pair in pairs])
        return {(pair.source, pair.pair_id): (float(pair.pair_id), 0.5) for pair in pairs}

    def known(self, batches: Sequence[Sequence[TrainingPair]], **given: Any) -> ReferenceLogps:
        logps = ReferenceLogps(batches, Objective(SOURCES))
        logps.learn(self.score, RoundsReference(**given))
        return logps


GROUPS = [[*range(8)], [8, 9, 10, 11], [12, 13, 14, 15]]


@pytest.mark.parametrize("together", [1, 9, 100])
def test_a_process_that_goes_on_in_the_midst_of_a_round_has_the_same_last_digits(
    together: int, model_folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is first used together is scored together, and none of them twice."""
    monkeypatch.setattr("align_cli.training.known.JOURNALLED_TOGETHER", together)
    models = load_models(model_folders)
    batches, place, whole = round_of_pairs(models), tmp_path / "journal", Reference()

    def said(known: ReferenceLogps) -> list[list[float]]:
        return [known.of(collated(models, batch)).tolist() for batch in batches]

    with Journal(place) as journal:
        first = whole.known(batches, journal=journal)
        found = list(RoundsReference(journal=journal).found())
    assert whole.asked == GROUPS
    assert said(first)[0] == [*map(float, range(8)), *[0.5] * 8, 0.0]
    for num_lines in range(len(place.read_bytes().splitlines()) + 1):
        torn = tmp_path / f"torn-{num_lines}"
        torn.write_bytes(b"".join(place.read_bytes().splitlines(keepends=True)[:num_lines]))
        again = Reference()
        with Journal(torn) as journal:
            kept = sum(len(row["pairs"]) for row in journal.rows)
            assert said(again.known(batches, journal=journal)) == said(first)
            assert list(RoundsReference(journal=journal).found()) == found
        assert again.asked == [group for group in GROUPS if group[0] >= kept]


def test_what_was_said_in_earlier_rounds_is_asked_for_no_more(model_folders: list[Path]) -> None:
    models, fetched = load_models(model_folders), []
    batches = round_of_pairs(models)
    before, other = batches[1][4:], batches[1][0]
    digests = [response_digest(pair.prompt_ids, ids) for pair in before for ids in (pair.chosen_ids, pair.rejected_ids)]
    said = dict.fromkeys([*digests, response_digest(other.prompt_ids, other.chosen_ids)], 7.0)
    reference, journal = Reference(), Journal()
    known = reference.known(batches, said=said, journal=journal, fetch=lambda: fetched.append(1))
    assert reference.asked == [GROUPS[0], GROUPS[2]] and fetched
    assert [pair.chosen for pair in RoundsReference(journal=journal).found()] == [
        response_digest(pair.prompt_ids, pair.chosen_ids) for pair in (*batches[0], *batches[2][4:])
    ]
    at = next(number for number, pair in enumerate(batches[0]) if pair.pair_id == other.pair_id)
    assert known.of(collated(models, batches[0]))[at] == 7.0, "its other response alone was unknown"
    assert known.of(collated(models, batches[1]))[4:8].tolist() == [7.0] * 4
    fetched.clear()
    everything = {one: 1.0 for pair in RoundsReference(journal=journal).found() for one in (pair.chosen, pair.rejected)}
    reference.known(batches, said=said | everything, fetch=lambda: fetched.append(1))
    assert len(reference.asked) == 2 and not fetched, "nor is it loaded"


def test_responses_that_pairs_share_are_asked_about_once(model_folders: list[Path]) -> None:
    models, rng = load_models(model_folders), random.Random(1)
    prompt, responses = random_tokens(rng, 2, 9), [random_tokens(rng, 3, 9) for _ in range(4)]
    pairs = [
        TrainingPair(prompt, responses[one], responses[other], 1.0, 2, number, 0)
        for number, (one, other) in enumerate(combinations(range(4), 2))
    ]
    reference = Reference()
    known = reference.known([pairs])
    assert reference.asked == [[0, 1, 2]]
    by_response = known.of(collated(models, pairs)).view(2, -1).T.tolist()
    assert by_response == [[0.0, 0.5], [0.0, 0.5], [0.0, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]


def test_a_response_behind_another_prompt_is_another(model_folders: list[Path]) -> None:
    assert response_digest([1, 2], [3]) != response_digest([1], [2, 3]) != response_digest([1, 2, 3], [])
    assert response_digest([1, 2], (3,)) == response_digest((1, 2), [3])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, ["fetched", "asked", "let go"]),
        ({"kl_coefficient": 0.1}, ["fetched", "asked"]),
        ({"loss_type": "simpo"}, ["let go"]),
    ],
    ids=["ratios", "a KL", "no reference"],
)
def test_the_reference_is_let_go_before_the_first_step_where_no_term_needs_it_any_more(
    settings: dict[str, Any], told: list[str], model_folders: list[Path], tmp_path: Path
) -> None:
    trainer, models = trained(model_folders, tmp_path, Objective(SOURCES, **settings))
    batches, heard = round_of_pairs(load_models(model_folders)), list[str]()
    for model, what in ((models.reference.model, "asked"), (models.policy.model, "step")):
        head_of(model)
        shares_prompts(model)
        model.register_forward_pre_hook(lambda *_, what=what: heard.append(what))
    reference = RoundsReference(fetch=lambda: heard.append("fetched"), let_go=lambda: heard.append("let go"))
    trainer.train_round(batches, START, reference=reference)
    assert list(dict.fromkeys(heard[: heard.index("step")])) == told
    assert ("asked" in heard[heard.index("step") :]) == ("kl_coefficient" in settings)
