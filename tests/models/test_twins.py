"""Twins of models: the model in all but its weights, and on a base with adapters the same switch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from align_cli.models.adapters import AdaptedModel, AdapterView
from align_cli.models.load import load_policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.models.twins import AdaptedTwin, twin_of
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection

TOKENS = pad_batch([[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]], 0)


def logps(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return response_logps(model, TOKENS)


def adapted(folder: Path, **lora: Any) -> AdaptedModel:
    section = LoraSection(**{"rank": 2, "alpha": 4, **lora})
    return AdaptedModel(PolicySection(model_name_or_path=str(folder), lora=section), 0)


def test_a_twin_takes_no_memory_for_weights_until_it_is_given_others(tiny_policy_folder: Path) -> None:
    model = load_policy(tiny_policy_folder).model
    before, twin = logps(model), twin_of(model)
    for own, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        assert own is not theirs
        assert own.data_ptr() == theirs.data_ptr()
    for own in twin.parameters():
        own.data = torch.zeros_like(own)
    assert torch.equal(logps(model), before)
    assert not torch.equal(logps(twin), before)


@pytest.mark.parametrize("lora", [{}, {"between_rounds": "merge"}, {"modules_to_save": ["embed_tokens"]}])
def test_a_twin_says_what_policy_and_reference_say_also_when_adapters_come_and_go(
    tiny_policy_folder: Path, lora: dict[str, Any]
) -> None:
    whole = adapted(tiny_policy_folder, **lora)
    policy, reference = whole.policy(None), whole.frozen(None)
    twin = AdaptedTwin(whole)
    view = twin.view(reference.model)
    assert isinstance(view, AdapterView)
    for number in (1, 2):
        trained = {name: tensor + 0.1 * number for name, tensor in policy.tensors().items()}
        reference.put(policy.tensors(), f"reference {number}")
        policy.put(trained, f"trained {number}")
        policy.begin_round(number + 1)
        twin.part()
        twin.share()
        assert torch.equal(logps(view), logps(reference.model))
        assert torch.equal(logps(twin.base.model), logps(policy.model))
        assert not torch.equal(logps(view), logps(twin.base.model))


def test_the_twins_switch_leaves_alone_what_is_trained(tiny_policy_folder: Path) -> None:
    whole = adapted(tiny_policy_folder)
    policy, reference = whole.policy(None), whole.frozen(None)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    twin = AdaptedTwin(whole)
    view = twin.view(reference.model)
    twin.share()
    trained = {name: own.requires_grad for name, own in twin.base.model.named_parameters()}
    assert any(trained.values())
    with view.at_work() as base:
        assert {name: own.requires_grad for name, own in base.named_parameters()} == trained
        assert torch.equal(logps(base), logps(reference.model))
    assert {name: own.requires_grad for name, own in twin.base.model.named_parameters()} == trained


def test_a_twin_that_has_parted_has_the_trained_adapter_alone(tiny_policy_folder: Path) -> None:
    whole = adapted(tiny_policy_folder)
    held = whole.policy(None), whole.frozen(None)
    twin = AdaptedTwin(whole)
    assert any("frozen" in name for name, _ in twin.base.model.named_parameters())
    twin.part()
    names = [name for name, _ in twin.base.model.named_parameters() if "lora_" in name]
    assert names
    assert all(".policy." in name for name in names)
    del held
