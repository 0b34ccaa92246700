"""The files that a labeler's code stands in: its own, and those beside it that it imports.

Found by reading, before anything is imported, so that a run knows of a change before it goes on. What is installed is
known by its version, and is left out; so is what code imports by names that it makes up, or from folders that it adds
to `sys.path`.
"""

from __future__ import annotations

import ast
import site
import sys
import sysconfig
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from align_cli.recipe.sections.labelers.code import code_file, module_specs

_PATH = tuple(sys.path)
"""Where modules are looked for, before any code of the user's has changed it."""
_INSTALLED = {
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
    *site.getsitepackages(),
    site.getusersitepackages(),
}


def code_files(place: str) -> dict[str, Path]:
    """The files of `package.module:name` or `path/to/file.py:name`, by module; its own under an empty name.

    A process that is at work goes on with the modules that it found first.
    """
    own = code_file(place)
    if own is None:
        return {}
    return {"": Path(own), **({} if _is_installed(own) else _imported(place, Path(own), Path.cwd()))}


@cache
def _imported(place: str, own: Path, current_folder: Path) -> dict[str, Path]:
    module, roots, waiting = place.rpartition(":")[0], [str(current_folder), *_PATH], list[str]()
    if module.endswith(".py"):
        module = ""
        roots.insert(0, str(current_folder / own.parent))  # importlib keeps what a relative one meant at first
    else:
        waiting.append(module)
    waiting += _names_in(own, module, is_package=own.name == "__init__.py")
    found: dict[str, Path] = {}
    while waiting:
        for loaded, spec in module_specs(waiting.pop(), roots).items():
            if loaded not in found and loaded != module and _is_users_file(spec):
                found[loaded] = Path(str(spec.origin))
                is_package = spec.submodule_search_locations is not None
                waiting += _names_in(found[loaded], loaded, is_package=is_package)
    return dict(sorted(found.items()))


def _is_users_file(spec: ModuleSpec) -> bool:
    return spec.has_location and not _is_installed(str(spec.origin))


def _names_in(file: Path, module: str, *, is_package: bool) -> list[str]:
    """Every module that a file imports, or may: of `from a import b`, `a` and `a.b`."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.partition(".")[0] != "align_cli"]


def _is_installed(path: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in _INSTALLED)
