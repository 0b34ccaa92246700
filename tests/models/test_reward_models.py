"""Reward models: how they read what is too long, and the form of one that no class of transformers has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import CHATML, chat_tokenizer, make_chat_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from align_cli.errors import AlignError
from align_cli.models.reward_bases import RewardBase, check_base, load_base
from align_cli.models.reward_models import (
    DENSE,
    MODULES,
    POOLING,
    Origin,
    PooledRewardModel,
    RewardReader,
    check_reward_model,
    load_reward_model,
    load_tokenizer_of,
    rewards_of,
)
from align_cli.recipe.sections.reward import RewardSection

PROMPTS, COMPLETIONS = ["What is two?", "Name a colour, please.", "Who?"], ["a number", "blue", "it is late"]


def make_encoder(folder: Path, **changes: Any) -> Path:
    """A tiny BERT without a head, with a tokenizer that has no template."""
    tokenizer = chat_tokenizer(None)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "bert",
        **{
            "vocab_size": len(tokenizer),
            **sizes,
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
        },
        **changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def section(folder: Path, **changes: Any) -> RewardSection:
    return RewardSection.model_validate({"model_name_or_path": str(folder), **changes})


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "encoder")


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    return make_chat_model(tmp_path / "decoder")


def base_of(folder: Path, seed: int = 0) -> RewardBase:
    return load_base(section(folder), seed, "cpu")


class TestReading:
    @pytest.fixture
    def reader(self, encoder: Path) -> RewardReader:
        return base_of(encoder).reader

    def test_a_limit_is_the_models_or_the_tokenizers(self, decoder: Path, reader: RewardReader) -> None:
        assert reader.most == 64
        config, tokenizer = AutoConfig.from_pretrained(decoder), chat_tokenizer()
        assert RewardReader(tokenizer, config).most == 128
        tokenizer.model_max_length = 50
        assert RewardReader(tokenizer, config).most == 50

    def test_of_a_conversation_the_end_is_read(self, decoder: Path) -> None:
        reader = base_of(decoder).reader
        (whole,) = reader.encode(PROMPTS[:1], COMPLETIONS[:1], None)
        (cut,) = reader.encode(PROMPTS[:1], COMPLETIONS[:1], 5)
        assert cut.inputs["input_ids"] == whole.inputs["input_ids"][-5:]
        assert (whole.was_cut, cut.was_cut, cut.num_tokens) == (False, True, whole.num_tokens)
        rendered = reader.tokenizer.decode(whole.inputs["input_ids"])
        assert rendered == "<|im_start|>user\nWhat is two?<|im_end|>\n<|im_start|>assistant\na number<|im_end|>\n"

    def test_of_two_texts_the_beginning_of_the_longer_one_goes_first(self, reader: RewardReader) -> None:
        (cut,) = reader.encode(["lost " * 40 + "kept?"], ["an answer"], 30)
        text = reader.tokenizer.decode(cut.inputs["input_ids"])
        assert cut.was_cut and len(cut.inputs["input_ids"]) == 30
        assert text.endswith("kept?an answer")

    def test_two_texts_that_are_too_long_both_leave_something_of_each(self, reader: RewardReader) -> None:
        (cut,) = reader.encode(["first " * 40], ["second " * 40], 30)
        text = reader.tokenizer.decode(cut.inputs["input_ids"])
        assert "first" in text and "second" in text

    def test_only_what_is_too_long_is_cut(self, reader: RewardReader) -> None:
        rows = reader.encode(PROMPTS, COMPLETIONS, 12)
        assert [row.was_cut for row in rows] == [row.num_tokens > 12 for row in rows] == [False, True, False]


class TestHeadOnAMeanState:
    @pytest.fixture
    def saved(self, encoder: Path, tmp_path: Path) -> tuple[Path, PooledRewardModel]:
        base, folder = base_of(encoder), tmp_path / "saved"
        model = PooledRewardModel(base.model.base_model, torch.linspace(-1, 1, 16)[None])
        folder.mkdir()
        model.save(folder, base.reader.most)
        base.reader.tokenizer.save_pretrained(folder)
        return folder, model

    def test_it_is_the_weighted_mean_of_states_whatever_the_batch(self, saved: tuple[Path, PooledRewardModel]) -> None:
        folder, model = saved
        tokenizer, plain = load_tokenizer_of(Origin(str(folder))), AutoModel.from_pretrained(folder).eval()
        reader = RewardReader(tokenizer, plain.config)
        together = rewards_of(model, reader.pad(reader.encode(PROMPTS, COMPLETIONS, None)))
        for pair, reward in zip(zip(PROMPTS, COMPLETIONS, strict=True), together.tolist(), strict=True):
            with torch.no_grad():
                states = plain(**tokenizer(*pair, return_tensors="pt")).last_hidden_state[0]
            assert reward == pytest.approx(float(states.mean(0) @ torch.linspace(-1, 1, 16)), abs=1e-5)

    def test_it_reads_back_to_the_same_scores(self, saved: tuple[Path, PooledRewardModel]) -> None:
        folder, model = saved
        origin = Origin(str(folder))
        reader = RewardReader(load_tokenizer_of(origin), config := check_reward_model(origin))
        batch = reader.pad(reader.encode(PROMPTS, COMPLETIONS, None))
        again = load_reward_model(origin, config, "auto", torch.device("cpu"))
        assert rewards_of(again, batch).tolist() == rewards_of(model, batch).tolist()

    @pytest.mark.parametrize(
        ("file", "change", "what"),
        [
            (MODULES, lambda old: old[:2], r"this is a sentence encoder \(Transformer, Pooling\), whose head"),
            (f"{DENSE}/config.json", lambda old: {**old, "out_features": 2}, "the classifier has 2 outputs"),
            (f"{DENSE}/config.json", lambda old: {**old, "bias": True}, "its head is more than a weight"),
            (f"{POOLING}/config.json", lambda old: {"pooling_mode": "cls"}, "pooled in another way"),
        ],
    )
    def test_other_folders_of_that_form_are_refused(
        self, saved: tuple[Path, PooledRewardModel], file: str, change: Callable[[Any], Any], what: str
    ) -> None:
        path = saved[0] / file
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        with pytest.raises(AlignError, match=what):
            check_reward_model(Origin(str(saved[0])))


class TestWhatBecomesOne:
    def test_a_new_head_is_the_seeds(self, decoder: Path, encoder: Path) -> None:
        for folder, name in ((decoder, "score"), (encoder, "classifier")):
            first, again, other = (base_of(folder, seed).model.get_submodule(name).weight for seed in (0, 0, 1))
            assert torch.equal(first, again) and not torch.equal(first, other)

    def test_its_modules_are_known_by_name(self, decoder: Path, encoder: Path) -> None:
        assert base_of(decoder).head == ["score"] and base_of(decoder).is_decoder
        assert base_of(encoder).head == ["classifier"] and not base_of(encoder).is_decoder

    def test_a_pooler_that_is_new_is_among_them(self, encoder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(encoder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
        assert len(kept) < len(tensors)
        save_file(kept, encoder / "model.safetensors", metadata={"format": "pt"})
        assert base_of(encoder).head == ["classifier", "pooler"]

    def test_a_decoders_features_times_its_weights_are_its_reward(self, decoder: Path) -> None:
        base = base_of(decoder)
        batch = base.reader.pad(base.reader.encode(PROMPTS, COMPLETIONS, None))
        with torch.no_grad():
            features = base.features(dict(batch))
        by_hand = features.double() @ base.model.score.weight[0].double()
        assert by_hand.tolist() == pytest.approx(rewards_of(base.model, batch).tolist(), abs=1e-6)

    def test_a_classifier_goes_on_from_its_own_head(self, decoder: Path, tmp_path: Path) -> None:
        model = base_of(decoder, seed=5).model
        model.save_pretrained(tmp_path / "classifier")
        chat_tokenizer(CHATML).save_pretrained(tmp_path / "classifier")
        assert torch.equal(base_of(tmp_path / "classifier", seed=0).model.score.weight, model.score.weight)

    def test_one_of_two_labels_is_refused(self, tmp_path: Path) -> None:
        config = AutoConfig.for_model("bert", vocab_size=10, num_labels=2, hidden_size=16, num_attention_heads=2)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "two")
        with pytest.raises(AlignError, match="the classifier has 2 outputs; a reward model has one"):
            check_base(section(tmp_path / "two"))

    def test_a_model_that_no_classifier_is_known_of_is_refused(self, tmp_path: Path) -> None:
        AutoConfig.for_model("vit").save_pretrained(tmp_path / "vit")
        with pytest.raises(AlignError, match="transformers has no sequence classifier for models of type vit"):
            check_base(section(tmp_path / "vit"))

    def test_weights_that_lack_more_than_a_head_are_refused(self, decoder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(decoder / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, decoder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(AlignError, match=r"lacks tensors that its config asks for: model\.norm\.weight"):
            base_of(decoder)
