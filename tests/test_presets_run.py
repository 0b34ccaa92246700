"""Every preset runs two rounds on the playground."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.cli.output import RunReporter
from align_cli.recipe import load_recipe
from align_cli.recipe.presets import preset_names
from align_cli.run.rounds import align_rounds

RECIPE = """
preset: {preset}
output_dir: {folder}
rounds: 2
policy: {{model_name_or_path: playground, sft: {{dataset: playground, max_steps: 12}}}}
data: {{prompts: playground, preferences: playground, eval_prompts: playground}}
labelers:
  reward: {{kind: function, function: "align_cli.playground:hidden_reward"}}
generate: {{prompts_per_round: 16, max_new_tokens: 16}}
train: {{steps_per_round: 2, per_device_train_batch_size: 8, learning_rate: 1.0e-3}}
evaluate: {{num_prompts: 16, scorer: reward}}
"""
WITH_REWARD = ("iterative-dpo", "online-dpo", "sail-dpr", "sail-mix")


pytestmark = pytest.mark.long


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_runs_two_rounds_and_moves_the_policy(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(preset=preset, folder=tmp_path / "run"), encoding="utf-8")
    labeler = ["method.sources.dpr.labeler=reward"] if preset in WITH_REWARD else []
    evaluations = align_rounds(load_recipe(path, labeler), RunReporter())
    assert [evaluation.round for evaluation in evaluations] == [0, 1, 2]
    assert len({evaluation.policy for evaluation in evaluations}) == 3
    assert evaluations[2].kl["mean"] > 1e-6
