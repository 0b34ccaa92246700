"""What stages say of themselves: when they are due, what they depend on, what they read and need, what a fork keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align_cli.recipe import Recipe
from align_cli.stages import STAGES, stage_named
from align_cli.stages.base import (
    CHECKPOINT,
    COMPLETIONS,
    PREFERENCES,
    SAMPLES,
    TRAINING,
    Artifact,
    NoProgress,
    NoWork,
    Stage,
    policy_artifact,
)
from align_cli.stages.inputs import Inputs
from align_cli.stages.train_round import pair_rounds

TinyRecipe = Callable[..., Recipe]
REWARD = "reward={model_name_or_path: org/base}"
OFFLINE = "method.sources={offline: {mixing: 1}}"
SELF_LABELLED = "method.sources={dpp: {mixing: 1}}"
SELF_JUDGED = ("labelers.own={kind: self_judge}", "method.sources={dpr: {mixing: 1, labeler: own}}")
MIXED = ("method.sources={dmd: {mixing: 1}}", "data.demonstrations=playground")
UNMEASURED = {"data__eval_prompts": None, "evaluate": None}
WITH_REFERENCE = "generate.num_reference_generations=1"


class Known:
    """Rounds that are over: what they hold, and which round's policy each hands on where it was rolled back."""

    def __init__(self, held: Sequence[Artifact] = (), bases: dict[int, int] | None = None) -> None:
        self.held, self.bases = held, bases or {}

    def holds(self, artifact: Artifact) -> bool:
        return artifact in self.held

    def base(self, round_number: int) -> int:
        return self.bases.get(round_number, round_number)


@pytest.fixture
def recipe(tiny_recipe: TinyRecipe, tmp_path: Path) -> Callable[..., Recipe]:
    """`recipe("method.beta=0.2", ...)`: the small recipe, with overrides."""
    return lambda *overrides, **changes: tiny_recipe(tmp_path, *overrides, **changes)


def due(recipe: Recipe, round_number: int) -> list[str]:
    return [stage.name for stage in STAGES if stage.is_due(recipe, round_number)]


def test_stages_are_found_by_name_and_stand_in_the_order_of_a_round() -> None:
    assert [stage.name for stage in STAGES] == ["sft", "reward", "generate", "label", "train", "evaluate"]
    assert all(stage_named(stage.name) is stage for stage in STAGES)


def test_each_stage_says_what_it_writes() -> None:
    """The names are those of a run's folder: other ones would be other runs."""
    assert {stage.name: stage.writes for stage in STAGES} == {
        "sft": ("checkpoint", "training.jsonl"),
        "reward": ("reward_model", "reward_training.jsonl", "reward.json"),
        "generate": ("completions.jsonl",),
        "label": ("preferences.jsonl",),
        "train": ("checkpoint", "training.jsonl", "reference_logps.jsonl"),
        "evaluate": ("samples.jsonl", "evaluation.json", "held_out_logps.jsonl"),
    }


def test_a_stage_that_does_not_say_when_it_is_due_what_it_depends_on_reads_and_does_is_none() -> None:
    class Half(Stage):
        name = "half"
        writes = ()

    assert Half.__abstractmethods__ == {"is_due", "keys", "reads", "carry_out"}


def test_work_that_nobody_resumes_is_kept_in_memory_and_forgotten() -> None:
    work, progress = NoWork(), NoProgress()
    work.journal("one").append([{"a": 1}])
    work.keep_checkpoint(1, Path.mkdir)
    work.drop_checkpoints()
    assert (work.journal("one").rows, work.checkpoint()) == ([], None)
    progress.start(3, "steps")
    progress.found(1)
    progress.advance()


def test_round_zero_makes_and_measures_the_policy_and_the_others_train_it(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    assert due(recipe(policy={"model_name_or_path": str(tmp_path)}), 0) == ["evaluate"], "it is there already"
    assert due(recipe(), 0) == ["sft", "evaluate"]
    assert due(recipe(REWARD), 0) == ["sft", "reward", "evaluate"]
    for number in (1, 2, 7):
        assert due(recipe(), number) == ["generate", "label", "train", "evaluate"]
        assert due(recipe(OFFLINE), number) == ["train", "evaluate"]
    assert due(recipe(**UNMEASURED), 0) == ["sft"]
    assert due(recipe(**UNMEASURED), 1) == ["generate", "label", "train"]


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        *(
            (key, "sft reward generate label train evaluate")
            for key in ("seed", "policy.model_name_or_path", "playground.setting", "reviews.liked", "data.as_chat")
        ),
        ("policy.dtype", "sft generate label train evaluate"),
        ("reward.learning_rate", "reward"),
        ("label.thinking", "reward label train evaluate"),
        ("data.max_prompt_tokens", "sft generate label train evaluate"),
        ("data.prompts", "generate"),
        ("generate.temperature", "generate evaluate"),
        ("label.ties", "label train evaluate"),
        ("method.beta", "label train evaluate"),
        ("method.sources.dpr.mixing", "label train"),
        ("method.kl.coefficient", "train"),
        ("data.demonstrations", "label"),
        ("data.preferences", "train"),
        ("train.learning_rate", "train"),
        ("data.eval_prompts", "evaluate"),
        ("data.eval_preferences", "evaluate"),
        ("evaluate.num_prompts", "evaluate"),
        ("labelers.hidden.function", "label evaluate"),
        ("labelers.other.function", ""),
        ("output_dir", ""),
        ("rounds", ""),
        ("guards.kl", ""),
        ("checkpoints.every_rounds", ""),
    ],
)
def test_which_stages_a_key_is_a_part_of(recipe: Callable[..., Recipe], key: str, stages: str) -> None:
    found = [
        stage.name for stage in STAGES if any(f"{key}.".startswith(f"{depended}.") for depended in stage.keys(recipe()))
    ]
    assert found == stages.split()


def test_demonstrations_count_for_sampling_where_they_give_the_prompts(recipe: Callable[..., Recipe]) -> None:
    generate, label, evaluate = (stage_named(name) for name in ("generate", "label", "evaluate"))
    assert "data.demonstrations" in generate.keys(recipe(*MIXED, data__prompts=None))
    assert "data.demonstrations" not in generate.keys(recipe(*MIXED))
    for stage, plain in ((label, recipe(SELF_LABELLED)), (evaluate, recipe(evaluate__scorer=None))):
        assert not [key for key in stage.keys(plain) if "labelers" in key]


def test_a_policy_is_its_checkpoint_or_the_figures_of_the_training_that_made_it() -> None:
    checkpoint, training = Artifact(2, CHECKPOINT), Artifact(2, TRAINING)
    assert policy_artifact(Known(), 2) == checkpoint
    assert policy_artifact(Known([checkpoint]), 2) == checkpoint
    assert policy_artifact(Known([checkpoint, training]), 2) == checkpoint
    assert policy_artifact(Known([training, Artifact(1, CHECKPOINT)]), 2) == training


@pytest.mark.parametrize(("bases", "base"), [({}, 2), ({2: 1}, 1)], ids=["", "the round before was rolled back"])
def test_a_round_goes_on_from_the_policy_before(
    recipe: Callable[..., Recipe], bases: dict[int, int], base: int
) -> None:
    history, policy = Known([Artifact(3, PREFERENCES)], bases), Artifact(base, CHECKPOINT)

    def reads(name: str, *overrides: str) -> list[Artifact]:
        return stage_named(name).reads(recipe(*overrides), history, 3)

    assert reads("sft") == reads("reward") == []
    assert reads("generate") == [policy]
    assert reads("generate", WITH_REFERENCE) == [policy, Artifact(0, CHECKPOINT)]
    assert reads("label") == [policy, Artifact(3, COMPLETIONS)]
    assert reads("train") == [policy, Artifact(3, PREFERENCES)]
    assert reads("evaluate") == [Artifact(3, CHECKPOINT), Artifact(0, SAMPLES), Artifact(base, SAMPLES)]


def test_who_asks_the_runs_reward_model_is_made_from_it(recipe: Callable[..., Recipe]) -> None:
    mine = "labelers.mine={kind: reward_model, model_name_or_path: run}"
    both = "labelers.both={kind: combination, of: {mine: 1, hidden: 1}}"
    model = Artifact(0, "reward_model")

    def asks(name: str, *overrides: str) -> bool:
        return model in stage_named(name).reads(recipe(REWARD, mine, both, *overrides), Known(), 3)

    for labeler, is_asked in (("mine", True), ("both", True), ("hidden", False)):
        assert asks("label", f"method.sources.dpr.labeler={labeler}") is is_asked
        assert asks("evaluate", f"evaluate.scorer={labeler}") is is_asked
        assert not asks("train", f"method.sources.dpr.labeler={labeler}")


def test_the_initial_policy_is_measured_against_nobody(recipe: Callable[..., Recipe]) -> None:
    assert stage_named("evaluate").reads(recipe(), Known(), 0) == [Artifact(0, CHECKPOINT)]
    assert stage_named("evaluate").reads(recipe(), Known(), 1) == [Artifact(1, CHECKPOINT), *[Artifact(0, SAMPLES)] * 2]


def test_a_round_trains_on_its_own_pairs_and_those_that_are_replayed(recipe: Callable[..., Recipe]) -> None:
    history = Known([Artifact(number, PREFERENCES) for number in (1, 2, 4, 5)])
    assert pair_rounds(recipe(), history, 5) == [5]
    assert pair_rounds(recipe("train.replay_rounds=1"), history, 5) == [4, 5]
    assert pair_rounds(recipe("train.replay_rounds=2"), history, 5) == [4, 5], "round 3 sampled nothing"
    assert pair_rounds(recipe("train.replay_rounds=9"), history, 5) == [1, 2, 4, 5]
    assert pair_rounds(recipe("train.replay_rounds=9"), history, 1) == [1]
    assert pair_rounds(recipe(OFFLINE), Known(), 5) == []
    assert pair_rounds(recipe(OFFLINE, "train.replay_rounds=1"), history, 5) == [5], "what others sampled is not theirs"


def test_what_has_to_be_loaded(recipe: Callable[..., Recipe]) -> None:
    def needs(name: str, *overrides: str) -> tuple[str, ...]:
        return stage_named(name).needs(recipe(*overrides))

    assert needs("sft") == needs("reward") == ()
    assert needs("generate") == ("policy",)
    assert needs("generate", WITH_REFERENCE) == ("policy", "reference")
    assert needs("label") == (), "the labeler alone"
    assert needs("label", *MIXED) == (), "demonstrations are tokens already"
    assert needs("label", SELF_LABELLED) == ("policy", "reference")
    assert needs("label", *SELF_JUDGED) == ("policy",)
    assert needs("label", SELF_JUDGED[0]) == (), "one that nobody asks"
    both = "method.sources={dmd: {mixing: 0.5}, dpp: {mixing: 0.5}}"
    assert sorted(needs("label", both, MIXED[1])) == ["policy", "reference"]
    assert needs("train") == needs("evaluate") == ("policy", "reference")


def test_what_there_is_too_little_of_is_said(recipe: Callable[..., Recipe]) -> None:
    def shortages(*overrides: str) -> list[str]:
        changed = recipe(*overrides)
        return [text for stage in STAGES for text in stage.shortages(changed, Inputs(changed))]

    prompts, held_out = len(Inputs(recipe()).prompts), len(Inputs(recipe()).eval_prompts)
    assert shortages(f"generate.prompts_per_round={prompts}", f"evaluate.num_prompts={held_out}") == []
    assert shortages(f"generate.prompts_per_round={prompts + 1}", f"evaluate.num_prompts={held_out + 1}") == [
        f"{prompts} prompts for {prompts + 1} a round: each is sampled several times in a round",
        f"{held_out} held-out prompts, where evaluate.num_prompts asks for {held_out + 1}",
    ]


def test_a_fork_keeps_the_initial_policy_and_how_policies_are_measured(recipe: Callable[..., Recipe]) -> None:
    fixed = {stage.name: stage.fork_keys(recipe()).fixed for stage in STAGES}
    free = {stage.name: stage.fork_keys(recipe()).free for stage in STAGES}
    assert [name for name, keys in fixed.items() if keys] == ["sft", "reward", "evaluate"]
    assert (fixed["reward"], free["reward"]) == (("reward",), ())
    assert "policy" in fixed["sft"] and set(free["sft"]) == {"policy.reference", "policy.lora.between_rounds", "seed"}
    assert {"evaluate", "data.eval_prompts", "generate"} <= set(fixed["evaluate"])
    assert {"method.beta", "label", "generate.prompts_per_round"} <= set(free["evaluate"])
    assert not {"generate.temperature", "generate.max_new_tokens", "seed"} & set(free["evaluate"])
    assert stage_named("evaluate").fork_keys(recipe(**UNMEASURED)) == ((), ())
