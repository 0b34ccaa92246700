"""`policy.quantization`: the base in fewer bits, which adapters are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault

KEY = "policy.quantization"
OTHER_NAMES = {
    "policy.load_in_4bit": "set policy.quantization to {bits: 4}",
    "policy.load_in_8bit": "set policy.quantization to {bits: 8}",
    f"{KEY}.load_in_4bit": "set bits to 4",
    f"{KEY}.load_in_8bit": "set bits to 8",
    f"{KEY}.bnb_4bit_quant_type": "it is called type",
    f"{KEY}.bnb_4bit_use_double_quant": "it is called double",
    f"{KEY}.bnb_4bit_compute_dtype": "it is called compute_dtype",
}
"""Names that transformers and other tools have for these keys."""


class QuantizationSection(Section):
    """`policy.quantization`: the base quantised by bitsandbytes when it is loaded (QLoRA, Dettmers et al. 2023)."""

    bits: Literal[4, 8] = Field(4, description="bits a weight of the base's layers")
    type: Literal["nf4", "fp4"] = Field("nf4", description="of 4 bits: which numbers they stand for")
    double: bool = Field(False, description="of 4 bits: quantise their scales, too")
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of 4 bits: the type that they are multiplied in; unset: policy.dtype"
    )


def _adapters_are_trained(view: View) -> Iterator[RuleFault]:
    if view.has(KEY) and not view.has("policy.lora"):
        what = "policy.quantization without policy.lora; weights of a few bits cannot be trained themselves"
        yield rule_fault(KEY, what, "add policy.lora, whose adapters are trained, or leave policy.quantization out")


def _of_four_bits(view: View) -> Iterator[RuleFault]:
    if view.has(KEY) and view.get(f"{KEY}.bits") == 8:
        for name in ("type", "double", "compute_dtype"):
            if name in view.written(KEY):
                what = f"{KEY}.{name} with 8 bits; it is for 4"
                yield rule_fault(f"{KEY}.{name}", what, "leave it out, or set policy.quantization.bits to 4")


RULES: tuple[Rule, ...] = (_adapters_are_trained, _of_four_bits)
