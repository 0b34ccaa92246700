"""What a run will take, by what was measured: paces times amounts, and what is not multiplied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest import approx

from align_cli.run.folder import RunFolder
from align_cli.run.forecast import StepForecast, disk_at_end, forecast_steps, past_steps
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step, plan_steps
from align_cli.run.prospect import Prospect
from align_cli.run.results import Results
from align_cli.run.sizes import ModelSize
from align_cli.run.step_measures import Phase, StepMeasure
from align_cli.stages.base import CHECKPOINT, Amounts
from align_cli.training.checkpoints import OPTIMIZER_NAME

MODEL = ModelSize(checkpoint=1000, optimizer=2000)


def loaded(recipe: Any) -> Loaded:
    return Loaded(recipe, Results(recipe, RunFolder(recipe.output_dir)))


def test_steps_go_by_the_pace_of_those_behind_the_first(tiny_recipe: Any, tmp_path: Path) -> None:
    """Of 10 s, 3 steps of 2 s each; the other 4 s come once, however many steps there are."""
    recipe = tiny_recipe(tmp_path, "train.steps_per_round=30")
    phase = Phase("steps", began=1.0, done=3, seconds=8.0, first=1, first_seconds=4.0)
    measured = [
        StepMeasure(number, "train", 10.0, Amounts(steps=3), [phase], 7, None, {CHECKPOINT: 50, "training.jsonl": 30})
        for number in (1, 2)
    ]
    [step] = forecast_steps(recipe, loaded(recipe).inputs, [Step(2, "train")], MODEL, measured)
    assert step.seconds == approx(30 * 2.0 + 4.0)
    assert step.memory == 7
    assert step.sizes == {CHECKPOINT: 50, "training.jsonl": 300}


def test_a_first_time_is_warm_where_it_goes_on(tiny_recipe: Any, tmp_path: Path) -> None:
    """Of the first batch's 5 s, 4 were spent on getting warm: those come once."""
    recipe = tiny_recipe(tmp_path, "generate.prompts_per_round=160")
    cold = StepMeasure(1, "generate", 5.0, Amounts(responses=32), [Phase("completions", 0.0, 32, 5.0, 32, 5.0)])
    warm = StepMeasure(2, "generate", 1.0, Amounts(responses=32), [Phase("completions", 0.0, 32, 1.0, 32, 1.0)])
    steps = [Step(1, "generate"), Step(2, "generate"), Step(3, "generate")]
    first, *others = forecast_steps(recipe, loaded(recipe).inputs, steps, MODEL, [cold, warm])
    assert first.seconds == approx(10 * 1.0 + 4.0)
    assert [other.seconds for other in others] == [approx(10.0)] * 2


def test_pairs_that_the_reference_has_spoken_of_take_no_time(tiny_recipe: Any, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "method.sources.dpr.mixing=0", "method.sources.offline.mixing=1", "rounds=50")
    inputs = loaded(recipe).inputs
    there, uses = len(inputs.offline_pairs.preferences), recipe.train.steps_per_round * recipe.global_batch_size
    phases = [Phase("pairs", 0.0, uses, 6.0, uses, 6.0), Phase("steps", 6.0, 3, 3.0, 1, 1.0)]
    measured = [StepMeasure(1, "train", 9.0, Amounts(steps=3, asked=uses), phases)]
    last = there // uses + 2
    first, later = forecast_steps(recipe, inputs, [Step(1, "train"), Step(last, "train")], MODEL, measured)
    assert (first.amounts.asked, later.amounts.asked) == (uses, 0)
    assert (first.seconds, later.seconds) == (approx(9.0), approx(3.0))


def test_a_round_has_as_much_to_do_as_its_own_shares_make(tiny_recipe: Any, tmp_path: Path) -> None:
    """Mixtures may follow a schedule: a later round is none of the first one's shares."""
    later = ("method.sources.offline.mixing=0.25", "method.sources.dpr.mixing=0.75")
    lists = ("method.sources.offline.mixing=[0.75, 0.25]", "method.sources.dpr.mixing=[0.25, 0.75]")
    scheduled, constant = (tiny_recipe(tmp_path, *overrides) for overrides in (lists, later))
    steps = [Step(1, "train"), Step(2, "train")]
    first, second = forecast_steps(scheduled, loaded(scheduled).inputs, steps, MODEL, [])
    [wanted] = forecast_steps(constant, loaded(constant).inputs, [Step(2, "train")], MODEL, [])
    assert second.amounts.tokens == wanted.amounts.tokens != first.amounts.tokens


def test_a_scorer_is_asked_about_opponents_too(tiny_recipe: Any, tmp_path: Path) -> None:
    """Its own responses; from round 1 on the initial policy's too, and from round 2 on the previous one's."""
    recipe = tiny_recipe(tmp_path)
    steps = [step for step in plan_steps(recipe) if step.stage == "evaluate"]
    found = forecast_steps(recipe, loaded(recipe).inputs, steps, MODEL, [])
    assert [dict(one.amounts.questions) for one in found] == [{"hidden": 16}, {"hidden": 32}, {"hidden": 48}]
    assert [one.seconds for one in found] == [None] * 3


def test_a_judge_is_sent_each_pair_in_both_orders_for_each_vote(tiny_recipe: Any, tmp_path: Path) -> None:
    judge = {"kind": "judge", "base_url": "http://127.0.0.1:9/v1", "model": "m", "votes": 3, "temperature": 0.7}
    recipe = tiny_recipe(tmp_path, labelers__judge=judge, method__sources__dpr__labeler="judge")
    [step] = forecast_steps(recipe, loaded(recipe).inputs, [Step(1, "label")], MODEL, [])
    assert dict(step.amounts.questions) == {"judge": 16}
    assert recipe.labelers["judge"].num_requests == 6


def test_checkpoints_that_are_let_go_take_no_disk_in_the_end(tiny_recipe: Any, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "rounds=5", "checkpoints.keep=1")
    sizes = {CHECKPOINT: 100, OPTIMIZER_NAME: 200}
    steps = [StepForecast(Step(n, "train"), Amounts(), None, None, None, sizes, {}) for n in range(1, 6)]
    assert disk_at_end(recipe, steps) == 2 * 100 + 200, "the latest, the best, and the newest optimizer"
    assert disk_at_end(tiny_recipe(tmp_path, "rounds=5"), steps) == 5 * 100 + 200


def test_what_servers_sample_while_the_round_before_trains_takes_the_longer_time_of_the_two(
    tiny_recipe: Any, tmp_path: Path
) -> None:
    seconds = {"generate": 3.0, "train": 5.0}
    steps = [
        StepForecast(Step(n, stage), Amounts(), seconds[stage], None, None, {}, {})
        for n in (1, 2, 3)
        for stage in ("generate", "train")
    ]
    at_once = {
        "generate__rounds_ahead": 1,
        "generate__engine": "server",
        "generate__server": {"base_urls": ["http://127.0.0.1:9/v1"]},
    }
    for changes, saved in ((at_once, 6.0), ({**at_once, "checkpoints__every_rounds": 2}, 3.0), ({}, 0.0)):
        recipe = tiny_recipe(tmp_path, "rounds=3", **changes)
        assert Prospect(recipe, [], [], steps, None, None, []).seconds == 24.0 - saved


def test_what_is_over_tells_of_what_is_left(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from align_cli.recipe import load_recipe

    monkeypatch.chdir(finished)
    recipe = load_recipe("recipe.yaml", ["rounds=3"])
    past = past_steps(RunFolder(recipe.output_dir), recipe, loaded(recipe).inputs)
    [train] = forecast_steps(recipe, loaded(recipe).inputs, [Step(3, "train")], MODEL, past)
    [last] = [step for step in past if (step.round, step.stage) == (2, "train")]
    assert train.seconds == last.seconds
    assert train.sizes[OPTIMIZER_NAME] == last.sizes[OPTIMIZER_NAME] > last.sizes[CHECKPOINT] > 0
