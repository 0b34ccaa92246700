"""What labelers say of completions and pairs, each batch kept as it comes: a stage that was killed asks for none twice.

Whoever asks need not know what kind of labeler it is: scores become verdicts where verdicts are wanted, and a labeler
that puts others together asks each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, Preference, Text
from align_cli.data.thinking import without_thinking
from align_cli.labelers import Comparer, Labeler, Scorer
from align_cli.labelers.checked import checked_scores, checked_verdicts
from align_cli.labelers.combination import Combination
from align_cli.labelers.kinds_of_others import telling_faults
from align_cli.stages.base import Measure, NoWork, Progress, Work

ItemType = TypeVar("ItemType")
ValueType = TypeVar("ValueType", float, float | None, tuple[float, float])
Pair = tuple[Completion, Completion]


class Opinions(NamedTuple):
    """What a labeler says of some items.

    Args:
        values: a score for each completion, or for each pair the probability in [0, 1] that the first is better; None
            where it says nothing.
        figures: what each labeler that was asked has to say of its work, by name; those that say nothing left out.
        members: of a labeler that puts others together, what each of them says, by name.
    """

    values: list[float | None]
    figures: dict[str, dict[str, float]]
    members: dict[str, list[float | None]]


@dataclass(frozen=True)
class Asking:
    """How a stage asks labelers.

    Args:
        progress: told of everything that is asked.
        work: where answers are kept as they come.
        thinking: whether labelers see the thinking blocks of completions.
    """

    progress: Progress
    work: Work = field(default_factory=NoWork)
    thinking: Literal["keep", "strip"] = "keep"

    def scores(self, labeler: Labeler, completions: Sequence[Completion], name: str) -> Opinions:
        """The score of each completion, by a labeler that gives scores.

        Args:
            labeler: whom to ask.
            completions: what to score.
            name: of the journal; unique in the stage. Those of members stand behind a dot, which no labeler's name has.
        """
        if isinstance(labeler, Combination):
            return self._combined(labeler, [self.scores(one, completions, f"{name}.{one.name}") for one in labeler])
        assert isinstance(labeler, Scorer)  # a rule of the recipe's

        def score(batch: Sequence[Completion]) -> Sequence[float | None]:
            prompts, places = [one.prompt for one in batch], [one.prompt_index for one in batch]
            with telling_faults(labeler, "scoring"):
                found = labeler.score(prompts, [self._shown(one) for one in batch], places)
            return checked_scores(labeler.name, found, len(batch))

        length = num_sequence_tokens if labeler.by_length else None

        def ask(asked: Sequence[Completion], journal: str) -> Opinions:
            return self._asked(labeler, asked, "completions", score, journal, length)

        # A journal of their own: what an older one holds was asked for each completion.
        distinct = partial(ask, journal=f"{name}.distinct")
        return self._once(completions, distinct) if labeler.scores_once else ask(completions, name)

    def verdicts(self, labeler: Labeler, pairs: Sequence[Pair], name: str) -> Opinions:
        """For each pair the probability that its first completion is better, by any labeler.

        Args:
            labeler: whom to ask; of two scores the higher one wins.
            pairs: of completions to one prompt each.
            name: of the journal; unique in the stage.
        """
        if isinstance(labeler, Combination) and labeler.gives_verdicts:
            return self._combined(labeler, [self.verdicts(one, pairs, f"{name}.{one.name}") for one in labeler])
        if isinstance(labeler, Comparer):

            def compare(batch: Sequence[Pair]) -> Sequence[float | None]:
                prompts, places = [one.prompt for one, _ in batch], [one.prompt_index for one, _ in batch]
                firsts, seconds = ([self._shown(pair[side]) for pair in batch] for side in (0, 1))
                with telling_faults(labeler, "comparing"):
                    found = labeler.compare(prompts, firsts, seconds, places)
                return checked_verdicts(labeler.name, found, len(batch))

            return self._asked(labeler, pairs, "pairs", compare, name, None)
        each = list({id(one): one for pair in pairs for one in pair}.values())
        scored = self.scores(labeler, each, name)
        score = dict(zip(map(id, each), scored.values, strict=True))
        return scored._replace(values=[higher_wins(score[id(one)], score[id(other)]) for one, other in pairs])

    def _asked(
        self,
        labeler: Labeler,
        items: Sequence[ItemType],
        unit: str,
        measure: Callable[[Sequence[ItemType]], Sequence[float | None]],
        name: str,
        length: Callable[[ItemType], int] | None,
    ) -> Opinions:
        self.progress.start(len(items), unit)
        counts: Counter[str] = Counter()
        with self.work.journal(name) as journal:
            for row in journal.rows:
                counts.update(row.get("counts", {}))

            def count() -> dict[str, float]:
                found = labeler.take_counts()
                counts.update(found)
                labeler.check_counts(counts)
                return found

            labeler.take_counts()  # of what it was asked before and nobody kept
            values = kept_values(items, labeler.batch_size, measure, self.progress, journal, length, count)
        figures = labeler.figures(counts)
        return Opinions(values, {labeler.name: figures} if figures else {}, {})

    def _once(self, completions: Sequence[Completion], ask: Callable[[Sequence[Completion]], Opinions]) -> Opinions:
        """One score for all completions that read the same."""
        read = [to_json([one.prompt, self._shown(one)]) for one in completions]
        firsts: dict[str, Completion] = {}
        for text, one in zip(read, completions, strict=True):
            firsts.setdefault(text, one)
        said = ask(list(firsts.values()))
        score_of = dict(zip(firsts, said.values, strict=True))
        return said._replace(values=[score_of[text] for text in read])

    def _combined(self, labeler: Combination, said: Sequence[Opinions]) -> Opinions:
        members = {one.name: opinions.values for one, opinions in zip(labeler, said, strict=True)}
        figures = {name: figures for opinions in said for name, figures in opinions.figures.items()}
        return Opinions(labeler.combine(members), figures, members)

    def _shown(self, completion: Completion) -> Text:
        return completion.completion if self.thinking == "keep" else without_thinking(completion.completion)


def higher_wins(score: float | None, other: float | None) -> float | None:
    """The verdict that two scores come to: 1, 0, or one half where they are equal; None where one lacks."""
    if score is None or other is None:
        return None
    return 0.5 if score == other else float(score > other)


def kept_values(
    items: Sequence[ItemType],
    batch_size: int,
    measure: Callable[[Sequence[ItemType]], Sequence[ValueType]],
    progress: Progress,
    journal: Journal,
    length: Callable[[ItemType], int] | None = None,
    count: Callable[[], Mapping[str, float]] = dict,
) -> list[ValueType]:
    """A number, or two, for each item, batch by batch; those of the journal are not asked for again.

    The batches are the same whether it was interrupted or not.

    Args:
        items: what is measured.
        batch_size: items measured together.
        measure: one finite number, or two, for each item of a batch, or None.
        progress: told of every item; the caller has said how many there are.
        journal: what was measured before an interruption, and where each batch is kept.
        length: of an item; those of a length go together, the longest first, so that padding is short and memory runs
            out at once or not at all. None for the order that they come in.
        count: what is to be kept of each batch besides its values.
    """
    order = list(range(len(items)))
    if length is not None:
        order.sort(key=lambda index: -length(items[index]))
    values: list[ValueType] = [value for row in journal.rows for value in row["values"]]
    progress.found(len(values))
    for start in range(len(values), len(items), batch_size):
        found = list(measure([items[index] for index in order[start : start + batch_size]]))
        values += found
        counts = dict(count())
        journal.append([{"values": found, **({"counts": counts} if counts else {})}])
        progress.advance(len(found))
    return [value for _, value in sorted(zip(order, values, strict=True), key=lambda placed: placed[0])]


def measured(
    items: Sequence[ItemType],
    batch_size: int,
    measure: Measure,
    progress: Progress,
    journal: Journal,
    length: Callable[[ItemType], int],
) -> list[float]:
    """As `kept_values`, with a batch for each process at a time; the batches are those of one process."""
    together = batch_size * measure.ways
    return kept_values(items, together, lambda some: measure(some, batch_size), progress, journal, length)


def num_sequence_tokens(completion: Completion) -> int:
    """Of its prompt and itself."""
    return len(completion.prompt_ids) + completion.num_tokens


def num_pair_tokens(pair: Preference) -> int:
    """Of its prompt and the longer of its two responses."""
    return len(pair.prompt_ids or ()) + max(len(pair.chosen_ids or ()), len(pair.rejected_ids or ()))


NUM_PROBES = 2
"""Prompts that a labeler looks at before anything is made or written."""


def check_labelers(labelers: Iterable[Labeler], rows: Sequence[Mapping[str, Any]]) -> None:
    """Let labelers find out what is wrong with them, so that a broken one is known before hours of sampling.

    Raises:
        LabelerError: if one will not work.
    """
    for labeler in labelers:
        with telling_faults(labeler, "its check"):
            labeler.check([row["prompt"] for row in rows[:NUM_PROBES]])
