"""A run's folder: its rooms, one file each, and what takes more than one of them.

layout      names and places; nothing is followed out of the folder
lock        one process works on a run
manifests   what is finished, and that it is what was written
ledger      events with their times, for people
lineage     where the run was forked from
set_aside   the run that `--restart` puts out of the way
work        what a step has done so far
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align_cli.artifacts.files import TEMPORARY_SUFFIX, remove, write_text
from align_cli.errors import RunError
from align_cli.recipe import Recipe, differences, load_recipe, resolved
from align_cli.recipe.checking.files import near_file
from align_cli.run.folder.begun import Begun
from align_cli.run.folder.layout import ANSWERS, LEDGER, LINEAGE, LOCK, RECIPE, ROUNDS, RUN, TRACKING, WORK, Layout
from align_cli.run.folder.ledger import Ledger
from align_cli.run.folder.lineage import Lineage
from align_cli.run.folder.lock import Lock
from align_cli.run.folder.manifests import Manifests
from align_cli.run.folder.set_aside import STEM, SetAside
from align_cli.run.folder.work import WorkInProgress, remove_work_but, work_name
from align_cli.run.plan import Step

RECIPE_REMEDY = (
    "restore it from a copy, or run `align train` with your own recipe and rounds raised: it is written anew"
)


class RunFolder:
    """The folder of one run.

    Args:
        path: the recipe's `output_dir`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.layout = Layout(self.path)
        self.lock = Lock(self.path, self.path / LOCK)
        self.manifests = Manifests(self.layout, self.lock.check)
        self.begun = Begun(lambda: self._held_file(RUN))
        self.ledger = Ledger(lambda: self._held_file(LEDGER))
        self.lineage = Lineage(self.layout)
        self.set_aside = SetAside(self.layout, self.lock.check)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.begun.is_there

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; what other processes have written until then, or left when they were killed, is seen.

        Raises:
            RunError: if another process holds it.
        """
        with self.lock.held():
            self._forget()
            self.set_aside.recover(
                has_begun=lambda: self.exists, has_finished_a_step=lambda: bool(self.manifests.rounds())
            )
            self._forget()
            for name in (RECIPE, RUN, LINEAGE):
                remove(self.path / f"{name}{TEMPORARY_SUFFIX}")
            yield

    def check_usable(self) -> None:
        """Refuse a folder that holds something else than a run.

        Raises:
            RunError: if it does.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError("output_dir is a file", where=str(self.path), hint="choose another output_dir")
        self.layout.folder(TRACKING)
        self.layout.folder(ANSWERS)
        if self.path.is_dir() and not self.exists and not self.set_aside.is_there:
            self._check_not_lost()
            begun = (LINEAGE, ROUNDS) if self.layout.file(LINEAGE).is_file() else ()  # a fork that was killed
            # A single command may have trained here with a tracker, or asked a judge.
            ours = (*begun, TRACKING, ANSWERS)
            names = (entry.name for entry in self.path.iterdir())
            strangers = sorted(name for name in names if name not in ours and not _is_leftover(name))
            if strangers:
                raise RunError(
                    f"output_dir holds files that are no run: {', '.join(strangers[:3])}",
                    where=str(self.path),
                    hint="choose an empty or a new output_dir",
                )

    def check_is_run(self) -> None:
        """Refuse a folder that holds no run, or no longer all that makes one.

        Raises:
            RunError: if it does not.
        """
        if not self.exists and self.set_aside.is_there:
            raise RunError(
                "a process was killed while it put this run aside or brought it back",
                where=str(self.path),
                hint="`align train` with its recipe puts it in its place again",
            )
        if not self.exists:
            self._check_not_lost()
            if self.path.exists():
                what, hint = "there is no run in this folder", "give a recipe's output_dir"
            else:
                what, hint = "there is no such folder", f"give a recipe's output_dir; {near_file(str(self.path))}"
            raise RunError(what, where=str(self.path), hint=hint)
        if not self.layout.file(RECIPE).is_file():
            raise RunError("the run's recipe is missing", where=str(self.path / RECIPE), hint=RECIPE_REMEDY)

    def recipe(self) -> Recipe:
        """The recipe as it was written down; checked against what the finished stages say they were made from.

        Raises:
            RecipeError: if it cannot be read.
            RunError: if there is none, or if it is not the one that the rounds were made from.
        """
        self.check_is_run()
        recipe = load_recipe(self.layout.file(RECIPE), check_files=False)
        tree = resolved(recipe)
        for number in self.manifests.rounds():
            tree = resolved(recipe.of_round(number)) if recipe.method.schedule else tree
            for stage, record in self.manifests.of_round(number)["stages"].items():
                made_from = record["inputs"]["recipe"]
                found = differences(made_from, _shared(tree, made_from))
                if found and not self.lineage.inherits(number):
                    raise RunError(
                        f"this is not the recipe that round {number} {stage} was made from: "
                        + "; ".join(f"{change.key} was {change.old!r} and is now {change.new!r}" for change in found),
                        where=str(self.path / RECIPE),
                        hint=RECIPE_REMEDY,
                    )
        return recipe

    def begin(self, recipe_yaml: str, seed: int) -> None:
        """Write down what is run, if it is not yet written so."""
        if not self.exists:
            self.begun.write(seed)
        path = self._held_file(RECIPE)
        if not path.is_file() or path.read_bytes() != recipe_yaml.encode():
            write_text(path, recipe_yaml)

    def put_aside(self) -> None:
        """Make room for a new run."""
        if self.exists or self.set_aside.is_there:
            self.set_aside.put()
        else:
            self.drop_interrupted_fork()
        self._forget()

    def bring_back(self) -> None:
        """Undo `put_aside`, and remove what the new run has written since."""
        self.set_aside.bring_back()
        self._forget()

    def drop_interrupted_fork(self) -> None:
        """Remove what a fork that was killed has taken over so far."""
        self.lock.check()
        if not self.exists and self.lineage.origin is not None:
            remove(self.layout.inside(ROUNDS))
            self.lineage.remove()
        self._forget()

    def work(self, step: Step, inputs: Mapping[str, Any]) -> WorkInProgress:
        """The work in progress of a step with these inputs."""
        return WorkInProgress(self.layout.inside(WORK, work_name(step)), inputs, self.lock.check)

    def remove_work_but(self, steps: Collection[Step]) -> None:
        """Remove what is left of steps that were finished when a process was killed; the work of these steps stays."""
        remove_work_but(self.layout.inside(WORK), steps)

    @property
    def has_work(self) -> bool:
        """Whether a killed process has left work."""
        return self.layout.inside(WORK).exists()

    def _forget(self) -> None:
        self.manifests.forget()
        self.lineage.forget()
        self.begun.forget()

    def _held_file(self, name: str) -> Path:
        self.lock.check()
        return self.layout.file(name)

    def _check_not_lost(self) -> None:
        """Tell a run that has lost its run.json from a folder that never held one."""
        if self.layout.file(RECIPE).is_file() and self.manifests.rounds():
            raise RunError(
                "the file is missing; without it this folder is no run",
                where=str(self.path / RUN),
                hint="restore it from a copy, or choose another output_dir",
            )


def _is_leftover(name: str) -> bool:
    """Whether a killed command of ours may have left this behind before its run began."""
    return name == LOCK or name.startswith(STEM) or name.endswith(TEMPORARY_SUFFIX)


def _shared(tree: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tree of settings, the keys that another one has too."""
    return {
        name: _shared(tree[name], value) if isinstance(value, dict) and isinstance(tree[name], dict) else tree[name]
        for name, value in wanted.items()
        if name in tree
    }
