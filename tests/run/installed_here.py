"""Lets a process find what is installed in its current folder, as `pip install -e .` would."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path


def install(folder: Path) -> None:
    """What pip leaves beside a package of this `pyproject.toml`: its name, and its entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    made = folder / f"{project['name']}-{project['version']}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
    groups = project["entry-points"].items()
    points = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in named.items()) for group, named in groups
    ]
    (made / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")


def look_here() -> None:
    """For the process that calls it, and those that it starts."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
