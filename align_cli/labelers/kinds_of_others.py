"""Labelers of kinds that are not align's own: what goes wrong in their code is told with its own traceback.

An installed package brings a kind (`recipe/sections/labelers`); its class is made and asked here, within `contained`,
as a function of the user's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pkgutil import resolve_name

from align_cli.errors import AlignError, LabelerError
from align_cli.labelers.base import Labeler
from align_cli.labelers.contained import UserCodeError, contained, own_traceback
from align_cli.recipe.sections.labelers import LabelerSection

OWN = "align_cli."
NEEDED = {"name": str, "batch_size": int}
"""What a labeler has to have once it is made."""


def made_elsewhere(name: str, place: str, section: LabelerSection, note: Callable[[str], None]) -> Labeler:
    """The labeler of a kind that is not align's own.

    Args:
        name: the labeler's name in the recipe.
        place: `package.module:name` of its class.
        section: its section.
        note: told what a user should know, and what of the run's surroundings its code changes.

    Raises:
        LabelerError: if there is no such class, if making it raised, or if what was made is no labeler.
    """
    with _told(name, f"making it, {place}, raised", note):
        labeler = resolve_name(place)(name, section, note)
    if not isinstance(labeler, Labeler):
        what = f"{place} made {type(labeler).__name__}; it must make a Scorer or a Comparer"
        raise LabelerError(what, where=f"labelers.{name}", hint="let its class inherit from align_cli.labelers.Scorer")
    for attribute, kind in NEEDED.items():
        if not isinstance(getattr(labeler, attribute, None), kind):
            what = f"{place} made a labeler whose {attribute} is no {kind.__name__}"
            raise LabelerError(what, where=f"labelers.{name}", hint=f"set self.{attribute} in its __init__")
    labeler.is_of_others = True
    return labeler


@contextmanager
def telling_faults(labeler: Labeler, doing: str) -> Iterator[None]:
    """What a labeler raises is its fault, if its kind is not align's own; a bug of align's keeps its traceback.

    Args:
        labeler: whose code is called.
        doing: what it does, as `comparing`.

    Raises:
        LabelerError: if it raised.
    """
    if not labeler.is_of_others:
        yield
        return
    with _told(labeler.name, f"{doing} raised", lambda name: None):
        yield


@contextmanager
def _told(name: str, what: str, note: Callable[[str], None]) -> Iterator[None]:
    def changed(surrounding: str) -> None:
        note(f"labelers.{name}: its code changed {surrounding}; after every call it is put back")

    try:
        with contained(changed):
            yield
    except UserCodeError as raised:
        if isinstance(raised.error, AlignError):  # in words already
            raise raised.error from None
        snippet = own_traceback(raised.error)
        raise LabelerError(what, where=f"labelers.{name}", snippet=snippet) from None
