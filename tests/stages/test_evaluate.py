from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from align_cli.artifacts.records import Completion, Evaluation, PairLogps, Preference
from align_cli.engines.base import sampling_settings
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import LabelerError
from align_cli.labelers import Scorer, build_labeler
from align_cli.models.load import Policy
from align_cli.models.measures import OneMeasure
from align_cli.playground import hidden_reward, world
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.recipe.sections.labelers import FunctionLabelerSection
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import HELD_OUT_LOGPS, Artifact, Context, NoProgress, NoWork, Work
from align_cli.stages.evaluate import Evaluate, evaluate_policy, evaluation_draws
from align_cli.stages.generate import generate_completions
from align_cli.stages.held_out import Reference, measure_pairs
from align_cli.stages.inputs import Inputs
from align_cli.stages.opinions import Asking
from align_cli.stages.pairing.offline import label_offline_pairs
from align_cli.stages.said_before import SaidBefore


class ScorerOf(Scorer):
    """A labeler that a function is."""

    batch_size = 4

    def __init__(self, score: Callable[..., list[float]], name: str | None = "given") -> None:
        self.name, self._score = name or "", score

    def score(self, *texts: Any) -> list[float]:
        return self._score(*texts)


HIDDEN = FunctionLabelerSection(kind="function", function="align_cli.playground:hidden_reward")


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"), "generate.batch_size=7")


@pytest.fixture(scope="module")
def sample(recipe: Recipe) -> Callable[[Policy], list[Completion]]:
    """A policy's responses to the recipe's held-out prompts."""

    def drawn(policy: Policy) -> list[Completion]:
        return generate_completions(
            policy,
            evaluation_draws(world.eval_prompts(0), recipe.evaluate.num_prompts, recipe.seed),
            TransformersEngine(64),
            sampling_settings(recipe.generate),
            num_generations=1,
            round_number=0,
            stage="evaluate",
            run_seed=recipe.seed,
            progress=NoProgress(),
        )

    return drawn


@pytest.fixture(scope="module")
def warm_samples(sample: Callable[[Policy], list[Completion]], warm_policy: Policy) -> list[Completion]:
    return sample(warm_policy)


@pytest.fixture(scope="module")
def pairs(warm_policy: Policy) -> list[Preference]:
    rows = world.eval_preferences("plenty", 0)[:20]
    section = LabelSection(ties="keep", equal_texts="keep")
    return label_offline_pairs(rows, warm_policy, section, "dataset").preferences


def evaluate(
    recipe: Recipe, policy: Policy, reference: Policy, samples: list[Completion], **changes: Any
) -> Evaluation:
    options: dict[str, Any] = {
        "round_number": 3,
        "opponents": {},
        "pairs": [],
        "scorer": build_labeler("hidden", HIDDEN),
        "progress": NoProgress(),
        "work": NoWork(),
    } | changes
    scorer, *how = (options.pop(name) for name in ("scorer", "progress", "work"))
    options |= {"scorers": [scorer] if scorer else [], "asking": Asking(*how, recipe.label.thinking)}
    return evaluate_policy(policy, reference, recipe, samples=samples, **{"drawn": samples} | options).evaluation


def sequence_logp(policy: Policy, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> float:
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*prompt_ids, *response_ids]])).logits[0]
    logps = logits.double().log_softmax(-1)
    return math.fsum(logps[len(prompt_ids) + i - 1, token].item() for i, token in enumerate(response_ids))


def test_held_out_prompts_are_the_first_of_a_seeded_order() -> None:
    rows = [{"prompt": f"prompt {index}"} for index in range(10)]
    few, all_of_them = evaluation_draws(rows, 4, 0), evaluation_draws(rows, 99, 0)
    assert few == all_of_them[:4]
    assert sorted(draw.index for draw in all_of_them) == list(range(10))
    assert all(draw.prompt == rows[draw.index]["prompt"] and draw.lap == 0 for draw in all_of_them)
    assert few != evaluation_draws(rows, 4, 1)
    order = [draw.index for draw in all_of_them]
    assert order == [2, 9, 8, 5, 6, 7, 0, 3, 4, 1], "another order would change every run that is under way"


def test_a_policy_against_itself_ties_everywhere_and_has_no_kl(
    recipe: Recipe, warm_policy: Policy, warm_samples: list[Completion], pairs: list[Preference]
) -> None:
    found = evaluate(recipe, warm_policy, warm_policy, warm_samples, opponents={"initial": warm_samples}, pairs=pairs)
    assert found.against == {
        "initial": {
            "win_rate": 0.5,
            "low": 0.5,
            "high": 0.5,
            "length_controlled_win_rate": 0.5,
            "length_controlled_low": 0.5,
            "length_controlled_high": 0.5,
            "length_slope": 0.0,
            "wins": 0,
            "ties": len(warm_samples),
            "losses": 0,
            "policy": warm_policy.version,
        }
    }
    assert found.kl == {"mean": 0.0, "standard_error": 0.0, "reference": warm_policy.version}
    assert found.preferences == {"accuracy": 0.5, "margin": 0.0, "num_pairs": 20}


def test_kl_is_the_divergence_at_every_token_of_the_response(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion]
) -> None:
    sample = min(warm_samples, key=lambda each: each.num_tokens)
    expected = []
    for position in range(sample.num_tokens):
        ids = torch.tensor([sample.prompt_ids + sample.completion_ids[:position]])
        with torch.no_grad():
            ours = warm_policy.model(input_ids=ids).logits[0, -1].double().log_softmax(-1).tolist()
            theirs = tiny_policy.model(input_ids=ids).logits[0, -1].double().log_softmax(-1).tolist()
        expected.append(math.fsum(math.exp(p) * (p - q) for p, q in zip(ours, theirs, strict=True)))
    found = evaluate(recipe, warm_policy, tiny_policy, [sample]).kl
    assert found["mean"] == pytest.approx(math.fsum(expected), rel=1e-4)
    assert math.fsum(expected) > 1
    assert (found["standard_error"], found["reference"]) == (0.0, tiny_policy.version)


def test_kl_is_the_mean_over_the_responses_however_they_are_batched(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion]
) -> None:
    one_by_one = [evaluate(recipe, warm_policy, tiny_policy, [each]).kl["mean"] for each in warm_samples]
    together = evaluate(recipe, warm_policy, tiny_policy, warm_samples).kl["mean"]
    assert together == pytest.approx(sum(map(float, one_by_one)) / len(one_by_one), rel=1e-5)


def test_accuracy_and_margin_are_those_of_the_implicit_reward(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion], pairs: list[Preference]
) -> None:
    margins = []
    for pair in pairs:
        chosen, rejected = (
            sequence_logp(warm_policy, pair.prompt_ids or [], ids or [])
            - sequence_logp(tiny_policy, pair.prompt_ids or [], ids or [])
            for ids in (pair.chosen_ids, pair.rejected_ids)
        )
        margins.append(0.1 * (chosen - rejected))
    found = evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=pairs).preferences
    assert found is not None and found["num_pairs"] == len(pairs) == 20
    assert found["accuracy"] == sum(margin > 0 for margin in margins) / len(margins)
    assert found["margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-5)
    assert 0 < found["accuracy"] < 1


def test_a_held_out_pair_counts_by_its_label(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion], pairs: list[Preference]
) -> None:
    """The same pair written the other way round, with a label of 0, says the same."""
    swapped = [
        replace(
            pair,
            chosen=pair.rejected,
            rejected=pair.chosen,
            chosen_ids=pair.rejected_ids,
            rejected_ids=pair.chosen_ids,
            label=0.0,
        )
        for pair in pairs
    ]
    as_is = evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=pairs).preferences
    other = evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=swapped).preferences
    assert as_is is not None and other is not None
    assert other["accuracy"] == pytest.approx(as_is["accuracy"])


def test_reward_and_win_rate_are_the_scorers(
    recipe: Recipe,
    warm_policy: Policy,
    tiny_policy: Policy,
    sample: Callable[[Policy], list[Completion]],
    warm_samples: list[Completion],
) -> None:
    others = sample(tiny_policy)
    found = evaluate(recipe, warm_policy, tiny_policy, warm_samples, opponents={"initial": others})
    ours, theirs = (
        hidden_reward([each.prompt for each in side], [each.completion for each in side])  # type: ignore[misc]
        for side in (warm_samples, others)
    )
    wins = sum(a > b for a, b in zip(ours, theirs, strict=True))
    losses = sum(a < b for a, b in zip(ours, theirs, strict=True))
    ties = len(ours) - wins - losses
    result = found.against["initial"]
    assert (result["wins"], result["ties"], result["losses"]) == (wins, ties, losses)
    assert result["win_rate"] == (wins + ties / 2) / len(ours)
    assert float(result["low"]) <= float(result["win_rate"]) <= float(result["high"])
    assert result["policy"] == tiny_policy.version
    assert found.scorer == "hidden"
    assert found.reward is not None and found.reward["mean"] == pytest.approx(sum(ours) / len(ours))


def test_without_a_scorer_there_is_no_reward_and_no_win_rate(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion]
) -> None:
    found = evaluate(recipe, warm_policy, tiny_policy, warm_samples, opponents={"initial": warm_samples}, scorer=None)
    assert (found.scorer, found.reward, found.against, found.preferences) == (None, None, {}, None)
    assert found.kl["mean"] > 0  # type: ignore[operator]


def test_lengths_and_diversity_are_those_of_the_samples(
    recipe: Recipe, warm_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    samples = [
        make_completion(0, completion_ids=[5, 6, 5, 6, 1]),
        make_completion(1, completion_ids=[5, 6, 7], finish_reason="length"),
    ]
    found = evaluate(recipe, warm_policy, warm_policy, samples, scorer=None)
    assert found.num_prompts == 2
    assert found.length == {"mean": 4.0, "standard_error": 1.0}
    assert found.eos_rate == 0.5
    assert found.distinct_2 == 4 / 6, "(5 6) three times, (6 5), (6 1), (6 7)"
    assert found.sampling == samples[0].sampling
    assert (found.round, found.policy) == (3, warm_policy.version)


def test_the_same_evaluation_again_is_the_same_bytes(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion], pairs: list[Preference]
) -> None:
    runs = [
        evaluate(recipe, warm_policy, tiny_policy, warm_samples, opponents={"initial": warm_samples[::-1]}, pairs=pairs)
        for _ in range(2)
    ]
    assert repr(runs[0]) == repr(runs[1])
    assert Evaluation.from_dict(runs[0].to_dict()) == runs[0]


def test_progress_counts_every_response_and_pair(
    recipe: Recipe, warm_policy: Policy, warm_samples: list[Completion], pairs: list[Preference], tmp_path: Path
) -> None:
    told: list[int] = []

    class Counting:
        def start(self, total: int, unit: str) -> None:
            told.append(total)

        def advance(self, amount: int = 1) -> None:
            told.append(-amount)

        def found(self, amount: int) -> None:
            told.append(-amount)

    evaluate(recipe, warm_policy, warm_policy, warm_samples, pairs=pairs, progress=Counting())
    starts = [total for total in told if total > 0]
    assert starts == [len(warm_samples), len(warm_samples), len(pairs)], "scores, KL, then log-probabilities"
    assert sum(told) == 0


def test_kl_and_margins_that_a_killed_process_has_kept_are_not_computed_again(
    recipe: Recipe,
    warm_policy: Policy,
    tiny_policy: Policy,
    warm_samples: list[Completion],
    pairs: list[Preference],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=pairs)
    forward, calls, dies_at = warm_policy.model.forward, 0, -1

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    monkeypatch.setattr(warm_policy.model, "forward", counting)
    num_batches = math.ceil(len(warm_samples) / 7), math.ceil(len(pairs) / 7)
    done = 0
    for nth in (2, num_batches[0] - 1 + 2):  # in the second batch of KL, then in the second of the margins
        dies_at, calls = nth, 0
        with pytest.raises(KeyboardInterrupt):
            evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=pairs, work=WorkInProgress(tmp_path, {}))
        done += calls - 1
    dies_at, calls = -1, 0
    found = evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=pairs, work=WorkInProgress(tmp_path, {}))
    assert found == whole
    assert done + calls == sum(num_batches)


@pytest.mark.parametrize(
    "cut", ["generate.temperature=0.3", "generate.temperature=1.5", "generate.top_k=2", "generate.top_p=0.5"]
)
def test_kl_is_the_policys_own_however_its_responses_are_sampled(
    cut: str,
    recipe: Recipe,
    warm_policy: Policy,
    tiny_policy: Policy,
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    """Measured along the responses at temperature 0.3 it was 35% too low, at 1.5 14% too high."""

    def carried_out(overrides: Sequence[str]) -> Evaluation:
        plain = ("generate.batch_size=7", "method.sources.dpr.gradient=0")
        changed = tiny_recipe(tmp_path, *plain, *overrides)
        written: dict[str, Any] = {}
        loaded = SimpleNamespace(
            inputs=Inputs(changed),
            engine=TransformersEngine(64),
            policy_after=lambda _: warm_policy,
            reference_for=lambda _: tiny_policy,
            measure=OneMeasure,
            labeler=lambda name: build_labeler(name, HIDDEN),
        )
        artifacts = SimpleNamespace(
            write=lambda name, rows: written.update({name: rows}),
            write_document=lambda name, record: written.update({name: record}),
        )
        surroundings: Any = (artifacts, loaded, NoWork(), NoProgress(), print)
        Evaluate().carry_out(Context(changed, 0, *surroundings))
        assert {completion.sampling["temperature"] for completion in written["samples.jsonl"]} == {
            changed.generate.temperature
        }
        return written["evaluation.json"]

    bare, sampled = carried_out([]), carried_out([cut])
    assert sampled.kl == bare.kl
    assert sampled.sampling != bare.sampling
    assert sampled.length != bare.length


@pytest.mark.parametrize(
    ("reasons", "rate"),
    [
        (["stop", "length", "length"], 1 / 3),
        (["stop", "stop", "length"], 2 / 3),
        (["length"] * 2, 0.0),
        (["stop"] * 2, 1.0),
    ],
)
def test_a_response_that_was_cut_did_not_end_by_itself(
    recipe: Recipe,
    warm_policy: Policy,
    make_completion: Callable[..., Completion],
    reasons: list[str],
    rate: float,
) -> None:
    samples = [make_completion(index, finish_reason=reason) for index, reason in enumerate(reasons)]
    assert evaluate(recipe, warm_policy, warm_policy, samples, scorer=None).eos_rate == rate


def test_a_long_responses_kl_counts_for_all_of_its_tokens(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    """What a response says first costs the same whether or not it goes on; what it goes on to say is added."""
    ids = [[10, 20, 30, 40, 50, 60][:length] for length in range(1, 7)]
    samples = [make_completion(0, index, completion_ids=each) for index, each in enumerate(ids)]
    found = [float(evaluate(recipe, warm_policy, tiny_policy, [each]).kl["mean"]) for each in samples]
    assert all(later > earlier for earlier, later in pairwise(found))
    total = evaluate(recipe, warm_policy, tiny_policy, [samples[0], samples[5]]).kl["mean"]
    assert total == pytest.approx((found[0] + found[5]) / 2, rel=1e-5)


def test_held_out_pairs_count_whichever_response_their_label_prefers(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion], pairs: list[Preference]
) -> None:
    """Those labelled below one half with their margin turned; those labelled one half not at all."""
    labels = [1.0, 0.7, 0.5, 0.3, 0.0]
    labelled = [replace(pair, label=label) for pair, label in zip(pairs, labels, strict=False)]

    def found(some: list[Preference]) -> dict[str, float | int]:
        preferences = evaluate(recipe, warm_policy, tiny_policy, warm_samples[:1], pairs=some).preferences
        assert preferences is not None
        return preferences

    one, two, _, four, five = (found([replace(pair, label=1.0)])["margin"] for pair in labelled)
    signed = [one, two, -four, -five]
    together = found(labelled)
    assert together["num_pairs"] == 4
    assert together["margin"] == pytest.approx(sum(signed) / 4, abs=1e-5)
    assert together["accuracy"] == sum(margin > 0 for margin in signed) / 4


def test_no_forward_pass_of_an_evaluation_keeps_what_a_gradient_would_need(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, warm_samples: list[Completion], pairs: list[Preference]
) -> None:
    """Neither the policy's nor the reference's: their graphs would take several times the memory."""
    kept: list[bool] = []
    hooks = [
        each.model.register_forward_hook(lambda *found: kept.append(found[-1].logits.requires_grad))
        for each in (warm_policy, tiny_policy)
    ]
    assert next(tiny_policy.model.parameters()).requires_grad, "else nothing could be kept"
    try:
        evaluate(recipe, warm_policy, tiny_policy, warm_samples, pairs=pairs)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(kept) == 2 * (math.ceil(len(warm_samples) / 7) + math.ceil(len(pairs) / 7))
    assert not any(kept)


class Round:
    """The surroundings of an evaluation: what it reads, writes and is told."""

    def __init__(
        self, recipe: Recipe, policies: Sequence[Policy], reference: Policy, held: dict[int, list[Completion]]
    ) -> None:
        self.recipe, self.policies, self.held = recipe, policies, held
        self.written: dict[str, Any] = {}
        self.logps: dict[Artifact, list[PairLogps]] = {}
        self.notes: list[str] = []
        self.sampled: list[int] = []
        self.units: set[str] = set()
        self.num_made = 0
        self.loaded = SimpleNamespace(
            inputs=Inputs(recipe),
            engine=TransformersEngine(64),
            policy_after=lambda number: policies[number],
            another_policy=lambda number: policies[number],
            reference_for=lambda _: reference,
            measure=OneMeasure,
            labeler=lambda name: build_labeler(name, HIDDEN),
            said_before=defaultdict(SaidBefore),
        )
        self.artifacts = SimpleNamespace(
            holds=lambda artifact: artifact in self.logps,
            base=lambda number: number,
            read=lambda artifact, _: self.logps[artifact] if artifact in self.logps else held.get(artifact.round),
            write=lambda name, rows: self.written.update({name: rows}),
            write_document=lambda name, record: self.written.update({name: record}),
        )

    def start(self, total: int, unit: str) -> None:
        self.units.add(unit)
        if unit == "completions":
            self.sampled.append(total)

    def advance(self, amount: int = 1) -> None:
        self.num_made += amount

    def found(self, amount: int) -> None: ...

    def evaluated(self, number: int, work: Work | None = None) -> Evaluation:
        surroundings: Any = (self.artifacts, self.loaded, work or NoWork(), self, self.notes.append)
        done = Evaluate().carry_out(Context(self.recipe, number, *surroundings))
        evaluation = self.written["evaluation.json"]
        assert done.figures == evaluation.to_dict()
        return evaluation


def test_a_rounds_policy_is_compared_with_what_each_opponent_answered(
    recipe: Recipe, warm_policy: Policy, tiny_policy: Policy, sample: Callable[[Policy], list[Completion]]
) -> None:
    """With what lies there; an opponent whose responses do not is sampled anew, and answers just so."""
    answers = {0: sample(tiny_policy), 1: sample(warm_policy)}
    policies = [tiny_policy, warm_policy, warm_policy]
    there = Round(recipe, policies, tiny_policy, answers)
    there.loaded.another_policy = None  # no opponent has to be loaded
    found = there.evaluated(2)
    written = there.written["samples.jsonl"]
    assert [replace(one, scores=None) for one in written] == answers[1]
    scores = hidden_reward([one.prompt for one in written], [one.completion for one in written])
    assert [one.scores for one in written] == [{"hidden": score} for score in scores]
    assert found.against["initial"]["policy"] == tiny_policy.version
    assert found.against["previous"] | {"policy": ""} == found.against["previous"] | {
        "policy": "",
        "win_rate": 0.5,
        "ties": len(answers[1]),
    }
    assert found.against["initial"]["wins"] != found.against["initial"]["losses"]
    anew = Round(recipe, policies, tiny_policy, {1: answers[1]})
    assert anew.evaluated(2) == found


def test_what_is_sampled_from_the_policy_itself_is_sampled_once(
    recipe: Recipe, tiny_recipe: Callable[..., Recipe], tmp_path: Path, warm_policy: Policy, tiny_policy: Policy
) -> None:
    count = recipe.evaluate.num_prompts
    bare = Round(recipe, [warm_policy], tiny_policy, {})
    bare.evaluated(0)
    warm = tiny_recipe(tmp_path, "generate.temperature=0.5", "method.sources.dpr.gradient=0")
    cooler = Round(warm, [warm_policy], tiny_policy, {})
    cooler.evaluated(0)
    scored = [count]
    assert bare.sampled == [count, *scored]
    assert cooler.sampled == [count, count, *scored]


def test_draws_from_the_policy_are_kept_apart_from_what_is_sampled_in_another_way(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, warm_policy: Policy, tiny_policy: Policy
) -> None:
    """Each has a journal of its own: a process that goes on takes neither for the other."""
    cooler = tiny_recipe(tmp_path, "generate.temperature=0.5", "method.sources.dpr.gradient=0")
    wanted = Round(cooler, [warm_policy], tiny_policy, {}).evaluated(0)
    first, second = (Round(cooler, [warm_policy], tiny_policy, {}) for _ in range(2))
    for journaled in (first, second):
        assert journaled.evaluated(0, WorkInProgress(tmp_path / "work", {})) == wanted
        assert journaled.units == {"completions", "responses", "pairs"}
    assert first.num_made > 0
    assert second.num_made == 0, "all of it was kept"


def rows_of_passes(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequences that the policy's model runs over from here on, in each of its passes."""
    forward, rows = policy.model.forward, list[int]()

    def noting(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(policy.model, "forward", noting)
    return rows


def test_a_reference_is_asked_about_held_out_pairs_once_a_run(
    recipe: Recipe,
    warm_policy: Policy,
    tiny_policy: Policy,
    sample: Callable[[Policy], list[Completion]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {0: sample(tiny_policy), 1: sample(warm_policy)}
    policies = [tiny_policy, warm_policy, warm_policy, warm_policy]
    run = Round(recipe, policies, tiny_policy, answers)
    passes = rows_of_passes(tiny_policy, monkeypatch)
    first = run.evaluated(1)
    logps, with_pairs = run.written.pop(HELD_OUT_LOGPS), sum(passes)
    assert {pair.reference for pair in logps} == {logps[0].reference} and len(logps) > recipe.evaluate.num_prompts
    run.logps[Artifact(1, HELD_OUT_LOGPS)] = logps
    run.held[2] = run.held[1]
    passes.clear()
    second = run.evaluated(2)
    assert second.preferences == first.preferences and HELD_OUT_LOGPS not in run.written
    assert sum(passes) < with_pairs
    assert sum(passes) == recipe.evaluate.num_prompts, "the KL alone"
    run.logps[Artifact(1, HELD_OUT_LOGPS)] = [replace(pair, reference="another") for pair in logps]
    run.loaded.said_before.clear()
    assert run.evaluated(3).preferences == first.preferences
    assert run.written[HELD_OUT_LOGPS] == logps


def test_a_policy_that_is_the_reference_is_not_asked_what_it_has_to_say_against_itself(
    recipe: Recipe, tiny_policy: Policy, pairs: list[Preference], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = rows_of_passes(tiny_policy, monkeypatch)
    found = measure_pairs(tiny_policy, Reference(tiny_policy), pairs, recipe, Asking(NoProgress()))
    assert found == ({"accuracy": 0.5, "margin": 0.0, "num_pairs": 20}, [])
    assert passes == []


@pytest.mark.parametrize(
    ("number", "max_new_tokens", "is_told"),
    [(0, 1, True), (1, 1, False), (0, 24, False)],
    ids=["none ended", "in a later round", "some ended"],
)
def test_an_initial_policy_that_never_ends_is_told_before_training(
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    warm_policy: Policy,
    tiny_policy: Policy,
    number: int,
    max_new_tokens: int,
    is_told: bool,
) -> None:
    recipe = tiny_recipe(tmp_path, f"generate.max_new_tokens={max_new_tokens}", "evaluate.num_prompts=8")
    surroundings = Round(recipe, [warm_policy, warm_policy], tiny_policy, {})
    rate = surroundings.evaluated(number).eos_rate
    assert (rate == 0) == (max_new_tokens == 1)
    assert [note.split(":")[0] for note in surroundings.notes] == ["warning"] * is_told
    assert all("none of the initial policy's responses ended by itself" in note for note in surroundings.notes)


def test_one_response_is_enough_for_a_comparison(
    recipe: Recipe, warm_policy: Policy, warm_samples: list[Completion]
) -> None:
    one = warm_samples[:1]
    found = evaluate(recipe, warm_policy, warm_policy, one, opponents={"initial": one}).against["initial"]
    assert (found["win_rate"], found["ties"], found["policy"]) == (0.5, 1, warm_policy.version)


def test_the_interval_of_a_win_rate_is_this(
    recipe: Recipe, warm_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    """Golden: another seed of its resampling would change every run that is under way."""
    ids = {"prompt_ids": [3], "completion_ids": [10, 1]}
    ours, theirs = ([make_completion(prompt, sample, **ids) for prompt in range(51)] for sample in (0, 1))

    def score(prompts: Sequence[str], completions: Sequence[str], indices: Sequence[int]) -> list[float]:
        outcomes = [1.0, 0.5, 0.0, 1.0, 1.0, 0.5, 0.0]
        of_ours = zip(completions, indices, strict=True)
        return [outcomes[index % 7] if text == " answer 0 ." else 0.5 for text, index in of_ours]

    scorer: Any = ScorerOf(score, "given")
    found = evaluate(recipe, warm_policy, warm_policy, ours, opponents={"initial": theirs}, scorer=scorer)
    result = found.against["initial"]
    assert (result["wins"], result["ties"], result["losses"]) == (22, 15, 14)
    assert (result["low"], result["high"]) == (0.46078431372549017, 0.696078431372549)


def test_a_scorer_that_cannot_score_is_found_before_anything_is_sampled(recipe: Recipe) -> None:
    def score(*_: Any) -> list[float]:
        raise LabelerError("it is broken", where="labelers.hidden")

    asked: list[str | None] = []

    def scorer(name: str | None) -> Any:
        asked.append(name)
        return ScorerOf(score, name)

    loaded: Any = SimpleNamespace(inputs=Inputs(recipe), labeler=scorer, engine=TransformersEngine(64))
    with pytest.raises(LabelerError, match="it is broken"):
        Evaluate().check(recipe, loaded)
    assert asked == ["hidden"]


def test_the_scorer_reads_responses_without_their_thinking_where_the_recipe_strips_it(
    recipe: Recipe, warm_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    ids = {"prompt_ids": [3], "completion_ids": [10, 1]}
    samples = [make_completion(prompt, completion="<think>long thoughts</think>so", **ids) for prompt in range(2)]

    def length(prompts: Sequence[str], completions: Sequence[str], indices: Sequence[int]) -> list[float]:
        return [float(len(text)) for text in completions]

    scorer: Any = ScorerOf(length, "length")
    strips = recipe.model_copy(update={"label": recipe.label.model_copy(update={"thinking": "strip"})})
    found = [evaluate(one, warm_policy, warm_policy, samples, scorer=scorer).reward for one in (recipe, strips)]
    assert [reward and reward["mean"] for reward in found] == [30.0, 2.0]
