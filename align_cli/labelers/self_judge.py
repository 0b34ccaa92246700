"""The labeler `self_judge`: the round's policy scores its own responses, each by the mean of several sampled votes.

What it is told and how its answer is read is a judge's template for scores. It knows no engine and no policy: whoever
asks it hands in a writer for the time of its work. An answer is drawn with a seed of its question's own words, so that
it depends neither on what else is asked nor on a process that was killed, and two responses that read the same have the
same score.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

from align_cli.artifacts.records import Text
from align_cli.labelers.base import Scorer
from align_cli.labelers.judge.tally import check_unparsable, figures_of, mean_of_votes
from align_cli.labelers.judge.template import Template, read_template
from align_cli.labelers.judge.texts import text_to_read
from align_cli.recipe.sections.labelers.self_judge import SelfJudgeLabelerSection
from align_cli.seeds import derive_seed

Conversation = list[dict[str, str]]


class Written(NamedTuple):
    """What the policy wrote to a question.

    Args:
        text: its answer; empty where there was no room for one.
        num_prompt_tokens: of the question.
        num_tokens: of the answer.
        ended: by itself, at its greatest length, or not begun, since the question left no room in the policy's context.
    """

    text: str
    num_prompt_tokens: int
    num_tokens: int
    ended: Literal["stop", "length", "no room"]


class Writer(Protocol):
    """The policy of a round at work.

    Attributes:
        seed: of all that the labeler draws in the round.
    """

    seed: int

    def write(self, conversations: Sequence[Conversation], seeds: Sequence[int]) -> list[Written]:
        """An answer to each conversation, which its seed alone decides; the lists are aligned.

        Raises:
            AlignError: if the policy cannot read one.
        """
        ...


class SelfJudge(Scorer):
    """Scores completions by asking the policy that a writer has.

    Args:
        name: the labeler's name in the recipe.
        section: what the policy is told, and how it is sampled.
        note: told, once each, what a user should know.

    Attributes:
        writer: the policy at work; None but while a stage asks.
    """

    by_length = True

    def __init__(
        self, name: str, section: SelfJudgeLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name, self.batch_size = name, max(section.batch_size // section.votes, 1)
        self.writer: Writer | None = None
        self._section, self._place, self._note = section, f"labelers.{name}", note
        self._noted: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._unparsable = ""

    def check(self, prompts: Sequence[Text]) -> None:
        """Reads the template."""
        self.question("", "")

    def question(self, prompt: Text, completion: Text) -> Conversation:
        """What the policy is asked about a completion.

        Raises:
            LabelerError: if the template cannot be read, or is not sound.
        """
        return self._template.filled({"prompt": text_to_read(prompt), "completion": text_to_read(completion)})

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float | None]:
        """The mean over votes; None where no answer holds a score.

        Raises:
            AlignError: if the policy cannot read a question.
        """
        assert self.writer is not None  # the stage's business
        questions = [self.question(*asked) for asked in zip(prompts, completions, strict=True)]
        votes = [(question, vote) for question in questions for vote in range(self._section.votes)]
        seeds = [derive_seed(self.writer.seed, json.dumps(question), vote) for question, vote in votes]
        written = self.writer.write([question for question, _ in votes], seeds)
        values = list(map(self._read, written))
        self._counts["completions"] += len(questions)
        return [
            mean_of_votes(values[start : start + self._section.votes])
            for start in range(0, len(values), self._section.votes)
        ]

    def take_counts(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def check_counts(self, counts: Mapping[str, float]) -> None:
        """Looks at the share of answers without a score.

        Raises:
            LabelerError: if it is above `max_unparsable`; shows such an answer.
        """
        check_unparsable(counts, self._section.max_unparsable, self._unparsable, self._place, "max_new_tokens")

    def figures(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Answers, tokens, and the share of nonsense."""
        return figures_of(counts, None)

    def _read(self, written: Written) -> float | None:
        """The score that an answer holds; it is counted."""
        from align_cli.servers.faults import in_short  # a room that takes asyncio

        value = self._template.read(written.text)
        self._counts["answers" if value is not None else "unparsable"] += 1
        self._counts["prompt_tokens"] += written.num_prompt_tokens
        self._counts["completion_tokens"] += written.num_tokens
        if value is None:
            self._unparsable = in_short(written.text, "", 300) or "(nothing)"
            self._tell_why(written)
        return value

    def _tell_why(self, written: Written) -> None:
        why = {
            "length": "answers are cut before the score; max_new_tokens may be too low",
            "no room": "some responses leave no room for max_new_tokens in the policy's context; they get no score",
        }.get(written.ended)
        if why is not None and why not in self._noted:
            self._noted.add(why)
            self._note(f"{self._place}: {why}")

    @cached_property
    def _template(self) -> Template:
        return read_template(self._section.template, "scores", f"{self._place}.template")
