"""No run leaves a file, a field or a figure that the reference does not describe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import SPIN_LIKE, Align, MakeFolder, read_rows

from align_cli.reference.artifacts import FILES
from align_cli.reference.figures import unknown_figures

ALL_TERMS: dict[str, Any] = {
    "method__sources": {
        "offline": {"mixing": 0.25},
        "ddp": {"mixing": 0.25, "gradient": 0.2},
        "dpp": {"mixing": 0.25, "gradient": 0.2},
        "dpr": {"mixing": 0.25, "gradient": 0.3, "labeler": "ours"},
    },
    "policy__reference": "previous",
    "method__kl": {"coefficient": 0.02, "on": "policy"},
    "method__optimism": {"coefficient": 0.01, "on": "policy"},
    "method__importance_weight_cap": 10.0,
    "train__source_grad_norms": "step",
    "rounds": 1,
}
OF_TRL: dict[str, Any] = {
    "method__sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "labeler": "ours"}},
    "method__loss_type": "apo_zero",
    "rounds": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "all terms": ALL_TERMS,
    "a loss of TRL's": OF_TRL,
    "demonstrations": SPIN_LIKE,
    "sampled ahead": {"generate__rounds_ahead": 1},
}


def unknown_of(run: Path) -> Iterator[str]:
    for event in read_rows(run / "ledger.jsonl"):
        figures, stage = event.pop("figures", {}), event["stage"]
        yield from unknown_figures("ledger.jsonl", event)
        title = "evaluation.json" if stage == "evaluate" else f"Stage {stage}"
        yield from (f"{stage}: {path}" for path in unknown_figures(title, figures))
    for path in run.glob("rounds/*/training.jsonl"):
        for step in read_rows(path):
            yield from (f"training.jsonl: {name}" for name in unknown_figures("training.jsonl", step))
    for path in run.glob("rounds/*/evaluation.json"):
        yield from unknown_figures("evaluation.json", json.loads(path.read_text()))


def unknown_files(run: Path) -> list[str]:
    patterns = [pattern.replace("NNN", "[0-9][0-9][0-9]") for pattern in FILES]
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return [file for file in files if not any(fnmatch(file, pattern) for pattern in patterns)]


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_all_that_a_run_writes_is_described(name: str, make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **VARIANTS[name])
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert unknown_files(folder / "run") == []
    assert sorted(set(unknown_of(folder / "run"))) == []
