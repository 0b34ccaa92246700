"""One base and its adapters: the policy's is trained, every other policy's is frozen and its own."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from align_cli.errors import AlignError
from align_cli.models.adapters import AdaptedModel, AdapterPolicy
from align_cli.models.load import load_policy
from align_cli.models.lora import ADAPTER_WEIGHTS, check_adapter_fits
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection

TOKENS = pad_batch([[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]], 0)

Adapted = Callable[..., AdaptedModel]


@pytest.fixture
def adapted(tiny_policy_folder: Path) -> Adapted:
    def make(seed: int = 0, **lora: Any) -> AdaptedModel:
        section = LoraSection(**{"rank": 2, "alpha": 4, **lora})
        return AdaptedModel(PolicySection(model_name_or_path=str(tiny_policy_folder), lora=section), seed)

    return make


def logps(policy: Any) -> torch.Tensor:
    with torch.no_grad():
        return response_logps(policy.model, TOKENS)


def trained(policy: AdapterPolicy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.model.parameters() if parameter.requires_grad]


def shift(policy: AdapterPolicy, by: float) -> None:
    """Move every trained weight of the policy's adapter."""
    with torch.no_grad():
        for parameter in trained(policy):
            parameter += by


def copied(policy: AdapterPolicy) -> dict[str, torch.Tensor]:
    """The adapter's tensors as they are now."""
    return {name: tensor.clone() for name, tensor in policy.adapted.tensors("policy").items()}


def saved(policy: AdapterPolicy, folder: Path) -> Path:
    folder.mkdir()
    policy.save_weights(folder)
    return folder


@pytest.mark.parametrize(
    "lora", [{}, {"init": "gaussian"}, {"use_rslora": True}, {"modules_to_save": ["embed_tokens"]}]
)
def test_a_new_adapter_changes_nothing(adapted: Adapted, tiny_policy_folder: Path, lora: dict[str, Any]) -> None:
    assert torch.equal(logps(adapted(**lora).policy(None)), logps(load_policy(tiny_policy_folder)))


def test_a_new_dora_adapter_changes_nothing_but_rounding(adapted: Adapted, tiny_policy_folder: Path) -> None:
    found = logps(adapted(use_dora=True).policy(None))
    torch.testing.assert_close(found, logps(load_policy(tiny_policy_folder)), rtol=1e-5, atol=1e-5)


def test_new_adapters_are_the_seeds(adapted: Adapted) -> None:
    torch.manual_seed(1)
    first, again, other = (adapted(seed).tensors("policy") for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_random_state_stays(adapted: Adapted) -> None:
    before = torch.get_rng_state()
    adapted()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_policy_keeps_its_own_adapter_while_the_policys_is_trained(adapted: Adapted) -> None:
    whole = adapted()
    policy, reference = whole.policy(None), whole.frozen(None)
    before = logps(policy)
    shift(policy, 0.1)
    assert torch.equal(logps(reference), before)
    assert not torch.allclose(logps(policy), before)
    assert torch.equal(logps(reference), before)


def test_what_a_frozen_policy_says_has_no_gradient_and_takes_none_from_the_policys(adapted: Adapted) -> None:
    whole = adapted()
    policy, reference = whole.policy(None), whole.frozen(None)
    shift(policy, 0.1)
    alone = response_logps(policy.model, TOKENS).sum()
    alone.backward()
    expected = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    assert expected
    assert all("policy" in name for name in expected)
    policy.model.zero_grad()
    both = response_logps(policy.model, TOKENS).sum()
    ratio = response_logps(reference.model, TOKENS).sum()
    assert not ratio.requires_grad
    (both - ratio).backward()
    found = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_base_serves_all(adapted: Adapted) -> None:
    whole = adapted()
    policy, reference = whole.policy(None), whole.frozen(None)
    assert list(reference.model.parameters()) == []
    assert reference.model.get_input_embeddings() is policy.model.get_input_embeddings()
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert all(".policy." in name for name in trained)


def test_an_adapter_comes_back_from_its_checkpoint(adapted: Adapted, tmp_path: Path) -> None:
    policy = adapted().policy(None)
    shift(policy, 0.1)
    place = saved(policy, tmp_path / "checkpoint")
    another = adapted()
    assert torch.equal(logps(another.policy(place)), logps(policy))
    assert torch.equal(logps(another.frozen(place)), logps(policy))
    assert sorted(file.name for file in place.iterdir()) == ["adapter_config.json", ADAPTER_WEIGHTS]


def test_peft_and_transformers_read_a_checkpoint(adapted: Adapted, tiny_policy_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = adapted(modules_to_save=["embed_tokens"]).policy(None)
    shift(policy, 0.1)
    place = saved(policy, tmp_path / "checkpoint")
    base = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
    read = PeftModel.from_pretrained(base, place).eval()
    with torch.no_grad():
        torch.testing.assert_close(response_logps(read, TOKENS), logps(policy))


@pytest.fixture
def mixture_folder(tmp_path: Path, tiny_policy_folder: Path) -> Path:
    """A mixture of experts that peft does not know of: all experts of a layer are one tensor."""
    from transformers import AutoTokenizer, Qwen2MoeConfig, Qwen2MoeForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_policy_folder)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "output_router_logits": True}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen2MoeForCausalLM(Qwen2MoeConfig(vocab_size=len(tokenizer), **shape, **experts, **ids)).save_pretrained(
        tmp_path / "moe"
    )
    tokenizer.save_pretrained(tmp_path / "moe")
    return tmp_path / "moe"


READS_MIXTURES = tuple(map(int, peft.__version__.split(".")[:2])) >= (0, 21)
"""Whether peft reads an adapter of fused experts back: 0.19 asks transformers for more than it has."""


@pytest.mark.skipif(not READS_MIXTURES, reason="peft and transformers of these versions do not fit together here")
class TestOnAMixtureWhoseExpertsAreOneTensor:
    def test_all_linear_means_them_too(self, mixture_folder: Path, tmp_path: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        section = LoraSection(rank=2)
        whole = AdaptedModel(PolicySection(model_name_or_path=str(mixture_folder), lora=section), 0)
        policy, reference = whole.policy(None), whole.frozen(None)
        assert sum(".mlp.experts." in name for name in whole.tensors("policy")) == 4
        before = logps(policy)
        shift(policy, 0.1)
        assert torch.equal(logps(reference), before)
        place = saved(policy, tmp_path / "checkpoint")
        config = json.loads((place / "adapter_config.json").read_text())
        assert config["target_parameters"] == ["down_proj", "gate_up_proj"]
        assert config["target_modules"] == sorted(config["target_modules"])
        read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mixture_folder), place).eval()
        with torch.no_grad():
            torch.testing.assert_close(response_logps(read, TOKENS), logps(policy))
        begun = AdaptedModel(
            PolicySection(model_name_or_path=str(mixture_folder), lora=LoraSection(adapter=str(place))), 0
        )
        assert torch.equal(logps(begun.policy(None)), logps(policy))

    @pytest.mark.parametrize(("key", "value"), [("dropout", 0.5), ("use_dora", True)])
    def test_what_peft_cannot_do_is_refused_unless_layers_are_named(
        self, mixture_folder: Path, key: str, value: Any
    ) -> None:
        settings = PolicySection(model_name_or_path=str(mixture_folder), lora=LoraSection(rank=2, **{key: value}))
        tokenizer = AutoTokenizer.from_pretrained(mixture_folder)
        with pytest.raises(AlignError, match=f"policy.lora.{key} on a mixture whose experts are one tensor a layer"):
            check_adapter_fits(settings, tokenizer)
        named = LoraSection(rank=2, target_modules=["q_proj"], **{key: value})
        check_adapter_fits(settings.model_copy(update={"lora": named}), tokenizer)


def test_a_policy_becomes_another_in_place(adapted: Adapted, tmp_path: Path) -> None:
    whole = adapted()
    policy = whole.policy(None)
    shift(policy, 0.1)
    place = saved(policy, tmp_path / "checkpoint")
    shift(policy, 0.1)
    model, parameters = policy.model, trained(policy)
    other = whole.frozen(place)
    policy.become(other)
    assert torch.equal(logps(policy), logps(other))
    assert policy.version == other.version
    assert policy.model is model
    assert all(one is another for one, another in zip(parameters, trained(policy), strict=True))


def test_a_frozen_policy_that_nobody_needs_any_more_leaves_nothing_behind(adapted: Adapted) -> None:
    whole = adapted()
    policy = whole.policy(None)
    before = [name for name, _ in policy.model.named_parameters()]
    reference = whole.frozen(None)
    assert len([*policy.model.parameters()]) > len(before)
    del reference
    gc.collect()
    assert [name for name, _ in policy.model.named_parameters()] == before
    assert any(parameter.requires_grad for parameter in policy.model.parameters())


def test_sampling_from_a_frozen_policy_is_sampling_with_its_adapter(adapted: Adapted) -> None:
    from align_cli.engines.base import Request, SamplingSettings
    from align_cli.engines.in_process import TransformersEngine

    whole = adapted()
    policy, reference = whole.policy(None), whole.frozen(None)
    requests = [Request([5, 6, 7], seed) for seed in range(8)]

    def sampled(of: AdapterPolicy) -> list[list[int]]:
        parts = TransformersEngine(4).generate(of, requests, SamplingSettings(1.0, 0, 1.0, 12))
        return [sample.token_ids for _, sample in sorted((pair for part in parts for pair in part), key=lambda p: p[0])]

    before = sampled(policy)
    assert sampled(reference) == before
    shift(policy, 0.5)
    assert sampled(reference) == before
    assert sampled(policy) != before


def test_a_batch_sampled_from_a_frozen_policy_turns_the_switch_once(
    adapted: Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align_cli.engines.base import Request, SamplingSettings
    from align_cli.engines.decoding import decode, keeps_rows_apart

    whole = adapted()
    whole.policy(None)
    reference = whole.frozen(None)
    assert keeps_rows_apart(reference.model)
    turns: list[str] = []
    switched_to = whole.switched_to
    monkeypatch.setattr(whole, "switched_to", lambda adapter: turns.append(adapter) or switched_to(adapter))
    decode(reference, [Request([5, 6, 7], seed) for seed in range(3)], SamplingSettings(1.0, 0, 1.0, 12))
    assert len(turns) == 1


class TestAnAdapterToStartFrom:
    def test_is_gone_on_with(self, adapted: Adapted, tmp_path: Path) -> None:
        policy = adapted(rank=3, target_modules=["q_proj"]).policy(None)
        shift(policy, 0.1)
        place = saved(policy, tmp_path / "mine")
        begun = adapted(adapter=str(place))
        assert torch.equal(logps(begun.policy(None)), logps(policy))
        assert torch.equal(logps(begun.frozen(None)), logps(policy))
        assert begun.peft.peft_config["policy"].r == 3

    def test_with_missing_tensors_is_refused_by_name(self, adapted: Adapted, tmp_path: Path) -> None:
        place = saved(adapted().policy(None), tmp_path / "mine")
        tensors = load_file(place / ADAPTER_WEIGHTS)
        name = sorted(tensors)[0]
        del tensors[name]
        save_file(tensors, place / ADAPTER_WEIGHTS)
        with pytest.raises(AlignError, match=f"the adapter lacks tensors that its config asks for on .*: {name}"):
            adapted(adapter=str(place)).policy(None)

    def test_of_another_base_is_refused(self, adapted: Adapted, tmp_path: Path) -> None:
        from align_cli.playground.model import make_model_from_scratch

        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
        make_model_from_scratch(
            tmp_path / "other", ["some words"], seed=0, architecture="llama", vocab_size=300, **shape
        )
        place = saved(adapted().policy(None), tmp_path / "mine")
        section = LoraSection(adapter=str(place))
        with pytest.raises(AlignError, match=r"has tensors of other shapes than its config asks for on .*other: "):
            AdaptedModel(PolicySection(model_name_or_path=str(tmp_path / "other"), lora=section), 0).policy(None)

    def test_whose_tokenizer_has_other_tokens_is_refused_with_the_first(self, adapted: Adapted, tmp_path: Path) -> None:
        policy = adapted().policy(None)
        place, tokenizer = saved(policy, tmp_path / "mine"), policy.tokenizer
        tokenizer.save_pretrained(place)
        adapted(adapter=str(place)).policy(None)
        own = AutoTokenizer.from_pretrained(place)
        own.add_tokens(["<call>", "<result>"])
        own.save_pretrained(place)
        what = f"another vocabulary than its base, .*: '<call>' has id {len(tokenizer)} here and none there, and 1 more"
        with pytest.raises(AlignError, match=what):
            adapted(adapter=str(place))
        settings = PolicySection(model_name_or_path=tokenizer.name_or_path, lora=LoraSection(adapter=str(place)))
        with pytest.raises(AlignError, match="'<call>'"):
            check_adapter_fits(settings, tokenizer)

    def test_that_is_none_is_refused(self, adapted: Adapted, tiny_policy_folder: Path) -> None:
        with pytest.raises(AlignError, match="this folder holds no adapter"):
            adapted(adapter=str(tiny_policy_folder))

    def test_that_is_pickled_is_refused(self, adapted: Adapted, tmp_path: Path) -> None:
        place = saved(adapted().policy(None), tmp_path / "mine")
        (place / ADAPTER_WEIGHTS).rename(place / "adapter_model.bin")
        with pytest.raises(AlignError, match=r"the adapter has no adapter_model\.safetensors"):
            adapted(adapter=str(place)).policy(None)


class TestMergedBetweenRounds:
    """`policy.lora.between_rounds: merge`."""

    @pytest.mark.parametrize(
        "lora",
        [
            {},
            {"use_rslora": True},
            {"init": "gaussian"},
            {"modules_to_save": ["embed_tokens"]},
            {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        ],
        ids=str,
    )
    def test_a_policy_says_after_a_merge_what_it_said_before(
        self, adapted: Adapted, tmp_path: Path, tiny_policy_folder: Path, lora: dict[str, Any]
    ) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        whole = adapted(between_rounds="merge", **lora)
        policy, initial = whole.policy(None), whole.frozen(None)
        at_first = logps(policy)
        for number in (1, 2, 3):
            before = logps(policy)
            policy.begin_round(number)
            torch.testing.assert_close(logps(policy), before, rtol=1e-5, atol=1e-5)
            shift(policy, 0.05)
            assert not torch.allclose(logps(policy), before, atol=1e-3)
        assert torch.equal(logps(initial), at_first)
        place = saved(policy, tmp_path / "checkpoint")
        assert json.loads((place / "adapter_config.json").read_text())["r"] == 6
        another = adapted(between_rounds="merge", **lora)
        previous = another.frozen(place)
        assert torch.equal(logps(another.policy(place)), logps(policy))
        torch.testing.assert_close(logps(previous), logps(policy), rtol=1e-5, atol=1e-5)
        read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_policy_folder), place).eval()
        with torch.no_grad():
            torch.testing.assert_close(response_logps(read, TOKENS), logps(policy), rtol=1e-5, atol=1e-5)

    def test_what_was_trained_before_stands_still(self, adapted: Adapted, tmp_path: Path) -> None:
        policy = adapted(between_rounds="merge").policy(None)
        policy.begin_round(1)
        shift(policy, 0.1)
        earlier, num_trained = copied(policy), len(trained(policy))
        policy.begin_round(2)
        assert len(trained(policy)) == num_trained
        response_logps(policy.model, TOKENS).sum().backward()
        names = [name for name, parameter in policy.model.named_parameters() if parameter.grad is not None]
        assert len(names) == num_trained
        assert all(".policy." in name for name in names)
        shift(policy, 0.1)
        now = policy.adapted.tensors("policy")
        name = next(name for name in now if ".lora_B." in name)
        assert torch.equal(now[name][:, :2], earlier[name])
        assert not (now[name][:, 2:] == 0).any()

    def test_a_new_adapter_is_the_rounds_and_the_seeds_and_one_that_learnt_nothing_is_not_kept(
        self, adapted: Adapted
    ) -> None:
        def drawn(seed: int, *numbers: int) -> dict[str, torch.Tensor]:
            policy = adapted(seed, between_rounds="merge").policy(None)
            for number in numbers:
                policy.begin_round(number)
            return policy.adapted.tensors("policy")

        first, again, later, other = drawn(0, 1), drawn(0, 3, 2, 1), drawn(0, 2), drawn(1, 1)
        assert all(torch.equal(first[name], again[name]) for name in first)
        for different in (later, other):
            assert not all(torch.equal(first[name], different[name]) for name in first)

    def test_a_round_leaves_the_random_state_as_it_was(self, adapted: Adapted) -> None:
        policy = adapted(between_rounds="merge").policy(None)
        shift(policy, 0.1)
        before = torch.get_rng_state()
        policy.begin_round(1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_carried_adapter_is_as_it_was_when_a_round_begins(self, adapted: Adapted) -> None:
        policy = adapted().policy(None)
        shift(policy, 0.1)
        before = copied(policy)
        policy.begin_round(1)
        now = policy.adapted.tensors("policy")
        assert before.keys() == now.keys()
        assert all(torch.equal(before[name], now[name]) for name in now)

    @pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["embed_tokens"]}], ids=str)
    def test_policies_of_other_rounds_take_each_others_place(
        self, adapted: Adapted, tmp_path: Path, lora: dict[str, Any]
    ) -> None:
        whole = adapted(between_rounds="merge", **lora)
        policy, reference = whole.policy(None), whole.frozen(None)
        places = []
        for number in (1, 2, 3):
            policy.begin_round(number)
            shift(policy, 0.05)
            places.append(saved(policy, tmp_path / str(number)))
            reference.become(policy)
            torch.testing.assert_close(logps(reference), logps(policy), rtol=1e-5, atol=1e-5)
        parameters = trained(policy)
        for place in (places[0], places[2], places[1]):
            policy.become(whole.frozen(place))
            gc.collect()
            assert torch.equal(logps(policy), logps(adapted(between_rounds="merge", **lora).policy(place)))
            assert all(one is another for one, another in zip(parameters, trained(policy), strict=True))
        assert sorted(whole.peft.peft_config) == ["earlier", "frozen1", "policy"]

    def test_dropout_of_the_warm_start_leaves_what_stands_still_alone(self, adapted: Adapted) -> None:
        whole = adapted(between_rounds="merge", dropout=0.5)
        policy, reference = whole.policy(None), whole.frozen(None)
        shift(policy, 0.1)
        policy.begin_round(1)
        reference.become(policy)
        before = logps(policy)
        policy.model.train()
        torch.testing.assert_close(logps(policy), before, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logps(reference), before, rtol=1e-5, atol=1e-5)

    def test_updates_of_a_base_in_half_precision_are_not_rounded_into_it(self, tiny_policy_folder: Path) -> None:
        section = LoraSection(rank=2, between_rounds="merge")
        settings = PolicySection(model_name_or_path=str(tiny_policy_folder), dtype="bfloat16", lora=section)
        policy = AdaptedModel(settings, 0).policy(None)
        shift(policy, 1e-3)
        tensors = copied(policy)
        policy.begin_round(1)
        merged = policy.adapted.tensors("policy")
        name = next(name for name in merged if ".lora_B." in name)
        assert merged[name].dtype == torch.float32
        assert torch.equal(merged[name][:, :2], tensors[name])

    @pytest.mark.skipif(not READS_MIXTURES, reason="peft and transformers of these versions do not fit together here")
    def test_of_a_mixture_each_expert_keeps_its_own(self, mixture_folder: Path, tmp_path: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        section = LoraSection(rank=2, between_rounds="merge")
        policy = AdaptedModel(PolicySection(model_name_or_path=str(mixture_folder), lora=section), 0).policy(None)
        torch.manual_seed(0)
        for number in (1, 2):
            before = logps(policy)
            policy.begin_round(number)
            torch.testing.assert_close(logps(policy), before, rtol=1e-5, atol=1e-5)
            with torch.no_grad():
                for parameter in trained(policy):
                    parameter += 0.1 * torch.randn_like(parameter)
        place = saved(policy, tmp_path / "checkpoint")
        read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mixture_folder), place).eval()
        with torch.no_grad():
            torch.testing.assert_close(response_logps(read, TOKENS), logps(policy), rtol=1e-5, atol=1e-5)

    def test_an_adapter_to_start_from_stands_still_below_new_ones_like_it(
        self, adapted: Adapted, tmp_path: Path
    ) -> None:
        start = adapted(rank=3, target_modules=["q_proj"]).policy(None)
        shift(start, 0.1)
        policy = adapted(adapter=str(saved(start, tmp_path / "mine")), between_rounds="merge").policy(None)
        policy.begin_round(1)
        torch.testing.assert_close(logps(policy), logps(start), rtol=1e-5, atol=1e-5)
        assert {tensor.shape[0] for name, tensor in policy.adapted.tensors("policy").items() if "lora_A" in name} == {6}

    def test_a_merged_adapter_is_carried_on(self, adapted: Adapted, tmp_path: Path) -> None:
        policy = adapted(between_rounds="merge").policy(None)
        for number in (1, 2):
            policy.begin_round(number)
            shift(policy, 0.1)
        carried = adapted().policy(saved(policy, tmp_path / "checkpoint"))
        carried.begin_round(3)
        assert torch.equal(logps(carried), logps(policy))
        assert len(trained(carried)) == len(trained(policy))

    def test_an_adapter_that_is_more_than_factors_is_refused(self, adapted: Adapted, tmp_path: Path) -> None:
        place = saved(adapted(use_dora=True).policy(None), tmp_path / "dora")
        with pytest.raises(AlignError, match=r"more than factors that add up: it has .*lora_magnitude_vector"):
            adapted(adapter=str(place), between_rounds="merge")
        place = saved(adapted().policy(None), tmp_path / "pissa")
        config = json.loads((place / "adapter_config.json").read_text())
        (place / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
        with pytest.raises(AlignError, match="it began as pissa, which changes the base"):
            adapted(adapter=str(place), between_rounds="merge")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"alpha": 8}, "lora_alpha 8 where 4 is asked for"),
        ({"rank": 3}, "r 3 where 2 is asked for"),
        ({"rank": 4}, "r 4 where 2 is asked for"),
        ({"use_rslora": True}, "use_rslora True where False is asked for"),
    ],
    ids=str,
)
def test_a_checkpoint_whose_updates_are_scaled_otherwise_is_refused(
    adapted: Adapted, tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    place = saved(adapted(**other).policy(None), tmp_path / "other")
    with pytest.raises(AlignError, match=f"the adapter is made otherwise than this recipe's: {words}"):
        adapted().policy(place)


def test_layers_that_the_base_does_not_have_are_refused(adapted: Adapted) -> None:
    with pytest.raises(AlignError, match=r"the model cannot be loaded: .*no_such_layer"):
        adapted(target_modules=["no_such_layer"])


def test_an_adapter_alone_is_no_model(adapted: Adapted, tmp_path: Path) -> None:
    place = saved(adapted().policy(None), tmp_path / "mine")
    with pytest.raises(AlignError, match="there is an adapter here"):
        load_policy(place)
