"""One base model and its LoRA adapters (Hu et al. 2021, arXiv:2106.09685): policy and references on one copy of it.

peft puts the adapters into the base's layers; which of them is at work is a switch. The policy's is on, and trained.
Any other policy is a view of the same base that turns the switch to its own, frozen adapter for as long as it is asked.

An adapter may be the sum of several updates (`updates`). Of the policy's, the latest is trained; those before it stand
still, in one adapter that is at work beside it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from align_cli.models.load import Policy, load_as, weights_version
from align_cli.models.lora import (
    ADAPTER_WEIGHTS,
    TRAINED,
    check_adapters_vocabulary,
    read_adapter_tensors,
    read_lora_config,
    tensors_of,
    with_adapter,
    without_advice,
)
from align_cli.models.refused import check_adapter
from align_cli.models.updates import changes_nothing, config_of_sum, joined, num_joined, num_updates_in, parted
from align_cli.seeds import derive_seed

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from align_cli.models.twins import AdaptedTwin
    from align_cli.recipe.sections.policy import PolicySection

EARLIER = "earlier"
"""peft's name of the sum of the policy's updates before the one that is trained."""


@dataclass
class AdapterPolicy(Policy):
    """A policy that is an adapter on a base which others share.

    Args:
        adapted: the base with all of its adapters.
        adapter: peft's name of this one.
    """

    adapted: AdaptedModel
    adapter: str

    def become(self, other: Policy) -> None:
        """The other's adapter is copied; it has to be one of the same base."""
        assert isinstance(other, AdapterPolicy)
        self.put(other.tensors(), other.version)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter's, by the names that stand in its file."""
        return self.adapted.tensors(self.adapter)

    def put(self, tensors: dict[str, torch.Tensor], version: str) -> None:
        """Have this adapter."""
        self.adapted.put(self.adapter, tensors)
        self.version = version

    def let_go(self) -> bool:
        """The base is the policy's too, and adapters are small."""
        return False

    def take_over(self, other: Policy) -> None:
        self.become(other)

    def begin_round(self, number: int) -> None:
        """With `policy.lora.between_rounds: merge`, what was trained so far stands still from here on."""
        self.adapted.begin_round(number)

    def save_weights(self, folder: Path) -> None:
        """The adapter alone, as peft reads it."""
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in self.adapted.tensors(self.adapter).items()}
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = self.adapted.config_of(tensors)
        for name, value in list(vars(config).items()):
            if isinstance(value, set):  # which is written in any order
                setattr(config, name, sorted(value))
        config.save_pretrained(str(folder))


class AdapterView(torch.nn.Module):
    """The base with one adapter at work: what a frozen policy's model is. Calling and sampling turn the switch.

    It has no parameters of its own: whoever moves, trains or saves it does nothing.

    Args:
        adapted: the base with all of its adapters, or a twin of it.
        adapter: peft's name of the one that is at work here.
    """

    def __init__(self, adapted: AdaptedModel | AdaptedTwin, adapter: str) -> None:
        super().__init__()
        self._adapted = adapted
        self.adapter = adapter

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.at_work():
            return super().__call__(*args, **kwargs)

    def at_work(self) -> AbstractContextManager[Any]:
        """The base, where this adapter is at work while it lasts: for many calls with one turn of the switch."""
        return self._adapted.switched_to(self.adapter)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's forward pass, with the adapter that is at work."""
        return self._adapted.base.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate` with this adapter."""
        with self.at_work():
            return self._adapted.base.model.generate(*args, **kwargs)

    @property
    def generation_config(self) -> Any:
        """The base's, which `generate` reads."""
        return self._adapted.base.model.generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self._adapted.base.model.generation_config = config

    def __getattr__(self, name: str) -> Any:
        """All else, such as its config and its device, is the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._adapted.base.model, name)


class AdaptedModel:
    """A base model with adapters.

    Args:
        settings: `policy`, with a `lora` section.
        seed: of the run; new adapters are drawn from it.

    Raises:
        AlignError: if the base or the adapter to start from cannot be had, or do not belong together.
    """

    def __init__(self, settings: PolicySection, seed: int) -> None:
        assert settings.lora is not None
        self._seed = seed
        self._merges = settings.lora.between_rounds == "merge"
        self._base_name = settings.model_name_or_path or ""
        self.base = load_as(settings, self._base_name, settings.revision)
        self._start = Path(settings.lora.adapter) if settings.lora.adapter else None
        if self._start:
            check_adapters_vocabulary(self._start, self.base.tokenizer, settings)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "lora"))
            self.peft = with_adapter(self.base.model, settings)
        self.base.model.eval()
        self._new = {name: tensor.clone() for name, tensor in tensors_of(self.peft, TRAINED).items()}
        self._shapes = {name: tensor.to("meta") for name, tensor in self._new.items()}
        self._num_experts = _num_experts(self.peft)
        self._names = (f"frozen{number}" for number in count(1))

    def policy(self, checkpoint: Path | None) -> AdapterPolicy:
        """The policy that is trained: a checkpoint, or what the recipe starts from."""
        return self._filled(self.base.model, TRAINED, checkpoint)

    def frozen(self, checkpoint: Path | None) -> AdapterPolicy:
        """Another policy beside it."""
        name = next(self._names)
        view: Any = AdapterView(self, name)
        weakref.finalize(view, self._remove, name).atexit = False
        return self._filled(view, name, checkpoint)

    def tensors(self, adapter: str) -> dict[str, torch.Tensor]:
        """An adapter's tensors, by the names that stand in its file; the policy's with all of its updates."""
        tensors = tensors_of(self.peft, adapter)
        if adapter == TRAINED and EARLIER in self.peft.peft_config:
            return joined(tensors_of(self.peft, EARLIER), tensors, self._num_experts)
        return tensors

    def config_of(self, tensors: dict[str, torch.Tensor]) -> LoraConfig:
        """The config of an adapter with these tensors, as peft reads them."""
        return config_of_sum(self.peft.peft_config[TRAINED], num_joined(tensors, self._shapes))

    def put(self, adapter: str, tensors: dict[str, torch.Tensor]) -> None:
        """Let an adapter be the sum of updates that these tensors are; of the policy's, the latest is trained further.

        Args:
            adapter: peft's name of it; a frozen one may be new.
            tensors: by the names that stand in its file.
        """
        from peft import set_peft_model_state_dict

        number = num_joined(tensors, self._shapes)
        if adapter == TRAINED:
            earlier, tensors = parted(tensors, self._shapes, self._num_experts)
            self._make_room(EARLIER, number - 1)
            if number > 1:
                set_peft_model_state_dict(self.peft, earlier, adapter_name=EARLIER)
        else:
            self._make_room(adapter, number)
        set_peft_model_state_dict(self.peft, tensors, adapter_name=adapter)

    def begin_round(self, number: int) -> None:
        """Where the recipe merges updates between rounds: those that were trained stand still, a new one is trained.

        The new one is drawn from the run's seed and the round's number. What is trained whole (`modules_to_save`) goes
        on as it is. A policy that has learnt nothing since its last update was new has none more afterwards.
        """
        if not self._merges:
            return
        trained = {name: tensor.clone() for name, tensor in self.tensors(TRAINED).items()}
        is_new = changes_nothing(tensors_of(self.peft, TRAINED))
        is_gaussian = self.peft.peft_config[TRAINED].init_lora_weights == "gaussian"
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self._seed, number, "lora"))
            for layer in _lora_layers(self.peft):
                layer.reset_lora_parameters(TRAINED, "gaussian" if is_gaussian else True)
        if not is_new:
            self.put(TRAINED, joined(trained, tensors_of(self.peft, TRAINED), self._num_experts))

    @contextmanager
    def switched_to(self, adapter: str) -> Iterator[Any]:
        """The base; while it lasts, this adapter is at work there in place of the policy's."""
        self.peft.base_model.set_adapter([adapter], inference_mode=True)
        try:
            yield self.base.model
        finally:
            self._turn_to_policy()

    def _filled(self, model: Any, adapter: str, checkpoint: Path | None) -> AdapterPolicy:
        tensors, version = self._new, self.base.version
        if place := checkpoint or self._start:
            tensors, version = self._read(place), weights_version(place)
        self.put(adapter, tensors)
        return AdapterPolicy(model, self.base.tokenizer, version, self, adapter)

    def _read(self, place: Path) -> dict[str, torch.Tensor]:
        """The tensors of an adapter in a folder, which are a sum of updates as the policy has them."""
        number = num_updates_in(read_lora_config(place), self.peft.peft_config[TRAINED], str(place))
        tensors, expected = read_adapter_tensors(place), self._shapes
        for _ in range(number - 1):
            expected = joined(expected, self._shapes, self._num_experts)
        check_adapter(expected, tensors, str(place), self._base_name)
        return tensors

    def _make_room(self, adapter: str, num_updates: int) -> None:
        """Let there be a frozen adapter of this name that holds so many updates; none where they are 0."""
        own, found = self.peft.peft_config[TRAINED], self.peft.peft_config.get(adapter)
        if found is not None and found.r != own.r * num_updates:
            self._remove(adapter)
            found = None
        if found is not None or num_updates == 0:
            return
        config = config_of_sum(own, num_updates)
        config.lora_dropout, config.init_lora_weights = 0.0, True
        if adapter == EARLIER:
            config.modules_to_save = None
        with without_advice(), torch.random.fork_rng():
            self.peft.add_adapter(adapter, config)
        self._turn_to_policy()

    def _remove(self, adapter: str) -> None:
        at_work = [name for name in self.peft.base_model.active_adapters if name != adapter]
        self.peft.base_model.set_adapter(TRAINED)  # peft lets go of no module that is trained whole while two are
        self.peft.delete_adapter(adapter)
        if TRAINED in at_work:
            self._turn_to_policy()
        else:
            self.peft.base_model.set_adapter(at_work, inference_mode=True)

    def _turn_to_policy(self) -> None:
        """The policy's adapters are at work, and the latest of them is trained."""
        if EARLIER in self.peft.peft_config:
            self.peft.base_model.set_adapter([EARLIER, TRAINED], inference_mode=True)
            self.peft.base_model.set_requires_grad(TRAINED)
        else:
            self.peft.base_model.set_adapter(TRAINED)


def _lora_layers(peft: PeftModel) -> Iterator[Any]:
    """peft's layers that hold the policy's adapter."""
    from peft.tuners.lora import LoraLayer

    return (module for module in peft.modules() if isinstance(module, LoraLayer) and TRAINED in module.r)


def _num_experts(peft: PeftModel) -> dict[str, int]:
    """Of layers whose experts are one tensor, how many there are; by layer."""
    from peft.tuners.lora import ParamWrapper

    return {name: module.num_experts for name, module in peft.named_modules() if isinstance(module, ParamWrapper)}
