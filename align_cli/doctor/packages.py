"""Python and the packages: is each within the range that align asks for, and is it the version that was tested?"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from align_cli.doctor.finding import Finding
from align_cli.recipe.shipped import versions_tested

AREA = "packages"
OURS = "align-cli"


def examine_packages() -> Iterator[Finding]:
    """Python, align itself, and all that it asks for; extras where they are installed."""
    try:
        asked, of_python = [Requirement(line) for line in requires(OURS) or ()], metadata(OURS)["Requires-Python"]
    except PackageNotFoundError:
        what = "align runs from a folder, and is not installed: which versions it asks for is not known"
        yield Finding(AREA, OURS, "warn", what, "pip install -e . in that folder")
        return
    yield _python(of_python)
    yield Finding(AREA, OURS, "ok", version(OURS))
    tested = versions_tested()
    for requirement in asked:
        if requirement.name == OURS:
            continue
        is_extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        found = _package(requirement, tested.get(requirement.name.lower(), ""))
        if not is_extra or (found.state == "fail" and _installed(requirement.name)):
            yield found


def _python(wanted: str | None) -> Finding:
    here = platform.python_version()
    if wanted and not SpecifierSet(wanted).contains(here, prereleases=True):
        return Finding(AREA, "python", "fail", f"{here}; align needs {wanted}", "make an environment of a newer Python")
    return Finding(AREA, "python", "ok", here)


def _package(requirement: Requirement, tested: str) -> Finding:
    name, here = requirement.name, _installed(requirement.name)
    wanted = f"{name}{requirement.specifier}"
    remedy = f"pip install '{name}=={tested}'" if tested else f"pip install '{wanted}'"
    if not here:
        return Finding(AREA, name, "fail", f"not installed; align needs {wanted}", remedy)
    if not requirement.specifier.contains(here, prereleases=True):
        return Finding(AREA, name, "fail", f"{here}; align needs {wanted}", remedy)
    is_tested = tested in ("", here.partition("+")[0])
    return Finding(AREA, name, "ok", here if is_tested else f"{here}; the tests ran with {tested}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
