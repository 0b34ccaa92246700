"""Try a wheel in an environment of its own, in a folder that is not the repository: what `make wheel` ends with.

    python tests/try_wheel.py WHEEL

The environment sees the packages of the one that runs this, and of align the wheel alone: no other file of it is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
SMALL = (
    "rounds=1",
    "policy.sft.max_steps=20",
    "generate.prompts_per_round=16",
    "train.steps_per_round=2",
    "train.per_device_train_batch_size=8",
    "evaluate.num_prompts=16",
)
WHERE = (
    "import align_cli, align_cli.reference as made; print(align_cli.__file__); [page() for page in made.PAGES.values()]"
)


def main(wheel: Path) -> None:
    """Install it, and do what a first user does."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, environment = Path(scratch, "folder"), Path(scratch, "environment")
        folder.mkdir()
        shutil.copyfile(RECIPE, folder / RECIPE.name)
        programs = _installed(wheel, environment)
        found = _run(folder, programs / "python", "-P", "-c", WHERE)
        if not Path(found.splitlines()[0]).is_relative_to(environment.resolve()):
            raise SystemExit(f"not the wheel's package was tried, but {found}")
        align = programs / "align"
        _run(folder, align, "--help")
        _run(folder, align, "check", RECIPE.name)
        _run(folder, align, "check", RECIPE.name, "preset=sail-dpr", "--quick")
        _run(folder, align, "train", RECIPE.name, *SMALL)
        if not (folder / "runs/quickstart/report.html").is_file():
            raise SystemExit("the run left no report")


def _installed(wheel: Path, environment: Path) -> Path:
    """Where the programs of an environment are that has the wheel."""
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = _run(environment, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    _run(environment, *pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel.resolve()))
    return python.parent


def _run(folder: Path, *command: str | Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
