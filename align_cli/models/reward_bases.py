"""What becomes a reward model: a causal model or an encoder that gets a head, or a classifier that has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from align_cli.errors import AlignError
from align_cli.models.devices import find_device
from align_cli.models.memory import loading_a_model
from align_cli.models.refused import check_whole, faults_of_a_model
from align_cli.models.reward_models import (
    CLASSIFIER,
    Origin,
    RewardReader,
    check_one_output,
    last_states,
    load_tokenizer_of,
    mean_states,
    read_config,
)
from align_cli.seeds import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from align_cli.recipe.sections.reward import RewardSection

POOLER = "pooler"
"""What some encoders have between their states and a head, and some checkpoints of them lack."""


class RewardBase(NamedTuple):
    """A model with a head of one output, before it is fitted.

    Args:
        model: a classifier of transformers'.
        reader: how it reads.
        head: the modules that make a reward of its states, by the names that peft knows them by; those that are new are
            drawn from the run's seed.
    """

    model: PreTrainedModel
    reader: RewardReader
    head: list[str]

    @property
    def is_decoder(self) -> bool:
        """Whether its reward is a linear function of the last token's state, as transformers has it for decoders."""
        score = getattr(self.model, "score", None)
        return isinstance(score, torch.nn.Linear) and score.bias is None

    def features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What a linear head reads of each text: a decoder's last state, an encoder's mean state, [B, H]."""
        backbone = self.model.base_model
        if self.is_decoder:
            return last_states(backbone, inputs, self.reader.tokenizer.pad_token_id)
        return mean_states(backbone, inputs)


def origin_of(section: RewardSection) -> Origin:
    """Where the section's model is."""
    return Origin(section.model_name_or_path, section.revision, section.trust_remote_code)


def check_base(section: RewardSection) -> PreTrainedConfig:
    """The config of a model that can become a reward model, by the files beside its weights.

    Raises:
        AlignError: if it cannot: it is none, has several outputs, or is of an architecture without a classifier.
    """
    from transformers import AutoModelForSequenceClassification

    origin = origin_of(section)
    config = read_config(origin)
    if any(kind.endswith(CLASSIFIER) for kind in config.architectures or []):
        check_one_output(origin, config.num_labels)
    is_known = type(config) in AutoModelForSequenceClassification._model_mapping
    if not is_known and CLASSIFIER not in str(getattr(config, "auto_map", "")):
        raise AlignError(
            f"transformers has no sequence classifier for models of type {config.model_type}",
            where=origin.place,
            hint="name a model of another architecture in reward.model_name_or_path",
        )
    config.num_labels = 1
    return config


def load_base(section: RewardSection, seed: int, device: str) -> RewardBase:
    """The section's model, with a head.

    Args:
        section: which model.
        seed: of the run.
        device: as `find_device` takes it.

    Raises:
        AlignError: if it cannot be had, or if its weights lack more than a head.
    """
    from transformers import AutoModelForSequenceClassification

    loading_a_model()
    origin, config = origin_of(section), check_base(section)
    reader = RewardReader(load_tokenizer_of(origin), config)
    config.get_text_config().pad_token_id = reader.tokenizer.pad_token_id
    with faults_of_a_model(origin.place), torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "reward", "head"))
        model, found = AutoModelForSequenceClassification.from_pretrained(
            origin.place,
            config=config,
            dtype=getattr(torch, section.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are among the info, with their names
            **origin.shared,
        )
    _check_lacks_no_more_than_a_head(model, found, origin.place)
    return RewardBase(model.to(find_device(device)).eval(), reader, _head_of(model, found))


def _check_lacks_no_more_than_a_head(model: PreTrainedModel, found: Mapping[str, Any], place: str) -> None:
    lacking = [name for name in found["missing_keys"] if _is_of_base(model, name) and POOLER not in name.split(".")]
    check_whole({"missing_keys": lacking, "mismatched_keys": found.get("mismatched_keys")}, place)


def _head_of(model: PreTrainedModel, found: Mapping[str, Any]) -> list[str]:
    """The modules outside the base, and a pooler within it that is new."""
    outside = [
        name for name, module in model.named_children() if module is not model.base_model and _has_weights(module)
    ]
    is_new = any(POOLER in name.split(".") for name in found["missing_keys"])
    return [*outside, *([POOLER] if is_new else [])]


def _has_weights(module: torch.nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_of_base(model: PreTrainedModel, name: str) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")
