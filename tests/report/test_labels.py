from __future__ import annotations

from typing import Any

from align_cli.report.labels import labels_by_round, labels_table


def finish(stage: str, number: int, **figures: Any) -> dict[str, Any]:
    return {"event": "finish", "stage": stage, "round": number, "figures": figures}


def health(longer_won: float | None, margin: float, **agreed: float) -> dict[str, Any]:
    return {
        "tie_share": 0.125,
        "longer_won": longer_won,
        "margin": {"mean": margin, "standard_error": 0.1},
        "agreement": {name: {"agreement": value, "num_pairs": 10} for name, value in agreed.items()},
    }


LEDGER = [
    finish("label", 1, health=health(0.9, 9.0)),
    {"event": "start", "stage": "label", "round": 1},
    finish("label", 1, health=health(0.5, 1.0, flesch=0.75)),
    finish("train", 1),
    finish("label", 2, health=health(0.75, 0.5, flesch=0.5)),
    finish("train", 2, health={"agreement": {"policy": {"agreement": 0.625, "num_pairs": 8}}}),
    finish("label", 3, health=health(None, 1.0)),
]


def test_each_round_shows_its_latest_labels_and_what_has_changed_since_the_first() -> None:
    table = labels_table(LEDGER)
    assert table.columns == ["round", "ties", "longer won", "margin", "agree: flesch", "agree: policy"]
    assert table.rows == [
        ["1", "12%", "0.50", "1.00", "0.75", "–"],
        ["2", "12%", "0.75 (+0.25)", "0.50 (-0.50)", "0.50", "0.62"],
        ["3", "12%", "–", "1.00", "–", "–"],
    ]
    assert [one["drift"] for one in labels_by_round(LEDGER)] == [
        {"longer_won": 0.0, "margin": 0.0},
        {"longer_won": 0.25, "margin": -0.5},
        {"margin": 0.0},
    ]


def test_what_was_edited_by_hand_lacks_a_row() -> None:
    broken = [
        finish("label", 1, health=health(0.5, 1.0) | {"margin": 3}),
        finish("label", 1, health=7),
        finish("label", 2, health=health(0.5, 1.0) | {"agreement": {"x": 3}}),
        {"event": "finish", "stage": "label", "figures": {"health": health(0.5, 1.0)}},
        {"event": "finish", "figures": []},
    ]
    assert labels_by_round(broken) == []
    assert labels_by_round([*broken, *LEDGER]) == labels_by_round(LEDGER)
