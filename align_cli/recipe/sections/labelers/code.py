"""Where the Python that labelers run stands; nothing of it is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder

from align_cli.recipe.sections.labelers.base import LabelerSection


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


def is_place_of_code(place: str) -> bool:
    module, _, name = place.rpartition(":")
    is_module = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return is_module and all(part.isidentifier() for part in name.split("."))
