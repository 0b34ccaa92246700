"""docs/labelers.md as someone reads it who has never seen the code: what it shows is written down, and runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from installed_here import install
from run_fixtures import Align, read_rows

PAGE = Path(__file__).parents[2] / "docs" / "labelers.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if found == kind]


def files() -> dict[str, str]:
    """The blocks that begin with a file's name, by that name."""
    named = {}
    for _, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if found := re.match(r"# ([\w.]+)\n", text):
            named[found[1]] = text
    return named


def more_labelers() -> list[dict[str, Any]]:
    """What the page would have one write under `labelers`, block by block."""
    start = "# labelers of recipe.yaml\n"
    return [yaml.safe_load(text) for text in blocks("yaml") if text.startswith(start)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file of the page."""
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "tests.jsonl").write_text(blocks("json")[0], encoding="utf-8")
    return tmp_path


def with_more(folder: Path, labelers: dict[str, Any], trains: str, evaluate: dict[str, Any] | None = None) -> None:
    """The page's recipe with these labelers added, one of which trains."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["labelers"] |= labelers
    recipe["method"]["sources"]["dpr"]["labeler"] = trains
    recipe["evaluate"] = evaluate or recipe["evaluate"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def run(align: Align, folder: Path, *arguments: str, **options: Any) -> str:
    done = align(*arguments, cwd=folder, prepare="installed_here:look_here", **options)
    assert done.code == 0, done.err
    return str(done.out)


@pytest.mark.long
def test_a_function_in_a_file_checks_labels_and_trains_at_the_first_try(folder: Path, align: Align) -> None:
    check, chain, train = blocks("bash")[0].strip().splitlines()
    generate, label = chain.partition("#")[0].split("|")
    run(align, folder, *shlex.split(check.partition("#")[0])[1:])
    completions = run(align, folder, *shlex.split(generate)[1:])
    run(align, folder, *shlex.split(label)[1:], stdin=completions)
    pairs = read_rows(folder / "pairs.jsonl")
    assert pairs and {pair["labeler"] for pair in pairs} == {"mentions"}
    words = ("good", "fine", "lovely")
    for pair in pairs:
        assert pair["chosen_score"] == pytest.approx(sum(word in pair["chosen"].lower() for word in words) / 3)
    run(align, folder, *shlex.split(train)[1:])
    evaluation = json.loads((folder / "run" / "rounds" / "001" / "evaluation.json").read_text(encoding="utf-8"))
    assert (evaluation["scorer"], evaluation["reward"]["mean"] < 0) == ("brief", True)


@pytest.mark.long
def test_a_kind_of_its_own_in_one_file_does_so_too(folder: Path, align: Align) -> None:
    install(folder)
    (own,) = [each for each in more_labelers() if "plain" in each]
    with_more(folder, own, "plain", {"num_prompts": 8, "scorers": ["plain", "brief"]})
    shown = run(align, folder, "check", "recipe.yaml")
    assert "labelers.plain: clearer:Clearer" in shown
    run(align, folder, "train", "recipe.yaml")
    first = folder / "run" / "rounds" / "001"
    pairs = read_rows(first / "preferences.jsonl")
    assert pairs and all(pair["verdicts"]["plain"] >= 0.5 for pair in pairs)
    evaluation = json.loads((first / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["scorer"] == "plain" and evaluation["reward"] is None
    assert evaluation["against"]["initial"]["wins"] + evaluation["against"]["initial"]["ties"] > 0
    wrong = align(
        "check", "recipe.yaml", "labelers.plain.tie_within=-1", cwd=folder, prepare="installed_here:look_here"
    )
    assert "labelers.plain.tie_within is -1; it must be at least 0" in wrong.err
    with (folder / "clearer.py").open("a", encoding="utf-8") as stream:
        stream.write("\n")
    changed = align("train", "recipe.yaml", cwd=folder, prepare="installed_here:look_here")
    assert changed.code != 0 and "labelers.plain.kind" in changed.err, "the file is another one"


def test_a_package_that_does_not_load_is_named(folder: Path, align: Align) -> None:
    install(folder)
    (own,) = [each for each in more_labelers() if "plain" in each]
    with_more(folder, own, "plain")
    (folder / "clearer.py").write_text("import no_such_module\n", encoding="utf-8")
    done = align("check", "recipe.yaml", cwd=folder, prepare="installed_here:look_here")
    assert done.code == 2
    assert "kind 'clearer' (clearer:KIND) does not load: No module named 'no_such_module'" in done.err


@pytest.mark.long
def test_every_ready_function_labels(folder: Path, align: Align) -> None:
    (ready,) = [each for each in more_labelers() if "right" in each]
    questions = [{"question": row["prompt"], "answer": "#### 3"} for row in read_rows(folder / "tests.jsonl")]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    table = "q,a\n" + "".join(f'"{row["question"]}",3\n' for row in questions)
    (folder / "table.csv").write_text(table, encoding="utf-8")
    (folder / "prompts.jsonl").write_text((folder / "tests.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    with_more(folder, ready, "right", {"num_prompts": 8, "scorers": list(ready)})
    prompts = ["data.prompts=prompts.jsonl", "data.eval_prompts=prompts.jsonl", "generate.prompts_per_round=2"]
    run(align, folder, "check", "recipe.yaml", *prompts)
    run(align, folder, "train", "recipe.yaml", *prompts, "label.ties=keep", "label.equal_texts=keep")
    scored = [row["scores"] for row in read_rows(folder / "run" / "rounds" / "001" / "samples.jsonl")]
    assert all(list(scores) == list(ready) and all(0 <= score <= 1 for score in scores.values()) for scores in scored)


@pytest.mark.long
def test_several_together_and_the_evaluation_of_the_page_run(folder: Path, align: Align) -> None:
    (several,) = [each for each in more_labelers() if "jury" in each]
    (judging,) = [yaml.safe_load(text) for text in blocks("yaml") if text.startswith("# evaluate of recipe.yaml\n")]
    with_more(folder, several, "good", judging["evaluate"])
    run(align, folder, "check", "recipe.yaml", "method.sources.dpr.labeler=sure")
    run(align, folder, "train", "recipe.yaml")
    evaluation = json.loads((folder / "run" / "rounds" / "001" / "evaluation.json").read_text(encoding="utf-8"))
    assert [evaluation["scorer"], *evaluation["other_scorers"]] == judging["evaluate"]["scorers"]
    assert "length_controlled_win_rate" in evaluation["other_scorers"]["jury"]["against"]["initial"]
    assert evaluation["sampling"]["temperature"] == 0.7
