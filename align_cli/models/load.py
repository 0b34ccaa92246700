"""Load a causal language model with its tokenizer, and name exactly which weights these are.

A playground's model is a folder like any other; `of_recipe` says which model a recipe means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.checksums import checksum
from align_cli.errors import AlignError, first_line
from align_cli.models.devices import find_device
from align_cli.models.memory import loading_a_model
from align_cli.models.quantized import quantization_config, settle_quantised
from align_cli.models.refused import (
    WEIGHTS_PATTERN,
    check_folder,
    check_no_adapter,
    check_vocabulary,
    check_whole,
    faults_of_a_model,
)

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from align_cli.recipe.sections.policy import PolicySection
    from align_cli.recipe.sections.quantization import QuantizationSection

ATTENTION = "policy.attn_implementation"
GENERATION_CONFIG = "generation_config.json"


@dataclass
class Policy:
    """A model that can be sampled and scored, with its tokenizer.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: pads on the left, and has a padding token.
        version: names these weights: the checksum of local weights, or a Hub id with its commit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    version: str

    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end a response: the tokenizer's and those of the generation config."""
        return eos_token_ids(self.tokenizer, self.model.generation_config)

    @property
    def context_length(self) -> int | None:
        """The most tokens of prompt and response together; None where the architecture has no bound."""
        return context_length(self.model.config)

    def become(self, other: Policy) -> None:
        """Take another policy's weights, in place: whoever holds the model goes on with them."""
        for own, theirs in zip(self.model.parameters(), other.model.parameters(), strict=True):
            if own.shape != theirs.shape:  # it was let go
                own.data = theirs.data.clone()
        self.model.load_state_dict(other.model.state_dict())
        self.version = other.version

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its weights by name, as `put` takes them."""
        return dict(self.model.state_dict())

    def put(self, tensors: dict[str, torch.Tensor], version: str) -> None:
        """Have these weights, in place."""
        self.model.load_state_dict(tensors)
        self.version = version

    def let_go(self) -> bool:
        """Let its weights go, and keep the model as an object, until it has some again by `take_over` or `become`.

        Returns:
            Whether it has weights of its own that could be let go.
        """
        for own in self.model.parameters():
            own.data = own.data.new_empty(0)
        return True

    def take_over(self, other: Policy) -> None:
        """Have the weights of a policy that nobody else holds, without a copy of them."""
        for own, theirs in zip(self.model.parameters(), other.model.parameters(), strict=True):
            own.data = theirs.data
        for own, theirs in zip(self.model.buffers(), other.model.buffers(), strict=True):
            own.data = theirs.data
        self.version = other.version

    def begin_round(self, number: int) -> None:
        """A round's training begins: weights that are all trained go on as they are."""

    def save_weights(self, folder: Path) -> None:
        """Write what is trained, as `from_pretrained` reads it."""
        self.model.save_pretrained(folder)


class UnloadedPolicy(NamedTuple):
    """What of a policy is known without its weights: how text becomes ids, and how many of them it can read.

    Args:
        tokenizer: the policy's.
        eos_token_ids: the ids that end a response.
        context_length: the most tokens of prompt and response together; None where the architecture has no bound.
        num_embeddings: rows of its embeddings, by its config; None where that does not say.
    """

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: list[int]
    context_length: int | None
    num_embeddings: int | None = None


def load_without_weights(
    name_or_path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> UnloadedPolicy:
    """The tokenizer and the figures of a model that `load_policy` would load.

    Raises:
        AlignError: if there is no such model, if its tokenizer or its configuration cannot be read, if it has ids that
            the model does not know, or if it is or holds an adapter.
    """
    from transformers import AutoConfig

    place = str(name_or_path)
    check_folder(place)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code}
    with faults_of_a_model(place):
        check_no_adapter(place, revision)
        tokenizer = load_tokenizer(place, shared)
        config = AutoConfig.from_pretrained(place, **shared)
        generation = _generation_config(place, config, revision)
    num_embeddings = getattr(config.get_text_config(), "vocab_size", None)
    if num_embeddings is not None:
        check_vocabulary(tokenizer, num_embeddings, place)
    stops = eos_token_ids(tokenizer, generation)
    return UnloadedPolicy(tokenizer, stops, context_length(config), num_embeddings)


def eos_token_ids(tokenizer: PreTrainedTokenizerBase, config: GenerationConfig | None) -> list[int]:
    """The ids that end a response: the tokenizer's and those of the generation config."""
    configured = config.eos_token_id if config else None
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token_id for token_id in [*ids, tokenizer.eos_token_id] if token_id is not None})


def context_length(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model can read; a model of several parts has the number in its text's config."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def uses_cache(model: PreTrainedModel) -> bool:
    """The model's own `use_cache`; a model of several parts, as of text and images, has it in its text's config."""
    return bool(getattr(model.config.get_text_config(), "use_cache", False))


def shape_of(settings: PolicySection) -> PreTrainedModel:
    """The model that `policy` names, without its weights: its layers, on torch's device `meta`.

    Raises:
        AlignError: if there is no such model, or if its attention cannot be computed as `policy` says.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place = settings.model_name_or_path or ""
    check_folder(place)
    code = {"trust_remote_code": settings.trust_remote_code}
    with torch.device("meta"), faults_of_a_model(place):
        config = AutoConfig.from_pretrained(place, revision=settings.revision, **code)
        if settings.attn_implementation is None:
            return AutoModelForCausalLM.from_config(config, **code)
        try:
            return AutoModelForCausalLM.from_config(config, attn_implementation=settings.attn_implementation, **code)
        except (ImportError, ValueError) as error:
            raise AlignError(
                f"{ATTENTION} is {settings.attn_implementation}; this model cannot have it here: {first_line(error)}",
                where=ATTENTION,
                hint="install what it asks for, or leave it out: transformers then takes what the model has",
            ) from error


def load_as(settings: PolicySection, name_or_path: str | Path, revision: str | None = None) -> Policy:
    """`load_policy`, with types, device and the rest as `policy` of a recipe has them."""
    return load_policy(
        name_or_path,
        dtype=settings.dtype,
        revision=revision,
        trust_remote_code=settings.trust_remote_code,
        device=settings.device,
        attn_implementation=settings.attn_implementation,
        quantization=settings.quantization,
    )


def load_policy(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
    attn_implementation: str | None = None,
    quantization: QuantizationSection | None = None,
) -> Policy:
    """Load a model and its tokenizer from a folder or the Hub; weights from safetensors only.

    Args:
        name_or_path: a folder made by `save_pretrained`, or a Hub id.
        dtype: name of the torch type of the weights.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: whether to run code that ships with the model.
        device: as `find_device` takes it.
        attn_implementation: how attention is computed, by transformers' name; None is transformers' choice.
        quantization: fewer bits for its layers' weights; None leaves them.

    Raises:
        AlignError: if there is no such model, if it cannot be read, if its weights are not those that its config asks
            for, if its tokenizer has no end-of-sequence token, or ids that the model does not know, or if it is or
            holds an adapter.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loading_a_model()
    place = str(name_or_path)
    check_folder(place)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code}
    asked: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    if quantization is not None:
        config = quantization_config(quantization, getattr(torch, dtype))
        asked |= {"quantization_config": config, "device_map": {"": str(find_device(device))}}
    with faults_of_a_model(place):
        check_no_adapter(place, revision)
        tokenizer = load_tokenizer(place, shared)
        model, found = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are among the info, with their names
            **asked,
            **shared,
        )
        _generation_config(place, model.config, revision)  # transformers passes over a broken one
    check_whole(found, place)
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, place)
    # It is saved with the tokenizer: a checkpoint must not depend on whether its policy was begun from the Hub or read
    # from another checkpoint.
    tokenizer.init_kwargs["is_local"] = True
    text_config = model.config.get_text_config()
    if getattr(text_config, "output_router_logits", False):
        # For a loss of a mixture's router, which is none of ours, and is computed where it cannot be: in sampling.
        text_config.output_router_logits = False
    if getattr(model, "is_quantized", False):  # by us or by whoever saved it: transformers has placed it
        settle_quantised(model)
    else:
        model.to(find_device(device))
    model.eval()
    return Policy(model, tokenizer, _version(place, revision))


def _generation_config(place: str, config: PreTrainedConfig, revision: str | None) -> GenerationConfig:
    """What says where a model's responses end: its generation_config.json, or its config where it has none.

    Raises:
        AlignError: if an id that stops generation is none.
        OSError: if the file cannot be read.
    """
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(place, revision=revision)
    except OSError:
        if (Path(place) / GENERATION_CONFIG).is_file():
            raise
        generation = GenerationConfig.from_model_config(config)
    configured = generation.eos_token_id
    for token_id in configured if isinstance(configured, list) else [configured]:
        if token_id is not None and (not isinstance(token_id, int) or token_id < 0):
            raise AlignError(
                f"eos_token_id of its {GENERATION_CONFIG} holds {token_id!r}, which is no token's id",
                where=place,
                hint="write the number of the token that ends a response, or a list of such numbers",
            )
    return generation


def load_tokenizer(place: str, shared: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """A model's tokenizer, ready to pad on the left.

    Raises:
        AlignError: if it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **shared)
    if tokenizer.eos_token_id is None:
        raise AlignError("the tokenizer has no end-of-sequence token", where=place, hint="set eos_token and save it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def weights_version(folder: Path) -> str:
    """Sixteen hexadecimal digits that stand for the weights in a folder, and for nothing else in it."""
    import hashlib

    parts = [f"{file.name} {checksum(file)}" for file in sorted(folder.glob(WEIGHTS_PATTERN))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _version(place: str, revision: str | None) -> str:
    folder = Path(place)
    return weights_version(folder) if folder.is_dir() else f"{place}@{_hub_commit(place, revision)}"


def _hub_commit(repository: str, revision: str | None) -> str:
    """The commit of a Hub model that was loaded just now: the name of its folder in the cache."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision or "main"
