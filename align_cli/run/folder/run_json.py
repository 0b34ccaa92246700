"""`run.json`: what makes a folder a run's. The versions, the machine and the seed that it was begun with."""

from __future__ import annotations

import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from align_cli import __version__
from align_cli.artifacts.records import SCHEMA_VERSION

VERSIONED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "tokenizers", "numpy")


def run_document(seed: int) -> dict[str, Any]:
    """What a new run writes down of itself."""
    packages = {"align": __version__, "python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = {"host": socket.gethostname(), "platform": platform.platform()}
    return {"versions": packages, "machine": machine, "seed": seed, "schema_version": SCHEMA_VERSION}
