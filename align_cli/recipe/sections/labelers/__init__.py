"""`labelers`: who gives scores and verdicts, by name; a section for each kind, one file each, and the table of kinds.

A new labeler is a file in `align_cli/labelers`, a section here, a line in `LABELER_KINDS` and a test; or a package of
somebody else's, with an entry point (`PLUGINS`). docs/labelers.md shows both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticKnownError

from align_cli.errors import RecipeError, first_line, nearest
from align_cli.recipe.checking.devices import no_device
from align_cli.recipe.checking.files import near_file
from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.data_names import exists
from align_cli.recipe.sections.labelers import judge, reward_server, self_judge, server
from align_cli.recipe.sections.labelers.base import Gives, LabelerSection
from align_cli.recipe.sections.labelers.code import is_place_of_code
from align_cli.recipe.sections.labelers.combination import CombinationLabelerSection
from align_cli.recipe.sections.labelers.dataset import DatasetLabelerSection
from align_cli.recipe.sections.labelers.function import FunctionLabelerSection
from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection
from align_cli.recipe.sections.labelers.person import PersonLabelerSection
from align_cli.recipe.sections.labelers.reward_model import RewardModelLabelerSection
from align_cli.recipe.sections.labelers.reward_server import RewardServerLabelerSection
from align_cli.recipe.sections.labelers.self_judge import SELF_JUDGE, SelfJudgeLabelerSection
from align_cli.recipe.written.tree import KeyPath, escaped, shown


@dataclass(frozen=True)
class LabelerKind:
    """A kind of labeler.

    Args:
        section: its keys.
        labeler: `package.module:name` of the class that answers, made of the labeler's name, its section and who is
            told what a user should know; None where the kind labels nothing that the policy writes.
    """

    section: type[LabelerSection]
    labeler: str | None = None


LABELER_KINDS: dict[str, LabelerKind] = {
    "combination": LabelerKind(CombinationLabelerSection, "align_cli.labelers.combination:Combination"),
    "dataset": LabelerKind(DatasetLabelerSection),
    "function": LabelerKind(FunctionLabelerSection, "align_cli.labelers.function:FunctionLabeler"),
    "judge": LabelerKind(JudgeLabelerSection, "align_cli.labelers.judge:judge_labeler"),
    "person": LabelerKind(PersonLabelerSection, "align_cli.labelers.person:PersonLabeler"),
    "reward_model": LabelerKind(RewardModelLabelerSection, "align_cli.labelers.reward_model:RewardModelLabeler"),
    "reward_server": LabelerKind(RewardServerLabelerSection, "align_cli.labelers.reward_server:RewardServerLabeler"),
    "self_judge": LabelerKind(SelfJudgeLabelerSection, "align_cli.labelers.self_judge:SelfJudge"),
}
LONGEST_NAME = 100
"""Bytes of a labeler's name: files are called by it, and by two of them."""
PERSON = "person"
"""The kind that is asked by `align label` alone."""
PLUGINS = "align_cli.labelers"
"""The group of entry points by which an installed package brings a kind: its name, and where a `LabelerKind` is."""
NOT_SERVED_KINDS = dict.fromkeys(("policy",), "call it from a labeler of kind function")


def _of_its_kind(value: Any) -> Any:
    """The section of the kind that a labeler names."""
    if not isinstance(value, dict):
        return value
    if "kind" not in value:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
    kind = value["kind"]
    if not isinstance(kind, str) or not _is_known(kind):
        known = ", ".join(map(repr, LABELER_KINDS))
        context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": known}
        raise PydanticKnownError("union_tag_invalid", context)
    return LABELER_KINDS[kind].section.model_validate(value)


def known_kinds() -> list[str]:
    """Every kind that a recipe may name: those that installed packages bring stand last, and are not loaded."""
    from importlib.metadata import entry_points

    brought = sorted(point.name for point in entry_points(group=PLUGINS))
    return list(dict.fromkeys([*LABELER_KINDS, *brought]))


def _is_known(kind: str) -> bool:
    """Whether there is such a kind; one that an installed package brings is loaded when a recipe first names it."""
    if kind not in LABELER_KINDS:
        from importlib.metadata import entry_points

        for point in entry_points(group=PLUGINS, name=kind):
            try:
                LABELER_KINDS[kind] = point.load()
            except Exception as error:  # whatever its module raises when it is imported
                what = f"the installed package that brings labelers of kind {kind!r} ({point.value}) does not load"
                raise RecipeError(f"{what}: {first_line(error)}", where="labelers", hint="mend or remove it") from error
    return kind in LABELER_KINDS


Labeler = SerializeAsAny[Annotated[LabelerSection, BeforeValidator(_of_its_kind)]]
"""Any labeler, as a recipe's key: read by its kind, and written with its kind's keys."""


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


def kind_that_labels_nothing(view: View, name: str) -> str | None:
    """The kind of a labeler that the recipe defines and that cannot be asked; None for any other."""
    kind: str | None = view.labeler(name)["kind"] if name in view.labeler_names() else None
    return kind if kind is not None and LABELER_KINDS[kind].labeler is None else None


def labeler_gives(view: View, name: str) -> Gives | None:
    """What a labeler that the recipe defines answers with; None for any other."""
    if name not in view.labeler_names() or kind_that_labels_nothing(view, name):
        return None
    written = view.labeler(name)
    return LABELER_KINDS[written["kind"]].section.model_validate(written).gives


def asks_a_person(view: View, name: str) -> bool:
    """Whether a labeler that the recipe defines is a person, or asks one."""
    return _asks(view, name, PERSON)


def asks_the_policy(view: View, name: str) -> bool:
    """Whether a labeler that the recipe defines is the round's policy as judge, or asks it."""
    return _asks(view, name, SELF_JUDGE)


def _asks(view: View, name: str, kind: str) -> bool:
    """Whether a labeler that the recipe defines is of a kind, or asks one that is."""
    known = view.labeler_names()
    if name not in known:
        return False
    written = view.labeler(name)
    members = LABELER_KINDS[written["kind"]].section.model_validate(written).asks()
    return any(view.labeler(one)["kind"] == kind for one in (name, *members) if one in known)


def _members_can_be_asked(view: View) -> Iterator[RuleFault]:
    """A labeler that asks others asks such as answer what it needs, and that ask nobody in their turn."""
    for name in view.labeler_names():
        try:
            written = view.labeler(name)
        except UnsoundError:
            continue
        section = LABELER_KINDS[written["kind"]].section.model_validate(written)
        key = f"labelers.{name}.of"
        if "of" in written and len(section.asks()) < 2:
            what = f"{key} names {len(section.asks()) or 'no'} labeler; it must name two or more"
            yield rule_fault(key, what, "name another one, or use the one alone")
        for member in section.asks():
            yield from unknown_labeler(view, key, member)
            if member in view.labeler_names() and (gives := labeler_gives(view, member)) != "scores":
                kind = view.labeler(member)["kind"]
                if gives is None or section.gives == "scores":
                    lacks = "labels nothing that the policy writes" if gives is None else "gives no scores"
                    hint = "leave it out" if gives is None else f"leave it out, or set labelers.{name}.by to vote"
                    yield rule_fault(key, f"{key} names {shown(member)}, of kind {kind}, which {lacks}", hint)
            if member in view.labeler_names() and view.labeler(member).get("of"):
                what = f"{key} names {shown(member)}, of kind {view.labeler(member)['kind']} itself"
                yield rule_fault(key, what, f"name the labelers of {shown(member)[1:-1]} in its place")


def _names_are_words(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        if not name.replace("-", "_").isidentifier():
            what = f"the labeler's name {shown(name)} is not a word"
            yield rule_fault(("labelers", name), what, "use letters, digits, - and _, so that overrides can name it")
        elif len(name.encode()) > LONGEST_NAME:
            what = f"the labeler's name has {len(name.encode())} bytes; it must have at most {LONGEST_NAME}"
            yield rule_fault(("labelers", name), what, "choose a shorter one: files are called by it")


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
        malformed = {key: place for key, place in section.code().items() if not is_place_of_code(place)}
        for key, place in malformed.items():
            what = f"{_key(path, key)} is {shown(place)}; it must be package.module:name or path/to/file.py:name"
            yield rule_fault((*path, key), what, "as in align_cli.playground:hidden_reward")
        for key, file in section.files().items():
            if key not in malformed and not exists(file):
                what = f"{_key(path, key)}: there is no file {shown(file)}"
                yield rule_fault((*path, key), what, _near_name(file, section.names_of_files().get(key, ())))


def _near_name(file: str, names: Sequence[str]) -> str:
    """What to do about a file that is not there, where one of these names may stand in its place."""
    if not names or not file.isidentifier():
        return near_file(file)
    near = nearest(file, names)
    return f"did you mean {near}?" if near else f"align's own are {', '.join(names)}; {near_file(file)}"


def _key(path: KeyPath, key: str) -> str:
    return ".".join([*(escaped(str(part)) for part in path), key])


def _devices_have_names(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            device = view.labeler(name).get("device", "auto")
        except UnsoundError:
            continue
        yield from no_device(("labelers", name, "device"), device)


RULES: tuple[Rule, ...] = (
    _names_are_words,
    _dataset_is_no_other_labelers_name,
    _members_can_be_asked,
    _devices_have_names,
    *server.RULES,
    *judge.RULES,
    *reward_server.RULES,
    *self_judge.RULES,
)
FILE_RULES: tuple[Rule, ...] = (_code_and_files_can_be_found,)
