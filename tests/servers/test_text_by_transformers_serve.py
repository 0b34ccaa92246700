"""Two rounds of `sail-dpr` on SmolLM2, sampled by a real `transformers serve`, which gives text alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from real_runs import (
    MODEL,
    PROMPTS,
    assert_pairs_are_what_was_sampled,
    figures_of,
    finish,
    rows_of,
    said,
    start,
    write_recipe,
)

pytestmark = pytest.mark.servers

TRANSFORMERS = Path(sys.executable).with_name("transformers")
COMMAND = f"{TRANSFORMERS} serve {{model}} --host 127.0.0.1 --port {{port}} --device cpu"


@pytest.fixture(autouse=True)
def there_is_what_it_takes() -> None:
    assert MODEL.is_dir(), "make smollm2 makes the model"


def test_text_is_tokenised_and_its_log_probabilities_are_the_trainers(tmp_path: Path) -> None:
    write_recipe(tmp_path, {"command": COMMAND, "concurrency": 1}, gradient=0.0)
    finish(start(tmp_path), tmp_path)
    assert "responses are tokenised anew" in said(tmp_path)
    for number in (1, 2):
        figures, rows = figures_of(tmp_path, number), rows_of(tmp_path, number, "completions.jsonl")
        assert figures["from_text"] == figures["recomputed"] == len(rows) == 2 * len(PROMPTS)
        assert "logp_difference" not in figures
        assert figures["greedy_tokens"]["part"] < 0.9, "it samples, since it is told to"
        assert all(row["from_text"] is True and len(row["logps"]) == len(row["completion_ids"]) for row in rows)
    assert_pairs_are_what_was_sampled(tmp_path)


def test_text_is_refused_where_the_method_needs_the_tokens(tmp_path: Path) -> None:
    write_recipe(tmp_path, {"command": COMMAND}, gradient=0.3)
    assert start(tmp_path).wait(300) == 2
    assert "gives text and no token ids" in said(tmp_path)
    assert "method.sources.dpr.gradient" in said(tmp_path)
