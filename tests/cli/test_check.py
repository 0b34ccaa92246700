"""`align check`: a recipe's faults, or what it expands to, what would run and which code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_fixtures import Align, MakeFolder, assert_refused, files_below

from align_cli.recipe.presets import FOLDER, preset_names
from align_cli.recipe.sections.losses import LOSS_TYPE_ALIASES

RECIPE_TESTS = Path(__file__).parent.parent / "recipe"


def test_a_sound_recipe_is_shown_with_its_code_its_keys_and_its_plan(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    files = files_below(folder)
    shown = align("check", "recipe.yaml", cwd=folder)
    assert (shown.code, shown.err) == (0, "")
    code, recipe, plan = shown.out.split("\n\n")
    assert code.splitlines() == [
        "code that this recipe runs (what of it is in use was run just now, to check it; --quick runs none):",
        "  labelers.hidden: align_cli.playground:hidden_reward",
        "  labelers.ours: labeler.py:score",
    ]
    assert "\ngenerate:\n  engine: transformers\n" in recipe
    assert plan.splitlines() == [
        "plan:",
        "  round 0: sft, evaluate",
        "  round 1: generate, label, train, evaluate",
        "  round 2: generate, label, train, evaluate",
        "  global batch size 8 pairs, 3 steps a round",
        "  run: begins with round 0 sft",
    ]
    assert files_below(folder) == files


def test_what_is_shown_reads_back_to_the_same_recipe(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    first = align("check", "recipe.yaml", "method.beta=0.3", "rounds=4", "--quick", cwd=folder)
    (folder / "shown.yaml").write_text(first.out.split("\n\n")[1])
    assert align("check", "shown.yaml", "--quick", cwd=folder).out == first.out
    assert "  beta: 0.3\n" in first.out


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_shown_as_the_keys_that_it_expands_to(
    make_folder: MakeFolder, align: Align, tmp_path: Path, preset: str
) -> None:
    changes: dict[str, Any] = {"method": None, "generate": None, "label": None, "method__sources__dpr__labeler": None}
    expansion = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))
    if "labeler" not in expansion["method"]["sources"].get("dpr", {"labeler": None}):
        changes |= {"method": {"sources": {"dpr": {"labeler": "ours"}}}}
    # A preset may say how many steps a round has; what the recipe says would win.
    steps = {} if "steps_per_round" in expansion.get("train", {}) else {"steps_per_round": 2}
    folder = make_folder(tmp_path, preset=preset, data__demonstrations="demonstrations.jsonl", train=steps, **changes)
    shown = align("check", "recipe.yaml", "--quick", cwd=folder)
    assert shown.code == 0, shown.err
    (text,) = (part for part in shown.out.split("\n\n") if part.startswith("output_dir:"))
    tree = yaml.safe_load(text)
    assert tree["preset"] == preset
    written = dict(leaves(expansion))
    found = dict(leaves(tree))
    assert {key: found.get(key) for key in written} == {
        key: LOSS_TYPE_ALIASES.get(value, value) for key, value in written.items()
    }


def leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every value of a tree of settings with its dotted key; PyYAML takes the key `on` for true."""
    named = {"on" if key is True else key: value for key, value in tree.items()}
    return [
        leaf
        for key, value in named.items()
        for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)])
    ]


def test_json_holds_the_recipe_the_code_the_warnings_and_the_plan(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    shown = align("check", "recipe.yaml", "evaluate.scorer=ours", "--json", cwd=folder)
    assert (shown.code, shown.err) == (0, "")
    checked = json.loads(shown.out)
    assert sorted(checked) == ["code", "faults", "notes", "outlook", "plan", "recipe", "warnings"]
    assert checked["faults"] == checked["notes"] == []
    assert checked["outlook"] == ["run: begins with round 0 sft"]
    assert checked["recipe"]["evaluate"]["scorer"] == "ours"
    assert checked["code"][1] == "labelers.ours: labeler.py:score"
    assert len(checked["warnings"]) == 1
    assert checked["plan"][:2] == [{"round": 0, "stage": "sft"}, {"round": 0, "stage": "evaluate"}]


def test_warnings_stand_on_standard_error(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    shown = align("check", "recipe.yaml", "evaluate.scorer=ours", "--quick", cwd=make_folder(tmp_path))
    assert shown.code == 0
    assert shown.err.startswith("warning: evaluate.scorer is the training labeler, ours: ")
    assert "warning" not in shown.out


def test_all_ten_faults_of_a_recipe_are_shown_at_once(align: Align) -> None:
    refused = align("check", "ten_faults.yaml", cwd=RECIPE_TESTS)
    assert_refused(refused)
    assert refused.err == (RECIPE_TESTS / "ten_faults.txt").read_text() + "10 faults\n"


def test_every_command_on_a_recipe_shows_the_same_faults(align: Align) -> None:
    checked = align("check", "ten_faults.yaml", cwd=RECIPE_TESTS)
    for command in (["train"], ["generate"], ["label"], ["evaluate"], ["train", "--preferences", "-", "-o", "next"]):
        assert align(*command, "ten_faults.yaml", cwd=RECIPE_TESTS) == checked


def test_a_mistyped_override_is_named_with_the_nearest_key(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    for command in ("check", "train"):
        refused = align(command, "recipe.yaml", "method.bta=0.2", cwd=folder)
        assert_refused(refused)
        assert "unknown key method.bta" in refused.err
        assert "hint: did you mean method.beta?" in refused.err
    assert not (folder / "run").exists()


def test_a_recipe_that_is_not_there_is_named_with_the_nearest_file(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    refused = align("check", "recpie.yaml", cwd=make_folder(tmp_path))
    assert_refused(refused)
    assert refused.err == "recpie.yaml: there is no such recipe\nhint: did you mean recipe.yaml?\n"


WRONG_AT_WORK = {
    "labelers__ours": {"kind": "function", "function": "labeler.py:scores"},
    "data__eval_preferences": "labeler.jsonl",
    "train__report_to": "clearml",
    "train__optim": "adamw_bnb_8bit",
}


@pytest.fixture
def wrong_at_work(make_folder: MakeFolder, tmp_path: Path) -> Path:
    """A recipe whose keys are sound, and of which four things go wrong at work."""
    folder = make_folder(tmp_path, **WRONG_AT_WORK)
    (folder / "labeler.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    return folder


def test_what_goes_wrong_at_work_is_found_all_at_once_in_the_words_of_the_run(
    wrong_at_work: Path, align: Align
) -> None:
    files = files_below(wrong_at_work)
    refused = align("check", "recipe.yaml", cwd=wrong_at_work)
    assert_refused(refused)
    for words in (
        "labelers.ours: labeler.py has no function 'scores'\nhint: did you mean 'score'?",
        "labeler.jsonl:1: there is no key 'rejected'",
        "ClearMLCallback requires",
        "You need to install `bitsandbytes`",
    ):
        assert words in refused.err
    assert refused.err.endswith("\n4 faults\n")
    assert align("train", "recipe.yaml", cwd=wrong_at_work) == refused
    assert files_below(wrong_at_work) == files


def test_quick_looks_at_the_recipe_alone(wrong_at_work: Path, align: Align) -> None:
    (wrong_at_work / "labeler.py").write_text("open('it_ran', 'w')\nraise SystemExit\n")
    shown = align("check", "recipe.yaml", "--quick", cwd=wrong_at_work)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("code that this recipe runs:\n")
    assert not (wrong_at_work / "it_ran").exists()
    assert_refused(align("check", "recipe.yaml", cwd=wrong_at_work))
    assert (wrong_at_work / "it_ran").exists()


def test_json_holds_each_fault_with_its_place(wrong_at_work: Path, align: Align) -> None:
    refused = align("check", "recipe.yaml", "train.adam_beta1=2", "--json", cwd=wrong_at_work)
    assert (refused.code, refused.err) == (2, "")
    (found,) = json.loads(refused.out).items()
    faults = {fault["key"] or fault["where"]: fault for fault in found[1]}
    assert found[0] == "faults"
    assert sorted(faults) == [
        "labeler.jsonl:1",
        "labelers.ours",
        "train.adam_beta1",
        "train.optim",
        "train.report_to",
    ]
    lines = (wrong_at_work / "recipe.yaml").read_text().splitlines()
    optim = faults["train.optim"]
    assert sorted(optim) == ["column", "hint", "key", "line", "what", "where"]
    assert lines[optim["line"] - 1][optim["column"] - 1 :] == "adamw_bnb_8bit"
    assert optim["where"] == f"recipe.yaml:{optim['line']}:{optim['column']}"
    assert optim["hint"] == "install it, or change train.optim"
    assert faults["train.adam_beta1"]["line"] is None
    assert lines[faults["labelers.ours"]["line"] - 1].strip() == "ours:"


def test_json_holds_the_faults_of_a_recipe_that_cannot_be_read_too(align: Align) -> None:
    refused = align("check", "ten_faults.yaml", "--json", cwd=RECIPE_TESTS)
    assert (refused.code, refused.err) == (2, "")
    faults = json.loads(refused.out)["faults"]
    assert len(faults) == 10
    assert all(fault["what"] and fault["line"] and fault["key"] for fault in faults)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((), "  run is finished: 2 rounds; raise rounds= to go on"),
        (("rounds=3",), "  run: going on after round 2 evaluate, with round 3 generate"),
        (("output_dir=other",), "  other: begins with round 0 sft"),
        (
            ("output_dir=fork", "--from", "run@1"),
            "  fork: forks from run after round 1, and begins with round 2 generate",
        ),
    ],
)
def test_it_says_what_a_run_would_do(finished: Path, align: Align, overrides: tuple[str, ...], says: str) -> None:
    files = files_below(finished)
    shown = align("check", "recipe.yaml", *overrides, cwd=finished)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[-1] == says
    assert files_below(finished) == files


@pytest.mark.parametrize(
    "arguments",
    [
        ("method.beta=0.3",),
        ("output_dir=fork", "--from", "run@7"),
        ("output_dir=fork", "seed=3", "--from", "run@1"),
        ("output_dir=fork", "--from", "run"),
        ("output_dir=run/rounds",),
    ],
)
def test_what_a_run_would_be_refused_for_is_a_fault(finished: Path, align: Align, arguments: tuple[str, ...]) -> None:
    refused = align("check", "recipe.yaml", *arguments, cwd=finished)
    assert_refused(refused)
    assert align("train", "recipe.yaml", *arguments, cwd=finished) == refused


def test_quick_and_from_exclude_each_other(finished: Path, align: Align) -> None:
    assert_refused(align("check", "recipe.yaml", "--quick", "--from", "run@1", cwd=finished))


def test_what_the_policy_cannot_read_is_found_without_its_weights(
    make_folder: MakeFolder, tiny_policy_folder: Path, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(
        tmp_path, policy={"model_name_or_path": "./model"}, data__prompts="chats.jsonl", generate__max_new_tokens=4096
    )
    (folder / "chats.jsonl").write_text('{"prompt": [{"role": "user", "content": "hello"}]}\n' * 20)
    shutil.copytree(tiny_policy_folder, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    refused = align("check", "recipe.yaml", "labelers.ours.function=labeler.py:scores", cwd=folder)
    assert_refused(refused)
    for words in (
        "labelers.ours: labeler.py has no function 'scores'",
        "data.prompts: 20 of 20 prompts cannot be read: ",
        "no chat template",
        "with generate.max_new_tokens 4096",
    ):
        assert words in refused.err
    assert not (folder / "run").exists()
