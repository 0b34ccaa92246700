from __future__ import annotations

from typing import Any

import pytest

from align_cli.artifacts.records import Evaluation
from align_cli.report.tables import TextTable, in_words, markdown, rounds_table, scorers_table, stages_table


def evaluation(round_number: int, **changes: Any) -> Evaluation:
    fields: dict[str, Any] = {
        "round": round_number,
        "policy": "0123456789abcdef",
        "num_prompts": 100,
        "scorer": "hidden",
        "reward": {"mean": 1.234, "standard_error": 0.056},
        "against": {},
        "kl": {"mean": 2.0, "standard_error": 0.125, "reference": "x"},
        "length": {"mean": 8.25, "standard_error": 0.5},
        "eos_rate": 0.987,
        "distinct_2": 0.456,
        "preferences": {"accuracy": 0.75, "margin": 0.1, "num_pairs": 400},
        "sampling": {},
    }
    return Evaluation(**fields | changes)


def win(rate: float) -> dict[str, Any]:
    return {"win_rate": rate, "low": rate - 0.1, "high": rate + 0.1, "wins": 1, "ties": 0, "losses": 0, "policy": "x"}


def test_a_row_a_round_with_every_figure() -> None:
    table = rounds_table([evaluation(1, against={"initial": win(0.75)})])
    assert table == TextTable(
        ["round", "win vs initial", "reward", "KL", "length", "EOS", "distinct-2", "pair acc."],
        [["1", "0.75 [0.65, 0.85]", "1.23 ± 0.06", "2.00 ± 0.12", "8.2", "99%", "0.46", "0.75"]],
    )


def test_rounds_with_other_opponents_share_the_columns() -> None:
    rounds = [
        evaluation(0),
        evaluation(1, against={"initial": win(0.6)}),
        evaluation(2, against={"initial": win(0.7), "previous": win(0.5)}),
    ]
    table = rounds_table(rounds)
    assert table.columns[:3] == ["round", "win vs initial", "win vs previous"]
    assert [row[:3] for row in table.rows] == [
        ["0", "–", "–"],
        ["1", "0.60 [0.50, 0.70]", "–"],
        ["2", "0.70 [0.60, 0.80]", "0.50 [0.40, 0.60]"],
    ]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_length_controlled_win_rate_stands_beside_the_plain_one() -> None:
    lengths = {"length_controlled_win_rate": 0.55, "length_controlled_low": 0.5, "length_controlled_high": 0.6}
    rounds = [
        evaluation(1, against={"initial": win(0.6)}),
        evaluation(2, against={"initial": win(0.7) | lengths, "previous": win(0.5)}),
    ]
    table = rounds_table(rounds)
    assert table.columns[:4] == ["round", "win vs initial", "LC vs initial", "win vs previous"]
    assert [row[2] for row in table.rows] == ["–", "0.55 [0.50, 0.60]"]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_other_scorers_have_rows_of_their_own() -> None:
    lengths = {"length_controlled_win_rate": 0.55, "length_controlled_low": 0.5, "length_controlled_high": 0.6}
    said = {
        "jury": {"reward": None, "against": {"initial": win(0.6) | lengths}},
        "brief": {"reward": {"mean": 1.0, "standard_error": 0.5}, "against": {"initial": win(0.7)}},
    }
    table = scorers_table([evaluation(1), evaluation(2, other_scorers=said)])
    assert table == TextTable(
        ["round", "scorer", "win vs initial", "LC vs initial", "reward"],
        [
            ["2", "jury", "0.60 [0.50, 0.70]", "0.55 [0.50, 0.60]", "–"],
            ["2", "brief", "0.70 [0.60, 0.80]", "–", "1.00 ± 0.50"],
        ],
    )
    assert scorers_table([evaluation(1)]).rows == []


def test_what_was_not_measured_is_a_dash() -> None:
    (row,) = rounds_table([evaluation(0, scorer=None, reward=None, preferences=None)]).rows
    assert row == ["0", "–", "2.00 ± 0.12", "8.2", "99%", "0.46", "–"]


def test_no_evaluation_is_a_table_without_rows() -> None:
    assert rounds_table([]).rows == []
    assert stages_table([]).rows == []


def finish(stage: str, figures: dict[str, Any] | None, seconds: float = 2.0) -> dict[str, Any]:
    return {"event": "finish", "round": 1, "stage": stage, "seconds": seconds, "figures": figures}


@pytest.mark.parametrize(
    ("event", "result"),
    [
        (finish("generate", {"completions": 32, "tokens": 500}), "32 completions, 250 tokens/s"),
        (finish("generate", {"completions": 0, "tokens": 0}, seconds=0.0), "0 completions, 0 tokens/s"),
        (finish("label", {"pairs": 14, "ties_dropped": 2}), "14 pairs, 2 ties dropped"),
        (finish("train", {"last_step": {"loss": 0.61234, "step": 50}}), "loss 0.612 at step 50"),
        (
            finish("train", {"last_step": {"loss": 0.61234, "step": 50}, "clipped_steps": 24}),
            "loss 0.612 at step 50, 24 steps clipped",
        ),
        (finish("sft", {"final_loss": 1.5, "steps": 12}), "loss 1.50 nats a token after 12 steps"),
        (finish("sft", {"final_loss": None, "steps": 0}), ""),
        (finish("evaluate", {"kl": {"mean": 1.234}, "length": {"mean": 8.25}}), "KL 1.23, length 8.2"),
        (finish("sft", None), ""),
    ],
)
def test_a_row_a_finished_stage_with_what_it_made(event: dict[str, Any], result: str) -> None:
    assert stages_table([event]).rows == [["1", event["stage"], f"{event['seconds']:.1f} s", "–", result]]


@pytest.mark.parametrize(
    ("peaks", "shown"),
    [
        ({"peak_memory_bytes": 812_400_000}, "812 MB"),
        ({"peak_memory_bytes": 3_440_000_000, "peak_gpu_memory_bytes": 10**9}, "3.4 GB, 1.0 GB on the GPU"),
        ({}, "–"),
    ],
)
def test_a_row_says_how_much_memory_it_took(peaks: dict[str, int], shown: str) -> None:
    assert stages_table([{**finish("label", {"pairs": 1}), **peaks}]).rows[0][3] == shown


@pytest.mark.parametrize(
    "event",
    [
        finish("train", None),
        finish("train", {"last_step": 3}),
        {"event": "finish", "round": 1, "stage": "train"},
        {**finish("label", {"pairs": 1}), "seconds": "long"},
        {**finish("label", {"pairs": 1}), "figures": ["pairs"]},
        {**finish("label", {"pairs": 1}), "peak_memory_bytes": "much"},
        {**finish("label", {"pairs": 1}), "peak_memory_bytes": 10**400},
    ],
)
def test_an_event_that_was_edited_by_hand_has_no_row(event: dict[str, Any]) -> None:
    assert [row[1] for row in stages_table([event, finish("label", {"pairs": 1})]).rows] == ["label"]


def test_only_finished_stages_have_a_row() -> None:
    ledger = [{"event": "start", "round": 1, "stage": "label"}, finish("label", {"pairs": 1}), {"event": "resume"}]
    assert [row[1] for row in stages_table(ledger).rows] == ["label"]


def test_a_table_in_markdown() -> None:
    table = TextTable(["round", "KL"], [["0", "0.00"], ["1", "1.50"]])
    assert markdown(table) == "| round | KL |\n|---|---|\n| 0 | 0.00 |\n| 1 | 1.50 |"


def test_a_bar_in_a_cell_borders_nothing() -> None:
    assert markdown(TextTable(["a|b"], [["p(y|x)"]])) == "| a\\|b |\n|---|\n| p(y\\|x) |"


def test_a_table_without_rows_is_its_head() -> None:
    assert markdown(TextTable(["round"], [])) == "| round |\n|---|"


def test_one_of_something_is_not_several() -> None:
    figures = {"pairs": 1, "ties_kept": 1, "ties_dropped": 2, "empty_texts_dropped": 1, "equal_texts_kept": 1, "odd": 1}
    words = "1 pair, 1 tie kept, 2 ties dropped, 1 empty text dropped, 1 equal texts kept, 1 odd"
    assert in_words(figures) == words
    assert (
        in_words({"pairs": 0, "mixed_pairs": 1, "single_completions": 1})
        == "0 pairs, 1 mixed pair, 1 single completion"
    )


def test_a_ledger_of_one_completion_and_one_step_counts_one() -> None:
    generated = {"completions": 1, "tokens": 5}
    trained = {"last_step": {"loss": 0.5, "step": 1}, "clipped_steps": 1}
    events = [finish("generate", generated), finish("train", trained)]
    assert [row[-1] for row in stages_table(events).rows] == [
        "1 completion, 5 tokens/s",
        "loss 0.500 at step 1, 1 step clipped",
    ]


def finish(stage: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {"event": "finish", "round": 1, "stage": stage, "seconds": 1.0, "figures": figures}
