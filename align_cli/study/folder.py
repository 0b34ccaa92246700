"""A study on disk.

    study.yaml               what is studied: recipe, overrides, axes, seeds
    runs/NAME/seed-N/        a run's folder as any other
    logs/NAME/seed-N.txt     what its process said
    results.json             what the finished runs say; the same runs make the same bytes
    table.csv  runs.csv      the same as numbers: one row a combination, one row an evaluation
    costs.json               what the runs took, which is another time on another machine
    tables.md                the command, and the tables of the terminal in Markdown
    *.svg  *.png             pictures

`study.yaml` and the recipes of the runs tell another study from this one with more seeds or values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from align_cli.artifacts.files import TEMPORARY_SUFFIX, write_text
from align_cli.errors import AlignError, Fault, RunError
from align_cli.recipe import to_yaml
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import LOCK
from align_cli.run.folder.lock import Lock
from align_cli.run.plan import plan_steps
from align_cli.run.standing import OtherRunError, remaining_steps
from align_cli.study import STUDY
from align_cli.study.definition import Definition, RunOfStudy

RUNS, LOGS, RESULTS, COSTS = "runs", "logs", "results.json", "costs.json"
TABLE, EVALUATIONS, PAGE = "table.csv", "runs.csv", "tables.md"
OTHER_HINT = "choose another folder (-o) for this study, or ask for what the folder was begun with"


class StudyFolder:
    """The folder of one study.

    Args:
        path: what `-o` names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = Lock(path, path / LOCK, "study")

    def run(self, run: RunOfStudy) -> Path:
        """A run's folder."""
        return self.path / RUNS / run.combination.name / f"seed-{run.seed}"

    def log(self, run: RunOfStudy) -> Path:
        """What a run's process says."""
        return self.path / LOGS / run.combination.name / f"seed-{run.seed}.txt"

    def check_usable(self, definition: Definition) -> None:
        """Refuse a folder that holds something else than this study, or than less of it.

        Raises:
            AlignError: if it does; names what differs.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError("this is a file, where a study's folder should be", where=str(self.path), hint=OTHER_HINT)
        if not self.path.is_dir():
            return
        if not (self.path / STUDY).is_file():
            leftovers = (LOCK, f"{STUDY}{TEMPORARY_SUFFIX}")
            strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in leftovers)
            if strangers:
                what = f"the folder holds files that are no study: {', '.join(strangers[:3])}"
                raise RunError(what, where=str(self.path), hint="choose an empty or a new folder (-o)")
            return
        self._check_same_study(definition)
        self._check_same_runs(definition)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: a second process on the same study is refused."""
        with self.lock.held():
            yield

    def write_definition(self, definition: Definition) -> None:
        """Write down what is studied, if it is not yet written so."""
        path, text = self.path / STUDY, to_yaml(described(definition))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def others(self, runs: Iterable[RunOfStudy]) -> list[str]:
        """Runs that lie in the folder besides these, by their names."""
        known = {run.name for run in runs}
        found = (path.relative_to(self.path / RUNS).as_posix() for path in (self.path / RUNS).glob("*/seed-*"))
        return sorted(name for name in found if name not in known)

    def _check_same_study(self, definition: Definition) -> None:
        place, before = str(self.path / STUDY), read_study(self.path / STUDY)
        keys, for_tuning = list(before["over"]), before["for_tuning"]
        wanted = [axis.key for axis in definition.axes]
        if keys != wanted:
            what = f"this folder holds another study: it goes over {_listed(keys)}, and not over {_listed(wanted)}"
            raise RunError(what, where=place, hint=OTHER_HINT)
        if for_tuning != definition.for_tuning:
            purpose = "a study for tuning (--tune)" if for_tuning else "a study that is not for tuning"
            hint = "report on a folder and on seeds of its own"
            raise RunError(f"this folder holds {purpose}", where=place, hint=hint)

    def _check_same_runs(self, definition: Definition) -> None:
        faults: dict[str, Fault] = {}
        for run in definition.runs:
            folder = RunFolder(self.run(run))
            recipe = definition.recipe_of(run, folder.path)
            try:
                if folder.exists:
                    remaining_steps(folder, recipe, plan_steps(recipe))
            except OtherRunError as error:
                fault = error.faults[0]
                what = fault.what.replace("this folder holds another run", "this folder holds another study")
                faults.setdefault(fault.what, Fault(what, fault.where, OTHER_HINT))
            except AlignError:
                continue  # what is damaged its own process will tell, and the other runs go on
        if faults:
            raise AlignError.of(list(faults.values()))


def runs_of_study(path: Path) -> list[Path] | None:
    """The folders of a study's runs that have begun, by name; None where there is no study.

    Raises:
        RunError: if none has begun.
    """
    if not (path / STUDY).is_file():
        return None
    found = sorted(folder for folder in (path / RUNS).glob("*/seed-*") if RunFolder(folder).exists)
    if not found:
        raise RunError("no run of this study has begun", where=str(path), hint="`align study` begins them")
    return found


def read_study(path: Path, remedy: str = OTHER_HINT) -> dict[str, Any]:
    """What is studied, as `described` has it.

    Args:
        path: its file.
        remedy: what to do where it does not say it.

    Raises:
        RunError: if it does not.
    """
    try:
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        lists = [told["overrides"], told["seeds"], *told["over"].values()]
        is_whole = all(isinstance(one, list) for one in lists) and all(isinstance(seed, int) for seed in told["seeds"])
        if is_whole and all(lists[1:]) and isinstance(told["for_tuning"], bool) and isinstance(told["recipe"], str):
            return dict(told)
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        pass
    raise RunError("it does not say what is studied here", where=str(path), hint=remedy)


def described(definition: Definition) -> dict[str, Any]:
    """What is studied, as plain data."""
    return {
        "recipe": str(definition.recipe),
        "overrides": list(definition.overrides),
        "over": {axis.key: list(axis.values) for axis in definition.axes},
        "seeds": list(definition.seeds),
        "for_tuning": definition.for_tuning,
    }


def _listed(keys: list[str]) -> str:
    return ", ".join(keys) or "no key"
