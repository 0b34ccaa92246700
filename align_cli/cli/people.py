"""`align label` where a person labels: at the terminal, or by a CSV file that goes out and comes back."""

from __future__ import annotations

import getpass
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from align_cli.cli.output import Output
from align_cli.errors import counted
from align_cli.labelers.person import PairsWaitError
from align_cli.labelers.verdicts import Pair, Said, Verdicts

if TYPE_CHECKING:
    from align_cli.artifacts.records import Completion
    from align_cli.recipe import Recipe
    from align_cli.run.single import Made

NOBODY = "person"
"""An annotator where the system knows no login name."""
LONGEST_NAME = 60


class _DoneError(Exception):
    """What was asked for is done; the label stage need not go on."""


BY_CSV = "or let people label elsewhere: --export pairs.csv writes a table, --import pairs.csv takes its verdicts in"


class Wishes(NamedTuple):
    """How people are asked.

    Args:
        annotator: the name of who judges; None for the login name.
        with_skipped: whether they are asked again about what they have skipped.
        export: a new CSV file for the pairs that wait.
        taken_in: a CSV file that was filled in.
    """

    annotator: str | None = None
    with_skipped: bool = False
    export: Path | None = None
    taken_in: Path | None = None

    @property
    def any(self) -> bool:
        """Whether something is wished for that only people understand."""
        return self != Wishes()

    @property
    def is_of_files(self) -> bool:
        """Whether nobody is asked here."""
        return self.export is not None or self.taken_in is not None


def people_asked(recipe: Recipe) -> list[str]:
    """The labelers of kind `person` that label the policy's responses, by name."""
    from align_cli.recipe.sections.labelers import PERSON

    source = recipe.method.sources.dpr
    if source is None or not source.mixing or source.labeler is None:
        return []
    asked = [source.labeler, *recipe.labelers[source.labeler].asks()]
    return [name for name in asked if recipe.labelers[name].kind == PERSON]


def check_wishes(wishes: Wishes, people: Sequence[str]) -> None:
    """Refuse options that do not go together.

    Args:
        wishes: what the command line says.
        people: the labelers of kind `person` that the recipe asks, by name.

    Raises:
        BadParameter: if they do not.
    """
    if wishes.any and not people:
        what = "--annotator, --skipped, --export and --import are for labelers of kind person; add --labeler person"
        raise typer.BadParameter(what)
    if wishes.export is not None and wishes.taken_in is not None:
        raise typer.BadParameter("--export and --import are two commands")
    if wishes.is_of_files and len(people) > 1:
        names = " or ".join(f"--labeler {name}" for name in people)
        raise typer.BadParameter(f"the labeler asks several people; a file is one's: add {names}")
    if wishes.annotator is not None and not _is_name(wishes.annotator):
        raise typer.BadParameter(f"--annotator is a name of 1 to {LONGEST_NAME} printable characters")


def label_with_people(
    talk: Output,
    recipe: Recipe,
    completions: Sequence[Completion],
    policy: Path | None,
    wishes: Wishes,
    *,
    is_wanted: bool,
) -> Made | None:
    """The label stage, with people asked first; None where pairs are left that nobody has judged, or it is not wanted.

    Args:
        talk: where it is told what happened.
        recipe: the whole recipe.
        completions: what to pair.
        policy: the policy that labels its own responses, where a source asks for that.
        wishes: how people are asked.
        is_wanted: whether anything is done with what the stage makes.

    Raises:
        PairsWaitError: if nobody can be asked here, and nobody has been.
        DataError: for a CSV file that cannot be used.
    """
    from align_cli.cli.reporters import PlainReporter
    from align_cli.run.single import label_once

    asking = _Asking(talk, wishes, is_wanted)
    try:
        labelled = label_once(recipe, completions, policy, PlainReporter(talk.note), asking)
    except _DoneError:
        return None
    except PairsWaitError as waiting:
        if not asking.was_possible:
            hint = f"name the completions with -i, and run it where standard input and error are a terminal; {BY_CSV}"
            raise waiting.with_hint(hint) from None
        asking.tell_how_to_go_on(waiting)
        return None
    if not is_wanted:
        talk.note(_what_is_next(0))
        return None
    return labelled


class _Asking:
    """Asks in the way that is wished for, and tells what came of it."""

    def __init__(self, talk: Output, wishes: Wishes, is_wanted: bool) -> None:
        self.was_possible = True
        self._talk, self._wishes, self._is_wanted = talk, wishes, is_wanted
        self._annotator = wishes.annotator or _login_name()

    def __call__(self, pairs: Sequence[Pair], verdicts: Verdicts) -> None:
        if self._wishes.export is not None:
            self._export(self._wishes.export, pairs, verdicts)
        elif self._wishes.taken_in is not None:
            self._take_in(self._wishes.taken_in, pairs, verdicts)
        else:
            self._ask(pairs, verdicts)
        for line in agreement_in_words(verdicts, pairs):
            self._talk.note(line)
        if self._wishes.is_of_files and not self._is_wanted:
            num_waiting = sum(not verdicts.of(pair) for pair in pairs)
            if self._wishes.taken_in is not None:
                self._talk.note(_what_is_next(num_waiting))
            raise _DoneError

    def tell_how_to_go_on(self, waiting: PairsWaitError) -> None:
        again = shlex.join(["align", *sys.argv[1:]])
        if self._wishes.is_of_files:
            self._talk.note(_what_is_next(waiting.num_waiting))
        else:
            waits = counted(waiting.num_waiting, "pair waits", "pairs wait")
            self._talk.note(f"{waits} for a verdict; what was judged is kept, to go on: {again}")

    def _ask(self, pairs: Sequence[Pair], verdicts: Verdicts) -> None:
        from align_cli.cli.judging import Sitting, sit

        waiting = verdicts.waiting_for(self._annotator, pairs, with_skipped=self._wishes.with_skipped)
        if not waiting:
            self._talk.note(f"{self._annotator} has judged all {len(pairs)} pairs")
            return
        console = self._talk.terminal()
        if console is None:
            self.was_possible = False
            return
        sitting = Sitting(waiting, len(pairs), verdicts, self._annotator)
        try:
            sit(console, sitting)
        except KeyboardInterrupt as interrupt:
            raise type(interrupt)("what was judged is kept; the same command goes on") from None
        finally:
            self._talk.note(_judged_in_words(self._annotator, pairs, verdicts))

    def _export(self, path: Path, pairs: Sequence[Pair], verdicts: Verdicts) -> None:
        from align_cli.labelers.person_csv import LONGEST_CELL, write_pairs

        waiting = verdicts.waiting_for(self._annotator, pairs, with_skipped=self._wishes.with_skipped)
        if not waiting:
            self._talk.note(f"nothing is exported: {self._annotator} has judged all {len(pairs)} pairs")
            return
        num_long = write_pairs(path, waiting, self._annotator)
        self._talk.note(
            f"{counted(len(waiting), 'pair')} in {path}: write left, right, tie or skip into the column verdict; "
            "--import takes them in"
        )
        if num_long:
            long = counted(num_long, "text is", "texts are")
            self._talk.warn(f"{long} longer than {LONGEST_CELL} characters, which Excel cuts")

    def _take_in(self, path: Path, pairs: Sequence[Pair], verdicts: Verdicts) -> None:
        from align_cli.labelers.person_csv import read_verdicts

        found = read_verdicts(path, pairs)
        before = {pair: verdicts.of(pair).get(self._annotator) for pair in found.said}
        changed = [pair for pair, (said, _) in found.said.items() if before[pair] != said]
        for pair in changed:
            verdicts.keep(pair, self._annotator, *found.said[pair])
        num_replaced = sum(before[pair] is not None for pair in changed)
        told = [f"{count} {word}" for word, count in sorted(found.counts.items())]
        parts = [f"{path}: {counted(len(found.said), 'verdict')} of {self._annotator} ({', '.join(told) or 'none'})"]
        parts += [f"{num_replaced} in the place of earlier ones"] * bool(num_replaced)
        parts += [f"{counted(found.num_empty, 'row')} without one"] * bool(found.num_empty)
        num_absent = len(pairs) - len(found.said) - found.num_empty
        parts += [f"{counted(num_absent, 'pair is', 'pairs are')} not in it"] * bool(num_absent)
        self._talk.note(", ".join(parts))


def agreement_in_words(verdicts: Verdicts, pairs: Sequence[Pair]) -> list[str]:
    """How far any two people agree, a line each."""
    lines = []
    for (one, other), found in verdicts.agreements(pairs).items():
        low, high = found.interval
        line = f"{one} and {other} agree on {found.agreement:.0%} of {found.num_items} pairs [{low:.0%}, {high:.0%}]"
        if found.kappa is not None and found.kappa_interval is not None:
            low, high = found.kappa_interval
            line += f", Cohen's kappa {found.kappa:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(line)
    return lines


def _what_is_next(num_waiting: int) -> str:
    if num_waiting:
        waits = counted(num_waiting, "pair waits", "pairs wait")
        return f"{waits} for a verdict: fill in more, and take the file in again"
    return "every pair has been judged: -o FILE writes the preferences, and `align train` goes on"


def _judged_in_words(annotator: str, pairs: Sequence[Pair], verdicts: Verdicts) -> str:
    said: Counter[Said] = Counter(word for pair in pairs if (word := verdicts.of(pair).get(annotator)) is not None)
    ties = f", {counted(said['tie'], 'of them a tie', 'of them ties')}" if said["tie"] else ""
    skipped = f", {said['skip']} skipped" if said["skip"] else ""
    num_verdicts = said.total() - said["skip"]
    return f"{annotator}: {num_verdicts} of {len(pairs)} pairs have a verdict{ties}{skipped}"


def _login_name() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # nobody's process, as in a container
        return NOBODY
    return name if _is_name(name) else NOBODY


def _is_name(name: str) -> bool:
    return bool(name.strip()) and name.isprintable() and len(name) <= LONGEST_NAME
