"""Makes `small_training`, beside the tests, importable, and its two models once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def quick_trainers(no_garbage_in_libraries: None) -> None:
    """For all that is tested here."""


@pytest.fixture(scope="session")
def model_folders(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of a policy and of another reference: `small_training.load_models` reads them."""
    from small_training import save_models

    return save_models(tmp_path_factory.mktemp("models"))
