"""Numbers for items, batch by batch: those of a length together where asked, in the items' order, none asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from at_work import Told
from hypothesis import given
from hypothesis import strategies as st

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion, Text
from align_cli.errors import LabelerError
from align_cli.labelers import Comparer, Labeler, Scorer
from align_cli.labelers.combination import Combination
from align_cli.recipe.sections.labelers.combination import CombinationLabelerSection
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking, kept_values


class Measured:
    """Measures texts by their length, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[float]:
        self.batches.append(list(texts))
        return [float(len(text)) + (0.5 if text.startswith("x") else 0.0) for text in texts]


TEXTS = ["aa", "xbbbb", "c", "xdd", "eeeee"]


def test_items_of_a_length_go_together_the_longest_first() -> None:
    measure = Measured()
    values = kept_values(TEXTS, 2, measure, NoProgress(), Journal(), len)
    assert measure.batches == [["xbbbb", "eeeee"], ["xdd", "aa"], ["c"]]
    assert values == [2.0, 5.5, 1.0, 3.5, 5.0]


def test_without_lengths_they_are_measured_as_they_come() -> None:
    measure = Measured()
    assert kept_values(TEXTS, 2, measure, NoProgress(), Journal()) == [2.0, 5.5, 1.0, 3.5, 5.0]
    assert measure.batches == [["aa", "xbbbb"], ["c", "xdd"], ["eeeee"]]


@given(texts=st.lists(st.text("x", max_size=6), max_size=9), batch_size=st.integers(1, 4), done=st.integers(0, 9))
def test_what_was_measured_before_a_kill_is_not_asked_for_again(texts: list[str], batch_size: int, done: int) -> None:
    whole = Measured()
    values = kept_values(texts, batch_size, whole, NoProgress(), Journal(), len)
    before = [{"values": Measured()(batch)} for batch in whole.batches[:done]]
    journal, after = Journal(), Measured()
    journal.append(before) if before else None
    assert kept_values(texts, batch_size, after, NoProgress(), journal, len) == values
    assert after.batches == whole.batches[len(before) :]


class Counting:
    """Counts its calls and what they cost, as a labeler that pays for its answers does."""

    def __init__(self) -> None:
        self.calls, self._since = 0, 0

    def check(self, prompts: Sequence[Text]) -> None:
        """Nothing can be wrong."""

    def take_counts(self) -> dict[str, float]:
        since, self._since = self._since, 0
        return {"calls": since} if since else {}

    def figures(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"calls": counts.get("calls", 0)}

    def called(self) -> None:
        self.calls += 1
        self._since += 1


class LongerIsBetter(Counting, Comparer):
    """Says that the longer response is better; it says nothing of those of a prompt with `skip`."""

    batch_size = 2

    def __init__(self, name: str = "judge") -> None:
        super().__init__()
        self.name, self.seen = name, list[tuple[str, str]]()

    def compare(
        self,
        prompts: Sequence[Text],
        firsts: Sequence[Text],
        seconds: Sequence[Text],
        prompt_indices: Sequence[int] | None = None,
    ) -> list[float | None]:
        self.called()
        pairs = [(str(one), str(other)) for one, other in zip(firsts, seconds, strict=True)]
        self.seen += pairs
        found = [0.5 + 0.5 * ((len(one) > len(other)) - (len(one) < len(other))) for one, other in pairs]
        return [None if "skip" in str(prompt) else verdict for prompt, verdict in zip(prompts, found, strict=True)]


class Lengths(Counting, Scorer):
    """Scores a response by its length."""

    batch_size = 3

    def __init__(self, name: str = "lengths") -> None:
        super().__init__()
        self.name, self.seen = name, list[str]()

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        self.called()
        self.seen += map(str, completions)
        return [float(len(str(completion))) for completion in completions]


def together(by: str, *members: Labeler) -> Combination:
    of = {member.name: 1.0 for member in members}
    combination = Combination("both", CombinationLabelerSection(kind="combination", of=of, by=by))  # type: ignore[arg-type]
    combination.members = {member.name: member for member in members}
    return combination


@pytest.fixture
def responses(make_completion: Callable[..., Completion]) -> list[Completion]:
    texts = ["a", "bbb", "cc", "dddd", "cc"]
    return [make_completion(0, place, completion=text) for place, text in enumerate(texts)]


def pairs_of(responses: list[Completion]) -> list[tuple[Completion, Completion]]:
    return [
        (responses[0], responses[1]),
        (responses[3], responses[2]),
        (responses[2], responses[4]),
        (responses[1], responses[0]),
    ]


def test_verdicts_come_in_the_order_of_the_pairs(responses: list[Completion]) -> None:
    said = Asking(NoProgress()).verdicts(LongerIsBetter(), pairs_of(responses), "verdicts")
    assert said.values == [0.0, 1.0, 0.5, 1.0]
    assert said.figures == {"judge": {"calls": 2}}
    assert said.members == {}


def test_of_scores_the_higher_wins_and_each_response_is_scored_once(responses: list[Completion]) -> None:
    scorer = Lengths()
    said = Asking(NoProgress()).verdicts(scorer, pairs_of(responses), "verdicts")
    assert said.values == [0.0, 1.0, 0.5, 1.0]
    assert sorted(scorer.seen) == ["a", "bbb", "cc", "cc", "dddd"]


def test_each_member_is_asked_once_and_says_its_own(responses: list[Completion]) -> None:
    judge, scorer = LongerIsBetter(), Lengths()
    for by in ("vote", "agreement"):
        said = Asking(NoProgress()).verdicts(together(by, judge, scorer), pairs_of(responses), "verdicts")
        assert said.members == {"judge": [0.0, 1.0, 0.5, 1.0], "lengths": [0.0, 1.0, 0.5, 1.0]}
        assert said.values == [0.0, 1.0, 0.5, 1.0]
        assert said.figures == {"judge": {"calls": 2}, "lengths": {"calls": 2}}
    other = Lengths("other")
    summed = Asking(NoProgress()).scores(together("sum", scorer, other), responses, "scores")
    assert summed.members == {"lengths": [1.0, 3.0, 2.0, 4.0, 2.0], "other": [1.0, 3.0, 2.0, 4.0, 2.0]}
    assert summed.values[3] == max(value for value in summed.values if value is not None)


def test_a_sum_gives_verdicts_by_its_scores(responses: list[Completion]) -> None:
    both = together("sum", Lengths("one"), Lengths("two"))
    assert Asking(NoProgress()).verdicts(both, pairs_of(responses), "verdicts").values == [0.0, 1.0, 0.5, 1.0]


def test_thinking_is_hidden_from_whoever_compares_where_asked(make_completion: Callable[..., Completion]) -> None:
    one, other = (make_completion(0, place, completion=f"<think>hm</think>{text}") for place, text in enumerate("ab"))
    judge = LongerIsBetter()
    Asking(NoProgress(), thinking="strip").verdicts(judge, [(one, other)], "verdicts")
    Asking(NoProgress()).verdicts(judge, [(one, other)], "verdicts")
    assert judge.seen == [("a", "b"), ("<think>hm</think>a", "<think>hm</think>b")]


@pytest.mark.parametrize("killed_at", range(1, 13))
def test_killed_anywhere_nothing_is_asked_twice_and_counts_are_those_of_one_that_was_not(
    responses: list[Completion], tmp_path: Path, killed_at: int
) -> None:
    """Two members, one asked after the other, each with its own journal; what was counted goes with its answers."""
    pairs = pairs_of(responses)
    whole_judge, whole_scorer = LongerIsBetter(), Lengths()
    whole = Asking(NoProgress()).verdicts(together("vote", whole_judge, whole_scorer), pairs, "verdicts")
    judge, scorer = LongerIsBetter(), Lengths()
    try:
        asking = Asking(Told(killed_at), WorkInProgress(tmp_path, {"key": 1}))
        asking.verdicts(together("vote", judge, scorer), pairs, "verdicts")
    except KeyboardInterrupt:
        pass
    later_judge, later_scorer = LongerIsBetter(), Lengths()
    asking = Asking(NoProgress(), WorkInProgress(tmp_path, {"key": 1}))
    assert asking.verdicts(together("vote", later_judge, later_scorer), pairs, "verdicts") == whole
    assert judge.calls + later_judge.calls == whole_judge.calls == 2
    assert scorer.calls + later_scorer.calls == whole_scorer.calls == 2


def test_what_was_counted_before_a_stage_began_is_not_the_stages(responses: list[Completion]) -> None:
    judge = LongerIsBetter()
    judge.called()
    assert Asking(NoProgress()).verdicts(judge, pairs_of(responses), "verdicts").figures == {"judge": {"calls": 2}}


def test_a_labeler_may_stop_a_stage_by_its_counts_also_by_those_of_before(
    responses: list[Completion], tmp_path: Path
) -> None:
    class Wary(LongerIsBetter):
        def check_counts(self, counts: Mapping[str, float]) -> None:
            if counts.get("calls", 0) >= 2:
                raise LabelerError("it has been called too often", where="labelers.judge")

    wary = Wary()
    for calls in (2, 2):
        with pytest.raises(LabelerError, match="called too often"):
            Asking(NoProgress(), WorkInProgress(tmp_path, {})).verdicts(wary, pairs_of(responses), "verdicts")
        assert wary.calls <= calls + 1


def test_a_journals_rows_hold_counts_only_where_something_was_counted(
    responses: list[Completion], tmp_path: Path
) -> None:
    class Silent(LongerIsBetter):
        def take_counts(self) -> dict[str, float]:
            return {}

        def figures(self, counts: Mapping[str, float]) -> dict[str, float]:
            return dict(counts)

    said = Asking(NoProgress(), WorkInProgress(tmp_path, {})).verdicts(Silent(), pairs_of(responses), "plain")
    Asking(NoProgress(), WorkInProgress(tmp_path, {})).verdicts(LongerIsBetter(), pairs_of(responses), "counted")
    assert said.figures == {}

    def rows(name: str) -> list[dict[str, Any]]:
        (path,) = tmp_path.rglob(f"{name}.jsonl")
        return [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()[1:]]

    assert rows("plain") == [{"values": [0.0, 1.0]}, {"values": [0.5, 1.0]}]
    assert rows("counted") == [
        {"counts": {"calls": 1}, "values": [0.0, 1.0]},
        {"counts": {"calls": 1}, "values": [0.5, 1.0]},
    ]
