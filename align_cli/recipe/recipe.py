"""A whole recipe: which sections there are, and the keys that stand in none."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, PrivateAttr

from align_cli.errors import Fault
from align_cli.recipe.checking.files import empty_texts
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.checkpoints import CheckpointsSection
from align_cli.recipe.sections.data import DataSection
from align_cli.recipe.sections.evaluate import EvaluateSection
from align_cli.recipe.sections.generate import GenerateSection
from align_cli.recipe.sections.guards import GuardsSection
from align_cli.recipe.sections.label import LabelSection
from align_cli.recipe.sections.labelers import Labeler
from align_cli.recipe.sections.launch import LaunchSection
from align_cli.recipe.sections.method import MethodSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.recipe.sections.reward import RewardSection
from align_cli.recipe.sections.train import TrainSection
from align_cli.recipe.sections.worlds import PlaygroundSection, ReviewsSection
from align_cli.recipe.written.tree import Node, Written, dotted, shown

LONGEST_NAME = 255
"""Bytes of one name in every usual file system."""
LONGEST_PATH = 4096 - 256
"""Bytes of the run's folder, with room for the paths of what stands in it."""


LARGEST_NUMBER = 1e30
MOST_ROUNDS = 100_000
"""Every step is planned before the first begins."""


class Recipe(Section):
    """A whole recipe, checked: what `align train` does."""

    output_dir: str = Field(description="the run's folder")
    preset: str | None = Field(
        None,
        description="a prior method, or a file (`./mine.yaml`), whose keys fill in what the recipe leaves out",
    )
    seed: int = Field(0, ge=0, description="every random choice derives from it")
    rounds: int = Field(3, ge=1, description="how many rounds; may be raised on a finished run")
    num_threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="threads that compute on the CPU, kept in the run; left out: one for a small model, else as many "
        "as the machine has cores free when the run begins",
    )
    policy: PolicySection
    data: DataSection
    playground: PlaygroundSection = PlaygroundSection()
    reviews: ReviewsSection | None = None
    reward: RewardSection | None = None
    labelers: dict[str, Labeler] = Field(default={}, description="labelers by name")
    method: MethodSection
    generate: GenerateSection = GenerateSection()
    label: LabelSection = LabelSection()
    train: TrainSection
    checkpoints: CheckpointsSection = CheckpointsSection()
    evaluate: EvaluateSection = EvaluateSection()
    guards: GuardsSection = GuardsSection()
    launch: LaunchSection = LaunchSection()
    _written: Written = PrivateAttr(default=Written())

    def written_at(self, root: Node) -> None:
        """Remember where the keys are written, for faults that are found when the recipe is at work."""
        self._written = Written(root)

    def fault(self, key: str, what: str, hint: str = "") -> Fault:
        """A fault of a key, as `train.optim`, at the place where the recipe writes it."""
        return self._written.fault(key, what, hint)

    def located(self, fault: Fault) -> Fault:
        """A fault that was found at work with key, line and column, where its place is a key of this recipe."""
        return self._written.located(fault)

    def of_round(self, number: int) -> Recipe:
        """The recipe as it holds in a round, where keys of `method` follow a schedule."""
        return self.model_copy(update={"method": self.method.of_round(number)}) if self.method.schedule else self

    @property
    def global_batch_size(self) -> int:
        """Pairs in one optimizer step, of all processes together."""
        return self.train.per_device_train_batch_size * self.train.gradient_accumulation_steps

    @property
    def begins_with_new_optimizer(self) -> bool:
        """Whether each round does: by its own word, or because what it trains is new."""
        lora = self.policy.lora
        return self.train.reset_optimizer_each_round or (lora is not None and lora.between_rounds == "merge")

    @property
    def is_online(self) -> bool:
        """Whether rounds sample the policy at all."""
        return any(source.policy_responses for source in self.method.sources.in_use().values())


def _output_dir_can_be_a_folder(view: View) -> Iterator[RuleFault]:
    path = view.get("output_dir")
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in path):
        what = f"output_dir is {shown(path)}; it must hold no line break, tab or other control character"
        yield rule_fault("output_dir", what, "write it on one line; a block of YAML, as `|` and `>`, ends in a break")
    size = _num_bytes(path)
    if any(_num_bytes(part) > LONGEST_NAME for part in Path(path).parts):
        what = f"output_dir is {shown(path)}; each name in it must be at most {LONGEST_NAME} bytes long"
        yield rule_fault("output_dir", what, "choose shorter names")
    elif size > LONGEST_PATH:
        what = f"output_dir is {shown(path)}, {size} bytes long; it must be at most {LONGEST_PATH} bytes long"
        yield rule_fault("output_dir", what, "choose a folder that is not so deep")


def _num_bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _output_dir_is_not_empty(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, "output_dir")


def _rounds_can_be_planned(view: View) -> Iterator[RuleFault]:
    if (rounds := view.get("rounds")) > MOST_ROUNDS:
        yield rule_fault("rounds", f"rounds is {rounds}; a run has at most {MOST_ROUNDS}", "it may be raised later on")


def _numbers_fit_into_float32(view: View) -> Iterator[RuleFault]:
    """What a labeler's code or a template gets is theirs to judge."""
    for path, value in view.leaves():
        is_handed_on = "arguments" in path or "chat_template_kwargs" in path
        if isinstance(value, float) and value > LARGEST_NUMBER and math.isfinite(value) and not is_handed_on:
            what = f"{dotted(path)} is {shown(value)}; the largest number that a recipe may say is {LARGEST_NUMBER:g}"
            yield RuleFault(path, what, "models compute in float32, which overflows a little beyond")


RULES: tuple[Rule, ...] = (_output_dir_can_be_a_folder, _rounds_can_be_planned, _numbers_fit_into_float32)
FILE_RULES: tuple[Rule, ...] = (_output_dir_is_not_empty,)
