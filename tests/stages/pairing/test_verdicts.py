"""Pairs of source `dpr` by a labeler that compares: verdicts on pairs, which need not agree with one another."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pytest
from drawn import DROP, KEEP, Drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from align_cli.artifacts.records import Preference, Text
from align_cli.labelers import Comparer, Labeler, Scorer
from align_cli.labelers.combination import Combination
from align_cli.recipe.sections.label import LabelSection
from align_cli.recipe.sections.labelers.combination import CombinationLabelerSection
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking
from align_cli.stages.pairing.dpr import label_completions
from align_cli.stages.pairing.pairs import LabelledPairs

Verdicts = Mapping[tuple[int, int], float | None]
"""Of a prompt's samples: the probability that the first of two is better."""


class GivenVerdicts(Comparer):
    """A judge whose verdicts are given by sample, the same for every prompt."""

    batch_size = 2

    def __init__(self, verdicts: Verdicts, name: str = "judge") -> None:
        self.name, self._verdicts = name, verdicts
        self.asked: list[tuple[str, str, str]] = []

    def check(self, prompts: Sequence[Text]) -> None:
        """Nothing can be wrong."""

    def compare(
        self,
        prompts: Sequence[Text],
        firsts: Sequence[Text],
        seconds: Sequence[Text],
        prompt_indices: Sequence[int] | None = None,
    ) -> list[float | None]:
        self.asked += list(zip(map(str, prompts), map(str, firsts), map(str, seconds), strict=True))
        return [self._of(sample(one), sample(other)) for one, other in zip(firsts, seconds, strict=True)]

    def _of(self, one: int, other: int) -> float | None:
        if (one, other) in self._verdicts:
            return self._verdicts[one, other]
        verdict = self._verdicts[other, one]
        return None if verdict is None else 1 - verdict


class GivenScores(Scorer):
    """A scorer whose scores are given by sample; None for one that it does not score."""

    batch_size = 3

    def __init__(self, scores: Sequence[float | None], name: str = "scorer") -> None:
        self.name, self._scores = name, scores

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float | None]:
        return [self._scores[sample(completion)] for completion in completions]


def sample(text: Text) -> int:
    return int(str(text).split()[2])


def together(by: str, *members: Labeler, standardize: bool = True, **weights: float) -> Combination:
    of = {member.name: weights.get(member.name, 1.0) for member in members}
    section = CombinationLabelerSection(kind="combination", of=of, by=by, standardize=standardize)  # type: ignore[arg-type]
    combination = Combination("together", section)
    combination.members = {member.name: member for member in members}
    return combination


def label(
    drawn: Drawn, labeler: Labeler, *, run_seed: int = 0, keep_others: bool = False, **section: Any
) -> LabelledPairs:
    return label_completions(
        drawn.completions,
        labeler,
        LabelSection(**{**KEEP, **section}),
        num_generations=8,
        keep_others=keep_others,
        run_seed=run_seed,
        asking=Asking(NoProgress()),
    )


def responses(draw: Callable[..., Drawn], count: int, prompts: int = 1) -> Drawn:
    """That many responses to each prompt; their scores are nobody's business here."""
    return draw([[0.0] * count] * prompts)


def places(made: LabelledPairs) -> list[tuple[int | None, int | None]]:
    return [(pair.chosen_index, pair.rejected_index) for pair in made.preferences]


class TestTwoResponses:
    @pytest.mark.parametrize(
        ("verdict", "labels", "chosen", "expected"),
        [
            (1.0, "hard", 0, 1.0),
            (0.7, "hard", 0, 1.0),
            (0.2, "hard", 1, 1.0),
            (0.0, "hard", 1, 1.0),
            (0.7, "soft", 0, 0.7),
            (0.2, "soft", 1, 0.8),
            (1.0, "soft", 0, 1.0),
            (1.0, "sampled", 0, 1.0),
            (0.5, "hard", 0, 0.5),
            (0.5, "soft", 0, 0.5),
            (0.5, "sampled", 0, 0.5),
        ],
    )
    @pytest.mark.parametrize("pairs", ["best_worst", "best_random", "all"])
    def test_who_is_better_by_the_verdict_is_chosen(
        self, draw: Callable[..., Drawn], pairs: str, verdict: float, labels: str, chosen: int, expected: float
    ) -> None:
        made = label(responses(draw, 2), GivenVerdicts({(0, 1): verdict}), pairs=pairs, labels=labels)
        (pair,) = made.preferences
        assert (pair.chosen_index, pair.rejected_index) == (chosen, 1 - chosen)
        assert pair.label == pytest.approx(expected)
        assert pair.verdicts == {"judge": pytest.approx(verdict if chosen == 0 else 1 - verdict)}
        assert (pair.chosen_score, pair.rejected_score, pair.labeler, pair.source) == (None, None, "judge", "dpr")
        assert made.counts == {"pairs": 1, **({"ties_kept": 1} if verdict == 0.5 else {})}

    def test_sampled_labels_are_drawn_by_the_verdict_itself_whatever_the_temperature(
        self, draw: Callable[..., Drawn]
    ) -> None:
        made = label(responses(draw, 2, prompts=2000), GivenVerdicts({(0, 1): 0.8}), labels="sampled", temperature=9.0)
        share = sum(pair.chosen_index == 0 for pair in made.preferences) / 2000
        assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 2000))
        for pair in made.preferences:
            assert pair.verdicts == {"judge": pytest.approx(0.8 if pair.chosen_index == 0 else 0.2)}
            assert pair.label == 1.0

    def test_a_pair_without_a_verdict_is_a_tie_by_another_name(self, draw: Callable[..., Drawn]) -> None:
        drawn, judge = responses(draw, 2), GivenVerdicts({(0, 1): None})
        for labels in ("hard", "soft", "sampled"):
            kept = label(drawn, judge, labels=labels)
            (pair,) = kept.preferences
            assert (pair.label, pair.chosen_index, pair.verdicts) == (0.5, 0, {})
            assert kept.counts == {"pairs": 1, "without_verdict_kept": 1}
        assert label(drawn, judge, ties="drop") == LabelledPairs([], {"pairs": 0, "without_verdict_dropped": 1}, {})

    def test_the_smallest_margin_is_of_twice_the_probability_less_one(self, draw: Callable[..., Drawn]) -> None:
        for verdict, is_kept in ((0.6, False), (0.3, True), (0.75, True), (0.5, True), (None, True)):
            made = label(responses(draw, 2), GivenVerdicts({(0, 1): verdict}), min_margin=0.3)
            assert len(made.preferences) == is_kept
            assert made.counts.get("below_min_margin_dropped", 0) == (not is_kept)

    def test_a_prompt_with_one_response_asks_nothing_and_is_counted(self, draw: Callable[..., Drawn]) -> None:
        judge = GivenVerdicts({})
        assert label(responses(draw, 1, prompts=3), judge).counts == {"pairs": 0, "single_completions": 3}
        assert judge.asked == []


IN_ORDER = {(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.6}
CYCLE = {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 0.0}


class TestSeveralResponses:
    def test_every_pair_of_a_draw_is_asked_for_once(self, draw: Callable[..., Drawn]) -> None:
        for pairs in ("best_worst", "best_random", "all"):
            judge = GivenVerdicts(dict.fromkeys(combinations(range(4), 2), 1.0))
            label(responses(draw, 4, prompts=3), judge, pairs=pairs)
            assert len(judge.asked) == len(set(judge.asked)) == 18
            assert all(f"prompt {text.split()[1]} :" == prompt for prompt, *texts in judge.asked for text in texts)

    def test_the_best_is_who_wins_most_and_the_label_is_the_verdict_on_the_pair(
        self, draw: Callable[..., Drawn]
    ) -> None:
        made = label(responses(draw, 3), GivenVerdicts(IN_ORDER), labels="soft")
        assert places(made) == [(0, 2)]
        assert made.preferences[0].label == pytest.approx(0.8)

    def test_all_pairs_stand_in_the_order_of_samples_each_with_its_own_verdict(
        self, draw: Callable[..., Drawn]
    ) -> None:
        made = label(
            responses(draw, 3), GivenVerdicts({(0, 1): 0.1, (0, 2): 0.5, (1, 2): 0.7}), pairs="all", labels="soft"
        )
        assert places(made) == [(1, 0), (0, 2), (1, 2)]
        assert [pair.label for pair in made.preferences] == pytest.approx([0.9, 0.5, 0.7])
        assert [pair.verdicts for pair in made.preferences] == [{"judge": pytest.approx(p)} for p in (0.9, 0.5, 0.7)]
        assert made.counts == {"pairs": 3, "ties_kept": 1}

    def test_a_cycle_keeps_all_its_verdicts_and_has_no_best(self, draw: Callable[..., Drawn]) -> None:
        drawn, judge = responses(draw, 3), GivenVerdicts(CYCLE)
        assert places(label(drawn, judge, pairs="all")) == [(0, 1), (2, 0), (1, 2)]
        made = label(drawn, judge)
        assert places(made) == [(2, 0)], "all have won one of two: the first and the last sample, by their own verdict"
        assert made.preferences[0].label == 1.0

    def test_the_best_may_lose_the_very_pair_that_it_is_in(self, draw: Callable[..., Drawn]) -> None:
        """Sample 0 wins against two of three, the last against none but it."""
        verdicts = {(0, 1): 1.0, (0, 2): 1.0, (0, 3): 0.4, (1, 2): 0.5, (1, 3): 1.0, (2, 3): 1.0}
        made = label(responses(draw, 4), GivenVerdicts(verdicts), labels="soft")
        assert places(made) == [(3, 0)]
        assert made.preferences[0].label == pytest.approx(0.6)

    def test_best_against_a_random_other_takes_each_about_as_often(self, draw: Callable[..., Drawn]) -> None:
        made = label(responses(draw, 3, prompts=600), GivenVerdicts(IN_ORDER), pairs="best_random")
        losers = [rejected for _, rejected in places(made)]
        assert {chosen for chosen, _ in places(made)} == {0}
        assert losers.count(1) / 600 == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 600))

    def test_a_response_of_which_nothing_is_said_is_neither_best_nor_worst(self, draw: Callable[..., Drawn]) -> None:
        verdicts = {(0, 1): None, (0, 2): None, (1, 2): 0.0}
        drawn = responses(draw, 3)
        assert places(label(drawn, GivenVerdicts(verdicts))) == [(2, 1)]
        made = label(drawn, GivenVerdicts(verdicts), pairs="all")
        assert made.counts == {"pairs": 3, "without_verdict_kept": 2}
        assert label(drawn, GivenVerdicts(verdicts), pairs="all", ties="drop").counts == {
            "pairs": 1,
            "without_verdict_dropped": 2,
        }

    def test_where_nothing_is_said_at_all_the_first_two_stand_for_a_tie(self, draw: Callable[..., Drawn]) -> None:
        nothing = dict.fromkeys(combinations(range(3), 2))
        made = label(responses(draw, 3), GivenVerdicts(nothing))
        assert (places(made), made.counts) == ([(0, 1)], {"pairs": 1, "without_verdict_kept": 1})

    def test_the_responses_that_a_pair_was_chosen_from_are_kept_where_asked(self, draw: Callable[..., Drawn]) -> None:
        drawn = responses(draw, 3)
        (pair,) = label(drawn, GivenVerdicts(IN_ORDER), keep_others=True).preferences
        assert pair.other_ids == [drawn.completions[1].completion_ids]


probabilities = st.sampled_from([0.0, 0.25, 0.5, 1.0, None])


@settings(max_examples=80)
@given(
    st.lists(probabilities, min_size=6, max_size=6),
    st.sampled_from(["best_worst", "best_random", "all"]),
    st.sampled_from(["hard", "soft", "sampled"]),
    st.sampled_from([KEEP, DROP]),
    st.integers(0, 9),
)
def test_every_candidate_ends_as_a_pair_or_in_one_count_and_swapping_samples_swaps_verdicts(
    draw: Callable[..., Drawn], given_to: list[float | None], pairs: str, labels: str, rules: dict[str, Any], seed: int
) -> None:
    judge = GivenVerdicts(dict(zip(combinations(range(4), 2), given_to, strict=True)))
    made = label(responses(draw, 4), judge, run_seed=seed, pairs=pairs, labels=labels, **rules)
    dropped = sum(count for name, count in made.counts.items() if name.endswith("_dropped"))
    assert len(made.preferences) + dropped == (6 if pairs == "all" else 1)
    for pair in made.preferences:
        verdict = judge._of(int(pair.chosen_index or 0), int(pair.rejected_index or 0))
        assert pair.verdicts == ({} if verdict is None else {"judge": verdict})
        assert 0.5 <= pair.label <= 1
        if labels != "sampled" and verdict is not None:
            assert verdict >= 0.5
        assert (pair.label == 0.5) == (verdict in (0.5, None))
        assert Preference.from_dict(pair.to_dict()) == pair


class TestCombinations:
    def test_a_vote_keeps_each_members_verdict_and_labels_by_their_share(self, draw: Callable[..., Drawn]) -> None:
        judge, scorer = GivenVerdicts({(0, 1): 0.4}), GivenScores([2.0, 1.0])
        vote = together("vote", judge, scorer, judge=3.0)
        (pair,) = label(responses(draw, 2), vote, labels="soft").preferences
        assert pair.label == pytest.approx((3 * 0.4 + 1.0) / 4)
        assert pair.verdicts == {"together": pytest.approx(0.55), "judge": 0.4, "scorer": 1.0}
        assert (pair.chosen_index, pair.labeler, pair.chosen_score, pair.chosen_scores) == (0, "together", None, None)

    def test_a_member_that_says_nothing_has_no_vote_and_no_record(self, draw: Callable[..., Drawn]) -> None:
        vote = together("vote", GivenVerdicts({(0, 1): None}), GivenScores([1.0, 2.0]))
        (pair,) = label(responses(draw, 2), vote).preferences
        assert (pair.chosen_index, pair.label, pair.verdicts) == (1, 1.0, {"together": 1.0, "scorer": 1.0})

    def test_agreement_leaves_out_what_members_see_differently(self, draw: Callable[..., Drawn]) -> None:
        judge, scorer = GivenVerdicts(IN_ORDER), GivenScores([3.0, 1.0, 2.0])
        made = label(responses(draw, 3), together("agreement", judge, scorer), pairs="all", ties="drop")
        assert places(made) == [(0, 1), (0, 2)]
        assert made.counts == {"pairs": 2, "without_verdict_dropped": 1}

    def test_a_sum_orders_responses_and_keeps_each_members_scores(self, draw: Callable[..., Drawn]) -> None:
        one, two = GivenScores([1.0, 2.0, 3.0], "one"), GivenScores([0.0, 50.0, 10.0], "two")
        (pair,) = label(responses(draw, 3), together("sum", one, two, standardize=False, two=0.5)).preferences
        assert (pair.chosen_index, pair.chosen_score, pair.rejected_score) == (1, 27.0, 1.0)
        assert (pair.chosen_scores, pair.rejected_scores) == ({"one": 2.0, "two": 50.0}, {"one": 1.0, "two": 0.0})
        assert pair.verdicts is None

    def test_a_sum_of_which_one_member_lacks_a_score_is_none(self, draw: Callable[..., Drawn]) -> None:
        one, two = GivenScores([1.0, None, 3.0], "one"), GivenScores([0.0, 5.0, 1.0], "two")
        made = label(responses(draw, 3), together("sum", one, two), pairs="all", ties="drop")
        assert (places(made), made.counts) == ([(2, 0)], {"pairs": 1, "without_verdict_dropped": 2})


def test_a_scorer_that_lacks_a_score_orders_the_others(draw: Callable[..., Drawn]) -> None:
    scorer = GivenScores([None, 1.0, 2.0])
    assert places(label(responses(draw, 3), scorer)) == [(2, 1)]
    made = label(responses(draw, 3), scorer, pairs="all")
    assert made.counts == {"pairs": 3, "without_verdict_kept": 2}
    assert [(pair.chosen_score, pair.rejected_score, pair.verdicts) for pair in made.preferences] == [
        (None, 1.0, None),
        (None, 2.0, None),
        (2.0, 1.0, None),
    ]


def test_the_pairs_of_scores_are_what_they_were_before_there_were_verdicts(draw: Callable[..., Drawn]) -> None:
    """Golden, of all ways of pairing and labelling: other pairs would change every run that is under way."""
    rng = random.Random(0)
    drawn = draw([[rng.randrange(5) / 2 for _ in range(4)] for _ in range(12)])
    digest = hashlib.sha256()
    for pairs, labels, ties, margin in product(
        ("best_worst", "best_random", "all"), ("hard", "sampled", "soft"), ("keep", "drop"), (0.0, 0.6)
    ):
        section = {"pairs": pairs, "labels": labels, "ties": ties, "min_margin": margin}
        made = label(drawn, drawn.scorer, run_seed=5, keep_others=True, **section)
        rows = [[pair.to_dict() for pair in made.preferences], made.counts]
        digest.update(json.dumps(rows, sort_keys=True).encode())
    assert digest.hexdigest() == "79266576bcff11e84cffe3ecb1fd3930d94ef4d922e95e1ec47ba2a24ebcdd79"


def test_scores_and_the_verdicts_that_they_come_to_choose_the_same_pairs(draw: Callable[..., Drawn]) -> None:
    scores = [2.0, 0.0, 3.0, 1.0]
    verdicts = {(one, other): float(scores[one] > scores[other]) for one, other in combinations(range(4), 2)}
    for pairs in ("best_worst", "best_random", "all"):
        by_scores = label(responses(draw, 4, prompts=5), GivenScores(scores), pairs=pairs)
        by_verdicts = label(responses(draw, 4, prompts=5), GivenVerdicts(verdicts), pairs=pairs)
        assert places(by_scores) == places(by_verdicts)
