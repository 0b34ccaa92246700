"""The labeler `person`: somebody who reads two answers and says which is better.

It asks nobody by itself. Whoever can ask, as `align label` at a terminal, is handed in as its `asker`. Without one, or
where the asker comes back before all is said, the pairs that nobody has judged wait: the stage stops, and goes on once
they have verdicts, which are kept by content (`verdicts`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from align_cli.artifacts.records import Text
from align_cli.errors import Fault, LabelerError
from align_cli.labelers.base import Comparer
from align_cli.labelers.verdicts import Pair, Verdicts, as_read
from align_cli.recipe.sections.labelers.person import PersonLabelerSection


class Asker(Protocol):
    """Has people judge pairs: at a terminal, by files, or in any other way."""

    def __call__(self, pairs: Sequence[Pair], verdicts: Verdicts) -> None:
        """Ask about pairs that differ; each verdict is kept as it comes. It may come back before all are judged.

        Args:
            pairs: all that the stage needs, each once, those with verdicts too.
            verdicts: what was said so far, and where more is kept.
        """
        ...


class PairsWaitError(LabelerError):
    """Pairs that nobody has judged yet; what was said of the others is kept.

    Attributes:
        labeler: the labeler's name in the recipe.
        num_waiting: how many pairs wait.
    """

    labeler: str = ""
    num_waiting: int = 0

    @classmethod
    def for_labeler(cls, labeler: str, num_waiting: int, num_pairs: int) -> PairsWaitError:
        """Of so many pairs so many wait."""
        what = f"{num_waiting} of {num_pairs} pairs wait for a person's verdict"
        error = cls(what, where=f"labelers.{labeler}", hint="label them with `align label`")
        error.labeler, error.num_waiting = labeler, num_waiting
        return error

    def with_hint(self, hint: str) -> PairsWaitError:
        """The same with another remedy."""
        fault = self.faults[0]
        self.faults = (Fault(fault.what, fault.where, hint),)
        self.args = (str(self.faults[0]),)
        return self


class PersonLabeler(Comparer):
    """Says what people said of pairs.

    Args:
        name: the labeler's name in the recipe.
        section: nothing that it needs.
        note: not told anything.

    Attributes:
        asker: who has people judge what nobody has; None where nobody can be asked.
    """

    batch_size = sys.maxsize
    """All at once: whoever asks wants to say how many there are, and to have them in an order of its own."""

    asker: Asker | None = None

    def __init__(
        self, name: str, section: PersonLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name = name
        self._counts: Counter[str] = Counter()

    def check(self, prompts: Sequence[Text]) -> None:
        """There is nothing that could be wrong with a person."""

    def compare(
        self,
        prompts: Sequence[Text],
        firsts: Sequence[Text],
        seconds: Sequence[Text],
        prompt_indices: Sequence[int] | None = None,
    ) -> list[float | None]:
        """The mean verdict on each pair; one half, and nobody is asked, where both answers read the same.

        Raises:
            PairsWaitError: if nobody has judged some of them.
        """
        pairs = [Pair.of(*texts) for texts in zip(prompts, firsts, seconds, strict=True)]
        to_judge = list(dict.fromkeys(pair for pair in pairs if not pair.is_alike))
        verdicts = Verdicts(self.answers)
        if self.asker is not None and to_judge:
            self.asker(to_judge, verdicts)
        num_waiting = sum(not verdicts.of(pair) for pair in to_judge)
        if num_waiting:
            raise PairsWaitError.for_labeler(self.name, num_waiting, len(to_judge))
        self._counts = Counter(_figures(to_judge, verdicts))
        return [_verdict(pair, first, verdicts) for pair, first in zip(pairs, firsts, strict=True)]

    def take_counts(self) -> dict[str, float]:
        """Of the last pairs; there is one batch a stage, so that nothing is added up."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)


def _verdict(pair: Pair, first: Text, verdicts: Verdicts) -> float | None:
    """The probability that this answer of the pair is the better one."""
    if pair.is_alike:
        return 0.5
    mean = verdicts.mean(pair)
    return mean if mean is None or as_read(first, "assistant") == pair.first else 1 - mean


def _figures(pairs: Sequence[Pair], verdicts: Verdicts) -> dict[str, float]:
    """For the round: pairs and people, ties, skips, the share of winners on the left, and how far two people agree."""
    names = {name for pair in pairs for name in verdicts.of(pair)}
    means = [verdicts.mean(pair) for pair in pairs]
    figures: dict[str, float] = {
        "pairs": len(pairs),
        "annotators": len(names),
        "ties": means.count(0.5),
        "skipped": means.count(None),
    }
    left_share = verdicts.left_share(pairs)
    if left_share is not None:
        figures["left_share"] = left_share
    for (one, other), found in verdicts.agreements(pairs).items():
        both = f"{one}, {other}"
        figures |= {f"judged by {both}": found.num_items, f"agreement of {both}": found.agreement}
        if found.kappa is not None and found.kappa_interval is not None:
            low, high = found.kappa_interval
            figures |= {f"kappa of {both}": found.kappa, f"kappa_low of {both}": low, f"kappa_high of {both}": high}
    return figures
