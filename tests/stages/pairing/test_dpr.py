"""Pairs of source `dpr`: completions of the policy, and perhaps of the reference, paired by scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drawn import KEEP, Drawn, GivenScores, Group
from hypothesis import given, settings
from hypothesis import strategies as st

from align_cli.artifacts.records import Completion, Preference
from align_cli.recipe.sections.label import LabelSection
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking
from align_cli.stages.pairing.dpr import Dpr, label_completions
from align_cli.stages.pairing.pairs import LabelledPairs


def label(
    drawn: Drawn,
    run_seed: int = 0,
    keep_others: bool = False,
    num_generations: int = 8,
    num_reference_generations: int = 0,
    **section: Any,
) -> LabelledPairs:
    return label_completions(
        drawn.completions,
        drawn.scorer,
        LabelSection(**{**KEEP, **section}),
        num_generations=num_generations,
        num_reference_generations=num_reference_generations,
        keep_others=keep_others,
        run_seed=run_seed,
        asking=Asking(NoProgress(), thinking=section.get("thinking", "keep")),
    )


def scores_of(pairs: LabelledPairs) -> list[tuple[float | None, float | None]]:
    return [(pair.chosen_score, pair.rejected_score) for pair in pairs.preferences]


def test_a_pair_carries_exactly_what_was_sampled(draw: Callable[..., Drawn]) -> None:
    drawn = draw([[0.5, 2.0]])
    (pair,) = label(drawn).preferences
    worse, better = drawn.completions
    assert pair == Preference(
        prompt=better.prompt,
        chosen=better.completion,
        rejected=worse.completion,
        label=1.0,
        source="dpr",
        labeler="given",
        prompt_ids=better.prompt_ids,
        chosen_ids=better.completion_ids,
        rejected_ids=worse.completion_ids,
        chosen_score=2.0,
        rejected_score=0.5,
        chosen_logp=-1.5,
        rejected_logp=-1.5,
        round=1,
        prompt_index=0,
        chosen_index=1,
        rejected_index=0,
        policy=better.policy,
        chosen_by="policy",
        rejected_by="policy",
    )


def test_a_response_logp_is_the_sum_over_its_tokens(draw: Callable[..., Drawn]) -> None:
    drawn = draw([[1.0, 0.0]], logps=[-0.1, -0.2, -0.7])
    assert label(drawn).preferences[0].chosen_logp == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("scores", "pairs", "expected"),
    [
        ([1.0, 3.0], "best_worst", [(3.0, 1.0)]),
        ([2.0, 3.0, 1.0], "best_worst", [(3.0, 1.0)]),
        ([2.0, 3.0, 1.0, 4.0], "best_worst", [(4.0, 1.0)]),
        ([1.0, 3.0], "best_random", [(3.0, 1.0)]),
        ([1.0, 3.0], "all", [(3.0, 1.0)]),
        ([2.0, 3.0, 1.0], "all", [(3.0, 2.0), (2.0, 1.0), (3.0, 1.0)]),
        ([2.0, 3.0, 1.0, 4.0], "all", [(3.0, 2.0), (2.0, 1.0), (4.0, 2.0), (3.0, 1.0), (4.0, 3.0), (4.0, 1.0)]),
    ],
)
def test_the_pairs_of_a_prompt(
    scores: Group, pairs: str, expected: list[tuple[float, float]], draw: Callable[..., Drawn]
) -> None:
    made = label(draw([scores]), pairs=pairs)
    assert scores_of(made) == expected
    assert made.counts == {"pairs": len(expected)}
    assert {pair.label for pair in made.preferences} == {1.0}


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=60)
def test_no_score_decides_where_a_pair_stands(draw: Callable[..., Drawn], scores: list[float], seed: int) -> None:
    """Else a batch whose border cuts the prompt would keep its best or its worst pairs."""
    for labels in ("hard", "sampled", "soft"):
        made = label(draw([scores]), pairs="all", labels=labels, run_seed=seed)
        places = [tuple(sorted((pair.chosen_index, pair.rejected_index))) for pair in made.preferences]
        assert places == list(combinations(range(len(scores)), 2))


def test_at_every_place_the_expected_pair_is_that_of_all(draw: Callable[..., Drawn]) -> None:
    """Over all outcomes of three responses, of something that knows who won and by how much: whatever a batch cuts off
    then changes no expectation."""
    outcomes = list(product((0.0, 1.0, 4.0), repeat=3))
    expected = [0.0, 0.0, 0.0]
    for scores in outcomes:
        for place, pair in enumerate(label(draw([list(scores)]), pairs="all").preferences):
            assert pair.chosen_score is not None
            assert pair.rejected_score is not None
            expected[place] += (pair.chosen_score - pair.rejected_score) / len(outcomes)
    assert expected == pytest.approx([sum(expected) / 3] * 3)


@pytest.mark.parametrize("num_generations", [3, 4])
def test_best_against_random_takes_every_other_one_equally_often(
    num_generations: int, draw: Callable[..., Drawn]
) -> None:
    num_prompts = 900
    made = label(draw([list(range(num_generations))] * num_prompts), pairs="best_random")
    assert {pair.chosen_score for pair in made.preferences} == {num_generations - 1}
    losers = [pair.rejected_score for pair in made.preferences]
    share = 1 / (num_generations - 1)
    tolerance = 4 * math.sqrt(share * (1 - share) / num_prompts)
    for loser in range(num_generations - 1):
        assert losers.count(loser) / num_prompts == pytest.approx(share, abs=tolerance)


def test_pairs_stay_within_their_prompt_and_round(draw: Callable[..., Drawn]) -> None:
    first, second = draw([[1.0, 0.0], [0.0, 2.0]]), draw([[3.0, 4.0]], round=2)
    both = Drawn(
        first.completions + second.completions,
        GivenScores({**first.scorer.scores, " answer 0 0 .": 3.0, " answer 0 1 .": 4.0}),
    )
    made = label(both)
    assert [(pair.round, pair.prompt_index) for pair in made.preferences] == [(1, 0), (1, 1), (2, 0)]
    for pair in made.preferences:
        assert pair.prompt == f"prompt {pair.prompt_index} :"


@pytest.mark.parametrize("labels", ["hard", "sampled", "soft"])
@pytest.mark.parametrize("pairs", ["best_worst", "best_random", "all"])
def test_the_order_of_the_completions_changes_no_pair(pairs: str, labels: str, draw: Callable[..., Drawn]) -> None:
    drawn = draw([[0.5, 1.0, 0.7], [0.2, 0.2, 0.1], [0.0, 3.0]])
    backwards = Drawn(drawn.completions[::-1], drawn.scorer)
    options = {"pairs": pairs, "labels": labels}
    by_prompt = sorted(label(drawn, **options).preferences, key=str)
    assert sorted(label(backwards, **options).preferences, key=str) == by_prompt


def test_a_prompts_label_does_not_depend_on_the_other_prompts(draw: Callable[..., Drawn]) -> None:
    groups = [[index % 3 + 0.1, index % 2 + 0.5] for index in range(40)]
    drawn = draw(groups)
    whole = label(drawn, labels="sampled").preferences
    half = label(Drawn(drawn.completions[40:], drawn.scorer), labels="sampled").preferences
    assert half == whole[20:]


@pytest.mark.parametrize(("temperature", "margin"), [(1.0, 1.0), (2.0, 1.0), (0.5, 0.4)])
def test_sampled_labels_follow_bradley_terry_at_their_temperature(
    temperature: float, margin: float, draw: Callable[..., Drawn]
) -> None:
    num_prompts = 3000
    made = label(draw([[0.0, margin]] * num_prompts), labels="sampled", temperature=temperature)
    assert made.counts == {"pairs": num_prompts}
    expected = 1 / (1 + math.exp(-margin / temperature))
    share = sum(pair.chosen_score == margin for pair in made.preferences) / num_prompts
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / num_prompts))
    assert {pair.label for pair in made.preferences} == {1.0}


def test_a_flipped_label_swaps_everything_of_the_two_responses(draw: Callable[..., Drawn]) -> None:
    made = label(draw([[0.0, 0.5]] * 100), labels="sampled")
    flipped = [pair for pair in made.preferences if pair.chosen_score == 0.0]
    assert flipped
    for pair in flipped:
        assert (pair.chosen_index, pair.rejected_index) == (0, 1)
        assert pair.chosen == f" answer {pair.prompt_index} 0 ."
        assert pair.chosen_ids == [100 + (pair.prompt_index or 0), 500, 1]
        assert pair.rejected_score == 0.5


def test_sampled_labels_are_the_same_again_and_others_for_another_seed(draw: Callable[..., Drawn]) -> None:
    drawn = draw([[0.0, 0.3]] * 60)
    assert label(drawn, labels="sampled") == label(drawn, labels="sampled")
    assert label(drawn, labels="sampled") != label(drawn, run_seed=1, labels="sampled")


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.7310585786300049), (0.5, 0.8807970779778823)])
def test_a_soft_label_is_the_bradley_terry_probability(
    temperature: float, expected: float, draw: Callable[..., Drawn]
) -> None:
    made = label(draw([[1.5, 2.5]]), labels="soft", temperature=temperature)
    assert scores_of(made) == [(2.5, 1.5)]
    assert made.preferences[0].label == pytest.approx(expected, rel=1e-12)


def test_scores_far_apart_give_a_label_of_one(draw: Callable[..., Drawn]) -> None:
    for labels in ("hard", "sampled", "soft"):
        made = label(draw([[-1e308, 1e308], [0.0, 5000.0]]), labels=labels)
        assert [pair.label for pair in made.preferences] == [1.0, 1.0]
        assert scores_of(made) == [(1e308, -1e308), (5000.0, 0.0)]


@pytest.mark.parametrize("labels", ["hard", "sampled", "soft"])
def test_a_tie_is_kept_with_one_half_in_the_order_of_sampling_or_dropped(
    labels: str, draw: Callable[..., Drawn]
) -> None:
    drawn = draw([[1.0, 1.0], [1.0, 2.0]])
    kept = label(drawn, labels=labels, ties="keep")
    assert kept.counts == {"pairs": 2, "ties_kept": 1}
    assert kept.preferences[0].label == 0.5
    assert (kept.preferences[0].chosen_index, kept.preferences[0].rejected_index) == (0, 1)
    dropped = label(drawn, labels=labels, ties="drop")
    assert dropped.counts == {"pairs": 1, "ties_dropped": 1}
    assert dropped.preferences[0].prompt_index == 1


def test_pairs_of_the_same_tokens_are_kept_or_dropped(make_completion: Callable[..., Completion]) -> None:
    same = [make_completion(0, 0, completion_ids=[5, 1]), make_completion(0, 1, completion_ids=[5, 1])]
    other = [make_completion(1, 0, completion_ids=[5, 1]), make_completion(1, 1, completion_ids=[5, 5, 1])]
    drawn = Drawn(same + other, GivenScores({" answer 0 .": 1.0, " answer 1 .": 2.0}))
    assert label(drawn).counts == {"equal_texts_kept": 1, "pairs": 2}
    dropped = label(drawn, equal_texts="drop")
    assert dropped.counts == {"equal_texts_dropped": 1, "pairs": 1}
    assert dropped.preferences[0].prompt_index == 1


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_pairs_with_an_empty_response_are_kept_or_dropped(
    empty: str, make_completion: Callable[..., Completion]
) -> None:
    completions = [make_completion(0, 0, completion=empty), make_completion(0, 1)]
    drawn = Drawn(completions, GivenScores({empty: 0.0, " answer 1 .": 2.0}))
    assert label(drawn).counts == {"empty_texts_kept": 1, "pairs": 1}
    assert label(drawn, empty_texts="drop") == LabelledPairs([], {"empty_texts_dropped": 1, "pairs": 0})


@pytest.mark.parametrize(
    ("texts", "ids", "rules"),
    [
        (["", ""], [[1], [1]], {"empty_texts": "keep", "equal_texts": "drop"}),
        (["", " good ."], [[1], [5, 1]], {"empty_texts": "keep", "ties": "drop"}),
        ([" good .", " good ."], [[5, 1], [5, 1]], {"equal_texts": "keep", "ties": "drop"}),
    ],
    ids=["two empty ones that are equal", "an empty one of equal score", "two equal ones of equal score"],
)
def test_a_pair_is_dropped_where_any_rule_drops_it(
    texts: list[str], ids: list[list[int]], rules: dict[str, str], make_completion: Callable[..., Completion]
) -> None:
    completions = [make_completion(0, i, completion=texts[i], completion_ids=ids[i]) for i in (0, 1)]
    drawn = Drawn(completions, GivenScores(dict.fromkeys(texts, 1.0)))
    assert label(drawn, **rules).preferences == []


def test_pairs_closer_than_the_smallest_margin_are_dropped(draw: Callable[..., Drawn]) -> None:
    drawn = draw([[0.0, 0.25], [0.0, 0.5], [0.0, 0.75], [1.0, 1.0]])
    made = label(drawn, min_margin=0.5, ties="drop")
    assert scores_of(made) == [(0.5, 0.0), (0.75, 0.0)]
    assert made.counts == {"below_min_margin_dropped": 1, "pairs": 2, "ties_dropped": 1}


def test_a_prompt_with_one_completion_is_counted(draw: Callable[..., Drawn]) -> None:
    made = label(draw([[1.0], [1.0, 0.0], [2.0]]))
    assert made.counts == {"pairs": 1, "single_completions": 2}


groups_of_scores = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=4), max_size=5)
keep_or_drop = st.sampled_from(["keep", "drop"])


@settings(max_examples=150)
@given(
    groups_of_scores,
    st.sampled_from(["best_worst", "best_random", "all"]),
    st.sampled_from(["hard", "sampled", "soft"]),
    st.fixed_dictionaries({"ties": keep_or_drop, "equal_texts": keep_or_drop, "empty_texts": keep_or_drop}),
    st.sampled_from([0.0, 0.3]),
    st.data(),
)
def test_every_candidate_ends_as_a_pair_or_in_exactly_one_count(
    make_completion: Callable[..., Completion],
    groups: list[list[float]],
    pairs: str,
    labels: str,
    rules: dict[str, str],
    min_margin: float,
    data: st.DataObject,
) -> None:
    completions, scores = [], {}
    for prompt, group in enumerate(groups):
        for sample, score in enumerate(group):
            ids = data.draw(st.sampled_from([[5, 1], [6, 1], [1]]))
            text = f"{prompt}/{sample}" if ids != [1] else " " * (10 * prompt + sample)
            scores[text] = score
            completions.append(make_completion(prompt, sample, completion=text, completion_ids=ids))
    made = label(Drawn(completions, GivenScores(scores)), pairs=pairs, labels=labels, min_margin=min_margin, **rules)
    num_all = sum(math.comb(len(group), 2) for group in groups)
    num_candidates = num_all if pairs == "all" else sum(len(group) > 1 for group in groups)
    dropped = sum(number for name, number in made.counts.items() if name.endswith("_dropped"))
    assert made.counts["pairs"] == len(made.preferences)
    assert made.counts["pairs"] + dropped == num_candidates
    assert made.counts.get("single_completions", 0) == sum(len(group) == 1 for group in groups)
    sampled = {(item.prompt_index, item.sample_index): item.completion_ids for item in completions}
    for pair in made.preferences:
        assert pair.chosen_ids == sampled[pair.prompt_index, pair.chosen_index]
        assert pair.rejected_ids == sampled[pair.prompt_index, pair.rejected_index]
        assert 0.5 <= pair.label <= 1.0
        assert (pair.label == 0.5) is (pair.chosen_score == pair.rejected_score)


def test_a_prompt_that_was_drawn_twice_in_a_round_is_two_draws(draw: Callable[..., Drawn]) -> None:
    """With two generations a draw, samples 0 and 1 are of the first draw, 2 and 3 of the second."""
    made = label(draw([[0.0, 1.0, 3.0, 2.0]]), pairs="best_worst", num_generations=2)
    assert scores_of(made) == [(1.0, 0.0), (3.0, 2.0)]
    assert made.counts == {"pairs": 2}
    assert [pair.other_ids for pair in made.preferences] == [None, None]


@pytest.mark.parametrize("pairs", ["best_worst", "best_random"])
def test_a_pair_keeps_the_responses_that_it_was_chosen_from_where_asked(pairs: str, draw: Callable[..., Drawn]) -> None:
    drawn = draw([[2.0, 3.0, 1.0, 4.0], [0.0, 1.0]], logps=[-0.5, -0.25, -1.0])
    with_others, pair_of_two = label(drawn, keep_others=True, pairs=pairs).preferences
    in_pair = {with_others.chosen_index, with_others.rejected_index}
    others = [drawn.completions[index] for index in range(4) if index not in in_pair]
    assert with_others.other_ids == [other.completion_ids for other in others]
    assert with_others.other_logps == [pytest.approx(-1.75)] * 2
    assert (pair_of_two.other_ids, pair_of_two.other_logps) == (None, None)
    without, _ = label(drawn, pairs=pairs).preferences
    assert without == replace(with_others, other_ids=None, other_logps=None)


def test_all_pairs_depend_on_no_choice_and_keep_no_others(draw: Callable[..., Drawn]) -> None:
    made = label(draw([[2.0, 3.0, 1.0]]), keep_others=True, pairs="all")
    assert {pair.other_ids is None for pair in made.preferences} == {True}


REFERENCE = "fedcba9876543210"


@pytest.fixture(scope="session")
def draw_both(make_completion: Callable[..., Completion]) -> Callable[..., Drawn]:
    """`draw_both([[1.0, 0.5]], [[2.0]])`: per prompt, responses of policy and of reference with these scores."""

    def drawn(of_policy: Sequence[Group], of_reference: Sequence[Group]) -> Drawn:
        completions, scores = [], {}
        for sampler, version, groups in (("policy", "0" * 16, of_policy), ("reference", REFERENCE, of_reference)):
            for prompt, group in enumerate(groups):
                for sample, score in enumerate(group):
                    text = f" {sampler} {prompt} {sample} ."
                    scores[text] = score
                    ids = [100 + prompt, (500 if sampler == "policy" else 700) + sample, 1]
                    changes = {"completion": text, "completion_ids": ids, "sampled_by": sampler, "policy": version}
                    completions.append(make_completion(prompt, sample, **changes))
        return Drawn(completions, GivenScores(scores))

    return drawn


@pytest.mark.parametrize(
    ("of_policy", "of_reference", "writers"),
    [(2.0, 1.0, ("policy", "reference")), (1.0, 2.0, ("reference", "policy"))],
    ids=["the policy's is better", "the reference's is better"],
)
def test_a_pair_of_policy_and_reference_says_who_wrote_which(
    of_policy: float, of_reference: float, writers: tuple[str, str], draw_both: Callable[..., Drawn]
) -> None:
    drawn = draw_both([[of_policy]], [[of_reference]])
    (pair,) = label(drawn, num_generations=1, num_reference_generations=1).preferences
    by_writer = {each.sampled_by: each for each in drawn.completions}
    chosen, rejected = (by_writer[writer] for writer in writers)  # type: ignore[index]
    assert (pair.chosen_by, pair.rejected_by) == writers
    assert (pair.chosen_ids, pair.rejected_ids) == (chosen.completion_ids, rejected.completion_ids)
    assert (pair.chosen_index, pair.rejected_index) == (0, 0)
    assert (pair.chosen_logp, pair.rejected_logp) == (-1.5, -1.5)
    assert pair.policy == by_writer["policy"].policy != REFERENCE
    assert (pair.source, pair.other_ids) == ("dpr", None)


def test_two_responses_of_the_reference_are_a_pair_of_no_policy(draw_both: Callable[..., Drawn]) -> None:
    made = label(draw_both([[2.0]], [[3.0, 1.0]]), num_generations=1, num_reference_generations=2)
    (pair,) = made.preferences
    assert (pair.chosen_by, pair.rejected_by, pair.policy) == ("reference", "reference", None)


def test_equal_scores_put_the_policys_response_first(draw_both: Callable[..., Drawn]) -> None:
    drawn = draw_both([[1.0]], [[1.0]])
    for completions in (drawn.completions, drawn.completions[::-1]):
        both = Drawn(completions, drawn.scorer)
        (pair,) = label(both, num_generations=1, num_reference_generations=1).preferences
        assert (pair.chosen_by, pair.rejected_by, pair.label) == ("policy", "reference", 0.5)


def test_a_prompt_that_was_drawn_twice_pairs_each_laps_own_responses(draw_both: Callable[..., Drawn]) -> None:
    """Two of the policy and one of the reference a draw: samples 0, 1 and 0 are of one lap, 2, 3 and 1 of the next."""
    drawn = draw_both([[1.0, 2.0, 5.0, 6.0]], [[0.0, 9.0]])
    made = label(drawn, num_generations=2, num_reference_generations=1, pairs="all")
    assert scores_of(made) == [(2.0, 1.0), (1.0, 0.0), (2.0, 0.0), (6.0, 5.0), (9.0, 5.0), (9.0, 6.0)]
    backwards = Drawn(drawn.completions[::-1], drawn.scorer)
    made = label(backwards, num_generations=2, num_reference_generations=1, pairs="all")
    assert sorted(scores_of(made)) == sorted(
        [(2.0, 1.0), (2.0, 0.0), (1.0, 0.0), (9.0, 6.0), (9.0, 5.0), (6.0, 5.0)]  # type: ignore[list-item]
    )
    one_each = label(drawn, num_generations=4, num_reference_generations=2, pairs="all")
    assert len(one_each.preferences) == 15, "one draw of four and two"


def test_the_others_of_a_choice_are_the_policys_alone(draw_both: Callable[..., Drawn]) -> None:
    drawn = draw_both([[4.0, 2.0, 3.0]], [[1.0, 2.5]])
    options = {"num_generations": 3, "num_reference_generations": 2, "keep_others": True}
    (pair,) = label(drawn, **options).preferences  # type: ignore[arg-type]
    assert scores_of(LabelledPairs([pair], {})) == [(4.0, 1.0)]
    assert (pair.chosen_by, pair.rejected_by) == ("policy", "reference")
    assert pair.other_ids == [[100, 501, 1], [100, 502, 1]]
    assert pair.other_logps == [-1.5, -1.5]


def test_without_others_of_the_policys_the_list_of_others_is_empty(draw_both: Callable[..., Drawn]) -> None:
    drawn = draw_both([[4.0]], [[1.0, 2.5]])
    (pair,) = label(drawn, num_generations=1, num_reference_generations=2, keep_others=True).preferences
    assert (pair.other_ids, pair.other_logps) == ([], [])


def test_of_equal_scores_the_earlier_sample_stands_first_in_all_pairs(draw: Callable[..., Drawn]) -> None:
    for scores in ([1.0, 1.0, 1.0], [2.0, 1.0, 1.0]):
        made = label(draw([scores]), pairs="all")
        assert [(pair.chosen_index, pair.rejected_index) for pair in made.preferences] == [(0, 1), (0, 2), (1, 2)]


def test_a_tie_is_the_rule_of_ties_business_whatever_the_smallest_margin(draw: Callable[..., Drawn]) -> None:
    made = label(draw([[1.0, 1.0], [0.0, 0.25]]), min_margin=0.5, ties="keep")
    assert [pair.label for pair in made.preferences] == [0.5]
    assert list(made.counts.items()) == [("below_min_margin_dropped", 1), ("pairs", 1), ("ties_kept", 1)]


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_response_counts_also_where_it_has_the_higher_score(
    empty: str, make_completion: Callable[..., Completion]
) -> None:
    completions = [make_completion(prompt, sample) for prompt in range(2) for sample in range(2)]
    completions[0], completions[2] = (replace(completions[place], completion=empty) for place in (0, 2))
    drawn = Drawn(completions, GivenScores({empty: 3.0, " answer 1 .": 2.0}))
    assert label(drawn).counts == {"empty_texts_kept": 2, "pairs": 2}
    assert label(drawn, empty_texts="drop") == LabelledPairs([], {"empty_texts_dropped": 2, "pairs": 0})


def test_a_rounds_pairs_are_those_of_the_recipes_labeler_and_numbers(
    draw_both: Callable[..., Drawn], tmp_path: Path
) -> None:
    """Two draws of a prompt, each with two samples of the policy and two of the reference."""
    drawn = draw_both([[1.0, 2.0, 5.0, 6.0]], [[0.0, 9.0, 4.0, 3.0]])
    asked: list[str | None] = []

    def scorer(name: str | None) -> GivenScores:
        asked.append(name)
        return drawn.scorer

    dpr = SimpleNamespace(labeler="mine", policy_responses=True, gradient=0.5)
    recipe = SimpleNamespace(
        method=SimpleNamespace(
            sources=SimpleNamespace(dpr=dpr, in_use=lambda: {"dpr": dpr}), importance_weight_cap=None
        ),
        label=LabelSection(**KEEP),
        generate=SimpleNamespace(num_generations=2, num_reference_generations=2),
        seed=3,
    )
    context: Any = SimpleNamespace(
        recipe=recipe,
        loaded=SimpleNamespace(labeler=scorer),
        work=WorkInProgress(tmp_path, {}),
        progress=NoProgress(),
    )
    numbers = {"num_generations": 2, "num_reference_generations": 2, "keep_others": True, "run_seed": 3}
    made = label(drawn, **numbers)  # type: ignore[arg-type]
    assert Dpr().pair(drawn.completions, context) == made
    assert asked == ["mine"]
    drawn.scorer.scores.clear()
    assert Dpr().pair(drawn.completions, context) == made, "scores that were kept are not asked for again"


def test_responses_of_a_reference_that_the_recipe_does_not_sample_are_one_draws(
    draw_both: Callable[..., Drawn],
) -> None:
    (pair,) = label(draw_both([[2.0]], [[1.0]]), num_generations=1).preferences
    assert (pair.chosen_by, pair.rejected_by) == ("policy", "reference")


def test_the_sampled_labels_of_a_run_are_these(draw: Callable[..., Drawn]) -> None:
    """Golden: other draws would change every run that is under way."""
    made = label(draw([[0.0, 0.5]] * 12), labels="sampled")
    assert [pair.chosen_index for pair in made.preferences] == [0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1]


def test_the_labeler_reads_responses_without_their_thinking_where_the_recipe_strips_it(
    draw: Callable[..., Drawn],
) -> None:
    drawn = draw([[1.0, 2.0]])
    thinking = [
        replace(completion, completion=f"<think>so</think>{completion.completion.strip()}")
        for completion in drawn.completions
    ]
    scores = {text.strip(): score for text, score in drawn.scorer.scores.items()}
    (pair,) = label(Drawn(thinking, GivenScores(scores)), thinking="strip").preferences
    assert (pair.chosen, pair.chosen_score) == ("<think>so</think>answer 0 1 .", 2.0)
    with pytest.raises(KeyError, match="<think>so</think>answer"):
        label(Drawn(thinking, GivenScores(scores)))
