"""A twin of a model, which is trained in its place: as the model in all but its weights, which go ways of their own.

Of a base with adapters, base and trained adapter are the twin's; the frozen adapters (of references, and of updates
before the one that is trained) are the very ones of the model. They are small, nobody changes them while the twin is
trained, and from round to round there may be others. Which of them are at work is the model's switch: the twin does as
it does, and leaves alone what is trained, since whoever has split its weights relies on that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from align_cli.models.adapters import AdaptedModel, AdapterView
from align_cli.models.lora import TRAINED

BY_ADAPTER = (dict, set, torch.nn.ModuleDict, torch.nn.ParameterDict)
"""What peft's layers keep by the names of adapters."""


def twin_of(model: torch.nn.Module) -> Any:
    """A copy of a model that begins with the model's own weights, so that no memory holds them twice.

    Whoever gives it others changes nothing of the model; whoever changes these in place does.
    """
    same = {id(own): torch.nn.Parameter(own.detach(), own.requires_grad) for own in model.parameters()}
    return copy.deepcopy(model, same)


class AdaptedTwin:
    """A twin of a base with adapters.

    Args:
        adapted: the base with all of its adapters; nobody has split it.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted
        self.base = replace(adapted.base, model=twin_of(adapted.base.model))
        both = zip(self.base.model.modules(), adapted.base.model.modules(), strict=True)
        self._layers = [
            (own, theirs) for own, theirs in both if isinstance(own, BaseTunerLayer | AuxiliaryTrainingWrapper)
        ]
        self.share()

    def share(self) -> None:
        """The frozen adapters are those that the model has now, and the same are at work."""
        for own, theirs in self._layers:
            for name, of_adapters in _by_adapter(theirs):
                _share(getattr(own, name), of_adapters)
        self._switch()

    def part(self) -> None:
        """The twin has no frozen adapters, and so no weights but its own, until it shares them again."""
        for own, _ in self._layers:
            for _, of_adapters in _by_adapter(own):
                _keep_trained(of_adapters)

    def view(self, reference: AdapterView) -> AdapterView:
        """A frozen policy of the model, as the twin has it."""
        return AdapterView(self, reference.adapter)

    @contextmanager
    def switched_to(self, adapter: str) -> Iterator[Any]:
        """The twin's base; while it lasts, this adapter is at work there in place of the policy's."""
        with self._adapted.switched_to(adapter):
            self._switch()
        try:
            yield self.base.model
        finally:
            self._switch()

    def _switch(self) -> None:
        for own, theirs in self._layers:
            own._active_adapter = theirs._active_adapter


def _by_adapter(layer: torch.nn.Module) -> list[tuple[str, Any]]:
    members = {**vars(layer), **dict(layer.named_children())}
    return [(name, value) for name, value in members.items() if isinstance(value, BY_ADAPTER) and TRAINED in value]


def _share(own: Any, theirs: Any) -> None:
    _keep_trained(own)
    if isinstance(own, set):
        own.update(theirs)
        return
    for name, value in theirs.items():
        if name != TRAINED:
            own[name] = value


def _keep_trained(of_adapters: Any) -> None:
    for name in [name for name in of_adapters if name != TRAINED]:
        if isinstance(of_adapters, set):
            of_adapters.remove(name)
        else:
            del of_adapters[name]
