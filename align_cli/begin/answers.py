"""The five answers: how each is written, and what is taken where one is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from align_cli.errors import RecipeError, nearest
from align_cli.recipe.checking.files import PATH_STARTS, near_file
from align_cli.recipe.data_names import PLAYGROUND, exists
from align_cli.recipe.presets import preset_names
from align_cli.recipe.shipped import check_known

LABELS = {
    "dataset": "the labels that the pairs came with",
    "function": "a Python function of yours: function=my_rewards.py:helpfulness",
    "reward_model": "a reward model: reward_model=org/name; or reward_model=run, which the run fits on your pairs",
    "judge": "a language model behind an endpoint: judge=MODEL@http://127.0.0.1:8000/v1",
    "policy": "the model itself",
    "person": "you, at the terminal",
}
"""Who says which of two answers is better, in words."""
WITH_A_NAME = ("function", "reward_model", "judge")
HARDWARE = "cpu, mps, or GPUs by their memory, as 24gb or 8x80gb"
_GPUS = re.compile(r"(?:(\d{1,4})x)?(\d{1,4})gb", re.IGNORECASE)
_GIB = 1 << 30

DEFAULT_REWARD_MODEL = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
DEFAULT_JUDGE, DEFAULT_URL = "Qwen/Qwen2.5-7B-Instruct", "http://127.0.0.1:8000/v1"
HIDDEN_REWARD = "align_cli.playground:hidden_reward"


class Labels(NamedTuple):
    """Who says which of two answers is better.

    Args:
        kind: one of `LABELS`.
        name: which function, model or endpoint; empty where there is none to name.
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}={self.name}" if self.name else self.kind


class Hardware(NamedTuple):
    """What a run has.

    Args:
        kind: of device.
        memory_gb: of one GPU; 0 for others.
        number: of devices.
    """

    kind: Literal["cpu", "mps", "cuda"]
    memory_gb: int = 0
    number: int = 1

    def __str__(self) -> str:
        if self.kind != "cuda":
            return self.kind
        return f"{self.number}x{self.memory_gb}gb" if self.number > 1 else f"{self.memory_gb}gb"


@dataclass(frozen=True)
class Answers:
    """All five.

    Args:
        model: a folder, a Hub id or `playground`.
        data: a file, a folder, a Hub id or `playground`.
        labels: who says which of two answers is better.
        hardware: what the run has.
        method: a preset's name.
    """

    model: str
    data: str
    labels: Labels
    hardware: Hardware
    method: str


def read_model(text: str) -> str:
    """The model that a text means: a folder that is here, the playground's, or one of the Hub's.

    Raises:
        RecipeError: if it is empty, or can be nothing but a folder that is not here.
    """
    name = text.strip()
    if not name:
        raise RecipeError("no model is named", where="--model", hint=f"name a folder or a Hub id, or {PLAYGROUND}")
    is_path = name.startswith((*PATH_STARTS, "~")) or ("/" in name and exists(str(Path(name).parent)))
    if is_path and not exists(name):
        raise RecipeError("there is no such folder", where=name, hint=near_file(name))
    return name


def read_labels(text: str, data: str) -> Labels:
    """The labels that a text means, on this data.

    Raises:
        RecipeError: if it means none, or leaves out what nobody can guess.
    """
    kind, _, name = (part.strip() for part in text.partition("="))
    if kind not in LABELS:
        near = nearest(kind, LABELS)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(LABELS)}"
        raise RecipeError(f"{text!r} is no source of labels", where="--labels", hint=hint)
    if name and kind not in WITH_A_NAME:
        raise RecipeError(f"{text!r}: {kind} takes no name", where="--labels", hint=f"write {kind} alone")
    if kind == "function" and not name:
        if data != PLAYGROUND:
            hint = "name it: --labels function=my_rewards.py:helpfulness"
            raise RecipeError("which function gives the labels is not said", where="--labels", hint=hint)
        name = HIDDEN_REWARD
    file = name.rpartition(":")[0]
    if kind == "function" and file.endswith(".py") and not exists(file):
        raise RecipeError("there is no such file", where=file, hint=near_file(file))
    if kind == "function" and not file:
        hint = f"name what stands in it: --labels function={name}:helpfulness"
        raise RecipeError(f"{name!r} is a file or a module, and names no function of it", where="--labels", hint=hint)
    defaults = {"reward_model": DEFAULT_REWARD_MODEL, "judge": DEFAULT_JUDGE}
    name = name or defaults.get(kind, "")
    if kind == "judge" and not name.partition("@")[2]:
        name = f"{name.removesuffix('@')}@{DEFAULT_URL}"
    return Labels(kind, name)


def read_hardware(text: str) -> Hardware:
    """The hardware that a text means.

    Raises:
        RecipeError: if it means none.
    """
    text = text.strip().lower()
    if text == "cpu":
        return Hardware("cpu")
    if text == "mps":
        return Hardware("mps")
    found = _GPUS.fullmatch(text)
    if found is None or int(found[2]) == 0 or int(found[1] or 1) == 0:
        raise RecipeError(f"{text!r} is no hardware that align knows", where="--hardware", hint=f"write {HARDWARE}")
    return Hardware("cuda", int(found[2]), int(found[1] or 1))


def read_method(text: str) -> str:
    """The preset that a text means.

    Raises:
        RecipeError: if there is none of this name.
    """
    check_known(text.strip(), preset_names(), "preset")
    return text.strip()


def hardware_here() -> Hardware:
    """What torch finds on this machine."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type not in ("cuda", "mps"):
        return Hardware("cpu")
    if accelerator.type == "mps":
        return Hardware("mps")
    number = torch.cuda.device_count()
    memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(number))
    return Hardware("cuda", max(1, round(memory / _GIB)), number)


def default_labels(data: str, *, has_pairs: bool) -> str | None:
    """The labels that are taken where nobody says: those that the data has; None where it has none."""
    if data == PLAYGROUND:
        return "function"
    return "dataset" if has_pairs else None


def default_method(labels: Labels, *, has_pairs: bool) -> str:
    """The method that is taken where nobody says: the plainest for the labels."""
    if labels.kind == "dataset":
        return "offline-dpo"
    if labels.kind == "policy":
        return "sail-revkl" if has_pairs else "self-rewarding"
    return "sail-dpr" if has_pairs else "iterative-dpo"
