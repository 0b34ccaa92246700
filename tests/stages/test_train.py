"""The train stage without a model: which pairs it refuses, and as what it hands the others to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import Preference
from align_cli.errors import DataError
from align_cli.recipe import Recipe
from align_cli.stages.pools import training_pools
from align_cli.stages.train_round import train_policy
from align_cli.training.batches import Mixture, TrainingPair
from align_cli.training.checkpoints import TrainingState

TinyRecipe = Callable[..., Recipe]
REWARDED = "method.sources={dpr: {mixing: 1, labeler: hidden}}"
MIXED = ("method.sources={dmd: {mixing: 1}}", "data.demonstrations=playground")
SELF_LABELLED = "method.sources={dpp: {mixing: 1}}"
OFFLINE = "method.sources={offline: {mixing: 1}}"


class RecordingTrainer:
    """A trainer that keeps the batches that it is given, and trains nothing."""

    def __init__(self) -> None:
        self.batches: list[list[TrainingPair]] = []
        self.step_records: list[dict[str, float]] = []

    def train_round(self, batches: list[list[TrainingPair]], start: TrainingState, *_: Any) -> TrainingState:
        self.batches = batches
        return start


@pytest.fixture
def trained(tiny_recipe: TinyRecipe, tmp_path: Path) -> Callable[..., list[TrainingPair]]:
    """`trained(pairs, *overrides, rounds_before=0)`: the pairs as one step that takes each once, in its order."""

    def train(pairs: Sequence[Preference], *overrides: str, rounds_before: int = 0) -> list[TrainingPair]:
        recipe = tiny_recipe(
            tmp_path, "train.steps_per_round=1", f"train.per_device_train_batch_size={len(pairs)}", *overrides
        )
        trainer = RecordingTrainer()
        start = TrainingState(round=rounds_before, global_step=rounds_before, parent=None)
        outcome = train_policy(trainer, recipe, pairs, start, None)  # type: ignore[arg-type]
        assert set(outcome.usage) == set(recipe.method.sources.in_use())
        (batch,) = trainer.batches
        return batch

    return train


def pair_of(prompt: int = 0, chosen: int | None = 0, rejected: int | None = 1, **changes: Any) -> Preference:
    """A pair of the policy's with the tokens of its samples."""
    fields: dict[str, Any] = {
        "prompt": f"prompt {prompt}",
        "chosen": f"answer {chosen}",
        "rejected": f"answer {rejected}",
        "source": "dpr",
        "prompt_ids": [3, 4 + prompt],
        "chosen_ids": [10 + (chosen or 0), 1],
        "rejected_ids": [10 + (rejected or 0), 1],
        "chosen_logp": -1.0,
        "rejected_logp": -2.0,
        "round": 1,
        "prompt_index": prompt,
        "chosen_index": chosen,
        "rejected_index": rejected,
        "chosen_by": "policy",
        "rejected_by": "policy",
    }
    return Preference(**fields | changes)


def mixed(prompt: int = 0, rejected: int = 0, shown: int = 0, **changes: Any) -> Preference:
    """A demonstration over a sample of the policy's."""
    fields = {"source": "dmd", "chosen_by": "dataset", "chosen_logp": None, "chosen_ids": [90 + shown, 1]}
    return pair_of(prompt, None, rejected, **fields | changes)


def by_id(pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
    return sorted(pairs, key=lambda pair: pair.pair_id)


UNSIGNED = {"chosen_by": "dataset", "rejected_by": "dataset"}


@pytest.mark.parametrize(
    ("source", "overrides"),
    [("dpr", (REWARDED,)), ("dmd", MIXED), ("dpp", (SELF_LABELLED,))],
    ids=["dpr", "dmd", "dpp"],
)
def test_pairs_of_the_policys_that_do_not_say_so_are_refused(
    trained: Callable[..., list[TrainingPair]], source: str, overrides: tuple[str, ...]
) -> None:
    pairs = [
        pair_of(0, source=source),
        pair_of(1, source=source, **UNSIGNED),
        pair_of(2, source=source, **UNSIGNED),
    ]
    with pytest.raises(DataError) as caught:
        trained(pairs, *overrides)
    assert str(caught.value) == (
        f"method.sources.{source}: 2 pairs of source {source} say of neither response that the policy wrote it\n"
        "hint: label completions of `align generate`; or set chosen_by and rejected_by of each pair"
    )
    assert len(trained(pairs[:1], *overrides)) == 1


@pytest.mark.parametrize(
    "writers", [("policy", "reference"), ("reference", "policy"), ("reference", "reference"), ("dataset", "policy")]
)
def test_pairs_of_which_one_response_at_least_was_sampled_are_taken(
    trained: Callable[..., list[TrainingPair]], writers: tuple[str, str]
) -> None:
    (pair,) = trained([pair_of(chosen_by=writers[0], rejected_by=writers[1])], REWARDED)
    assert pair.of_policy == tuple(writer == "policy" for writer in writers)


def test_offline_pairs_need_no_writer(trained: Callable[..., list[TrainingPair]]) -> None:
    offline = [pair_of(prompt, source="offline", round=0, **UNSIGNED) for prompt in range(2)]
    pairs = trained(offline, OFFLINE)
    assert {pair.of_policy for pair in pairs} == {(False, False)}
    assert {pair.sampled_logp for pair in pairs} == {0.0}


@pytest.mark.parametrize(
    "overrides",
    [
        ("method.loss_type=nca_pair",),
        ("method.loss_type=[dpo, sft]",),
        ("method.use_weighting=true",),
        ("method.ld_alpha=0.5",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_labels_below_one_are_refused_where_the_loss_is_trls(
    trained: Callable[..., list[TrainingPair]], overrides: tuple[str, ...]
) -> None:
    pairs = [pair_of(0), pair_of(1, label=0.75), pair_of(2, label=0.5)]
    with pytest.raises(DataError) as caught:
        trained(pairs, REWARDED, *overrides)
    assert str(caught.value) == (
        "method.loss_type: 2 pairs have a label below 1, the first 0.75; TRL's own losses take hard labels alone\n"
        "hint: leave these pairs out, set label.ties to drop, or set method.loss_type to sigmoid, ipo, hinge or simpo"
    )
    assert len(trained(pairs[:1], REWARDED, *overrides)) == 1


def test_offline_labels_below_one_are_refused_just_so(trained: Callable[..., list[TrainingPair]]) -> None:
    pairs = [pair_of(0, source="offline", label=0.9, **UNSIGNED)]
    with pytest.raises(DataError, match=r"1 pair has a label below 1, the first 0\.9; TRL's own losses"):
        trained(pairs, OFFLINE, "method.loss_type=apo_zero")


@pytest.mark.parametrize("loss", ["dpo", "ipo", "slic", "simpo"])
def test_aligns_own_losses_take_labels_of_every_size(trained: Callable[..., list[TrainingPair]], loss: str) -> None:
    pairs = trained([pair_of(0, label=0.75), pair_of(1, label=0.5)], REWARDED, f"method.loss_type={loss}")
    assert [pair.label for pair in by_id(pairs)] == [0.75, 0.5]


def test_a_choice_among_responses_of_policy_and_reference_needs_those_that_were_not_chosen(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    overrides = (
        "method.sources={dpr: {mixing: 1, gradient: 0.5, labeler: hidden}}",
        "generate.num_reference_generations=1",
    )
    with pytest.raises(DataError) as caught:
        trained([pair_of()], *overrides)
    assert str(caught.value).startswith(
        "method.sources.dpr.gradient: 1 pair of source dpr was chosen from 3 responses, with none of the others"
    )
    (pair,) = trained([pair_of(other_ids=[[8, 1]], other_logps=[-0.5])], *overrides)
    assert (pair.other_ids, pair.sampled_logp) == (([8, 1],), -3.5)
    (pair,) = trained([pair_of(chosen_by="reference", other_ids=[], other_logps=[])], *overrides)
    assert (pair.other_ids, pair.sampled_logp) == ((), -2.0)
    assert trained([pair_of()], *overrides, "label.pairs=all")
    assert trained([pair_of(rejected_by="reference")], *overrides, "generate.num_generations=1")


def test_weights_need_the_log_probabilities_of_what_the_policy_sampled_and_no_others(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    weighed = "method.importance_weight_cap=10"
    assert [pair.sampled_logp for pair in trained([mixed()], *MIXED, weighed)] == [-2.0]
    for lacking in (mixed(rejected_logp=None), mixed(1, rejected_logp=None)):
        with pytest.raises(DataError, match="1 pair holds no log-probabilities of their sampling"):
            trained([mixed(), lacking], *MIXED, weighed)
    (pair,) = trained([pair_of(chosen_by="reference", chosen_logp=None)], REWARDED, weighed)
    assert pair.sampled_logp == -2.0


def test_all_pairs_of_three_responses_share_them(trained: Callable[..., list[TrainingPair]]) -> None:
    pairs = [pair_of(prompt, *two) for prompt in range(2) for two in combinations(range(3), 2)]
    first, second = by_id(trained(pairs, REWARDED))[:3], by_id(trained(pairs, REWARDED))[3:]
    for three in (first, second):
        (one, two), (one_again, three_), (two_again, three_again) = (pair.response_ids for pair in three)
        assert (one, two, three_) == (one_again, two_again, three_again)
        assert len({one, two, three_}) == 3
        assert len({pair.prompt_id for pair in three}) == 1
    assert first[0].prompt_id != second[0].prompt_id
    ids = [{number for pair in three for number in pair.response_ids} for three in (first, second)]
    assert not ids[0] & ids[1]


def test_the_same_sample_number_of_policy_and_reference_is_two_responses(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    (pair,) = trained([pair_of(0, 0, 0, rejected_by="reference")], REWARDED)
    assert len(set(pair.response_ids)) == 2


def test_a_prompt_of_another_round_is_another_one(trained: Callable[..., list[TrainingPair]]) -> None:
    one, other = trained([pair_of(0, round=1), pair_of(0, round=2)], REWARDED)
    assert one.prompt_id != other.prompt_id
    assert not set(one.response_ids) & set(other.response_ids)


def test_without_numbers_the_tokens_say_which_prompt_and_which_response_it_is(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    unknown = {"prompt_index": None, "chosen_index": None, "rejected_index": None}
    pairs = [
        pair_of(0, prompt_ids=[3], chosen_ids=[10, 1], rejected_ids=[11, 1], **unknown),
        pair_of(0, prompt_ids=[3], chosen_ids=[12, 1], rejected_ids=[10, 1], **unknown),
        pair_of(0, prompt_ids=[4], chosen_ids=[10, 1], rejected_ids=[11, 1], **unknown),
    ]
    first, second, third = by_id(trained(pairs, REWARDED))
    assert first.prompt_id == second.prompt_id != third.prompt_id
    assert first.response_ids[0] == second.response_ids[1]
    assert len({*first.response_ids, *second.response_ids}) == 3
    assert not {*first.response_ids, *second.response_ids} & {*third.response_ids}


def test_mixed_pairs_of_a_prompt_share_a_demonstration_where_it_is_the_same(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    pairs = [mixed(0, 0, shown=0), mixed(0, 1, shown=1), mixed(0, 2, shown=0), mixed(1, 0, shown=0)]
    first, second, third, other = by_id(trained(pairs, *MIXED))
    assert first.prompt_id == second.prompt_id == third.prompt_id != other.prompt_id
    assert first.response_ids[0] == third.response_ids[0] != second.response_ids[0]
    assert len({pair.response_ids[1] for pair in (first, second, third)}) == 3
    assert not {*first.response_ids, *second.response_ids, *third.response_ids} & {*other.response_ids}
    assert {pair.of_policy for pair in (first, second, third, other)} == {(False, True)}


def test_responses_that_were_not_chosen_are_nobody_elses(trained: Callable[..., list[TrainingPair]]) -> None:
    pairs = [pair_of(0, other_ids=[[8, 1], [9, 1]], other_logps=[-1.0, -1.0]) for _ in range(2)]
    weighed = ("generate.num_generations=4", "method.importance_weight_cap=10")
    first, second = by_id(trained(pairs, REWARDED, *weighed))
    assert len(set(first.response_ids)) == 4
    assert first.response_ids[:2] == second.response_ids[:2]
    assert not set(first.response_ids[2:]) & set(second.response_ids[2:])


def test_pairs_of_a_prompt_follow_one_another(trained: Callable[..., list[TrainingPair]]) -> None:
    pairs = [pair_of(prompt, *two) for two in combinations(range(3), 2) for prompt in range(5)]
    in_order = [pair.prompt_id for pair in trained(pairs, REWARDED)]
    assert in_order == [prompt for prompt in dict.fromkeys(in_order) for _ in range(3)]
    assert in_order != sorted(in_order), "the prompts themselves are in a seeded order"


WRITERS = (("policy", "policy"), ("policy", "reference"), ("reference", "policy"), ("reference", "reference"))


def test_optimism_on_the_reference_is_carried_by_what_it_wrote_in_whatever_round(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    pairs = [
        pair_of(prompt, chosen_by=chosen, rejected_by=rejected, round=round_number)
        for round_number in (1, 2)
        for prompt, (chosen, rejected) in enumerate(WRITERS)
    ]
    overrides = (
        "generate={num_generations: 1, num_reference_generations: 1}",
        "method.optimism.coefficient=0.1",
    )
    found = [pair.from_reference for pair in by_id(trained(pairs, REWARDED, *overrides, rounds_before=1))]
    assert found == [(False, False), (False, True), (True, False), (True, True)] * 2


@pytest.mark.parametrize("rounds_before", [0, 1, 2])
def test_optimism_on_the_policy_is_carried_by_the_rounds_own_pairs_and_not_by_those_that_are_replayed(
    trained: Callable[..., list[TrainingPair]], rounds_before: int
) -> None:
    pairs = [pair_of(0, round=number) for number in (1, 2, 3)]
    overrides = ("policy.reference=previous", "method.optimism={coefficient: 0.1, on: policy}")
    found = [pair.from_reference for pair in by_id(trained(pairs, REWARDED, *overrides, rounds_before=rounds_before))]
    assert found == [(number == rounds_before + 1,) * 2 for number in (1, 2, 3)]


def test_optimism_is_carried_by_pairs_that_a_reward_labels(trained: Callable[..., list[TrainingPair]]) -> None:
    both = "method.sources={dpp: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}"
    overrides = (both, "policy.reference=previous", "method.optimism={coefficient: 0.1, on: policy}")
    found = trained([pair_of(0, source="dpp"), pair_of(0)], *overrides)
    assert [pair.from_reference for pair in found] == [(False, False), (True, True)]


KL_ON_POLICY = "method.kl={coefficient: 0.1, on: policy, gradient: pathwise}"
OPTIMISM_ON_REFERENCE = (
    "generate={num_generations: 1, num_reference_generations: 1}",
    "method.optimism.coefficient=0.1",
)


@pytest.mark.parametrize(
    ("writers", "overrides", "where", "lacking"),
    [
        (("reference", "reference"), (KL_ON_POLICY,), "method.kl", "has a response of the policy's own"),
        (
            ("policy", "policy"),
            OPTIMISM_ON_REFERENCE,
            "method.optimism",
            "has a response that the reference sampled",
        ),
    ],
)
def test_steps_without_a_pair_that_carries_a_term_are_refused(
    trained: Callable[..., list[TrainingPair]],
    writers: tuple[str, str],
    overrides: tuple[str, ...],
    where: str,
    lacking: str,
) -> None:
    """Pairs of elsewhere may have other writers than the recipe's own; one that carries the term is enough."""
    foreign = [pair_of(prompt, chosen_by=writers[0], rejected_by=writers[1]) for prompt in range(4)]
    carrying = pair_of(4, chosen_by="policy", rejected_by="reference")
    two_steps = ("train.per_device_train_batch_size=2", "train.steps_per_round=2")
    with pytest.raises(DataError) as caught:
        trained(foreign, REWARDED, *overrides, *two_steps)
    (fault,) = caught.value.faults
    assert fault.what == f"in 2 of the round's 2 steps no pair {lacking}: none would carry {where}"
    assert fault.where == where and fault.hint.endswith(f"or set {where}.coefficient to 0")
    assert len(trained([*foreign, carrying], REWARDED, *overrides)) == 5


def test_steps_that_do_not_measure_a_kl_that_is_held_are_refused(trained: Callable[..., list[TrainingPair]]) -> None:
    """All responses carry it, but it is held by what the policy's own say."""
    foreign = [pair_of(prompt, chosen_by="reference", rejected_by="reference") for prompt in range(4)]
    held = "method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}"
    two_steps = ("train.per_device_train_batch_size=2", "train.steps_per_round=2")
    with pytest.raises(DataError) as caught:
        trained(foreign, REWARDED, held, *two_steps)
    (fault,) = caught.value.faults
    assert fault.where == "method.kl.target" and fault.hint.endswith("or leave it out")
    assert fault.what.startswith("in 2 of the round's 2 steps no pair has a response of the policy's own")
    own = pair_of(4, chosen_by="policy", rejected_by="reference")
    assert len(trained([*foreign, own], REWARDED, held)) == 5


def test_a_source_without_pairs_says_where_they_come_from(trained: Callable[..., list[TrainingPair]]) -> None:
    both = "method.sources={dpr: {mixing: 0.5, labeler: hidden}, dmd: {mixing: 0.5}}"
    with pytest.raises(DataError, match=r"source 'dmd' has a share of 0\.5 but no pairs") as caught:
        trained([pair_of()], both, MIXED[1])
    assert caught.value.faults[0].where == "method.sources.dmd"


def test_pairs_of_a_source_without_a_share_are_refused(trained: Callable[..., list[TrainingPair]]) -> None:
    pairs = [pair_of(0), pair_of(1, source="dmd"), pair_of(2, source="mine")]
    with pytest.raises(DataError) as caught:
        trained(pairs, REWARDED)
    assert str(caught.value) == (
        "method.sources: 2 pairs have source 'dmd', which has no share in the recipe's mixture\n"
        "hint: give it a share, or leave these pairs out; pairs of dpr are used"
    )


@pytest.mark.parametrize("rounds_before", [0, 1, 2])
def test_a_round_goes_on_with_the_offline_pairs_and_begins_with_its_own(
    tiny_recipe: TinyRecipe, tmp_path: Path, rounds_before: int
) -> None:
    recipe = tiny_recipe(
        tmp_path,
        "method.sources={offline: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}",
        "train={steps_per_round: 2, per_device_train_batch_size: 4, learning_rate: 0.1}",
        "seed=3",
    )
    pairs = [pair_of(prompt, source=source) for source in ("offline", "dpr") for prompt in range(8)]
    trainer, start = RecordingTrainer(), TrainingState(round=rounds_before, global_step=2 * rounds_before, parent=None)
    outcome = train_policy(trainer, recipe, pairs, start, None)  # type: ignore[arg-type]
    assert outcome.usage == {"offline": {"1": 4}, "dpr": {"1": 4}}
    mixture = Mixture({"offline": 0.5, "dpr": 0.5}, 4, 3, per_round=["dpr"])
    pools = training_pools(recipe, pairs, rounds_before)
    assert trainer.batches == mixture.round_batches(pools, rounds_before + 1, 2)


OTHERS = {"other_ids": [[8, 1]], "other_logps": [-0.5]}


def test_responses_that_no_term_needs_are_left_out(trained: Callable[..., list[TrainingPair]]) -> None:
    def held(*overrides: str, pair: Preference) -> tuple[tuple[list[int], ...], float]:
        (found,) = trained([pair], *overrides)
        return found.other_ids, found.sampled_logp

    assert held(REWARDED, pair=pair_of(**OTHERS)) == ((), -3.0)
    assert held(REWARDED, "method.importance_weight_cap=10", pair=pair_of(**OTHERS)) == (([8, 1],), -3.5)
    assert held(*MIXED, pair=mixed(**OTHERS)) == ((), -2.0), "nothing of a mixed pair's is weighed or has a gradient"


def test_what_was_sampled_is_the_policys_responses_alone(trained: Callable[..., list[TrainingPair]]) -> None:
    weighed = "method.importance_weight_cap=10"

    def sampled(**changes: Any) -> float:
        return trained([pair_of(**changes)], REWARDED, weighed)[0].sampled_logp

    assert sampled() == -3.0
    assert sampled(rejected_by="reference") == -1.0
    assert sampled(chosen_by="reference") == -2.0
    assert sampled(chosen_logp=0.0) == -2.0, "the policy was certain of it"
    assert sampled(rejected_logp=0.0) == -1.0


@pytest.mark.parametrize("overrides", [(OFFLINE,), ("method.sources={ddp: {mixing: 1, gradient: 0.5}}",)])
def test_offline_pairs_are_taken_as_written_whoever_wrote_them(
    trained: Callable[..., list[TrainingPair]], overrides: tuple[str, ...]
) -> None:
    """Pairs that a policy sampled once may serve as a data set."""
    weighed = "method.importance_weight_cap=10"
    (pair,) = trained([pair_of(source="offline", **OTHERS)], *overrides, weighed)
    assert (pair.other_ids, pair.sampled_logp) == ((), 0.0)


def test_prompts_of_the_same_words_are_two_where_their_rows_are(trained: Callable[..., list[TrainingPair]]) -> None:
    one, other = trained([pair_of(0, prompt_ids=[3]), pair_of(1, prompt_ids=[3])], REWARDED)
    assert one.prompt_id != other.prompt_id
    assert not {*one.response_ids} & {*other.response_ids}


def test_optimism_on_the_policy_is_carried_by_what_it_wrote_alone(trained: Callable[..., list[TrainingPair]]) -> None:
    overrides = ("policy.reference=previous", "method.optimism={coefficient: 0.1, on: policy}")
    pairs = [
        pair_of(prompt, chosen_by=chosen, rejected_by=rejected) for prompt, (chosen, rejected) in enumerate(WRITERS)
    ]
    found = by_id(trained(pairs, REWARDED, *overrides))
    assert [pair.from_reference for pair in found] == [(True, True), (True, False), (False, True), (False, False)]


def test_kl_on_every_response_is_carried_by_every_step(trained: Callable[..., list[TrainingPair]]) -> None:
    offline = [pair_of(prompt, source="offline", **UNSIGNED) for prompt in range(2)]
    assert len(trained(offline, OFFLINE, "method.kl={coefficient: 0.1, on: all, gradient: pathwise}")) == 2


def test_kl_on_the_policy_is_not_carried_by_a_data_sets_pairs_whoever_wrote_them(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    both = "method.sources={offline: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}"
    of_policy = [pair_of(prompt, source="offline") for prompt in range(2)]
    of_reference = [pair_of(prompt, chosen_by="reference", rejected_by="reference") for prompt in range(2)]
    with pytest.raises(DataError, match="in 1 of the round's 1 steps no pair has a response of the policy's own"):
        trained([*of_policy, *of_reference], both, KL_ON_POLICY)


def test_weights_need_the_log_probability_of_either_response_that_the_policy_sampled(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    for lacking in ({"chosen_logp": None}, {"rejected_logp": None}):
        with pytest.raises(DataError, match="1 pair holds no log-probabilities of their sampling"):
            trained([pair_of(0), pair_of(1, **lacking)], REWARDED, "method.importance_weight_cap=10")
        assert len(trained([pair_of(0), pair_of(1, **lacking)], REWARDED)) == 2, "nothing is weighed"
    of_reference = pair_of(rejected_by="reference", rejected_logp=None)
    assert [pair.sampled_logp for pair in trained([of_reference], REWARDED, "method.importance_weight_cap=10")] == [
        -1.0
    ]


def test_a_choice_among_many_needs_the_others_for_the_bilevel_term_and_for_weights_alone(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    assert len(trained([pair_of()], REWARDED, "generate.num_generations=4")) == 1
    for needing in ("method.sources.dpr.gradient=0.5", "method.importance_weight_cap=10"):
        with pytest.raises(DataError, match="1 pair of source dpr was chosen from 4 responses"):
            trained([pair_of()], REWARDED, "generate.num_generations=4", needing)
    both = (
        "method.sources={dpr: {mixing: 0.5, gradient: 0.5, labeler: hidden}, dmd: {mixing: 0.5}}",
        "data.demonstrations=playground",
        "generate.num_generations=4",
    )
    pairs = [pair_of(0, other_ids=[[8, 1], [9, 1]], other_logps=[-1.0, -1.0]), mixed(1)]
    assert len(trained(pairs, *both)) == 2, "a mixed pair was not chosen from others"


def test_offline_pairs_serve_the_source_whose_labels_are_the_policys(
    trained: Callable[..., list[TrainingPair]],
) -> None:
    pairs = [pair_of(prompt, source="offline", round=0, **UNSIGNED) for prompt in range(2)]
    assert {pair.of_policy for pair in trained(pairs, "method.sources={ddp: {mixing: 1}}")} == {(False, False)}


@pytest.mark.parametrize(
    "unplaced",
    [
        {"prompt_index": None},
        {"chosen_index": None},
        {"rejected_index": None},
        {"chosen_index": None, "rejected_by": "reference"},
        {"rejected_index": None, "chosen_by": "reference"},
    ],
    ids=str,
)
def test_what_a_baseline_goes_by_has_to_be_said(
    trained: Callable[..., list[TrainingPair]], unplaced: dict[str, Any]
) -> None:
    pairs = [pair_of(0), pair_of(1, **unplaced)]
    with_term = "method.sources={dpr: {mixing: 1, gradient: 0.5, labeler: hidden}}"
    with pytest.raises(DataError) as caught:
        trained(pairs, with_term)
    assert str(caught.value) == (
        "method.sources.dpr.gradient: 1 pair of source dpr does not say which samples of which prompt they are, "
        "which the baseline of the bilevel term goes by\n"
        "hint: label completions of `align generate`; or set prompt_index, chosen_index and rejected_index"
    )
    assert len(trained(pairs, REWARDED)) == 2, "without the term there is no baseline"


def test_what_the_policy_did_not_sample_needs_no_number(trained: Callable[..., list[TrainingPair]]) -> None:
    shown = ("method.sources={dmd: {mixing: 1, gradient: 0.5}}", MIXED[1])
    assert len(trained([mixed(0), mixed(1)], *shown)) == 2
    foreign = pair_of(0, rejected_by="reference", rejected_index=None)
    assert len(trained([foreign], "method.sources={dpr: {mixing: 1, gradient: 0.5, labeler: hidden}}")) == 1
    offline = pair_of(0, None, None, source="offline", round=0, prompt_index=None, **UNSIGNED)
    assert len(trained([offline], "method.sources={ddp: {mixing: 1, gradient: 0.5}}")) == 1
