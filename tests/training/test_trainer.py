"""Rounds through one trainer: gradients, micro-batches, schedules, and what we rely on in TRL and transformers."""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import (
    DESCENT,
    START,
    Gradients,
    Models,
    assert_same_gradients,
    assert_same_records,
    collated,
    load_models,
    logp_alone,
    loss_and_gradients,
    make_trainer,
    random_pair,
    training_arguments,
    weights,
)
from torch.nn.functional import logsigmoid
from transformers import Trainer
from trl import DPOConfig, DPOTrainer

from align_cli.errors import AlignError
from align_cli.methods.kl_control import begin
from align_cli.models.head import head_of
from align_cli.models.layout import shares_prompts
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.trainer import PreferenceTrainer

NUM_STEPS = 3
BATCH = 8


def some_pairs(count: int, seed: int = 0) -> list[TrainingPair]:
    """Pairs of random tokens, offline and policy in turn, some with soft labels."""
    rng = random.Random(seed)
    return [
        random_pair(rng, source=index % 2, number=index // 2, label=rng.choice([1.0, 1.0, 0.7, 0.5]))
        for index in range(count)
    ]


def batches(num_steps: int = NUM_STEPS, seed: int = 0) -> list[list[TrainingPair]]:
    pairs = some_pairs(num_steps * BATCH, seed)
    return [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]


def two_sources(coefficient: float = 0.3, **settings: Any) -> Objective:
    return Objective((SourceTerms("offline"), SourceTerms("dpr", coefficient, policy_responses=True)), **settings)


def make(
    folders: list[Path],
    scratch: Path,
    objective: Objective | None = None,
    *,
    micro: int = BATCH,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[PreferenceTrainer, Models]:
    models = load_models(folders)
    arguments = {"max_steps": NUM_STEPS, "learning_rate": 1e-3, **(arguments or {})}
    objective = objective or two_sources()
    trainer = make_trainer(models, objective, scratch, batch=BATCH, micro=micro, arguments=arguments, **settings)
    return trainer, models


def values_by_hand(models: Models, batch: list[TrainingPair], coefficient: float, beta: float = 0.1) -> torch.Tensor:
    """(B,) DPO's loss, and on source 1 the response term with the mean of its other pairs as baseline."""
    chosen, rejected, references = [], [], []
    for pair in batch:
        ours = [logp_alone(models.policy.model, pair.prompt_ids, ids) for ids in (pair.chosen_ids, pair.rejected_ids)]
        with torch.no_grad():
            theirs = [
                logp_alone(models.reference.model, pair.prompt_ids, ids) for ids in (pair.chosen_ids, pair.rejected_ids)
            ]
        chosen.append(ours[0])
        rejected.append(ours[1])
        references.append(theirs[0] - theirs[1])
    margins = torch.stack(chosen) - torch.stack(rejected) - torch.stack(references)
    labels = torch.tensor([pair.label for pair in batch])
    losses = -labels * logsigmoid(beta * margins) - (1 - labels) * logsigmoid(-beta * margins)
    rows = [index for index, pair in enumerate(batch) if pair.source == 1]
    terms = [torch.zeros(())] * len(batch)
    for row in rows:
        baseline = torch.stack([losses[other] for other in rows if other != row]).mean()
        terms[row] = coefficient * (losses[row] - baseline).detach() * (chosen[row] + rejected[row])
    return losses + torch.stack(terms)


def gradient_of(value: torch.Tensor, models: Models) -> Gradients:
    names, parameters = zip(*models.policy.model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True)
    return dict(zip(names, found, strict=True))


def test_the_gradient_of_a_batch_is_the_formulas(model_folders: list[Path], tmp_path: Path) -> None:
    """Loss and response term written out by hand, one sequence at a time."""
    trainer, models = make(model_folders, tmp_path, two_sources(0.7))
    batch = some_pairs(BATCH)
    loss, found = loss_and_gradients(trainer, collated(models, batch))
    mine = load_models(model_folders)
    expected = values_by_hand(mine, batch, 0.7).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, gradient_of(expected, mine), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_steps_do_not_depend_on_how_the_batch_is_cut(model_folders: list[Path], tmp_path: Path, micro: int) -> None:
    whole, whole_models = make(model_folders, tmp_path, arguments=DESCENT)
    whole.train_round(batches(), START)
    cut, cut_models = make(model_folders, tmp_path, micro=micro, arguments=DESCENT)
    cut.train_round(batches(), START)
    torch.testing.assert_close(weights(cut_models.policy), weights(whole_models.policy), rtol=1e-6, atol=1e-6)
    untrained = weights(load_models(model_folders).policy)
    assert (weights(cut_models.policy) - untrained).abs().max() > 1e-3
    assert_same_records(cut.step_records, whole.step_records)


def test_two_rounds_equal_one_of_both_lengths(model_folders: list[Path], tmp_path: Path) -> None:
    """Schedule and Adam's moments run on across rounds."""
    four = {"max_steps": 4}
    together, together_models = make(model_folders, tmp_path, arguments=four)
    together.train_round(batches(4), START)
    apart, apart_models = make(model_folders, tmp_path, arguments=four)
    state = apart.train_round(batches(4)[:2], START)
    first_records = apart.step_records
    apart.train_round(batches(4)[2:], state)
    assert torch.equal(weights(apart_models.policy), weights(together_models.policy))
    assert first_records + apart.step_records == together.step_records


def test_a_schedule_of_its_own_begins_anew_each_round(model_folders: list[Path], tmp_path: Path) -> None:
    trainer, _ = make(model_folders, tmp_path, schedule_spans_run=False)
    state = trainer.train_round(batches(), START)
    first = [record["learning_rate"] for record in trainer.step_records]
    trainer.train_round(batches(seed=1), state)
    assert [record["learning_rate"] for record in trainer.step_records] == first
    assert first[0] == pytest.approx(1e-3) and first[0] > first[1] > first[2] > 0
    assert state.global_step == NUM_STEPS


def test_a_longer_plan_is_followed_from_where_the_last_one_ended(model_folders: list[Path], tmp_path: Path) -> None:
    """Raised `rounds`: the learning rate of a schedule over six steps, from its fourth on."""
    short, _ = make(model_folders, tmp_path)
    state = short.train_round(batches(), START)
    longer, _ = make(model_folders, tmp_path, arguments={"max_steps": 6})
    longer.train_round(batches(seed=1), state, short.optimizer.state_dict())
    rates = [record["learning_rate"] for record in longer.step_records]
    assert rates == pytest.approx([1e-3 * (1 - step / 6) for step in (3, 4, 5)])


def test_the_optimizer_can_begin_anew_each_round(model_folders: list[Path], tmp_path: Path) -> None:
    found = []
    for reset in (False, True):
        trainer, models = make(model_folders, tmp_path, arguments={"max_steps": 6}, reset_optimizer=reset)
        state = trainer.train_round(batches(), START)
        trainer.train_round(batches(seed=1), state)
        steps = {float(values["step"]) for values in trainer.optimizer.state_dict()["state"].values()}
        assert steps == ({3.0} if reset else {6.0})
        found.append(weights(models.policy))
    assert not torch.equal(*found)


def test_a_round_ends_in_evaluation_mode_and_reports_each_step(model_folders: list[Path], tmp_path: Path) -> None:
    calls = []
    trainer, models = make(model_folders, tmp_path)
    trainer.on_step = lambda: calls.append(1)
    trainer.train_round(batches(), START)
    assert not models.policy.model.training and len(calls) == NUM_STEPS
    assert [record["step"] for record in trainer.step_records] == [1, 2, 3]
    record = trainer.step_records[0]
    expected = {"step", "loss", "grad_norm", "learning_rate", "dpr/baseline", "dpr/response_term", "offline/loss"}
    assert expected <= set(record)
    assert "offline/response_term" not in record
    half = (record["dpr/loss"] + record["offline/loss"]) / 2
    assert record["loss"] == pytest.approx(half, rel=1e-5)


def test_a_step_whose_loss_is_no_number_stops_with_what_to_do(model_folders: list[Path], tmp_path: Path) -> None:
    trainer, models = make(model_folders, tmp_path)
    models.policy.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(AlignError, match="training diverged at step 1: loss nan"):
        trainer.train_round(batches(1), START)


def test_pairs_of_many_widths_stand_in_one_step(model_folders: list[Path], tmp_path: Path) -> None:
    """Micro-batches whose pairs were chosen from different numbers of responses go into one global batch."""
    batch = some_pairs(BATCH)
    for row, others in ((1, 1), (5, 4)):
        batch[row] = replace(batch[row], other_ids=tuple([7, 8 + number] for number in range(others)))
    records = []
    for micro in (1, BATCH):
        trainer, _ = make(model_folders, tmp_path, micro=micro, arguments=DESCENT)
        trainer.train_round([batch], START)
        records += trainer.step_records
    assert_same_records(records[:1], records[1:])


@pytest.mark.parametrize("micro", [4, BATCH])
def test_a_pass_that_measures_baselines_keeps_nothing_for_a_gradient(
    model_folders: list[Path], tmp_path: Path, micro: int
) -> None:
    """Where a batch is cut, all its losses are measured before the first micro-batch is trained on."""
    trainer, models = make(model_folders, tmp_path, two_sources(0.3), micro=micro)
    kept: list[bool] = []
    shares_prompts(models.policy.model)  # its head and its layout are tried before anybody counts
    head_of(models.policy.model)
    models.policy.model.register_forward_hook(lambda *found: kept.append(found[-1].logits.requires_grad))
    trainer.train_round(batches(1), START)
    assert kept == ([False, False, True, True] if micro == 4 else [True])


class TestSimpoRunsNoReference:
    def calls(self, folders: list[Path], scratch: Path, objective: Objective, micro: int) -> int:
        trainer, models = make(folders, scratch, objective, micro=micro, source_grad_norms="step")
        found = []
        shares_prompts(models.reference.model)
        head_of(models.reference.model)
        models.reference.model.register_forward_hook(lambda *_: found.append(1))
        trainer.train_round(batches(2), START)
        return len(found)

    def test_through_a_round(self, model_folders: list[Path], tmp_path: Path) -> None:
        simpo = two_sources(0.0, loss_type="simpo", beta=2.0, gamma=1.0)
        assert self.calls(model_folders, tmp_path, simpo, micro=4) == 0

    @pytest.mark.parametrize("coefficient", [0.0, 0.3])
    def test_while_others_run_it_once_a_micro_batch(
        self, model_folders: list[Path], tmp_path: Path, coefficient: float
    ) -> None:
        """Two steps of two micro-batches, whose baselines and gradient norms of sources are measured as well."""
        assert self.calls(model_folders, tmp_path, two_sources(coefficient), micro=4) == 2 * 2

    def test_unless_it_is_anchored_to_it(self, model_folders: list[Path], tmp_path: Path) -> None:
        anchored = two_sources(0.0, loss_type="simpo", beta=2.0, gamma=1.0, kl_coefficient=0.1)
        assert self.calls(model_folders, tmp_path, anchored, micro=BATCH) == 2


class TestTheKlIsHeldAtATarget:
    HELD = two_sources(0.0, kl_coefficient=0.05, kl_target=0.5, kl_on_all=True, kl_gradient="pathwise")

    def test_each_step_weighs_it_with_what_the_one_before_says(self, model_folders: list[Path], tmp_path: Path) -> None:
        trainer, _ = make(model_folders, tmp_path, self.HELD)
        state = trainer.train_round(batches(), START)
        control = begin(0.05)
        for record in trainer.step_records:
            assert record["kl_coefficient"] == control.coefficient
            assert record["kl"] == pytest.approx(record["dpr/kl"], rel=1e-6), "that of the policy's own responses"
            assert record["kl"] != pytest.approx(record["offline/kl"], rel=0.01)
            control = control.after(record["kl"], 0.5)
        assert state.kl_control == control._asdict()
        first = trainer.step_records[0]["kl_coefficient"], trainer.step_records[1]["kl_coefficient"]
        assert first[0] != pytest.approx(first[1], rel=0.1)

    def test_the_weight_is_in_the_gradient(self, model_folders: list[Path], tmp_path: Path) -> None:
        """A step with a weight that the control has brought is the step of a recipe that says so."""
        held, held_models = make(model_folders, tmp_path, self.HELD, arguments=DESCENT)
        control = {"begun": 0.05, "weight": 0.3, "coefficient": 0.7}
        held.train_round(batches(1), replace(START, kl_control=control))
        said, said_models = make(
            model_folders, tmp_path, replace(self.HELD, kl_coefficient=0.7, kl_target=None), arguments=DESCENT
        )
        said.train_round(batches(1), START)
        assert torch.equal(weights(held_models.policy), weights(said_models.policy))
        other, other_models = make(model_folders, tmp_path, self.HELD, arguments=DESCENT)
        other.train_round(batches(1), START)
        assert not torch.allclose(weights(held_models.policy), weights(other_models.policy), atol=1e-5)

    def test_it_goes_on_across_rounds_and_from_within_one(self, model_folders: list[Path], tmp_path: Path) -> None:
        four = {"max_steps": 4}
        together, _ = make(model_folders, tmp_path, self.HELD, arguments=four)
        together.train_round(batches(4), START)
        apart, _ = make(model_folders, tmp_path, self.HELD, arguments=four)
        state = apart.train_round(batches(4)[:2], START)
        first = apart.step_records
        apart.train_round(batches(4)[2:], state)
        assert first + apart.step_records == together.step_records
        kept: list[TrainingState] = []
        stopped, _ = make(model_folders, tmp_path, self.HELD, arguments=four)
        stopped.train_round(batches(4), START, keep=kept.append, keep_every=2)
        assert kept[0].kl_control == state.kl_control

    def test_another_coefficient_begins_anew(self, model_folders: list[Path], tmp_path: Path) -> None:
        control = {"begun": 0.05, "weight": 0.3, "coefficient": 0.7}
        trainer, _ = make(model_folders, tmp_path, replace(self.HELD, kl_coefficient=0.2))
        trainer.train_round(batches(1), replace(START, kl_control=control))
        assert trainer.step_records[0]["kl_coefficient"] == 0.2

    def test_it_is_measured_on_what_the_policy_sampled_alone(self, model_folders: list[Path], tmp_path: Path) -> None:
        """Not on a demonstration that stands beside it, also where that carries the KL."""
        mixed = [[replace(pair, of_policy=(False, True)) for pair in batch] for batch in batches(2)]
        found = []
        for on_all in (True, False):
            objective = replace(self.HELD, kl_coefficient=1e-12, kl_on_all=on_all)
            trainer, _ = make(model_folders, tmp_path, objective)
            trainer.train_round(mixed, START)
            found.append([(record["kl"], record["dpr/kl"]) for record in trainer.step_records])
        for (everywhere, of_pairs), (own, of_own) in zip(*found, strict=True):
            assert everywhere == pytest.approx(own, rel=1e-4) == pytest.approx(of_own, rel=1e-4)
            assert of_pairs != pytest.approx(own, rel=1e-3)

    def test_a_round_that_is_given_up_keeps_where_it_stands(
        self, model_folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The trainer is told of its round anew before the state is written."""
        trainer, _ = make(model_folders, tmp_path, self.HELD)
        state = trainer.train_round(batches(), START)
        monkeypatch.setattr("align_cli.training.trainer.recipe_objective", lambda recipe: self.HELD)
        trainer.follow(None)  # type: ignore[arg-type]
        assert trainer.state_now().kl_control == state.kl_control is not None

    def test_how_the_batch_is_cut_changes_nothing(self, model_folders: list[Path], tmp_path: Path) -> None:
        found = []
        for micro in (BATCH, 2):
            trainer, _ = make(model_folders, tmp_path, self.HELD, micro=micro, arguments=DESCENT)
            trainer.train_round(batches(), START)
            found.append(trainer.step_records)
        assert_same_records(*found)


class TestGradientNormsOfSources:
    def test_each_is_the_norm_of_what_its_pairs_alone_add(self, model_folders: list[Path], tmp_path: Path) -> None:
        """Its share of the step's gradient: its pairs' values summed and divided by the whole batch's pairs."""
        batch = some_pairs(BATCH)[:-1]  # Four offline pairs and three of the policy's.
        trainer, _ = make(model_folders, tmp_path, two_sources(0.7), source_grad_norms="step")
        trainer.train_round([batch], START)
        (record,) = trainer.step_records
        mine = load_models(model_folders)
        values = values_by_hand(mine, batch, 0.7)
        for position, name in enumerate(("offline", "dpr")):
            of_source = torch.tensor([pair.source == position for pair in batch])
            gradients = gradient_of(values[of_source].sum() / len(batch), mine)
            norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
            assert record[f"{name}/grad_norm"] == pytest.approx(norm, rel=1e-4)
        whole = torch.cat([gradient.flatten() for gradient in gradient_of(values.mean(), mine).values()]).norm().item()
        assert record["grad_norm"] == pytest.approx(whole, rel=1e-4)

    def test_measuring_changes_no_weight_and_no_other_figure(self, model_folders: list[Path], tmp_path: Path) -> None:
        for micro in (BATCH, 2):
            found = []
            for when in ("never", "step"):
                trainer, models = make(model_folders, tmp_path, micro=micro, source_grad_norms=when)
                trainer.train_round(batches(), START)
                rest = [
                    {
                        name: value
                        for name, value in record.items()
                        if name not in ("offline/grad_norm", "dpr/grad_norm")
                    }
                    for record in trainer.step_records
                ]
                found.append((weights(models.policy), rest))
            assert torch.equal(found[0][0], found[1][0])
            assert_same_records(found[0][1], found[1][1])

    @pytest.mark.parametrize("when", ["round", "step", "never"])
    @pytest.mark.parametrize("schedule_spans_run", [True, False])
    def test_they_are_measured_when_asked(
        self, model_folders: list[Path], tmp_path: Path, when: str, schedule_spans_run: bool
    ) -> None:
        measured = []
        trainer, _ = make(
            model_folders,
            tmp_path,
            arguments={"max_steps": 2 * NUM_STEPS},
            source_grad_norms=when,
            schedule_spans_run=schedule_spans_run,
        )
        state = START
        for seed in (0, 1):
            state = trainer.train_round(batches(seed=seed), state)
            measured += [sum(name.endswith("/grad_norm") for name in record) for record in trainer.step_records]
        first, other = {"round": (2, 0), "step": (2, 2), "never": (0, 0)}[when]
        assert measured == [first, other, other] * 2

    def test_a_source_without_a_pair_in_the_batch_has_none(self, model_folders: list[Path], tmp_path: Path) -> None:
        offline_alone = [pair for pair in some_pairs(BATCH) if pair.source == 0]
        trainer, _ = make(model_folders, tmp_path, source_grad_norms="step")
        trainer.train_round([offline_alone], START)
        (record,) = trainer.step_records
        assert record["dpr/grad_norm"] == 0.0
        assert record["offline/grad_norm"] == pytest.approx(record["grad_norm"], rel=1e-5)

    def test_with_one_source_it_is_the_steps(self, model_folders: list[Path], tmp_path: Path) -> None:
        objective = Objective((SourceTerms("offline"),))
        pairs = [replace(pair, source=0) for pair in some_pairs(BATCH)]
        for when, names in (("round", {"offline/grad_norm"}), ("never", set())):
            trainer, _ = make(model_folders, tmp_path, objective, source_grad_norms=when)
            trainer.train_round([pairs], START)
            (record,) = trainer.step_records
            assert {name for name in record if name.endswith("/grad_norm")} == names
            assert all(record[name] == record["grad_norm"] for name in names)


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
        self, model_folders: list[Path], tmp_path: Path
    ) -> None:
        trainer, _ = make(model_folders, tmp_path)
        trainer.train_round(batches(), START)
        optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
        trainer.train_round(batches(), START)
        assert trainer.optimizer is optimizer
        assert trainer.lr_scheduler is not scheduler
        assert trainer.state.global_step == NUM_STEPS

    def test_every_trainer_wraps_the_models_forward_once_more(self, model_folders: list[Path], tmp_path: Path) -> None:
        _, models = make(model_folders, tmp_path)
        assert "forward" in vars(models.policy.model)

    def test_the_defaults_that_surprise_are_still_trls(self) -> None:
        fields = DPOConfig.__dataclass_fields__
        assert fields["max_length"].default == 1024
        assert fields["gradient_checkpointing"].default is True
        assert fields["bf16"].default is None
        assert fields["disable_dropout"].default is True

    def test_the_last_logged_step_is_kept_where_we_set_it(self, model_folders: list[Path], tmp_path: Path) -> None:
        trainer, _ = make(model_folders, tmp_path)
        trainer.train_round(batches(), START)
        assert trainer._globalstep_last_logged == NUM_STEPS

    def test_a_state_of_zero_rounds_is_where_a_run_begins(self) -> None:
        assert TrainingState(round=0, global_step=0, parent=None) == START
        assert training_arguments(Path("unused")).max_length is None
