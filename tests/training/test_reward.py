"""Reward models train with TRL's loss, on our batches, from any step; what of TRL is relied on is held here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chat_tokenizer, make_chat_model
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from align_cli.errors import AlignError
from align_cli.models.reward_bases import RewardBase, load_base
from align_cli.models.reward_models import Encoded, rewards_of
from align_cli.recipe.sections.reward import RewardSection
from align_cli.training.checkpoints import TrainingState, read_optimizer_state, read_training_state, save_checkpoint
from align_cli.training.reward import RewardModelTrainer, num_reward_steps, reward_batches, to_be_fitted
from align_cli.training.reward_rows import RewardCollator, RewardRow

START = TrainingState(round=0, global_step=0, parent=None)
TEXTS = ["blue", "red and green", "it is four", "what a colour", "two", "system tools", "is it", "name it"]


def encoded(base: RewardBase, text: str) -> Encoded:
    return base.reader.encode(["What is it?"], [text], None)[0]


def rows_of(base: RewardBase, label: float = 1.0, margin: float = 0.0) -> list[RewardRow]:
    pairs = [(TEXTS[number % 4], TEXTS[4 + number * 3 // 2 % 4]) for number in range(8)]
    return [RewardRow(encoded(base, one), encoded(base, other), label, margin) for one, other in pairs]


def section_of(folder: Path, **changes: Any) -> RewardSection:
    fixed = {"model_name_or_path": str(folder), "max_steps": 4, "per_device_train_batch_size": 4}
    return RewardSection.model_validate({**fixed, "learning_rate": 0.01, **changes})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("reward") / "decoder")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("reward") / "encoder", chat_tokenizer(None)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), num_labels=1, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Trained:
    """A reward model after its training, or at some point of it."""

    def __init__(self, section: RewardSection, scratch: Path, rows: Sequence[RewardRow] | None = None) -> None:
        self.base = load_base(section, 0, "cpu")
        self.fitted = to_be_fitted(self.base, section, 0)
        self.trainer = RewardModelTrainer(
            self.fitted,
            self.base,
            section,
            rows_of(self.base) if rows is None else rows,
            seed=0,
            scratch_dir=scratch,
            on_step=lambda: None,
        )

    def fit(
        self, start: TrainingState = START, moments: Any = None, kept: Path | None = None
    ) -> list[dict[str, float]]:
        def keep(state: TrainingState) -> None:
            if kept is not None:
                folder = kept / str(state.global_step)
                save_checkpoint(folder, self.fitted, state, self.trainer.optimizer)

        return self.trainer.fit(start, moments, keep, None if kept is None else 1)

    def weights(self) -> dict[str, bytes]:
        return {name: tensor.numpy().tobytes() for name, tensor in self.fitted.model.state_dict().items()}


def trls_loss(base: RewardBase, rows: Sequence[RewardRow], scratch: Path, centering: float | None = None) -> float:
    """TRL's own trainer, collator and data set, on the same rows."""
    columns = {"chosen_ids": [row.chosen.inputs["input_ids"] for row in rows]}
    columns |= {"rejected_ids": [row.rejected.inputs["input_ids"] for row in rows]}
    columns |= {"margin": [row.margin for row in rows]}
    arguments = RewardConfig(
        str(scratch),
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        center_rewards_coefficient=centering,
        report_to="none",
    )
    trainer = RewardTrainer(
        base.model, arguments, train_dataset=Dataset.from_dict(columns), processing_class=base.reader.tokenizer
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(len(rows))])
    return float(trainer.compute_loss(base.model, batch).detach())


@pytest.mark.parametrize(("margin", "centering"), [(0.0, None), (0.4, None), (0.0, 0.05), (0.4, 0.05)])
def test_the_loss_is_trls_own_on_the_same_batch(
    decoder: Path, tmp_path: Path, margin: float, centering: float | None
) -> None:
    section = section_of(decoder, per_device_train_batch_size=8, max_steps=1, center_rewards_coefficient=centering)
    base = load_base(section, 0, "cpu")
    rows = rows_of(base, margin=margin)
    theirs = trls_loss(base, rows, tmp_path / "theirs", centering)
    (step,) = Trained(section, tmp_path / "ours", rows).fit()
    assert step["loss"] == pytest.approx(theirs, abs=1e-6)
    assert theirs != pytest.approx(math.log(2), abs=1e-6), "some pair tells"


def test_a_soft_label_weighs_both_orders(decoder: Path, tmp_path: Path) -> None:
    """−¾ log σ(h) − ¼ log σ(−h), h the difference less the margin."""
    section = section_of(decoder, per_device_train_batch_size=8, max_steps=1)
    base = load_base(section, 0, "cpu")
    rows = rows_of(base, label=0.75, margin=0.3)
    (step,) = Trained(section, tmp_path / "ours", rows).fit()
    chosen, rejected = (
        rewards_of(base.model, base.reader.pad([getattr(row, side) for row in rows])) for side in ("chosen", "rejected")
    )
    difference = chosen - rejected - 0.3
    by_hand = -(0.75 * difference.sigmoid().log() + 0.25 * (-difference).sigmoid().log()).mean()
    assert step["loss"] == pytest.approx(float(by_hand), abs=1e-6)


def test_what_is_accumulated_is_one_batch(decoder: Path, tmp_path: Path) -> None:
    whole = Trained(section_of(decoder, per_device_train_batch_size=8), tmp_path / "a")
    parts = Trained(section_of(decoder, per_device_train_batch_size=2, gradient_accumulation_steps=4), tmp_path / "b")
    ours, theirs = whole.fit(), parts.fit()
    assert [step["step"] for step in ours] == [step["step"] for step in theirs] == [1, 2, 3, 4]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["margin"] == pytest.approx(other["margin"], abs=1e-4)


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["all weights", "adapters"])
@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_it_learns_its_pairs(request: pytest.FixtureRequest, tmp_path: Path, family: str, lora: Any) -> None:
    folder = request.getfixturevalue(family)
    trained = Trained(section_of(folder, lora=lora, max_steps=30, learning_rate=0.02), tmp_path / "scratch")
    steps = trained.fit()
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert not trained.fitted.model.training
    assert set(steps[0]) == {"step", "loss", "grad_norm", "learning_rate", "accuracy", "margin", "mean_reward"}


def test_of_a_model_with_adapters_the_base_stands_still_and_the_head_is_trained(decoder: Path, tmp_path: Path) -> None:
    trained = Trained(section_of(decoder, lora={"rank": 2}), tmp_path / "scratch")
    names = {name for name, parameter in trained.fitted.model.named_parameters() if parameter.requires_grad}
    assert names and all("lora_" in name or ".score." in name for name in names)
    assert any("lora_" in name for name in names) and any(".score." in name for name in names)
    before = trained.weights()
    trained.fit()
    after = trained.weights()
    assert {name for name in before if before[name] != after[name]} == names


@pytest.mark.parametrize("lora", [{"rank": 2}, {"rank": 2, "use_dora": True}], ids=["", "dora"])
def test_merged_it_gives_the_scores_that_it_gave_in_training(decoder: Path, tmp_path: Path, lora: Any) -> None:
    trained = Trained(section_of(decoder, lora=lora), tmp_path / "scratch")
    trained.fit()
    batch = trained.base.reader.pad([row.chosen for row in rows_of(trained.base)])
    scores = rewards_of(trained.fitted.model, batch).tolist()
    whole = trained.fitted.whole()
    whole.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert type(whole).__name__ == "LlamaForSequenceClassification"
    assert rewards_of(again, batch).tolist() == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["all weights", "adapters"])
def test_from_a_step_on_it_ends_in_the_same_bytes(decoder: Path, tmp_path: Path, lora: Any) -> None:
    section = section_of(decoder, lora=lora, gradient_accumulation_steps=2, warmup_steps=2)
    whole = Trained(section, tmp_path / "a")
    steps = whole.fit(kept=tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["1", "2", "3"]
    left = tmp_path / "kept" / "2"
    state = read_training_state(left)
    assert state is not None and state.global_step == 2
    torch.manual_seed(99)
    again = Trained(section, tmp_path / "b")
    again.fitted.restore(left)
    assert again.fit(state, read_optimizer_state(left, state)) == steps
    assert again.weights() == whole.weights()


def test_half_precision_trains_on_float32_copies(decoder: Path, tmp_path: Path) -> None:
    trained = Trained(section_of(decoder, dtype="bfloat16", learning_rate=1e-5, max_steps=2), tmp_path / "scratch")
    assert len(trained.fit()) == 2
    moments = trained.trainer.optimizer.state_dict()
    assert trained.fitted.model.score.weight.dtype == torch.bfloat16
    assert moments["param_groups"][0]["lr"] >= 0


def test_nothing_drops_out(encoder: Path, tmp_path: Path) -> None:
    """BERT's own config drops out a tenth; equal batches then would give unequal losses."""
    section = section_of(encoder, learning_rate=1e-12, per_device_train_batch_size=8)
    losses = [step["loss"] for step in Trained(section, tmp_path / "scratch").fit()]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


def test_a_pass_sees_every_pair_once_and_the_last_step_is_whole(decoder: Path) -> None:
    rows = rows_of(load_base(section_of(decoder), 0, "cpu"))
    section = section_of(decoder, max_steps=None, num_train_epochs=1.0, per_device_train_batch_size=3)
    batches = reward_batches(rows, section, 0)
    assert [len(batch) for batch in batches] == [3, 3, 3]
    places = [rows.index(row) for batch in batches for row in batch]
    assert sorted(places[:8]) == list(range(8))
    assert reward_batches(rows, section, 0) == batches != reward_batches(rows, section, 1)
    assert num_reward_steps(section_of(decoder, max_steps=None, num_train_epochs=2.5), 8) == 5
    assert num_reward_steps(section_of(decoder, max_steps=None, num_train_epochs=0.01), 8) == 1


def test_a_batch_has_the_chosen_sides_first_and_no_more_than_there_is(encoder: Path) -> None:
    base = load_base(section_of(encoder), 0, "cpu")
    base.reader.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's own has
    rows = rows_of(base)[:2]
    plain = RewardCollator(base.reader, rows)(rows)
    assert set(plain) == {"input_ids", "token_type_ids", "attention_mask"}
    lengths = [len(side.inputs["input_ids"]) for side in (*(r.chosen for r in rows), *(r.rejected for r in rows))]
    assert plain["attention_mask"].sum(1).tolist() == lengths
    soft = [rows[0], rows[1]._replace(label=0.8, margin=0.5)]
    both = RewardCollator(base.reader, soft)(soft)
    assert both["margin"].tolist() == pytest.approx([0, 0.5]) and both["probability"].tolist() == pytest.approx(
        [1, 0.8]
    )


def test_adapters_without_a_place_are_the_users_fault(decoder: Path) -> None:
    section = section_of(decoder, lora={"target_modules": ["nowhere"]})
    with pytest.raises(AlignError, match=r"reward\.lora: the model has no place for these adapters"):
        to_be_fitted(load_base(section, 0, "cpu"), section, 0)
