"""What the tests of reports share: the facts of a run that was never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import Completion, Evaluation
from align_cli.recipe import load_recipe
from align_cli.report.facts import RunFacts

WINS = {"win_rate": 0.625, "low": 0.5, "high": 0.75, "wins": 10, "ties": 0, "losses": 6, "policy": "0123456789abcdef"}
CONTROLLED = {"length_controlled_win_rate": 0.6, "length_controlled_low": 0.45, "length_controlled_high": 0.7}


def evaluation(number: int, **changes: Any) -> Evaluation:
    """The evaluation of a round whose figures grow with its number."""
    fields: dict[str, Any] = {
        "round": number,
        "policy": "0123456789abcdef",
        "num_prompts": 16,
        "scorer": "hidden",
        "reward": {"mean": 0.5 * number, "standard_error": 0.1},
        "against": {"initial": {**WINS, **CONTROLLED}} if number else {},
        "kl": {"mean": 1.5 * number, "standard_error": 0.2, "reference": "0123456789abcdef"},
        "length": {"mean": 11.5, "standard_error": 0.1},
        "eos_rate": 0.75,
        "distinct_2": 0.2,
        "preferences": None,
        "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 16},
    }
    return Evaluation(**fields | changes)


@pytest.fixture
def make_facts(
    write_recipe: Callable[..., Path], tmp_path: Path, make_completion: Callable[..., Completion]
) -> Callable[..., RunFacts]:
    """`make_facts(rounds=2, **changes)`: a finished run with evaluations and four held-out prompts a round."""

    def make(rounds: int = 2, **changes: Any) -> RunFacts:
        numbers = range(rounds + 1)
        fields: dict[str, Any] = {
            "path": "runs/mine",
            "state": "finished",
            "num_finished": 10,
            "num_planned": 10,
            "following": "none",
            "recipe": load_recipe(write_recipe(tmp_path)),
            "versions": {"align": "0.1.0", "torch": "2.13.0"},
            "evaluations": [evaluation(number) for number in numbers],
            "chosen": rounds,
            "why": "the best by win rate against the initial policy",
            "training": {
                number: [{"step": 2 * number - 1 + place, "loss": 0.5, "dpr/margin": 0.25} for place in range(2)]
                for number in numbers
                if number
            },
            "samples": {
                number: [
                    make_completion(
                        place, 0, round=0, completion=f" answer {place} of {number}", scores={"hidden": 1.0}
                    )
                    for place in range(4)
                ]
                for number in numbers
            },
        }
        return RunFacts(**fields | changes)

    return make
