"""What the section of every labeler has, whatever its kind."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section

Gives = Literal["scores", "verdicts"]
"""What a labeler answers with: a score for each completion, or a verdict on a pair of them."""


class LabelerSection(Section):
    """A labeler of any kind.

    Attributes:
        FREE_KEYS: those that may change under a run: they decide how fast, by which way or at which cost, not what.
        COSTS: whether asking it may cost money, so that it is asked for nothing but what the recipe asks of it.
    """

    FREE_KEYS: ClassVar[tuple[str, ...]] = ("batch_size",)
    COSTS: ClassVar[bool] = False

    kind: str = Field(description="what gives the labels")

    @property
    def gives(self) -> Gives:
        """What it answers with."""
        return "scores"

    @property
    def is_relative(self) -> bool:
        """Whether its scores say something only beside others that were given together, and nothing of other rounds."""
        return False

    @property
    def num_requests(self) -> int:
        """Requests, or samples of the policy, that one question takes, where none is repeated; 0 for what runs here."""
        return 0

    def code(self) -> dict[str, str]:
        """The Python that it runs, by key: `package.module:name` or `path/to/file.py:name`."""
        return {}

    def files(self) -> dict[str, str]:
        """The files that it reads, by key; a kind that reads others than its code's adds them."""
        files = {key: place.rpartition(":")[0] for key, place in self.code().items()}
        return {key: file for key, file in files.items() if file.endswith(".py")}

    def names_of_files(self) -> dict[str, list[str]]:
        """The names that a key may have in the place of a file: of those that come with align, by key."""
        return {}

    def asks(self) -> list[str]:
        """The labelers that it asks in its turn, by name."""
        return []

    def artifacts(self) -> tuple[str, ...]:
        """What of the run's own round 0 it reads, by the artifact's name."""
        return ()
