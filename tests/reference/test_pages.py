"""The reference pages are what the code says, and the code says something of everything."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from align_cli.cli.main import app
from align_cli.errors import ExitCode
from align_cli.labelers.judge.tally import figures_of
from align_cli.recipe.sections.labelers.judge import PriceSection
from align_cli.reference import PAGES
from align_cli.reference.__main__ import main
from align_cli.reference.artifacts import FILES, kinds, meanings
from align_cli.reference.commands import commands_page
from align_cli.reference.figures import places, unknown_figures
from align_cli.run.folder import layout
from align_cli.stages import STAGES
from align_cli.stages.pairing.pairs import WHY_LEFT_OUT, WHY_NOT_MADE
from align_cli.training.reward import FIGURES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_the_docs_is_up_to_date(name: str) -> None:
    """`make docs` writes it."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name]()


def test_all_pages_are_written_into_a_folder(tmp_path: Path) -> None:
    main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PAGES)


def test_every_command_has_a_section_with_each_of_its_options() -> None:
    sections = dict(re.findall(r"^## `align ([\w ]+)`\n(.*?)(?=^## |\Z)", commands_page(), re.MULTILINE | re.DOTALL))
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {name.split()[0] for name in sections} == set(commands)
    for name, command in commands.items():
        text = "".join(section for title, section in sections.items() if title.split()[0] == name)
        named = [opt for one in command.params for opt in one.opts if opt.startswith("-")]
        assert [opt for opt in named if opt not in text] == []


def test_every_exit_code_is_told() -> None:
    assert [code for code in ExitCode if f"| {code.value} | {code.meaning} |" not in commands_page()] == []


def test_every_field_of_every_record_has_a_meaning() -> None:
    assert len(kinds()) >= 5
    for kind in kinds():
        assert set(meanings(kind)) == {field.name for field in fields(kind)}, kind


def test_every_artifact_of_every_stage_is_among_the_files() -> None:
    written = {name for stage in STAGES for name in stage.writes}
    assert [
        name for name in written if not any(file.split("/")[-1] == name or f"/{name}/" in file for file in FILES)
    ] == []
    named = {layout.RECIPE, layout.RUN, layout.LEDGER, layout.LINEAGE, layout.REPORT, layout.REPORT_DATA, layout.LOCK}
    folders = {f"{name}/*" for name in (layout.WORK, layout.TRACKING, layout.SERVERS, layout.ANSWERS)}
    assert named | folders <= set(FILES)


def test_every_stage_has_its_figures() -> None:
    titles = {f"Stage {stage.name}" for stage in STAGES} - {"Stage evaluate"}
    assert titles <= set(places()) and {"evaluation.json", "training.jsonl"} <= set(places())


def test_a_figure_that_nobody_described_is_found_out() -> None:
    assert unknown_figures("Stage sft", {"steps": 3, "final_los": 1.0}) == ["final_los"]
    assert unknown_figures("training.jsonl", {"dpr/kl": 1.0, "dpr/kll": 1.0}) == ["dpr/kll"]


def test_counts_of_pairs_and_figures_of_judges_and_reward_models_are_described() -> None:
    kept = [name.replace("dropped", "kept") for name in WHY_LEFT_OUT if not name.startswith("below")]
    assert unknown_figures("Stage label", dict.fromkeys([*WHY_LEFT_OUT, *kept, *WHY_NOT_MADE], 1)) == []
    counts = ("pairs", "completions", "answers", "calls", "retries", "prompt_tokens", "completion_tokens", "unparsable")
    places_of_winners = ("first_wins", "ties", "pairs_in_both_orders", "order_flips")
    figures = figures_of(dict.fromkeys((*counts, *places_of_winners), 2.0), PriceSection(input=1.0, output=2.0))
    assert len(figures) > len(counts) and unknown_figures("Labelers", figures) == []
    assert unknown_figures("reward_training.jsonl", dict.fromkeys(("step", "loss", *FIGURES), 1.0)) == []
