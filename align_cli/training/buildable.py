"""Whether what the keys of `train`, `reward` and `policy.sft` ask for can be had on this machine.

Much of what TrainingArguments takes is looked at only when a Trainer is made, or its optimizer: hours into a run. So
all of it is made before anything is sampled, by transformers' own code, around a module of two layers: arguments,
accelerator, trackers, optimizer, schedule. Called by the stages' checks.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.scratch import ScratchFolder
from align_cli.errors import Fault, RecipeError, nearest
from align_cli.models.devices import find_device
from align_cli.recipe import Recipe
from align_cli.recipe.sections.training_arguments import training_argument_names
from align_cli.recipe.written.tree import shown
from align_cli.training.arguments import dpo_config, reward_config, sft_arguments

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from align_cli.models.load import UnloadedPolicy

Keys = dict[str, Any]

WITHOUT_EACH_OTHER_NOTHING = (
    ("optim", "optim_args", "optim_target_modules"),
    ("lr_scheduler_type", "lr_scheduler_kwargs"),
    ("fsdp", "fsdp_config"),
)
"""Keys that are built together, or not at all."""

WRITTEN_BY_ARGUMENTS = ("ACCELERATE_", "FSDP_")
"""How the names of variables begin that TrainingArguments sets."""

FORMS = {
    "optim_args": "write names with values, as in optim_args: momentum=0.9,nesterov=true",
    "lr_scheduler_kwargs": "take names that this schedule has, as in lr_scheduler_kwargs: {min_lr_rate: 0.1}",
}


def check_train_keys(recipe: Recipe) -> None:
    """Build what `train` asks for.

    Raises:
        RecipeError: for each key that cannot be built, with what transformers says of it.
    """

    device = find_device(recipe.policy.device)

    def build(passed: Keys) -> None:
        with ScratchFolder() as scratch:
            _build(dpo_config(recipe, scratch, device=device, use_cache=True, passed=passed))

    _check_keys(recipe, "train", build, recipe.train.training_arguments)


def check_reward_keys(recipe: Recipe) -> None:
    """Build what `reward` asks for.

    Raises:
        RecipeError: for each key that cannot be built, with what transformers says of it.
    """
    section = recipe.reward
    if section is None or section.head == "frozen":
        return
    device = find_device(recipe.policy.device)

    def build(passed: Keys) -> None:
        with ScratchFolder() as scratch:
            _build(reward_config(section, scratch, 1, seed=recipe.seed, device=device, use_cache=True, passed=passed))

    _check_keys(recipe, "reward", build, section.training_arguments)


def _check_keys(recipe: Recipe, section: str, build: Callable[[Keys], None], written: Keys) -> None:
    """Build what a section asks for, and blame the keys that pass through it.

    Raises:
        RecipeError: if it cannot be built.
    """
    if _failure(build, written) is None:
        return
    own = _failure(build, {})
    faults = [_fault(recipe, section, name, written[name], error) for name, error in _failures(build, written).items()]
    if own is not None or not faults:  # it lies in none of the keys that pass through
        raise RecipeError.of([recipe.fault(section, f"training cannot be set up: {_words(own)}", "change the section")])
    raise RecipeError.of(faults)


def check_adapters(recipe: Recipe, policy: Callable[[], UnloadedPolicy]) -> None:
    """Put the adapters that `policy.lora` asks for on the shape of the base.

    Args:
        recipe: the whole recipe.
        policy: what is known of the base.

    Raises:
        AlignError: if it has no place for them, or if the adapter to start from is another base's.
    """
    if recipe.policy.lora is not None:
        from align_cli.models.lora import check_adapter_fits

        check_adapter_fits(recipe.policy, policy().tokenizer)


def check_sft_keys(recipe: Recipe) -> None:
    """Build what `policy.sft` asks for.

    Raises:
        RecipeError: if it cannot be built.
    """
    section = recipe.policy.sft
    if section is None:
        return

    device = find_device(recipe.policy.device)

    def build(_: Keys) -> None:
        with ScratchFolder() as scratch:
            _build(sft_arguments(section, scratch, seed=recipe.seed, device=device, use_cache=True))

    error = _failure(build, {})
    if error is not None:
        what = f"the warm start cannot be set up: {_words(error)}"
        raise RecipeError.of([recipe.fault("policy.sft", what, "change the section")])


def _build(arguments: TrainingArguments) -> None:
    """A Trainer with all that training will have, but for model and data.

    Trackers are made, and not started: to start one can mean a run on somebody's server.
    """
    import torch
    from transformers import Trainer
    from transformers.integrations import get_reporting_integration_callbacks

    trackers = get_reporting_integration_callbacks(arguments.report_to)
    arguments.report_to = []
    if arguments.optim_target_modules is not None:
        arguments.optim_target_modules = "all-linear"  # which modules there are is the policy's business
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    trainer = Trainer(model=module, args=arguments, train_dataset=[{}])
    trainer.create_optimizer_and_scheduler(arguments.max_steps)
    if not type(trainer.optimizer).__module__.startswith("torch."):  # others may lack the device's kernels
        _step(trainer.optimizer, module)
    complaints = [complaint for tracker in trackers if (complaint := _complaint(tracker))]
    if complaints:
        raise ImportError(" ".join(complaints))


def _step(optimizer: torch.optim.Optimizer, module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = parameter.detach().clone()
    begin = getattr(optimizer, "train", lambda: None)  # as schedule-free optimizers have
    begin()
    optimizer.step()


def _complaint(tracker: Callable[[], object]) -> str:
    """What a tracker says when it is made; nothing where it can be made."""
    shown_unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None  # MLflow's would complain once more
    try:
        tracker()
        return ""
    except Exception as error:
        return _words(error)
    finally:
        sys.unraisablehook = shown_unraisable


def _failures(build: Callable[[Keys], None], written: Mapping[str, Any]) -> dict[str, Exception]:
    """The keys without which the others can be built, each with what was said of it.

    Keys are taken in one after the other. One that fails is tried again behind the others, as it may need them.
    """
    taken: Keys = {}
    left = _units(written)
    while True:
        failed = []
        for unit in left:
            error = _failure(build, {**taken, **unit})
            if error is None:
                taken.update(unit)
            else:
                failed.append((unit, error))
        if len(failed) == len(left):
            return {_to_blame(build, taken, unit, error): error for unit, error in failed}
        left = [unit for unit, _ in failed]


def _units(written: Mapping[str, Any]) -> list[Keys]:
    """The keys in their order, those together that need each other."""
    units: dict[str, Keys] = {}
    for name, value in written.items():
        together = next((names for names in WITHOUT_EACH_OTHER_NOTHING if name in names), (name,))
        units.setdefault(together[0], dict.fromkeys(key for key in together if key in written))[name] = value
    return list(units.values())


def _to_blame(build: Callable[[Keys], None], taken: Keys, unit: Keys, error: Exception) -> str:
    """Of keys that fail together, the first with which they fail in this way."""
    names = list(unit)
    for count in range(1, len(names)):
        if str(_failure(build, {**taken, **{name: unit[name] for name in names[:count]}})) == str(error):
            return names[count - 1]
    return names[-1]


def _failure(build: Callable[[Keys], None], keys: Mapping[str, Any]) -> Exception | None:
    """What goes wrong when these keys are built; None where nothing does."""
    try:
        with _environment_restored():
            build(dict(keys))
    except MemoryError:
        raise
    except Exception as error:  # whatever transformers, accelerate, torch and trackers say
        return error
    return None


@contextmanager
def _environment_restored() -> Iterator[None]:
    """TrainingArguments writes what accelerate reads into the environment, where it would outlive a failed attempt."""
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            if name.startswith(WRITTEN_BY_ARGUMENTS):
                del os.environ[name]


def _fault(recipe: Recipe, section: str, name: str, value: Any, error: Exception) -> Fault:
    key, words = f"{section}.{name}", _words(error)
    choices = re.findall(r"'([\w-]+)'", words) if "select one of" in words else []
    if found := re.search(r"is not supported, only (.+) are supported", words):
        choices = found[1].split(", ")
    others = [key for key in training_argument_names() if key != name and re.search(rf"\b{key}\b", words)]
    if isinstance(error, ImportError) or "install" in words:
        hint = f"install it, or change {key}"
    elif others:
        hint = f"set {section}.{others[0]}, or change {key}"
    elif choices and (near := nearest(str(value), choices)):
        hint = f"did you mean {key}={near}?"
    else:
        hint = FORMS.get(name, f"change {key}, or leave it out")
    return recipe.fault(key, f"{key} is {shown(value)}; training cannot be set up with it: {words}", hint)


def _words(error: Exception | None) -> str:
    """What an error says, on one line, with its kind where it would make no sense without."""
    words = " ".join(str(error).split())
    says_all = isinstance(error, ImportError | ValueError | RuntimeError | OSError) and words
    return words if says_all else f"{type(error).__name__}: {words}"
