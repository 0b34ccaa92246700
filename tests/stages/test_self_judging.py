"""The label stage with the policy as judge: a tiny model that writes digits scores what it wrote before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from at_work import AtWork, Folders, Held
from chat_models import CHATML, STRICT, make_chat_model

from align_cli.artifacts.records import Completion, Preference
from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import LabelerError
from align_cli.labelers.self_judge import SelfJudge
from align_cli.models.load import load_policy
from align_cli.models.text import prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import COMPLETIONS, PREFERENCES, Artifact, NoWork, Work
from align_cli.stages.label import Label
from align_cli.stages.self_judging import PolicyWriter, policy_handed_to

DIGITS = "answer: (\\d)\nlowest: 0\nhighest: 9\n{system}--- user\n{{prompt}}|{{completion}}"
TinyRecipe = Callable[..., Recipe]
Judged = Callable[..., Recipe]
NUM_PROMPTS, NUM_RESPONSES = 4, 3


@pytest.fixture
def judged(tiny_recipe: TinyRecipe, tmp_path: Path) -> Judged:
    """`judged(template=..., system=..., context_length=..., **changes)`: a recipe of a tiny policy that judges."""

    def make(template: str | None = CHATML, system: str = "", context_length: int = 256, **changes: Any) -> Recipe:
        make_chat_model(tmp_path / "model", template=template, context_length=context_length)
        (tmp_path / "digits.txt").write_text(DIGITS.format(system=system), encoding="utf-8")
        own = {"kind": "self_judge", "template": str(tmp_path / "digits.txt"), "max_new_tokens": 40, "batch_size": 8}
        defaults = {
            "policy": {"model_name_or_path": str(tmp_path / "model")},
            "labelers__own": {**own, "max_unparsable": 1.0},
            "method__sources": {"dpr": {"mixing": 1.0, "labeler": "own"}},
            "generate": {"num_generations": NUM_RESPONSES, "max_new_tokens": 16},
            "label__pairs": "all",
        }
        return tiny_recipe(tmp_path, **{**defaults, **changes})

    return make


def responses(recipe: Recipe) -> list[Completion]:
    """Those of a round, as long as each other."""
    fixed: Any = {"logps": [-1.0], "finish_reason": "stop", "num_tokens": 1, "round": 1, "policy": "p", "sampling": {}}
    return [
        Completion(
            prompt=f"prompt {index}",
            completion=f" is {index * sample}",
            prompt_ids=[1, 2],
            completion_ids=[5 + sample],
            prompt_index=index,
            sample_index=sample,
            seed=0,
            engine="transformers",
            **fixed,
        )
        for index in range(NUM_PROMPTS)
        for sample in range(NUM_RESPONSES)
    ]


def at_work(recipe: Recipe, work: Work | None = None, killed_at: int | None = None) -> AtWork:
    folder = Path(str(recipe.policy.model_name_or_path))
    held = Held(folder.parent, {Artifact(1, COMPLETIONS): responses(recipe)})
    return AtWork(recipe, Folders({0: folder}), held, work=work or NoWork(), killed_at=killed_at)


def labelled(context: AtWork) -> tuple[list[Preference], dict[str, Any]]:
    done = Label().carry_out(context)
    return context.held.written[PREFERENCES], done.figures["labelers"]["own"]


def test_scores_are_the_means_of_what_the_policy_itself_writes(judged: Judged) -> None:
    recipe = judged()
    context = at_work(recipe)
    pairs, figures = labelled(context)
    assert figures["completions"] == NUM_PROMPTS * NUM_RESPONSES
    assert figures["answers"] + figures["unparsable"] == 3 * figures["completions"]
    assert figures["answers"] >= 12
    judge = context.loaded.labeler("own")
    assert isinstance(judge, SelfJudge) and judge.writer is None, "only while the stage works"
    with policy_handed_to(judge, context):
        scores = judge.score([one.prompt for one in responses(recipe)], [one.completion for one in responses(recipe)])
    places = [(one.prompt_index, one.sample_index) for one in responses(recipe)]
    by_place = dict(zip(places, scores, strict=True))
    assert len({score for score in scores if score is not None}) > 3
    assert pairs
    for pair in pairs:
        assert pair.labeler == "own"
        assert pair.chosen_score == by_place[pair.prompt_index, pair.chosen_index]
        assert pair.rejected_score == by_place[pair.prompt_index, pair.rejected_index]


@pytest.mark.parametrize("template", [CHATML, None], ids=["chat", "plain text"])
def test_an_answer_is_what_the_policy_samples_behind_the_question_in_its_own_form(
    judged: Judged, template: str | None
) -> None:
    recipe = judged(template=template, labelers__own__top_p=0.9)
    context = at_work(recipe)
    judge = context.loaded.labeler("own")
    assert isinstance(judge, SelfJudge)
    question = judge.question("prompt", "completion")
    (written,) = PolicyWriter(context, "own").write([question], [7])
    policy = load_policy(str(recipe.policy.model_name_or_path))
    ids = prompt_token_ids(policy.tokenizer, question if template else "prompt|completion")
    settings = SamplingSettings(0.7, 0, 0.9, 40)
    ((_, sample),) = next(TransformersEngine(1).generate(policy, [Request(ids, 7)], settings))
    assert written.text == policy.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
    assert (written.num_prompt_tokens, written.num_tokens) == (len(ids), len(sample.token_ids))
    assert written.ended == sample.finish_reason


def test_a_killed_stage_ends_in_the_same_pairs_and_figures_and_so_does_one_with_other_batches(
    judged: Judged, tmp_path: Path
) -> None:
    recipe = judged()
    whole = labelled(at_work(recipe))
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    with pytest.raises(KeyboardInterrupt):
        labelled(at_work(recipe, work, killed_at=4))
    going_on = at_work(recipe, work)
    assert labelled(going_on) == whole
    assert ("found", 4) in going_on.watched.told
    assert labelled(at_work(judged(labelers__own__batch_size=2))) == whole


def test_other_rounds_draw_other_votes(judged: Judged) -> None:
    recipe = judged()
    first, second = at_work(recipe), at_work(recipe)
    second.round = 2
    second.loaded.made(load_policy(str(recipe.policy.model_name_or_path)))
    second.loaded.trained(1, second.loaded.state)
    assert PolicyWriter(first, "own").seed != PolicyWriter(second, "own").seed


def test_a_response_that_leaves_no_room_for_an_answer_has_no_score(judged: Judged) -> None:
    context = at_work(judged(context_length=128))
    judge = context.loaded.labeler("own")
    with policy_handed_to(judge, context):
        short, long = judge.score(["p", "p"], ["a", "a" * 120])  # type: ignore[attr-defined]
    assert short is not None and long is None
    assert context.said == [
        "labelers.own: some responses leave no room for max_new_tokens in the policy's context; they get no score"
    ]


def test_a_combination_asks_the_policy_too(judged: Judged) -> None:
    recipe = judged(
        labelers__sum={"kind": "combination", "of": {"own": 1.0, "hidden": 1.0}},
        method__sources={"dpr": {"mixing": 1.0, "labeler": "sum"}},
    )
    assert Label().needs(recipe) == ("policy",)
    pairs, figures = labelled(at_work(recipe))
    assert figures["answers"] > 0
    assert pairs and all("own" in pair.chosen_scores for pair in pairs)


@pytest.mark.parametrize(
    ("policy", "where", "what"),
    [
        (
            {"context_length": 64},
            "labelers.own.max_new_tokens",
            "a response up to 16 (generate.max_new_tokens) and an answer 40: more than the policy's context of 64",
        ),
        (
            {"template": STRICT, "system": "--- system\nBe just.\n"},
            "labelers.own.template",
            "the policy cannot read what it is asked: the chat template rejects it (no system here)",
        ),
    ],
)
def test_what_the_policy_cannot_be_asked_is_told_before_anything_is_sampled(
    judged: Judged, policy: dict[str, Any], where: str, what: str
) -> None:
    recipe = judged(**policy)
    with pytest.raises(LabelerError) as raised:
        Label().check(recipe, at_work(recipe).loaded)
    (fault,) = raised.value.faults
    assert fault.where == where and what in fault.what and fault.hint
