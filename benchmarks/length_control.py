"""How often the interval of the length-controlled win rate holds the truth.

Answers to n prompts differ in length by a normal amount, of some mean in standard deviations; the outcomes are drawn
from the very model that is fitted, so that the truth, the rate at equal lengths, is known. The interval is 95%'s.
Some five minutes on one core.

    python benchmarks/length_control.py > benchmarks/results/length_control.md
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import NamedTuple

import numpy as np

from align_cli.metrics.length_control import length_controlled_win_rate


class Setting(NamedTuple):
    """One row: prompts, the true rate, the slope of length, the mean difference of lengths, and kind of outcomes."""

    prompts: int
    truth: float
    slope: float
    longer: float
    outcomes: str


SETTINGS = [
    Setting(100, 0.5, 0.0, 0.0, "hard"),
    Setting(100, 0.6, 1.0, 0.5, "hard"),
    Setting(256, 0.5, 1.0, 0.5, "hard"),
    Setting(256, 0.6, 1.0, 1.0, "hard"),
    Setting(256, 0.7, 2.0, 1.0, "hard"),
    Setting(256, 0.6, 1.0, 0.5, "with ties"),
    Setting(256, 0.6, 1.0, 0.5, "soft"),
    Setting(512, 0.6, 1.0, 0.5, "hard"),
    Setting(512, 0.8, 1.0, 1.0, "hard"),
]


class Measured(NamedTuple):
    """Of many studies: the share of intervals that hold the truth, their mean width, and the mean estimate."""

    coverage: float
    width: float
    mean: float


def measure(setting: Setting, studies: int, resamples: int, seed: int) -> Measured:
    generator, found = np.random.default_rng(seed), []
    for study in range(studies):
        differences = generator.normal(setting.longer, 1.0, setting.prompts)
        outcomes = draw(setting, differences, generator)
        columns = outcomes.tolist(), differences.tolist(), [0.0] * setting.prompts
        found.append(length_controlled_win_rate(*columns, seed=study, num_resamples=resamples))
    held = [one.interval.low <= setting.truth <= one.interval.high for one in found]
    widths = [one.interval.high - one.interval.low for one in found]
    return Measured(float(np.mean(held)), float(np.mean(widths)), float(np.mean([one.win_rate for one in found])))


def draw(setting: Setting, differences: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Outcomes whose expectation is the model's probability: of ties and of soft ones too."""
    constant = math.log(setting.truth / (1 - setting.truth))
    probabilities = 1 / (1 + np.exp(-(constant + setting.slope * np.tanh(differences))))
    if setting.outcomes == "soft":
        return generator.beta(4 * probabilities, 4 * (1 - probabilities))
    ties = (
        np.zeros(setting.prompts) if setting.outcomes == "hard" else 0.4 * np.minimum(probabilities, 1 - probabilities)
    )
    decided = (generator.random(setting.prompts) < (probabilities - ties / 2) / (1 - ties)).astype(float)
    return np.where(generator.random(setting.prompts) < ties, 0.5, decided)


def main() -> None:
    """Measure every setting and write the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400)
    options = parser.parse_args()
    error = 100 * math.sqrt(0.95 * 0.05 / options.studies)
    sys.stdout.write(
        "# Coverage of the length-controlled win rate's interval\n\n"
        f"`python benchmarks/length_control.py --studies {options.studies} --resamples {options.resamples}`: "
        f"{options.studies} studies a row, 95% nominal, a share's standard error {error:.1f} points.\n\n"
        "| prompts | outcomes | rate at equal lengths | slope | longer by (sd) | coverage | mean width "
        "| mean estimate |\n|---|---|---|---|---|---|---|---|\n"
    )
    for place, setting in enumerate(SETTINGS):
        found = measure(setting, options.studies, options.resamples, seed=place)
        sys.stdout.write(
            f"| {setting.prompts} | {setting.outcomes} | {setting.truth} | {setting.slope} | {setting.longer} "
            f"| {found.coverage:.1%} | {found.width:.3f} | {found.mean:.3f} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
