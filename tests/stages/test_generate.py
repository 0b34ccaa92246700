from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from at_work import AtWork, Folders, Held

from align_cli.artifacts.records import Completion
from align_cli.engines.base import SamplingSettings, sampling_settings
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import DataError
from align_cli.models.load import Policy
from align_cli.models.text import prompt_token_ids
from align_cli.playground import world
from align_cli.recipe import Recipe
from align_cli.recipe.sections.generate import GenerateSection
from align_cli.run.folder.work import WorkInProgress
from align_cli.seeds import derive_seed
from align_cli.stages.base import COMPLETIONS, NoProgress
from align_cli.stages.generate import Generate, PromptDraw, draw_prompts, generate_completions
from align_cli.stages.inputs import Inputs

ROWS = [{"prompt": f"prompt {index}"} for index in range(10)]
SETTINGS = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=8)
# The playground's prompts, each cut to another length: 1 to 10 tokens in a mixed order.
TEXTS = [" ".join(row["prompt"].split()[: 1 + index * 7 % 10]) for index, row in enumerate(world.prompts(0, 12))]
PLAYGROUND_DRAWS = [PromptDraw(index, text, 0) for index, text in enumerate(TEXTS)]


class CountingProgress:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.total, self.unit, self.done = 0, "", 0

    def start(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def found(self, amount: int) -> None:
        self.done += amount


def sample(policy: Policy, draws: list[PromptDraw], batch_size: int = 64, **changes: Any) -> list[Completion]:
    options: dict[str, Any] = {
        "num_generations": 2,
        "round_number": 1,
        "stage": "generate",
        "run_seed": 0,
        "progress": NoProgress(),
    }
    engine, settings = TransformersEngine(batch_size), changes.pop("settings", SETTINGS)
    return generate_completions(policy, draws, engine, settings, **options | changes)


def test_no_prompt_repeats_before_all_were_seen() -> None:
    drawn = [draw.index for number in range(1, 6) for draw in draw_prompts(ROWS, number, 4, run_seed=0)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:], "the second lap has an order of its own"
    assert drawn[:10] == [6, 9, 3, 2, 1, 5, 0, 4, 8, 7], "another order would change every run that is under way"


def test_a_draw_is_its_row() -> None:
    for draw in draw_prompts(ROWS, 2, 4, run_seed=0):
        assert (draw.prompt, draw.lap) == (ROWS[draw.index]["prompt"], 0)


def test_a_round_draws_the_same_prompts_whether_or_not_it_was_interrupted() -> None:
    assert draw_prompts(ROWS, 3, 4, run_seed=0) == draw_prompts(ROWS, 3, 4, run_seed=0)
    assert draw_prompts(ROWS, 3, 4, run_seed=0) != draw_prompts(ROWS, 3, 4, run_seed=1)


def test_a_prompt_drawn_again_in_a_round_is_its_next_lap() -> None:
    draws = draw_prompts(ROWS, 1, 25, run_seed=0)
    laps = Counter(draw.index for draw in draws)
    assert sorted(laps.values()) == [2] * 5 + [3] * 5
    for index, times in laps.items():
        assert [draw.lap for draw in draws if draw.index == index] == list(range(times))


def test_laps_have_samples_and_seeds_of_their_own(warm_policy: Policy) -> None:
    draws = [PromptDraw(3, "review of the food :", lap) for lap in range(3)]
    completions = sample(warm_policy, draws)
    assert [completion.sample_index for completion in completions] == [0, 1, 2, 3, 4, 5]
    assert len({completion.seed for completion in completions}) == 6
    assert len({tuple(completion.completion_ids) for completion in completions}) > 3


def test_completions_come_by_prompt_then_by_sample_whatever_their_lengths(warm_policy: Policy) -> None:
    lengths = [len(prompt_token_ids(warm_policy.tokenizer, draw.prompt)) for draw in PLAYGROUND_DRAWS]
    assert lengths != sorted(lengths, reverse=True), "the engine works in another order"
    completions = sample(warm_policy, PLAYGROUND_DRAWS, batch_size=5, num_generations=3)
    places = [(completion.prompt_index, completion.sample_index) for completion in completions]
    assert places == [(draw.index, number) for draw in PLAYGROUND_DRAWS for number in range(3)]


def test_a_completion_says_all_about_itself(warm_policy: Policy) -> None:
    tokenizer = warm_policy.tokenizer
    for completion in sample(warm_policy, PLAYGROUND_DRAWS, round_number=4):
        draw = PLAYGROUND_DRAWS[completion.prompt_index]
        assert completion.prompt == draw.prompt
        assert completion.prompt_ids == prompt_token_ids(tokenizer, draw.prompt)
        assert completion.completion == tokenizer.decode(completion.completion_ids, skip_special_tokens=True)
        assert completion.num_tokens == len(completion.completion_ids) == len(completion.logps) <= 8
        assert (completion.finish_reason == "stop") is (completion.completion_ids[-1] == tokenizer.eos_token_id)
        assert (completion.round, completion.policy, completion.engine) == (4, warm_policy.version, "transformers")
        assert completion.sampling == {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 8}
        assert completion.seed == derive_seed(0, 4, "generate", completion.prompt_index, completion.sample_index)


def test_a_sample_depends_on_its_place_alone_and_not_on_company_or_batches(warm_policy: Policy) -> None:
    together = sample(warm_policy, PLAYGROUND_DRAWS)
    for same, expected in (
        (sample(warm_policy, PLAYGROUND_DRAWS, batch_size=1), together),
        (sample(warm_policy, PLAYGROUND_DRAWS[4:6]), together[8:12]),
        (sample(warm_policy, PLAYGROUND_DRAWS, num_generations=1), together[::2]),
    ):
        assert [replace(each, logps=[]) for each in same] == [replace(each, logps=[]) for each in expected]
        for one, other in zip(same, expected, strict=True):
            assert one.logps == pytest.approx(other.logps, abs=1e-4), "batches round differently, and no more"


@pytest.mark.parametrize("change", [{"round_number": 2}, {"stage": "evaluate"}, {"run_seed": 1}])
def test_another_round_stage_or_run_draws_other_numbers(change: dict[str, Any], warm_policy: Policy) -> None:
    before, after = sample(warm_policy, PLAYGROUND_DRAWS), sample(warm_policy, PLAYGROUND_DRAWS, **change)
    assert not {one.seed for one in before} & {other.seed for other in after}
    assert [one.completion_ids for one in before] != [other.completion_ids for other in after]


def test_policy_and_reference_draw_numbers_of_their_own_from_the_same_weights(warm_policy: Policy) -> None:
    of_policy = sample(warm_policy, PLAYGROUND_DRAWS, sampled_by="policy")
    of_reference = sample(warm_policy, PLAYGROUND_DRAWS, sampled_by="reference")
    assert {one.sampled_by for one in of_policy} == {"policy"}
    assert {one.sampled_by for one in of_reference} == {"reference"}
    assert not {one.seed for one in of_policy} & {one.seed for one in of_reference}
    same = [a.completion_ids == b.completion_ids for a, b in zip(of_policy, of_reference, strict=True)]
    assert sum(same) < len(same) / 2
    places = [(one.prompt_index, one.sample_index) for one in of_policy]
    assert places == [(one.prompt_index, one.sample_index) for one in of_reference]


def test_the_policys_samples_are_those_that_it_would_give_without_a_reference(warm_policy: Policy) -> None:
    assert sample(warm_policy, PLAYGROUND_DRAWS, sampled_by="policy") == sample(warm_policy, PLAYGROUND_DRAWS)
    for one in sample(warm_policy, PLAYGROUND_DRAWS[:3]):
        assert one.seed == derive_seed(0, 1, "generate", one.prompt_index, one.sample_index)


def test_the_policys_first_samples_are_these(warm_policy: Policy) -> None:
    """Golden: a change of the seeds or of the order of sampling would change every run that is under way."""
    seeds = [one.seed for one in sample(warm_policy, PLAYGROUND_DRAWS[:2])]
    assert seeds == [4057100262725006560, 5585426955783132748, 8730010702209822502, 3247292532790803160]
    seeds = [one.seed for one in sample(warm_policy, PLAYGROUND_DRAWS[:1], sampled_by="reference")]
    assert seeds == [200002236630737106, 4758899083333545755]


def test_a_chat_is_answered_with_an_assistants_message(warm_policy: Policy) -> None:
    chat = [{"role": "user", "content": "review of the food :"}]
    warm_policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    try:
        (completion,) = sample(warm_policy, [PromptDraw(0, chat, 0)], num_generations=1)
    finally:
        warm_policy.tokenizer.chat_template = None
    (plain,) = sample(warm_policy, [PromptDraw(0, "review of the food :", 0)], num_generations=1)
    assert completion.prompt == chat
    assert completion.completion == [{"role": "assistant", "content": plain.completion}]
    assert completion.completion_ids == plain.completion_ids


def test_progress_counts_every_completion(warm_policy: Policy) -> None:
    progress = CountingProgress()
    sample(warm_policy, PLAYGROUND_DRAWS, progress=progress)
    assert (progress.total, progress.unit, progress.done) == (24, "completions", 24)


def test_the_recipes_sampling_settings_reach_the_engine() -> None:
    section = GenerateSection(temperature=0.7, top_k=5, top_p=0.9, max_new_tokens=12)
    assert sampling_settings(section) == SamplingSettings(0.7, 5, 0.9, 12)


def test_completions_are_records(warm_policy: Policy, make_completion: Callable[..., Completion]) -> None:
    (completion, _) = sample(warm_policy, PLAYGROUND_DRAWS[:1])
    assert Completion.from_dict(completion.to_dict()) == completion
    assert completion.to_dict().keys() == make_completion().to_dict().keys()


ONLINE = "method.sources={dpr: {mixing: 1, labeler: hidden}}"
REFERENCE_TOO = ("generate.num_reference_generations=1", "generate.num_generations=1")


@pytest.fixture
def begin(tiny_recipe: Callable[..., Recipe], tiny_policy_folder: Path, tmp_path: Path) -> Callable[..., AtWork]:
    """`begin("generate.num_generations=1", ...)`: a process that is about to sample round 1, three prompts of it."""
    small = (ONLINE, f"policy={{model_name_or_path: {tiny_policy_folder}}}", "generate.prompts_per_round=3")

    def made(*overrides: str, **options: Any) -> AtWork:
        recipe = tiny_recipe(tmp_path, *small, "generate.max_new_tokens=4", *overrides)
        return AtWork(recipe, Folders({0: tiny_policy_folder}), Held(tmp_path), **options)

    return made


def test_a_round_samples_its_prompts_from_the_policy(begin: Callable[..., AtWork]) -> None:
    context = begin("generate.temperature=0.7", "seed=5")
    done = Generate().carry_out(context)
    completions: list[Completion] = context.held.written.pop(COMPLETIONS)
    assert context.held.written == {}
    draws = draw_prompts(context.memory.inputs.prompts, 1, 3, run_seed=5)
    assert [completion.prompt_index for completion in completions] == [draw.index for draw in draws for _ in range(2)]
    assert {(item.round, item.sampled_by, item.sampling["temperature"]) for item in completions} == {(1, "policy", 0.7)}
    assert completions[0].seed == derive_seed(5, 1, "generate", draws[0].index, 0)
    assert done.figures == {"completions": 6, "tokens": sum(len(item.completion_ids) for item in completions)}
    assert context.watched.told[0] == (6, "completions")


def test_a_reference_that_samples_nothing_is_not_loaded(
    begin: Callable[..., AtWork], tiny_policy: Policy, tmp_path: Path
) -> None:
    context = AtWork(begin().recipe, Folders({}), Held(tmp_path))
    context.memory.made(tiny_policy)
    Generate().carry_out(context)
    assert len(context.held.written[COMPLETIONS]) == 6


def test_the_reference_samples_the_same_prompts_behind_the_policy(begin: Callable[..., AtWork]) -> None:
    context = begin(*REFERENCE_TOO)
    done = Generate().carry_out(context)
    completions: list[Completion] = context.held.written[COMPLETIONS]
    assert [item.sampled_by for item in completions] == ["policy"] * 3 + ["reference"] * 3
    assert [item.prompt_index for item in completions[:3]] == [item.prompt_index for item in completions[3:]]
    assert done.figures["completions"] == 6


def test_a_round_that_was_killed_samples_what_is_left_of_it(begin: Callable[..., AtWork], tmp_path: Path) -> None:
    whole, work = begin(*REFERENCE_TOO, "generate.batch_size=1"), WorkInProgress(tmp_path / "work", {"inputs": 1})
    Generate().carry_out(whole)
    for killed_at in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            Generate().carry_out(begin(*REFERENCE_TOO, "generate.batch_size=1", work=work, killed_at=killed_at))
    again = begin(*REFERENCE_TOO, "generate.batch_size=1", work=work)
    Generate().carry_out(again)
    assert again.watched.told == [(3, "completions"), ("found", 3), (3, "completions"), ("found", 2), 1]
    assert again.held.written == whole.held.written


def test_prompts_are_looked_at_before_anything_is_loaded(begin: Callable[..., AtWork], tmp_path: Path) -> None:
    Generate().check(begin().recipe, begin().memory)
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    empty = begin(f"data.prompts={tmp_path / 'none.jsonl'}")
    with pytest.raises(DataError, match=r"none\.jsonl"):
        Generate().check(empty.recipe, empty.memory)


def test_prompts_have_to_leave_room_for_a_response(begin: Callable[..., AtWork], tiny_policy: Policy) -> None:
    recipe = begin("generate.max_new_tokens=9").recipe
    (read,) = Generate().to_read(recipe, Inputs(recipe))
    assert read.key == "data.prompts"
    assert read.read() == {}
    longest = max(len(tiny_policy.tokenizer(row["prompt"])["input_ids"]) for row in read.rows)
    context = tiny_policy.context_length or 0
    for room, fits in ((context - longest, True), (context - longest + 1, False)):
        recipe = begin(f"generate.max_new_tokens={room}").recipe
        (read,) = Generate().to_read(recipe, Inputs(recipe))
        if fits:
            read.read()
        else:
            with pytest.raises(DataError, match=f"with generate.max_new_tokens {room}"):
                read.read()
    shown = begin("data.prompts=null", "data.demonstrations=playground").recipe
    assert Generate().to_read(shown, Inputs(shown))[0].key == "data.demonstrations"
