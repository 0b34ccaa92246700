"""`policy`: the model being trained, its warm start, and what its KL anchor points to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from align_cli.recipe.checking.devices import no_device
from align_cli.recipe.checking.files import PATH_STARTS, empty_texts, missing_data, missing_file
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.quantization import QuantizationSection

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

OTHER_NAMES = {"policy.peft": "adapters are policy.lora"}
"""Names that other tools have for these keys."""


class SftSection(Section):
    """`policy.sft`: a supervised warm start before the first round."""

    dataset: str = Field(description="demonstrations: `playground`, `reviews`, a file, a folder or a Hub id")
    max_steps: int = Field(600, ge=1, description="optimizer steps")
    learning_rate: float = Field(3.0e-3, gt=0, description="peak learning rate of AdamW")
    per_device_train_batch_size: int = Field(64, ge=1, description="sequences a step")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up; cosine decay to zero follows")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")


class FromScratchSection(Section):
    """`policy.from_scratch`: a new tokenizer and a randomly initialised model, trained by `policy.sft`."""

    architecture: Literal["llama", "qwen2"] = Field("llama", description="model family in transformers")
    vocab_size: int = Field(4096, ge=300, description="byte-level BPE vocabulary, trained on the SFT texts")
    hidden_size: int = Field(192, ge=8, description="width")
    num_hidden_layers: int = Field(3, ge=1, description="depth")
    num_attention_heads: int = Field(6, ge=1, description="attention heads; must divide hidden_size")
    max_position_embeddings: int = Field(128, ge=8, description="longest sequence in tokens")


class PolicySection(Section):
    """`policy`: the model being trained, and what its KL anchor points to."""

    model_name_or_path: str | None = Field(
        None, description="Hub id, folder, or `playground`, whose model is made from the seed"
    )
    from_scratch: FromScratchSection | None = Field(None, description="in place of model_name_or_path: a new model")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="type of the weights; training keeps float32 copies of others"
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        Field(None, description="how attention is computed, by transformers' name; unset: what it takes itself")
    )
    device: str = Field(
        "auto",
        description="where the models are: `cpu`, `cuda`, `cuda:1` (the second), `mps` or `xpu`; `auto` is what torch "
        "finds, else the CPU",
    )
    trust_remote_code: bool = Field(False, description="run code that ships with the model; off unless you read it")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None,
        description="what the chat template gets for every chat, such as `{enable_thinking: false}`; a row's own "
        "`chat_template_kwargs` win",
    )
    reference: Literal["initial", "previous"] = Field(
        "initial", description="the reference model: the initial policy, or the policy of the previous round"
    )
    lora: LoraSection | None = Field(None, description="train adapters on a frozen base; all weights when left out")
    quantization: QuantizationSection | None = Field(
        None, description="load the base in 4 or 8 bits, under adapters; as it is when left out"
    )
    sft: SftSection | None = Field(None, description="supervised warm start; none when left out")

    def code(self) -> list[str]:
        """The code outside align that it runs, in words."""
        model = self.model_name_or_path or "the model"
        return [f"policy.trust_remote_code: code that ships with {model}"] if self.trust_remote_code else []


def _one_model(view: View) -> Iterator[RuleFault]:
    has_name, is_new = view.get("policy.model_name_or_path") is not None, view.has("policy.from_scratch")
    if has_name and is_new:
        what = "policy has both model_name_or_path and from_scratch; the policy is one of them"
        yield rule_fault("policy.from_scratch", what, "remove one")
    if not has_name and not is_new:
        what = "policy names no model"
        yield rule_fault("policy", what, "set policy.model_name_or_path, or policy.from_scratch for a new model")


def _new_model_is_trained(view: View) -> Iterator[RuleFault]:
    if view.has("policy.from_scratch") and not view.has("policy.sft"):
        what = "policy.from_scratch without policy.sft; a new model gets its tokenizer and all that it knows from it"
        yield rule_fault("policy.from_scratch", what, "add policy.sft with a dataset")


def _heads_divide_the_width(view: View) -> Iterator[RuleFault]:
    if not view.has("policy.from_scratch"):
        return
    width = view.get("policy.from_scratch.hidden_size")
    heads = view.get("policy.from_scratch.num_attention_heads")
    key = "policy.from_scratch.num_attention_heads"
    if width % heads:
        yield rule_fault(key, f"{key} is {heads}; it must divide hidden_size, {width}", _near_heads(width, heads))
    elif width // heads % 2:
        what = f"{key} is {heads}; a head of {width // heads} would be odd, and rotary positions turn pairs of numbers"
        yield rule_fault(key, what, _near_heads(width, heads))


def _near_heads(width: int, heads: int) -> str:
    fitting = [number for number in range(1, min(width, 1024) + 1) if width % (2 * number) == 0]
    if not fitting:
        return "set hidden_size to an even number"
    return f"{min(fitting, key=lambda number: abs(number - heads))} fits"


def _device_has_a_name(view: View) -> Iterator[RuleFault]:
    yield from no_device(("policy", "device"), view.get("policy.device"))


def _float16_is_not_scaled(view: View) -> Iterator[RuleFault]:
    if view.get("policy.dtype") == "float16" and view.get("train").get("fp16") and not view.has("policy.lora"):
        what = "train.fp16 with policy.dtype float16; torch scales the gradients of float32 weights alone"
        yield rule_fault("train.fp16", what, "set policy.dtype to float32, or take bfloat16 and leave train.fp16 out")


def _local_model_exists(view: View) -> Iterator[RuleFault]:
    key = "policy.model_name_or_path"
    if (value := view.get(key)) is not None and value.startswith(PATH_STARTS):
        yield from missing_file(key, value)


def _demonstrations_exist(view: View) -> Iterator[RuleFault]:
    yield from missing_data(view, "policy.sft.dataset")


def _names_are_not_empty(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, "policy.model_name_or_path", "policy.sft.dataset")


RULES: tuple[Rule, ...] = (
    _one_model,
    _new_model_is_trained,
    _heads_divide_the_width,
    _device_has_a_name,
    _float16_is_not_scaled,
)
FILE_RULES: tuple[Rule, ...] = (_demonstrations_exist, _local_model_exists, _names_are_not_empty)


def _float16(recipe: Recipe) -> list[str]:
    if recipe.policy.dtype != "float16" or recipe.policy.lora:  # adapters are float32 on any base
        return []
    return ["policy.dtype is float16: small gradients are 0 in it; bfloat16 has room for them"]


WARNINGS = (_float16,)
