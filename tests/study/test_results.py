"""What a study's runs say, from figures that were made up so that the answers can be worked by hand."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import Evaluation
from align_cli.study.costs import Cost, costs_by_stage
from align_cli.study.definition import Definition, define
from align_cli.study.results import Evaluated, RunFigures, figures_of, summarise
from align_cli.study.tables import (
    as_markdown,
    combinations_csv,
    costs_table,
    differences_table,
    evaluations_csv,
    frontier_table,
    means_table,
    missing_table,
)
from align_cli.study.values import parse_axes

KlPath = Sequence[tuple[float, float]]
WriteRecipe = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path, write_recipe: WriteRecipe) -> Callable[..., Definition]:
    def make(*texts: str, seeds: tuple[int, ...] = (0, 1)) -> Definition:
        return define(write_recipe(tmp_path), (), parse_axes(texts), seeds, for_tuning=False)

    return make


def figures(definition: Definition, paths: Mapping[tuple[str, int], KlPath | None]) -> list[RunFigures]:
    """Runs whose evaluations are (KL, win rate), one a round; None is a run that failed."""
    found = []
    for run in definition.runs:
        path = paths[run.combination.name, run.seed]
        evaluations = [
            Evaluated(number, {"kl": kl, "win_rate": win, "length_controlled_win_rate": win, "length": 9.0})
            for number, (kl, win) in enumerate(path or [(0.0, 0.5)])
        ]
        why = None if path else "stopped by a guard"
        found.append(RunFigures(run, evaluations, len(evaluations) - 1 if path else None, why))
    return found


BETA = ("method.beta=0.1,0.2",)
PATHS: dict[tuple[str, int], KlPath | None] = {
    ("beta-0.1", 0): [(0.0, 0.5), (1.0, 0.60)],
    ("beta-0.1", 1): [(0.0, 0.5), (1.0, 0.70)],
    ("beta-0.2", 0): [(0.0, 0.5), (4.0, 0.80)],
    ("beta-0.2", 1): [(0.0, 0.5), (4.0, 0.90)],
}


def test_means_are_over_seeds_and_differences_are_paired(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    first, second = summarise(definition, figures(definition, PATHS))["combinations"]
    assert first["figures"]["win_rate"]["mean"] == pytest.approx(0.65)
    assert "differences" not in first
    assert second["differences"]["win_rate"]["mean"] == pytest.approx(0.2)
    assert second["differences"]["win_rate"]["low"] == pytest.approx(0.2)  # +.2 on both seeds
    assert second["differences"]["kl"]["mean"] == pytest.approx(3.0)


def test_at_equal_kl_who_went_further_is_taken_where_the_other_ended(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    found = summarise(definition, figures(definition, PATHS))["combinations"][1]["at_equal_kl"]["win_rate"]
    assert found["kl"] == pytest.approx(1.0)
    # Half of the way in √KL. Seed 0: .65 at KL 1 against .60; seed 1: .70 against .70.
    assert found["mean"] == pytest.approx((0.05 + 0.0) / 2)


def test_what_is_read_off_before_a_first_evaluation_is_counted(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    paths = PATHS | {("beta-0.2", 1): [(0.0, 0.5), (0.8, 0.6), (4.0, 0.9)]}
    results = summarise(definition, figures(definition, paths))
    found = results["combinations"][1]["at_equal_kl"]["win_rate"]
    assert found["num_inside_first_round"] == 1, "seed 0 has come to 1 nat somewhere in its first round"
    table = differences_table(results)
    assert dict(zip(table.columns, table.rows[0], strict=True))["inside round 1"] == "1 of 2"


def test_a_round_whose_policy_was_thrown_away_is_no_part_of_a_runs_way(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    told = [(0.0, 0.5), (1.0, 0.7), (50.0, 0.95), (1.5, 0.75), (2.0, 0.8)]
    runs = figures(definition, dict.fromkeys(PATHS, told))
    for run in runs:
        run.evaluations[2] = run.evaluations[2]._replace(is_on_path=False)
    results = summarise(definition, runs)
    assert [point.kl for point in runs[0].path("win_rate")] == [0.0, 1.0, 1.5, 2.0]
    assert results["frontiers"]["win_rate"]["levels"] == [0.5, 1.0, 1.5, 2.0]
    assert len(results["runs"][0]["evaluations"]) == 5, "what was measured is told all the same"


def test_a_run_without_a_kl_shortens_nobodys_frontier(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    runs = figures(definition, PATHS)
    for run in runs:
        if run.run.combination.name == "beta-0.2":
            for one in run.evaluations:
                del one.figures["kl"]
    results = summarise(definition, runs)
    assert results["combinations"][1]["at_equal_kl"]["win_rate"] is None
    assert results["frontiers"]["win_rate"]["levels"] == [0.25, 0.5, 0.75, 1.0]
    assert differences_table(results).rows[0][-2:] == ["–", "–"]


def test_a_run_that_failed_is_in_no_mean_and_is_told(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    results = summarise(definition, figures(definition, PATHS | {("beta-0.2", 1): None}))
    second = results["combinations"][1]
    assert second["seeds"] == [0]
    assert second["figures"]["win_rate"] == {"mean": 0.8, "low": None, "high": None, "num_seeds": 1}
    assert second["differences"]["win_rate"]["num_seeds"] == 1
    assert results["missing"] == [{"run": "beta-0.2/seed-1", "why": "stopped by a guard"}]
    assert missing_table(results).rows == [["beta-0.2/seed-1", "stopped by a guard"]]


def test_where_no_run_is_finished_tables_say_nothing_and_do_not_fail(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    results = summarise(definition, figures(definition, dict.fromkeys(PATHS)))
    assert all(one["figures"] == {} for one in results["combinations"])
    for table in (means_table(results), differences_table(results), missing_table(results)):
        assert table.rows
    assert list(csv.reader(io.StringIO(combinations_csv(results))))


def test_runs_that_differ_in_the_weight_of_kl_alone_make_one_frontier(study: Callable[..., Definition]) -> None:
    definition = study("method.kl.coefficient=0.1,0.2", "method.beta=0.1,0.2", seeds=(0,))
    paths: dict[tuple[str, int], KlPath | None] = {
        ("coefficient-0.1_beta-0.1", 0): [(0.0, 0.5), (4.0, 0.9)],
        ("coefficient-0.2_beta-0.1", 0): [(0.0, 0.5), (1.0, 0.7)],
        ("coefficient-0.1_beta-0.2", 0): [(0.0, 0.5), (4.0, 0.8)],
        ("coefficient-0.2_beta-0.2", 0): [(0.0, 0.5), (2.0, 0.8)],
    }
    results = summarise(definition, figures(definition, paths))
    frontier = results["frontiers"]["win_rate"]
    assert frontier["levels"] == [1.0, 2.0, 3.0, 4.0]
    first, second = frontier["groups"]
    assert [group["name"] for group in frontier["groups"]] == ["beta-0.1", "beta-0.2"]
    assert [found["mean"] for found in first["values"]] == pytest.approx([0.7, 0.78284, 0.84641, 0.9], abs=1e-5)
    assert [found["mean"] for found in second["values"]] == pytest.approx([0.71213, 0.8, 0.8, 0.8], abs=1e-5)
    differences = [found["mean"] for found in second["differences"]]
    assert differences == pytest.approx([0.01213, 0.01716, -0.04641, -0.1], abs=1e-5)
    assert first["envelope"] == [[0.0, 0.5], [1.0, 0.7], [4.0, 0.9]]
    assert [row[0] for row in frontier_table(results, "win_rate").rows] == ["beta-0.1", "beta-0.2", "less beta-0.1"]


def test_a_frontier_takes_no_seed_of_which_a_run_is_missing(study: Callable[..., Definition]) -> None:
    definition = study("method.kl.coefficient=0.1,0.2")
    paths: dict[tuple[str, int], KlPath | None] = {
        ("coefficient-0.1", 0): [(0.0, 0.5), (2.0, 0.9)],
        ("coefficient-0.2", 0): [(0.0, 0.5), (1.0, 0.6)],
        ("coefficient-0.1", 1): None,
        ("coefficient-0.2", 1): [(0.0, 0.5), (1.0, 0.55)],
    }
    (group,) = summarise(definition, figures(definition, paths))["frontiers"]["win_rate"]["groups"]
    assert group["name"] == "all"
    assert {found["num_seeds"] for found in group["values"]} == {1}


def test_tables_and_csv_have_what_the_results_have(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    results = summarise(definition, figures(definition, PATHS))
    assert means_table(results).rows[0][:2] == ["beta-0.1", "2"]
    assert differences_table(results).rows[0][2] == "+0.200 [+0.200, +0.200]"
    rows = list(csv.DictReader(io.StringIO(combinations_csv(results))))
    assert [row["method.beta"] for row in rows] == ["0.1", "0.2"]
    assert float(rows[1]["difference_win_rate_mean"]) == pytest.approx(0.2)
    assert rows[0]["difference_win_rate_mean"] == ""
    at_equal_kl = results["combinations"][1]["at_equal_kl"]["win_rate"]
    assert float(rows[1]["at_equal_kl_win_rate_kl"]) == pytest.approx(at_equal_kl["kl"])
    evaluations = list(csv.DictReader(io.StringIO(evaluations_csv(results))))
    assert len(evaluations) == 8
    assert [row["is_final"] for row in evaluations[:2]] == ["False", "True"]


def test_the_page_of_a_study_has_its_command_and_its_tables(study: Callable[..., Definition]) -> None:
    definition = study(
        "method.kl={coefficient: 0.1, on: all, gradient: pathwise},{coefficient: 0.1}", *BETA, seeds=(3,)
    )
    paths = {(one.combination.name, one.seed): PATHS["beta-0.1", 0] for one in definition.runs}
    results = summarise(definition, figures(definition, paths))
    page = as_markdown(results, {"combinations": {}, "shared": {}}, Path("a folder"))
    command = page.removeprefix("```bash\n").partition("\n```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["align", "study"] and words[-4:] == ["--seeds", "3,", "-o", "a folder"]
    assert parse_axes([words[at + 1] for at, word in enumerate(words) if word == "--over"]) == list(definition.axes)
    assert page.count("| 1 | 0.600 |") == 4


def evaluation(number: int, reference: str, **changes: Any) -> Evaluation:
    known: dict[str, Any] = {
        "round": number,
        "policy": f"p{number}",
        "num_prompts": 16,
        "scorer": "hidden",
        "reward": {"mean": 0.2, "standard_error": 0.1},
        "against": {"initial": {"win_rate": 0.6, "length_controlled_win_rate": 0.55}} if number else {},
        "kl": {"mean": 1.0 * number, "standard_error": 0.1, "reference": reference},
        "length": {"mean": 9.0, "standard_error": 0.5},
        "eos_rate": 1.0,
        "distinct_2": 0.5,
        "preferences": None,
        "sampling": {},
    }
    return Evaluation(**(known | changes))


def test_an_evaluations_figures_are_those_that_mean_the_same_in_every_run(study: Callable[..., Definition]) -> None:
    recipe = study(*BETA).recipes["beta-0.1"]
    assert figures_of(evaluation(0, "p0"), recipe)["win_rate"] == 0.5
    later = figures_of(evaluation(2, "p0"), recipe)
    assert (later["win_rate"], later["length_controlled_win_rate"], later["kl"]) == (0.6, 0.55, 2.0)
    assert "pair_accuracy" not in later
    moving = recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"reference": "previous"})})
    assert all("kl" not in figures_of(evaluation(number, f"p{number}"), moving) for number in (0, 1, 2))
    assert "win_rate" not in figures_of(evaluation(0, "p0", scorer=None, reward=None), recipe)


def test_a_policys_wins_by_the_other_scorers_stand_beside_those_by_the_one_that_judges(
    study: Callable[..., Definition],
) -> None:
    definition = study(*BETA)
    recipe = definition.recipes["beta-0.1"]
    said = {"trained by": {"reward": {"mean": 2.0, "standard_error": 0.1}, "against": {"initial": {"win_rate": 0.9}}}}
    before = {"trained by": {"reward": {"mean": 1.0, "standard_error": 0.1}, "against": {}}}
    evaluations = [
        Evaluated(one.round, figures_of(one, recipe))
        for one in (evaluation(0, "p0", other_scorers=before), evaluation(1, "p0", other_scorers=said))
    ]
    assert [one.figures["win_rate.trained by"] for one in evaluations] == [0.5, 0.9]
    results = summarise(definition, [RunFigures(run, evaluations, final=1) for run in definition.runs])
    table = means_table(results)
    assert dict(zip(table.columns, table.rows[0], strict=True))["win by trained by"] == "0.900 [0.900, 0.900]"
    assert "win_rate.trained by" in next(csv.DictReader(io.StringIO(evaluations_csv(results))))


def event(number: int, stage: str, seconds: float, **figures: Any) -> dict[str, Any]:
    return {"event": "finish", "time": "", "round": number, "stage": stage, "seconds": seconds, "figures": figures}


def test_costs_are_added_up_by_stage_and_what_is_shared_stands_apart(study: Callable[..., Definition]) -> None:
    definition = study(*BETA)
    recipe = definition.recipes["beta-0.1"]
    against = {"initial": {"policy": "p0"}, "previous": {"policy": "p0"}, "1": {"policy": "p1"}}
    events = [
        event(0, "sft", 5.0),
        event(1, "generate", 2.0, tokens=100, completions=8),
        event(1, "label", 1.0, pairs=4),
        event(1, "evaluate", 3.0, num_prompts=16, length={"mean": 10.0}),
        event(1, "evaluate", 4.0, num_prompts=16, length={"mean": 10.0}, against=against),  # made again
        event(2, "generate", 2.5, tokens=50, completions=8),
        event(7, "generate", 100.0, tokens=1, completions=1),  # no round of the recipe's
    ]
    later, initial = costs_by_stage(events, recipe)
    assert initial == {"sft": Cost(5.0)}
    assert later == {
        "generate": Cost(4.5, tokens=150),
        "label": Cost(1.0, questions=8),
        "evaluate": Cost(4.0, tokens=160, questions=3 * 16),  # its own responses, and those of two other policies
    }


def test_a_combinations_costs_are_shown_with_their_sum() -> None:
    stages = {"train": Cost(4.0)._asdict(), "generate": Cost(2.0, tokens=1500)._asdict()}
    rows = costs_table({"combinations": {"a": stages}, "shared": {"sft": Cost(9.0)._asdict()}}).rows
    assert rows == [
        ["a", "train", "4.0s", "–", "–"],
        ["", "generate", "2.0s", "1,500", "–"],
        ["", "together", "6.0s", "1,500", "–"],
        ["round 0, once for each seed", "sft", "9.0s", "–", "–"],
    ]
