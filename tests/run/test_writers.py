"""Runs in which not only the policy writes: demonstrations are chosen over it, or the reference answers beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import (
    NO_EVALUATION,
    SPIN_LIKE,
    XPO_LIKE,
    Align,
    MakeFolder,
    assert_refused,
    files_below,
    read_rows,
    write_rows,
)

from align_cli.artifacts.store import read_json
from align_cli.recipe import Recipe
from align_cli.run.fingerprints import Fingerprints, changes
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step

TinyRecipe = Callable[..., Recipe]
LIKE: dict[str, dict[str, Any]] = {"spin": SPIN_LIKE, "xpo": XPO_LIKE}


@pytest.fixture(scope="module")
def whole(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`whole("spin")`: a folder whose run of two rounds is finished. Shared: tests that touch it take a copy."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            folder = make_folder(tmp_path_factory.mktemp(name), **LIKE[name], **NO_EVALUATION)
            done = align("train", "recipe.yaml", cwd=folder)
            assert done.code == 0, done.err
            made[name] = folder
        return made[name]

    return run


def artifacts(folder: Path, number: int, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / "run" / "rounds" / f"{number:03d}" / name)


@pytest.mark.long
@pytest.mark.parametrize(("name", "rounds"), [("spin", 2), ("xpo", 1), pytest.param("xpo", 2, marks=pytest.mark.long)])
def test_a_chain_of_commands_makes_what_rounds_make(
    name: str, rounds: int, whole: Callable[[str], Path], make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **LIKE[name], **NO_EVALUATION)
    shutil.copytree(whole(name) / "run" / "rounds" / "000", folder / "run" / "rounds" / "000")
    shutil.copy(whole(name) / "run" / "run.json", folder / "run" / "run.json")
    for number, policy in ((1, []), (2, ["--policy", "after1"]))[:rounds]:
        expected = whole(name) / "run" / "rounds" / f"{number:03d}"
        completions = align("generate", "recipe.yaml", *policy, cwd=folder)
        assert completions.out.encode() == (expected / "completions.jsonl").read_bytes(), completions.err
        preferences = align("label", "recipe.yaml", "-i", "-", *policy, cwd=folder, stdin=completions.out)
        assert preferences.out.encode() == (expected / "preferences.jsonl").read_bytes(), preferences.err
        trained = align(
            "train", "recipe.yaml", "--preferences", "-", *policy, "-o", f"after{number}", cwd=folder,
            stdin=preferences.out,
        )  # fmt: skip
        assert trained.code == 0, trained.err
        assert files_below(folder / f"after{number}") == files_below(expected / "checkpoint")


def test_mixed_pairs_choose_a_demonstration_of_the_prompt_that_was_sampled(whole: Callable[[str], Path]) -> None:
    folder = whole("spin")
    shown = read_rows(folder / "demonstrations.jsonl")
    texts = {(row["prompt"], row["completion"]) for row in shown}
    seen: list[str] = []
    for number in (1, 2):
        completions = artifacts(folder, number, "completions.jsonl")
        sampled = {(row["prompt_index"], row["sample_index"]): row for row in completions}
        pairs = artifacts(folder, number, "preferences.jsonl")
        assert len(sampled) == 16 and pairs
        seen += [row["prompt"] for row in completions]
        for pair in pairs:
            assert (pair["prompt"], pair["chosen"]) in texts
            assert pair["rejected_ids"] == sampled[pair["prompt_index"], pair["rejected_index"]]["completion_ids"]
            assert (pair["source"], pair["chosen_by"], pair["rejected_by"]) == ("dmd", "dataset", "policy")
    prompts = {row["prompt"] for row in shown}
    assert len(prompts) < len(shown), "some prompts have several demonstrations"
    assert sorted(seen[: len(prompts)]) == sorted(prompts), "no prompt repeats before all were seen"


def test_the_ledger_counts_mixed_pairs(whole: Callable[[str], Path]) -> None:
    events = read_rows(whole("spin") / "run" / "ledger.jsonl")
    counted = [event["figures"] for event in events if event["event"] == "finish" and event["stage"] == "label"]
    pairs = [len(artifacts(whole("spin"), number, "preferences.jsonl")) for number in (1, 2)]
    assert [figures["mixed_pairs"] for figures in counted] == pairs
    assert [sum(figures.values()) for figures in counted] == [16, 16], "what is no pair is counted as dropped"


def test_the_references_responses_stand_behind_the_policys_and_are_those_of_the_initial_policy(
    whole: Callable[[str], Path],
) -> None:
    folder = whole("xpo")
    versions = [
        read_json(folder / "run/rounds/001/checkpoint/training_state.json")["parent"],
        read_json(folder / "run/rounds/002/checkpoint/training_state.json")["parent"],
    ]
    for number in (1, 2):
        rows = artifacts(folder, number, "completions.jsonl")
        assert [row["sampled_by"] for row in rows] == ["policy"] * 16 + ["reference"] * 16
        assert {row["policy"] for row in rows[:16]} == {versions[number - 1]}
        assert {row["policy"] for row in rows[16:]} == {versions[0]}
        assert len({row["seed"] for row in rows}) == 32
        assert [row["prompt"] for row in rows[:16]] == [row["prompt"] for row in rows[16:]]
        for pair in artifacts(folder, number, "preferences.jsonl"):
            assert {pair["chosen_by"], pair["rejected_by"]} == {"policy", "reference"}
            assert pair["policy"] == versions[number - 1]


def test_the_first_rounds_reference_and_policy_are_one_model_and_say_different_things(
    whole: Callable[[str], Path],
) -> None:
    rows = artifacts(whole("xpo"), 1, "completions.jsonl")
    same = [one["completion_ids"] == other["completion_ids"] for one, other in zip(rows[:16], rows[16:], strict=True)]
    assert sum(same) < 8


def test_optimism_is_among_the_figures_of_every_step(whole: Callable[[str], Path]) -> None:
    for number in (1, 2):
        steps = artifacts(whole("xpo"), number, "training.jsonl")
        assert len(steps) == 3
        assert all("dpr/optimism_term" in step for step in steps)


def test_sampling_depends_on_the_references_checkpoint_where_it_is_sampled(whole: Callable[[str], Path]) -> None:
    def read_by(name: str, number: int, stage: str) -> list[str]:
        manifest = read_json(whole(name) / "run" / "rounds" / f"{number:03d}" / "manifest.json")
        return sorted(manifest["stages"][stage]["inputs"]["upstream"])

    assert read_by("xpo", 1, "generate") == ["rounds/000/checkpoint"]
    assert read_by("xpo", 2, "generate") == ["rounds/000/checkpoint", "rounds/001/checkpoint"]
    assert read_by("spin", 2, "generate") == ["rounds/001/checkpoint"]
    assert read_by("spin", 2, "label") == ["rounds/001/checkpoint", "rounds/002/completions.jsonl"]


def test_demonstrations_that_read_differently_now_are_refused_by_their_key(
    whole: Callable[[str], Path], align: Align, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole("spin"), tmp_path / "copy"))
    assert "run is finished: 2 rounds" in align("train", "recipe.yaml", cwd=folder).err
    write_rows(folder / "demonstrations.jsonl", read_rows(folder / "demonstrations.jsonl")[:-1])
    files = files_below(folder)
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "since round 1 generate was finished, the contents of data.demonstrations have changed" in refused.err
    assert files_below(folder) == files


def test_another_number_of_the_references_completions_is_refused_by_its_key(
    whole: Callable[[str], Path], align: Align
) -> None:
    refused = align("train", "recipe.yaml", "generate.num_reference_generations=2", "label.pairs=all", cwd=whole("xpo"))
    assert_refused(refused)
    assert "generate.num_reference_generations was 1 and is now 2" in refused.err


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("data.demonstrations=reviews", ["label"]),
        ("generate.num_reference_generations=0", ["generate", "evaluate"]),
        ("method.optimism.coefficient=0.5", ["train"]),
        ("method.loss_weights=[1, 0.5]", ["train"]),
        ("method.label_smoothing=0.2", ["train"]),
        ("train.source_grad_norms=step", ["train"]),
    ],
)
def test_a_changed_key_concerns_the_stages_that_look_at_it(
    override: str, stages: list[str], tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    files = dict.fromkeys(("liked", "disliked"), str(tmp_path / "recipe.yaml"))
    base = ["generate.num_generations=2", "data.demonstrations=playground"]
    base += ["method.sources={dpr: {mixing: 1, labeler: hidden}}"]
    if "loss" in override or "smoothing" in override:
        base += ["method.loss_type=[dpo, robust]", "label={ties: drop, equal_texts: drop}"]
    else:
        base += ["label={ties: keep, equal_texts: keep}"]
        base += ["generate={num_generations: 1, num_reference_generations: 1}"]
    if "num_reference" in override:
        base += ["generate.num_generations=2"]
    sections = {"reviews": files, "data__preferences": "playground"}
    before = tiny_recipe(tmp_path, *base, **sections)
    after = tiny_recipe(tmp_path, *base, override, **sections)
    nothing_yet = RunFolder(tmp_path / "run").manifests
    was, now = Fingerprints(before, nothing_yet), Fingerprints(after, nothing_yet)
    found = {
        stage: changes(was.of(Step(1, stage)), now.of(Step(1, stage)))
        for stage in ("sft", "generate", "label", "train", "evaluate")
    }
    key = override.split("=")[0]
    assert {stage: [text.split(" was ")[0] for text in texts] for stage, texts in found.items() if texts} == {
        stage: [key] for stage in stages
    }


def test_plain_pairs_do_not_stand_for_mixed_ones(whole: Callable[[str], Path], align: Align, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole("spin"), tmp_path / "copy"))
    pairs = (folder / "pairs.jsonl").read_text()
    refused = align("train", "recipe.yaml", "--preferences", "-", "-o", "next", cwd=folder, stdin=pairs)
    assert_refused(refused)
    assert "source 'offline', which has no share in the recipe's mixture" in refused.err
    assert not (folder / "next").exists()


def test_mixed_pairs_of_ones_own_are_trained_on_where_they_say_who_wrote_them(
    whole: Callable[[str], Path], align: Align, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole("spin"), tmp_path / "copy"))
    rows = [{**row, "source": "dmd"} for row in read_rows(folder / "pairs.jsonl")]
    command = ("train", "recipe.yaml", "--preferences", "-", "-o", "next", "-q")
    refused = align(*command, cwd=folder, stdin="".join(json.dumps(row) + "\n" for row in rows))
    assert_refused(refused)
    assert f"{len(rows)} pairs of source dmd say of neither response that the policy wrote it" in refused.err
    signed = "".join(json.dumps({**row, "rejected_by": "policy"}) + "\n" for row in rows)
    done = align(*command, cwd=folder, stdin=signed)
    assert (done.code, done.err) == (0, "")
