"""Evaluation by those who compare, by several at once, and at a temperature of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align_cli.artifacts.records import Completion, Evaluation, Text
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import LabelerError
from align_cli.labelers import Comparer, Labeler, Scorer
from align_cli.labelers.combination import Combination
from align_cli.metrics.length_control import length_controlled_win_rate
from align_cli.metrics.preference import win_rate_of
from align_cli.models.load import Policy
from align_cli.models.measures import OneMeasure
from align_cli.recipe import Recipe
from align_cli.recipe.sections.labelers.combination import CombinationLabelerSection
from align_cli.run.folder.work import WorkInProgress
from align_cli.seeds import derive_seed
from align_cli.stages.base import Context, NoProgress, NoWork
from align_cli.stages.evaluate import Evaluate, Measured, evaluate_policy
from align_cli.stages.inputs import Inputs
from align_cli.stages.opinions import Asking

COUNT = 12


class Judge(Comparer):
    """Its verdict on a prompt's pair is given by the prompt's index."""

    batch_size = 5

    def __init__(self, verdicts: Sequence[float | None], name: str = "judge") -> None:
        self.name, self._verdicts = name, verdicts
        self.asked: list[tuple[str, str]] = []

    def check(self, prompts: Sequence[Text]) -> None:
        """Nothing can be wrong."""

    def compare(
        self,
        prompts: Sequence[Text],
        firsts: Sequence[Text],
        seconds: Sequence[Text],
        prompt_indices: Sequence[int] | None = None,
    ) -> list[float | None]:
        self.asked += list(zip(map(str, firsts), map(str, seconds), strict=True))
        return [self._verdicts[index] for index in prompt_indices or ()]

    def figures(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"asked": len(self.asked)}


class Lengths(Scorer):
    """Scores a response by its length; None for those that it is told to pass over."""

    batch_size = 5

    def __init__(self, name: str = "lengths", sign: float = 1.0, without: Sequence[int] = ()) -> None:
        self.name, self._sign, self._without = name, sign, without

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float | None]:
        places = list(prompt_indices or range(len(completions)))
        return [
            None if place in self._without else self._sign * len(str(text))
            for place, text in zip(places, completions, strict=True)
        ]


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def sides(make_completion: Callable[..., Completion]) -> dict[str, list[Completion]]:
    """A policy's responses to some prompts, and two opponents', of other lengths in words and tokens."""

    def of(version: str, word: str, length: Callable[[int], int]) -> list[Completion]:
        return [
            make_completion(
                prompt, completion=word * length(prompt), completion_ids=[5] * length(prompt), policy=version
            )
            for prompt in range(COUNT)
        ]

    return {
        "ours": of("0" * 16, "a", lambda prompt: 3 + prompt % 5),
        "initial": of("1" * 16, "b", lambda prompt: 2 + (2 * prompt) % 7),
        "previous": of("2" * 16, "c", lambda prompt: 4),
    }


def evaluated(
    recipe: Recipe, policy: Policy, sides: dict[str, list[Completion]], *scorers: Labeler, **options: Any
) -> Measured:
    return evaluate_policy(
        policy,
        policy,
        recipe,
        round_number=2,
        samples=sides["ours"],
        drawn=sides["ours"],
        opponents={name: responses for name, responses in sides.items() if name != "ours"},
        pairs=[],
        scorers=scorers,
        **{"asking": Asking(NoProgress())} | options,
    )


VERDICTS = [1.0, 0.75, 0.5, 0.0, 1.0, 0.5, 0.25, 1.0, 1.0, 0.0, 1.0, 0.6]


def test_a_judges_verdicts_are_the_win_rates_in_both_ways(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    judge = Judge(VERDICTS)
    found = evaluated(recipe, warm_policy, sides, judge).evaluation
    seed = derive_seed(recipe.seed, "bootstrap") % 2**32
    plain = win_rate_of(VERDICTS, seed=seed)
    for name in ("initial", "previous"):
        lengths = [[float(one.num_tokens) for one in sides[side]] for side in ("ours", name)]
        controlled = length_controlled_win_rate(VERDICTS, *lengths, seed=seed)
        assert found.against[name] == {
            "win_rate": math.fsum(VERDICTS) / COUNT,
            "low": plain.interval.low,
            "high": plain.interval.high,
            "wins": 7,
            "ties": 2,
            "losses": 3,
            "length_controlled_win_rate": controlled.win_rate,
            "length_controlled_low": controlled.interval.low,
            "length_controlled_high": controlled.interval.high,
            "length_slope": controlled.length_slope,
            "policy": sides[name][0].policy,
        }
    assert found.against["initial"]["length_slope"] != found.against["previous"]["length_slope"]
    assert (found.scorer, found.reward, found.labelers) == ("judge", None, {"judge": {"asked": 2 * COUNT}})
    assert judge.asked[0] == (sides["ours"][0].completion, sides["initial"][0].completion)


def test_prompts_without_a_verdict_are_counted_and_in_no_rate(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    verdicts = [None, None, *VERDICTS[2:]]
    found = evaluated(recipe, warm_policy, sides, Judge(verdicts)).evaluation.against["initial"]
    assert found["unanswered"] == 2
    assert found["win_rate"] == pytest.approx(math.fsum(VERDICTS[2:]) / (COUNT - 2))
    assert int(found["wins"]) + int(found["ties"]) + int(found["losses"]) == COUNT - 2
    whole = evaluated(recipe, warm_policy, sides, Judge(VERDICTS)).evaluation.against["initial"]
    assert "unanswered" not in whole


def test_a_judge_that_says_nothing_at_all_is_no_scorer(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    with pytest.raises(LabelerError, match="of 12 pairs of responses none has a verdict"):
        evaluated(recipe, warm_policy, sides, Judge([None] * COUNT))


def test_an_opponent_under_two_names_is_asked_about_once(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    judge = Judge(VERDICTS)
    found = evaluated(recipe, warm_policy, {**sides, "previous": sides["initial"]}, judge).evaluation
    assert len(judge.asked) == COUNT
    assert found.against["initial"] == found.against["previous"]


def test_without_an_opponent_a_judge_is_asked_nothing(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    judge = Judge(VERDICTS)
    found = evaluated(recipe, warm_policy, {"ours": sides["ours"]}, judge).evaluation
    assert (judge.asked, found.against, found.reward, found.labelers) == ([], {}, None, None)


def test_several_scorers_judge_each_on_its_own_and_samples_keep_every_score(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    scorers = (Lengths(), Judge(VERDICTS), Lengths("shortness", -1.0, without=[3]))
    found, samples, _ = evaluated(recipe, warm_policy, sides, *scorers)
    alone = {scorer.name: evaluated(recipe, warm_policy, sides, scorer).evaluation for scorer in scorers}
    assert (found.scorer, found.reward, found.against) == (
        "lengths",
        alone["lengths"].reward,
        alone["lengths"].against,
    )
    assert found.other_scorers == {
        name: {"reward": alone[name].reward, "against": alone[name].against} for name in ("judge", "shortness")
    }
    assert found.other_scorers["shortness"]["against"]["initial"]["unanswered"] == 1
    assert found.other_scorers["judge"]["reward"] is None
    for place, sample in enumerate(samples):
        length = float(len(str(sample.completion)))
        assert sample.scores == {"lengths": length, **({} if place == 3 else {"shortness": -length})}
        assert Completion.from_dict(sample.to_dict()) == sample
    assert Evaluation.from_dict(found.to_dict()) == found


def test_samples_of_judges_alone_have_no_scores(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]]
) -> None:
    _, samples, _ = evaluated(recipe, warm_policy, sides, Judge(VERDICTS))
    assert samples == sides["ours"]
    assert all("scores" not in sample.to_dict() for sample in samples)


@pytest.mark.parametrize("by", ["sum", "vote", "agreement"])
def test_labelers_put_together_judge_as_one(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]], by: str
) -> None:
    members: list[Labeler] = [Lengths(), Lengths("more", 3.0) if by == "sum" else Judge(VERDICTS)]
    of = {member.name: 1.0 for member in members}
    both = Combination("both", CombinationLabelerSection(kind="combination", of=of, by=by))  # type: ignore[arg-type]
    both.members = {member.name: member for member in members}
    found, samples, _ = evaluated(recipe, warm_policy, sides, both)
    against = found.against["initial"]
    ours, theirs = ([len(str(one.completion)) for one in sides[side]] for side in ("ours", "initial"))
    scored = [float(one > other) if one != other else 0.5 for one, other in zip(ours, theirs, strict=True)]
    if by == "sum":
        expected: list[float | None] = list(scored)
        assert samples[0].scores is not None and list(samples[0].scores) == ["both"]
    elif by == "vote":
        expected = [(one + other) / 2 for one, other in zip(scored, VERDICTS, strict=True)]
    else:
        both_say = list(zip(scored, VERDICTS, strict=True))
        agree = [(one - 0.5) * (other - 0.5) > 0 or one == other == 0.5 for one, other in both_say]
        expected = [sum(pair) / 2 if same else None for pair, same in zip(both_say, agree, strict=True)]
    known = [outcome for outcome in expected if outcome is not None]
    assert against["win_rate"] == pytest.approx(math.fsum(known) / len(known))
    assert against.get("unanswered", 0) == COUNT - len(known)
    if by == "agreement":
        assert 0 < len(known) < COUNT


def test_killed_among_several_scorers_each_goes_on_after_its_last_batch(
    recipe: Recipe, warm_policy: Policy, sides: dict[str, list[Completion]], tmp_path: Path
) -> None:
    class Dies(Judge):
        def compare(self, *texts: Any) -> list[float | None]:
            if len(self.asked) >= 10:
                raise KeyboardInterrupt
            return super().compare(*texts)

    first = Dies(VERDICTS)
    with pytest.raises(KeyboardInterrupt):
        evaluated(
            recipe, warm_policy, sides, Lengths(), first, asking=Asking(NoProgress(), WorkInProgress(tmp_path, {}))
        )
    second = Judge(VERDICTS)
    asking = Asking(NoProgress(), WorkInProgress(tmp_path, {}))
    found = evaluated(recipe, warm_policy, sides, Lengths(), second, asking=asking).evaluation
    assert len(first.asked) + len(second.asked) == 2 * COUNT
    whole = evaluated(recipe, warm_policy, sides, Lengths(), Judge(VERDICTS)).evaluation
    assert (found.against, found.other_scorers) == (whole.against, whole.other_scorers)


def test_evaluation_samples_at_its_own_temperature_and_measures_the_kl_at_one(
    warm_policy: Policy, tiny_policy: Policy, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def carried_out(*overrides: str) -> tuple[Evaluation, list[Completion]]:
        changed = tiny_recipe(tmp_path, *overrides)
        written: dict[str, Any] = {}
        loaded = SimpleNamespace(
            inputs=Inputs(changed),
            engine=TransformersEngine(64),
            policy_after=lambda _: warm_policy,
            reference_for=lambda _: tiny_policy,
            labeler=lambda name: Lengths(name),
            measure=OneMeasure,
        )
        artifacts = SimpleNamespace(
            write=lambda name, rows: written.update({name: rows}),
            write_document=lambda name, record: written.update({name: record}),
        )
        surroundings: Any = (artifacts, loaded, NoWork(), NoProgress(), print)
        Evaluate().carry_out(Context(changed, 0, *surroundings))
        return written["evaluation.json"], written["samples.jsonl"]

    (plain, plain_samples), (cooler, cooler_samples) = carried_out(), carried_out("evaluate.temperature=0.3")
    assert {sample.sampling["temperature"] for sample in plain_samples} == {1.0}
    assert {sample.sampling["temperature"] for sample in cooler_samples} == {0.3}
    assert cooler.sampling == {**plain.sampling, "temperature": 0.3}
    assert [one.completion_ids for one in cooler_samples] != [one.completion_ids for one in plain_samples]
    assert cooler.kl == plain.kl, "which is of the policy itself"
    assert cooler.reward != plain.reward


def test_no_name_of_a_labeler_makes_it_read_what_was_kept_for_something_else(
    recipe: Recipe, tiny_policy: Policy, sides: dict[str, list[Completion]], tmp_path: Path
) -> None:
    """Labelers may be called as journals are, and as a member of a combination beside it."""

    def scorers() -> list[Labeler]:
        section = CombinationLabelerSection(kind="combination", of={"kl": 1.0, "margins": 2.0}, standardize=False)
        both = Combination("both", section)
        both.members = {"kl": Lengths("kl"), "margins": Lengths("margins", without=[3])}
        return [*both, both, Lengths("both-kl", -1.0)]

    asking = Asking(NoProgress(), WorkInProgress(tmp_path, {"key": 1}))
    kept = evaluated(recipe, tiny_policy, sides, *scorers(), asking=asking)
    assert kept == evaluated(recipe, tiny_policy, sides, *scorers())
    assert kept.evaluation.kl["mean"] == 0
    assert [sample.scores["both-kl"] for sample in kept.samples if sample.scores] == [
        -len(str(sample.completion)) for sample in kept.samples
    ]
