"""The losses: their names, which are align's own, and which options each looks at."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

LOSS_TYPE_ALIASES = {"dpo": "sigmoid", "slic": "hinge"}
BILEVEL_LOSSES = ("sigmoid", "ipo", "hinge")
ALIGNS_ALONE = ("simpo", "sppo", "rebel", "inpo")
"""align's own that TRL has not; none of them takes coefficients."""
OWN_LOSSES = (*BILEVEL_LOSSES, *ALIGNS_ALONE)

LOSSES_OF_OPTIONS = {
    "label_smoothing": ("robust", "exo_pair", "aot", "aot_unpaired"),
    "discopop_tau": ("discopop",),
    "simpo_gamma": ("simpo",),
}
F_DIVERGENCE_LOSSES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")

UNWEIGHABLE_LOSSES = ("aot", "aot_unpaired", "hinge", "sft")
"""Those that sort their pairs, or whose tensor TRL multiplies in place where autograd does not allow it."""


def _canonical_loss_type(value: Any) -> Any:
    return LOSS_TYPE_ALIASES.get(value, value) if isinstance(value, str) else value


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list) else "one"


LossType = Annotated[
    Literal[
        "sigmoid", "ipo", "hinge", "simpo", "sppo", "rebel", "inpo", "exo_pair", "nca_pair", "robust", "bco_pair",
        "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ],
    BeforeValidator(_canonical_loss_type),
]  # fmt: skip
LossTypes = Annotated[
    Annotated[LossType, Tag("one")] | Annotated[list[LossType], Field(min_length=1), Tag("many")],
    Discriminator(_one_or_many),
]
