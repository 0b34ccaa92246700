"""What fits a model and the hardware: which weights are trained, in which precision, in batches of what size.

Rules of thumb, from the shipped recipes and what they took. Memory is reckoned at 20 bytes a parameter for all weights
(weights, gradients, moments, reference, in float32), at 2 for a base in bfloat16 under adapters, at 0.7 for four bits,
and some for activations; `align train --smoke` measures it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_cli.begin.answers import Answers, Hardware
from align_cli.begin.looked import Looked
from align_cli.begin.methods import Method
from align_cli.models.refused import WEIGHTS_PATTERN
from align_cli.recipe.data_names import PLAYGROUND
from align_cli.recipe.sections.sources import SOURCES

PAIRS_A_STEP = 64
USES_OF_PAIR, PASSES = 4, 2
"""Of the policy's own pairs in a round, and over offline pairs in a round, at most."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BYTES_ALL_WEIGHTS, BYTES_ADAPTERS, BYTES_FOUR_BITS = 20.0, 2.4, 0.7
GB_ACTIVATIONS = 8
LARGEST_ALL_WEIGHTS = 2e9
UNKNOWN_PARAMETERS = 1_000_000_000
_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Sizes:
    """The numbers of a recipe that depend on model, data and hardware; pairs, tokens and steps in whole numbers."""

    rounds: int
    steps_per_round: int
    prompts_per_round: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    per_device_max_tokens: int | None
    learning_rate: float
    max_prompt_tokens: int
    max_completion_tokens: int
    max_new_tokens: int
    generate_batch_size: int
    num_eval_prompts: int
    lora_rank: int = 0
    lora_alpha: int = 0
    dtype: str = "float32"
    is_quantised: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    measures_sources: bool = True
    every_steps: int | None = None
    parameters: int | None = None
    is_tight: bool = False

    @property
    def pairs_a_step(self) -> int:
        """Pairs in an optimizer step, of all devices together."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


@dataclass(frozen=True)
class _Scale:
    """What one kind of hardware has time for."""

    steps: int
    prompts: int
    batch: int
    generate: int
    evaluate: int
    longest_prompt: int
    longest_answer: int
    longest_new: int


_SCALES = {
    PLAYGROUND: _Scale(50, 512, 64, 128, 512, 32, 32, 32),
    "cpu": _Scale(20, 80, 8, 48, 256, 256, 256, 64),
    "mps": _Scale(40, 256, 8, 48, 256, 512, 512, 128),
    "cuda": _Scale(100, 2048, 8, 128, 512, 1024, 1024, 512),
}


def sizes_for(answers: Answers, looked: Looked, method: Method) -> Sizes:
    """Numbers that fit the answers."""
    hardware, is_playground = answers.hardware, answers.model == PLAYGROUND
    scale = _SCALES[PLAYGROUND if is_playground else hardware.kind]
    parameters = None if is_playground else num_parameters(answers.model)
    number = hardware.number
    accumulation = next(
        passes
        for passes in range(max(1, (PAIRS_A_STEP if hardware.kind == "cuda" else 0) // scale.batch), 10**6)
        if scale.batch * passes % number == 0
    )
    pairs = scale.batch * accumulation
    steps, prompts = _of_a_round(scale, pairs, looked, method)
    prompt, answer, new = _lengths(scale, looked)
    weights = _playground_weights() if is_playground else _weights(hardware, parameters or UNKNOWN_PARAMETERS)
    if method.is_trls_own:
        weights["per_device_max_tokens"] = None
    return Sizes(
        rounds=30 if method.is_every_step else 3,
        steps_per_round=steps,
        prompts_per_round=prompts,
        per_device_train_batch_size=scale.batch,
        gradient_accumulation_steps=accumulation,
        max_prompt_tokens=prompt,
        max_completion_tokens=answer,
        max_new_tokens=new,
        generate_batch_size=scale.generate,
        num_eval_prompts=min(64 if method.is_every_step else scale.evaluate, looked.held_out_rows or scale.evaluate),
        measures_sources=is_playground or hardware.kind == "cuda",
        every_steps=25 if hardware.kind == "cuda" and not is_playground and steps > 50 else None,
        parameters=parameters,
        **weights,
    )


def num_parameters(model: str) -> int | None:
    """How many a model has, by the size of its weights, or by what its name says; None where neither tells."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        num_bytes = sum(file.stat().st_size for file in folder.glob(WEIGHTS_PATTERN))
        return num_bytes // _bytes_a_parameter(folder) or None
    found = _IN_NAME.findall(model.rpartition("/")[2])
    return round(float(found[-1][0]) * (1e9 if found[-1][1].lower() == "b" else 1e6)) if found else None


def _bytes_a_parameter(folder: Path) -> int:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return BYTES.get(config.get("dtype") or config.get("torch_dtype"), 4)
    except (OSError, ValueError, AttributeError):
        return 4


def _weights(hardware: Hardware, parameters: int) -> dict[str, Any]:
    """Which weights are trained, and how they are held."""
    is_small = parameters < 0.3e9
    if hardware.kind != "cuda":
        learning = {"learning_rate": 1.0e-3 if is_small else 2.0e-4, "lora_rank": 4, "lora_alpha": 16}
        return {**learning, "per_device_max_tokens": 1000 if hardware.kind == "cpu" else 4000}
    gb, memory = parameters / 1e9, hardware.memory_gb
    roomy = {"per_device_max_tokens": 16384 if memory >= 40 or is_small else 8192, "bf16": True}
    if parameters <= LARGEST_ALL_WEIGHTS and BYTES_ALL_WEIGHTS * gb + GB_ACTIVATIONS <= memory:
        return {**roomy, "learning_rate": 1.0e-6}
    lora = {
        "learning_rate": 2.0e-5,
        "lora_rank": 32,
        "lora_alpha": 64,
        "dtype": "bfloat16",
        "bf16": True,
        "per_device_max_tokens": 8192 if memory >= 40 else 4096,
        "gradient_checkpointing": True,
    }
    if BYTES_ADAPTERS * gb + GB_ACTIVATIONS <= memory:
        return lora
    return {**lora, "is_quantised": True, "is_tight": BYTES_FOUR_BITS * gb + GB_ACTIVATIONS > memory}


def _playground_weights() -> dict[str, Any]:
    return {"learning_rate": 5.0e-4, "per_device_max_tokens": None}


def _of_a_round(scale: _Scale, pairs_a_step: int, looked: Looked, method: Method) -> tuple[int, int]:
    """Steps and prompts of a round: no pair of the policy's is used too often, nor are offline ones."""
    if method.is_every_step:
        return 1, pairs_a_step
    steps, prompts = scale.steps, scale.prompts
    offline, online = (
        sum(share for name, share in method.shares.items() if SOURCES[name].policy_responses is is_online)
        for is_online in (False, True)
    )
    if looked.rows is not None and offline:
        steps = min(steps, math.ceil(PASSES * looked.rows / (pairs_a_step * offline)))
    if looked.rows is not None:
        prompts = max(1, min(prompts, looked.rows * 9 // 10))
    if online:
        steps = min(steps, max(1, math.floor(USES_OF_PAIR * prompts / (pairs_a_step * online))))
    return steps, prompts


def _lengths(scale: _Scale, looked: Looked) -> tuple[int, int, int]:
    """The longest prompt, the longest answer of the data, and the longest response, in tokens."""
    prompt = min(scale.longest_prompt, _round_up(looked.prompt_tokens or scale.longest_prompt, 32))
    answer = min(scale.longest_answer, _round_up(looked.answer_tokens or scale.longest_answer, 32))
    new = min(scale.longest_new, _round_up(looked.answer_tokens or scale.longest_new, 16))
    if looked.context is not None:
        prompt = min(prompt, looked.context // 2)
        answer, new = min(answer, looked.context - prompt), min(new, looked.context - prompt)
    return prompt, answer, new


def _round_up(number: int, to: int) -> int:
    return max(to, math.ceil(number / to) * to)
