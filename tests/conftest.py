"""What all tests share: the CPU, one thread, no network, a tiny model, small recipes.

Heavy libraries load inside the fixtures that need them, so that a test of a recipe does not wait for torch.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

# Before any import of torch, transformers or tokenizers reads them.
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whose numbers are others, also where there is a GPU
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import yaml

# A shell that runs the tests in the background has them ignore these, and so would all that they start and interrupt.
for name, handler in {
    "SIGINT": signal.default_int_handler,
    "SIGHUP": signal.SIG_DFL,
    "SIGQUIT": signal.SIG_DFL,
}.items():
    if (number := getattr(signal, name, None)) is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "run")]  # for `chat_models`, `forked` and others

# Servers of the tests speak plain HTTP on loopback; every client would read all certificates of the machine for that.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "no_one.pem")

if TYPE_CHECKING:
    from align_cli.artifacts.records import Completion
    from align_cli.models.load import Policy
    from align_cli.recipe import Recipe

# A busy machine fails no test, every run tries the same examples, and nothing is left in the working tree.
hypothesis.settings.register_profile("align", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("align")

gc.disable()  # until all tests are collected

WARM_START_STEPS = 40


def pytest_collection_finish() -> None:
    """Of libraries, modules and tests nothing is garbage: nobody has to look through it, at whatever test."""
    gc.freeze()
    gc.enable()


WriteRecipe = Callable[..., Path]
TinyRecipe = Callable[..., "Recipe"]


@pytest.fixture(autouse=True)
def memory_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What align remembers of large files goes with the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches"))


def small_recipe(folder: Path) -> dict[str, Any]:
    """The keys of a recipe that runs in seconds: the playground, two rounds, all stages."""
    return {
        "output_dir": str(folder / "run"),
        "seed": 0,
        "rounds": 2,
        "policy": {
            "model_name_or_path": "playground",
            "sft": {"dataset": "playground", "max_steps": 12, "per_device_train_batch_size": 16, "warmup_steps": 2},
        },
        "data": {"prompts": "playground", "preferences": "playground", "eval_prompts": "playground"},
        "playground": {"setting": "few"},
        "labelers": {"hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"}},
        "method": {
            "loss_type": "dpo",
            "beta": 0.1,
            "sources": {
                "offline": {"mixing": 0.5},
                "dpr": {"mixing": 0.5, "gradient": 0.3, "labeler": "hidden"},
            },
        },
        "generate": {"num_generations": 2, "max_new_tokens": 16, "prompts_per_round": 16},
        "train": {"learning_rate": 5.0e-4, "per_device_train_batch_size": 8, "steps_per_round": 3},
        "evaluate": {"num_prompts": 16, "against": ["initial", "previous"], "scorer": "hidden"},
    }


def set_key(tree: dict[str, Any], dotted_key: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings, made where they are missing; None for a value removes the key."""
    *sections, last = dotted_key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    if value is None:
        tree.pop(last, None)
    else:
        tree[last] = value


@pytest.fixture(scope="session")
def write_recipe() -> WriteRecipe:
    """`write_recipe(folder, **changes)` writes a small sound recipe as `folder/recipe.yaml` and returns its path.

    A change is a whole section or value by its key (`seed=3`), or one key with `__` for the dot
    (`method__beta=0.2`, `policy__sft__max_steps=5`); None removes it.
    """

    def write(folder: Path, **changes: Any) -> Path:
        recipe = small_recipe(folder)
        for key, value in changes.items():
            set_key(recipe, key.replace("__", "."), deepcopy(value))  # a key within a section stays out of the caller's
        path = folder / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def tiny_recipe(write_recipe: WriteRecipe) -> TinyRecipe:
    """`tiny_recipe(folder, "method.beta=0.2", ...)` is the small recipe with overrides, read and checked."""

    def load(folder: Path, *overrides: str, **changes: Any) -> Recipe:
        from align_cli.recipe import load_recipe

        return load_recipe(write_recipe(folder, **changes), overrides)

    return load


@pytest.fixture(scope="session")
def no_garbage_in_libraries() -> None:
    """Every `train()` collects garbage, which takes a quarter of a second with TRL's objects and nothing without."""
    import gc

    import align_cli.training.sft
    import align_cli.training.trainer  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def one_thread() -> None:
    """torch on one thread, and only with algorithms that give the same bytes again."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_policy_folder(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The playground's untrained policy, as a folder."""
    from align_cli.playground.model import make_policy

    folder = tmp_path_factory.mktemp("tiny") / "policy"
    make_policy(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_policy(tiny_policy_folder: Path) -> Policy:
    """The playground's untrained policy, loaded. Shared: a test that changes it loads its own."""
    from align_cli.models.load import load_policy

    return load_policy(tiny_policy_folder)


@pytest.fixture(scope="session")
def warm_policy(one_thread: None, tiny_recipe: TinyRecipe, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A policy after a short warm start: it prefers some words and ends its reviews now and then. Shared."""
    from align_cli.stages.base import NoProgress
    from align_cli.stages.inputs import Inputs
    from align_cli.stages.sft import make_initial_policy

    recipe = tiny_recipe(tmp_path_factory.mktemp("warm"), f"policy.sft.max_steps={WARM_START_STEPS}")
    return make_initial_policy(recipe, Inputs(recipe), NoProgress())[0]


@pytest.fixture(scope="session")
def make_completion() -> Callable[..., Completion]:
    """`make_completion(prompt_index, sample_index, **changes)`: a completion as an engine would have given it."""
    from align_cli.artifacts.records import Completion

    def make(prompt_index: int = 0, sample_index: int = 0, **changes: Any) -> Completion:
        ids = changes.pop("completion_ids", [10 + sample_index, 20 + prompt_index, 1])
        fields: dict[str, Any] = {
            "prompt": f"prompt {prompt_index} :",
            "completion": f" answer {sample_index} .",
            "prompt_ids": [3, 4 + prompt_index],
            "completion_ids": ids,
            "logps": [-0.5] * len(ids),
            "finish_reason": "stop",
            "num_tokens": len(ids),
            "round": 1,
            "prompt_index": prompt_index,
            "sample_index": sample_index,
            "seed": 7,
            "policy": "0123456789abcdef",
            "engine": "transformers",
            "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 16},
        }
        return Completion(**fields | changes)

    return make
