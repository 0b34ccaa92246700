"""`labelers`: who gives scores and labels, by name; a section for each kind, and the one table of kinds.

A new labeler is a file in `align_cli/labelers`, a section here, a line in `LABELER_KINDS` and a test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic_core import PydanticKnownError

from align_cli.errors import nearest
from align_cli.recipe.checking.devices import no_device
from align_cli.recipe.checking.files import PATH_STARTS, near_file
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.data_names import exists
from align_cli.recipe.written.tree import KeyPath, escaped, shown


class LabelerSection(Section):
    """A labeler of any kind."""

    kind: str = Field(description="what gives the labels")

    def code(self) -> dict[str, str]:
        """The Python that it runs, by key: `package.module:name` or `path/to/file.py:name`."""
        return {}

    def files(self) -> dict[str, str]:
        """The files that it reads, by key; a kind that reads others than its code's adds them."""
        files = {key: place.rpartition(":")[0] for key, place in self.code().items()}
        return {key: file for key, file in files.items() if file.endswith(".py")}


class DatasetLabelerSection(LabelerSection):
    """A labeler of kind `dataset`: the labels that offline pairs came with."""

    kind: Literal["dataset"] = Field(description="what gives the labels")


class FunctionLabelerSection(LabelerSection):
    """A labeler of kind `function`: Python that scores completions, called as TRL calls reward functions on text."""

    kind: Literal["function"] = Field(description="what gives the labels")
    function: str = Field(description="`package.module:name` or `path/to/file.py:name`")
    arguments: dict[str, Any] | None = Field(
        None, description="when given, `name(**arguments)` is called once and must return the scoring function"
    )
    batch_size: int = Field(64, ge=1, description="completions a call")

    def code(self) -> dict[str, str]:
        return {"function": self.function}


class RewardModelLabelerSection(LabelerSection):
    """A labeler of kind `reward_model`: a sequence classifier with one output, which reads by its own chat template."""

    kind: Literal["reward_model"] = Field(description="what gives the labels")
    model_name_or_path: str = Field(min_length=1, description="a Hub id or a folder")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="type of the loaded weights; `auto` is that of the files"
    )
    device: str = Field("auto", description="where it runs, as in `policy.device`")
    batch_size: int = Field(16, ge=1, description="completions a forward pass; those of a length go together")
    reverse: bool = Field(False, description="turn the sign, as of a cost model, whose output is high for what is bad")
    trust_remote_code: bool = Field(False, description="run code that ships with the model; off unless you read it")

    def files(self) -> dict[str, str]:
        is_path = self.model_name_or_path.startswith(PATH_STARTS) or exists(self.model_name_or_path)
        return {**super().files(), **({"model_name_or_path": self.model_name_or_path} if is_path else {})}


@dataclass(frozen=True)
class LabelerKind:
    """A kind of labeler.

    Args:
        section: its keys.
        scorer: `package.module:name` of the class that scores, made of the labeler's name, its section and who is
            told what a user should know; None where the kind gives no scores.
    """

    section: type[LabelerSection]
    scorer: str | None = None


LABELER_KINDS: dict[str, LabelerKind] = {
    "dataset": LabelerKind(DatasetLabelerSection),
    "function": LabelerKind(FunctionLabelerSection, "align_cli.labelers.function:FunctionLabeler"),
    "reward_model": LabelerKind(RewardModelLabelerSection, "align_cli.labelers.reward_model:RewardModelLabeler"),
}
NOT_SERVED_KINDS = dict.fromkeys(("policy", "judge", "person"), "call it from a labeler of kind function")


def _of_its_kind(value: Any) -> Any:
    """The section of the kind that a labeler names."""
    if not isinstance(value, dict):
        return value
    if "kind" not in value:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in LABELER_KINDS:
        known = ", ".join(map(repr, LABELER_KINDS))
        context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": known}
        raise PydanticKnownError("union_tag_invalid", context)
    return LABELER_KINDS[kind].section.model_validate(value)


Labeler = SerializeAsAny[Annotated[LabelerSection, BeforeValidator(_of_its_kind)]]
"""Any labeler, as a recipe's key: read by its kind, and written with its kind's keys."""


def code_in_words(labelers: Mapping[str, LabelerSection]) -> list[str]:
    """The Python that labelers run, and where it comes from."""
    return [
        f"labelers.{name}: {place}{_origin(place)}"
        for name, labeler in labelers.items()
        for place in labeler.code().values()
    ]


def code_file(place: str) -> str | None:
    """The file that code of somebody else's stands in; a module's is found as an import would, and not imported."""
    module = place.rpartition(":")[0]
    if module.endswith(".py") or module.partition(".")[0] == "align_cli":
        return module if module.endswith(".py") else None
    spec = _module_spec(module)
    return spec.origin if spec is not None else None


def module_specs(module: str, folders: Sequence[str]) -> dict[str, ModuleSpec]:
    """What an import of a module would load from these folders, by name: its packages, and last itself.

    Empty if it is not there. Nothing is imported.
    """
    found: dict[str, ModuleSpec] = {}
    parts = module.split(".")
    for depth, part in enumerate(parts, start=1):
        spec = PathFinder.find_spec(part, folders)  # by its whole name, it would be looked for in packages in memory
        if spec is None or (spec.submodule_search_locations is None and depth < len(parts)):
            return {}
        found[".".join(parts[:depth])] = spec
        folders = list(spec.submodule_search_locations or ())
    return found


def _module_spec(module: str) -> ModuleSpec | None:
    return module_specs(module, [*sys.path, ""]).get(module)


def _origin(place: str) -> str:
    """Where a module of somebody else's comes from, in words."""
    module = place.rpartition(":")[0]
    if module.endswith(".py") or module.partition(".")[0] == "align_cli":
        return ""
    if _module_spec(module) is None:
        return ", which is not found here"
    file = code_file(place)
    return f", from {file}" if file else ""


def unknown_labeler(view: View, key: str, name: str) -> Iterator[RuleFault]:
    """The fault of a key that names a labeler which the recipe does not define."""
    known = view.labeler_names()
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else labelers_defined(view)
        yield rule_fault(key, f"{key} is {shown(name)}; labelers defines no such labeler", hint)


def labelers_defined(view: View) -> str:
    """Which labelers there are, as a remedy."""
    names = [shown(name)[1:-1] for name in view.labeler_names()]
    return f"labelers defines {', '.join(names)}" if names else "define one under labelers"


def kind_without_scores(view: View, name: str) -> str | None:
    """The kind of a labeler that the recipe defines and that gives no scores; None for any other."""
    kind: str | None = view.labeler(name)["kind"] if name in view.labeler_names() else None
    return kind if kind is not None and LABELER_KINDS[kind].scorer is None else None


def _names_are_words(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        if not name.replace("-", "_").isidentifier():
            what = f"the labeler's name {shown(name)} is not a word"
            yield rule_fault(("labelers", name), what, "use letters, digits, - and _, so that overrides can name it")


def _dataset_is_no_other_labelers_name(view: View) -> Iterator[RuleFault]:
    if "dataset" in view.labeler_names() and view.labeler("dataset")["kind"] != "dataset":
        what = "labelers.dataset is not of kind dataset; the name means the labels that pairs came with"
        yield rule_fault(("labelers", "dataset"), what, "give the labeler another name")


def _code_and_files_can_be_found(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            written = view.labeler(name)
        except UnsoundError:
            continue
        section, path = LABELER_KINDS[written["kind"]].section.model_validate(written), ("labelers", name)
        malformed = {key: place for key, place in section.code().items() if not _is_place_of_code(place)}
        for key, place in malformed.items():
            what = f"{_key(path, key)} is {shown(place)}; it must be package.module:name or path/to/file.py:name"
            yield rule_fault((*path, key), what, "as in align_cli.playground:hidden_reward")
        for key, file in section.files().items():
            if key not in malformed and not exists(file):
                what = f"{_key(path, key)}: there is no file {shown(file)}"
                yield rule_fault((*path, key), what, near_file(file))


def _key(path: KeyPath, key: str) -> str:
    return ".".join([*(escaped(str(part)) for part in path), key])


def _is_place_of_code(place: str) -> bool:
    module, _, name = place.rpartition(":")
    is_module = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return is_module and all(part.isidentifier() for part in name.split("."))


def _devices_have_names(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            device = view.labeler(name).get("device", "auto")
        except UnsoundError:
            continue
        yield from no_device(("labelers", name, "device"), device)


RULES: tuple[Rule, ...] = (_names_are_words, _dataset_is_no_other_labelers_name, _devices_have_names)
FILE_RULES: tuple[Rule, ...] = (_code_and_files_can_be_found,)
