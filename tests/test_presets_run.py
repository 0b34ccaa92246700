"""Every preset runs two rounds on the playground; what a round leaves is what its paper's method makes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_models import make_chat_model
from finished_runs import FinishedRun
from sweeps import swept

from align_cli.artifacts.records import Evaluation
from align_cli.artifacts.store import read_json
from align_cli.cli.reporters import RunReporter
from align_cli.models.load import weights_version
from align_cli.playground.world import preferences, prompts, sft_corpus
from align_cli.recipe import Recipe, load_recipe
from align_cli.recipe.presets import FOLDER, preset_names
from align_cli.run.loop import align_rounds
from align_cli.stages.rows_of_recipe import demonstrations

RECIPE = """
preset: {preset}
output_dir: {folder}/run
rounds: 2
policy: {{model_name_or_path: playground, sft: {{dataset: {folder}/shown.jsonl, max_steps: 12}}}}
data:
  prompts: {folder}/prompts.jsonl
  preferences: {folder}/pairs.jsonl
  demonstrations: {folder}/shown.jsonl
  eval_prompts: playground
labelers:
  reward: {{kind: function, function: "align_cli.playground:hidden_reward"}}
generate: {{prompts_per_round: 16, max_new_tokens: 16}}
train: {{steps_per_round: 2, per_device_train_batch_size: 8, learning_rate: 1.0e-3}}
evaluate: {{num_prompts: 16, scorer: reward}}
"""
DIGITS = "answer: (\\d)\nlowest: 0\nhighest: 9\n--- user\n{prompt}|{completion}"
STEPS, BATCH = 2, 8
NUM_PROMPTS = 16
NUM_ROWS = 256  # of each file: the playground has thousands, which every run would read

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Run(FinishedRun):
    """A finished run of a preset."""

    recipe: Recipe
    evaluations: list[Evaluation]

    def version(self, number: int) -> str:
        """The policy after this many rounds."""
        return weights_version(self.round(number) / "checkpoint")

    def trained(self, number: int) -> dict[str, Any]:
        """What the ledger says of a round's training."""
        return self.figures(number, "train")

    def figures(self, number: int, stage: str) -> dict[str, Any]:
        events = [json.loads(line) for line in (self.folder / "ledger.jsonl").read_text("utf-8").splitlines()]
        (found,) = [
            event["figures"]
            for event in events
            if (event["event"], event.get("round"), event.get("stage")) == ("finish", number, stage)
        ]
        return found


def keys_of(preset: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))


def run_preset(preset: str, folder: Path) -> Run:
    shown = list({row["prompt"]: row for row in sft_corpus(0)[:NUM_ROWS]}.values())
    asked = [row["prompt"] for row in [*shown[: NUM_ROWS // 2], *prompts(0, NUM_ROWS // 2)]]
    rows = {
        "prompts": [{"prompt": prompt} for prompt in dict.fromkeys(asked)],
        "pairs": preferences("plenty", 0, NUM_ROWS),
        "shown": shown,
    }
    for name, those in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in those)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(preset=preset, folder=folder), encoding="utf-8")
    labels = keys_of(preset)["method"]["sources"].get("dpr")
    labeler = ["method.sources.dpr.labeler=reward"] if labels is not None and "labeler" not in labels else []
    judging = policy_that_judges(folder) if preset == "self-rewarding" else []
    recipe = load_recipe(path, [*labeler, *judging])
    return Run(folder / "run", recipe, align_rounds(recipe, RunReporter()))


def policy_that_judges(folder: Path) -> list[str]:
    """A tiny model whose letters are bytes, so that a digit is soon among them: the playground's knows no numbers."""
    make_chat_model(folder / "model", context_length=256)
    (folder / "digits.txt").write_text(DIGITS, encoding="utf-8")
    return [
        f"policy={{model_name_or_path: {folder / 'model'}}}",
        f"labelers.self.template={folder / 'digits.txt'}",
        "labelers.self.max_new_tokens=40",
        "labelers.self.max_unparsable=0.9",
    ]


def check_spin(run: Run) -> None:
    shown = {(row["prompt"], row["completion"]) for row in demonstrations(run.recipe)}
    for number in (1, 2):
        pairs, completions = run.preferences(number), run.completions(number)
        counts = run.figures(number, "label")
        assert len(completions) == sum(counts.values()) == NUM_PROMPTS, "every response is in a pair or in a count"
        assert len(pairs) == counts["mixed_pairs"] >= 4
        assert {(pair.source, pair.chosen_by, pair.rejected_by) for pair in pairs} == {("dmd", "dataset", "policy")}
        assert {(pair.label, pair.policy, pair.round) for pair in pairs} == {(1.0, run.version(number - 1), number)}
        sampled = {(item.prompt_index, item.sample_index): item for item in completions}
        for pair in pairs:
            assert (pair.prompt, pair.chosen) in shown
            own = sampled[pair.prompt_index, pair.rejected_index]
            assert (pair.rejected_ids, pair.prompt) == (own.completion_ids, own.prompt)
            assert pair.chosen_logp is None and pair.rejected_logp is not None
        assert run.trained(number)["reference"] == run.version(number - 1), "the opponent is the policy before"
    assert_replays(run, "dmd")


def check_selm(run: Run) -> None:
    for number in (1, 2):
        pairs = run.preferences(number)
        assert {(pair.source, pair.chosen_by, pair.rejected_by) for pair in pairs} == {("dpr", "policy", "policy")}
        assert {pair.policy for pair in pairs} == {run.version(number - 1)}
        assert run.trained(number)["reference"] == run.version(number - 1)
        # Ties stay: the optimism term is an expectation over all that the reference sampled.
        assert run.figures(number, "label")["pairs"] == NUM_PROMPTS
        assert "dpr/optimism_term" in run.trained(number)["last_step"]
    assert run.version(0) != run.version(1)


def check_xpo(run: Run) -> None:
    for number in (1, 2):
        completions, pairs = run.completions(number), run.preferences(number)
        own = {item.prompt_index: item for item in completions if item.sampled_by == "policy"}
        of_reference = {item.prompt_index: item for item in completions if item.sampled_by == "reference"}
        assert len(own) == len(of_reference) == NUM_PROMPTS and own.keys() == of_reference.keys()
        assert {item.policy for item in own.values()} == {run.version(number - 1)}
        assert {item.policy for item in of_reference.values()} == {run.version(0)}
        assert not {item.seed for item in own.values()} & {item.seed for item in of_reference.values()}
        if number == 1:
            # Policy and reference are equal then; with the same random numbers they would say the same.
            differing = [own[index].completion_ids != of_reference[index].completion_ids for index in own]
            assert sum(differing) >= 12
        assert len(pairs) == NUM_PROMPTS
        assert {(pair.source, pair.chosen_by, pair.rejected_by) for pair in pairs} == {
            ("dpr", "policy", "reference"),
            ("dpr", "reference", "policy"),
        }
        assert {pair.policy for pair in pairs} == {run.version(number - 1)}
        for pair in pairs:
            by_writer = {"policy": own[pair.prompt_index], "reference": of_reference[pair.prompt_index]}
            assert pair.chosen_ids == by_writer[pair.chosen_by].completion_ids
            assert pair.rejected_ids == by_writer[pair.rejected_by].completion_ids
            assert pair.chosen_score >= pair.rejected_score
        assert run.trained(number)["reference"] == run.version(0)
        assert "dpr/optimism_term" in run.trained(number)["last_step"]
    assert_replays(run, "dpr")


def check_self_rewarding(run: Run) -> None:
    for number in (1, 2):
        pairs, figures = run.preferences(number), run.figures(number, "label")["labelers"]["self"]
        assert len(run.completions(number)) == figures["completions"] == 4 * NUM_PROMPTS
        assert figures["answers"] + figures["unparsable"] == 3 * figures["completions"]
        assert len(pairs) >= NUM_PROMPTS / 2
        assert {(pair.source, pair.labeler, pair.label) for pair in pairs} == {("dpr", "self", 1.0)}
        before = run.evaluations[number - 1].policy  # the initial one is the recipe's model as it is
        assert {(pair.policy, pair.chosen_by, pair.rejected_by) for pair in pairs} == {(before, "policy", "policy")}
        for pair in pairs:
            assert 0 <= pair.rejected_score < pair.chosen_score <= 9, "the same score is no pair"
            # The mean of three votes, or of those that can be read.
            assert any((pair.chosen_score * votes) % 1 in (0, pytest.approx(1)) for votes in (1, 2, 3))
        assert run.trained(number)["reference"] == before


def check_win_rates(run: Run) -> None:
    for number in (1, 2):
        pairs = run.preferences(number)
        for pair in pairs:
            assert 0 <= pair.rejected_win_rate <= pair.chosen_win_rate <= 1
            assert (pair.chosen_score - pair.rejected_score) * (pair.chosen_win_rate - pair.rejected_win_rate) >= 0
            assert 0.5 <= pair.label <= 1 / (1 + math.exp(-1))
        assert run.trained(number)["reference"] == run.version(number - 1)


def check_rebel(run: Run) -> None:
    for number in (1, 2):
        pairs = run.preferences(number)
        assert len(pairs) == NUM_PROMPTS, "ties stay"
        assert all(pair.chosen_score is not None and pair.rejected_score is not None for pair in pairs)
        assert run.trained(number)["reference"] == run.version(number - 1)


def check_inpo(run: Run) -> None:
    """At a round's first step the policy is the previous one; what is left of the margin is its way from the first."""
    assert [run.trained(number)["reference"] for number in (1, 2)] == [run.version(0), run.version(1)]
    first, second = (read_rows(run.round(number) / "training.jsonl")[0]["dpr/margin"] for number in (1, 2))
    assert first == pytest.approx(0, abs=1e-4)
    assert abs(second) > 1e-3


def check_hypo(run: Run) -> None:
    for number in (1, 2):
        step = run.trained(number)["last_step"]
        assert "dpp/kl" in step and "dpp/label_term" not in step and "dpp/response_term" not in step


def check_iterative_rpo(run: Run) -> None:
    for number in (1, 2):
        assert run.trained(number)["last_step"]["dpr/nll"] > 0
        assert run.trained(number)["reference"] == run.version(number - 1)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_replays(run: Run, source: str) -> None:
    """Round 2 trains on the pairs of both rounds: none is used again before all were."""
    upstream = read_json(run.round(2) / "manifest.json")["stages"]["train"]["inputs"]["upstream"]
    assert {f"rounds/{number:03d}/preferences.jsonl" for number in (1, 2)} <= upstream.keys()
    num_different = sum(run.trained(2)["usage"][source].values())
    assert num_different == min(STEPS * BATCH, len(run.preferences(1)) + len(run.preferences(2)))


CHECKS = {
    "spin": check_spin,
    "selm": check_selm,
    "xpo": check_xpo,
    "self-rewarding": check_self_rewarding,
    "sppo": check_win_rates,
    "dno": check_win_rates,
    "rebel": check_rebel,
    "inpo": check_inpo,
    "hypo": check_hypo,
    "iterative-rpo": check_iterative_rpo,
}
"""What the artifacts of a preset say besides."""


@pytest.mark.parametrize("preset", swept(preset_names(), "sail-dpr", *CHECKS))
def test_a_preset_runs_two_rounds_and_moves_the_policy(preset: str, tmp_path: Path) -> None:
    run = run_preset(preset, tmp_path)
    assert [evaluation.round for evaluation in run.evaluations] == [0, 1, 2]
    assert len({evaluation.policy for evaluation in run.evaluations}) == 3
    assert run.evaluations[2].kl["mean"] > 1e-6
    assert run.recipe.preset == preset
    check = CHECKS.get(preset)
    if check is not None:
        check(run)
