"""Single stages: a chain of commands makes what a round makes, and pairs from elsewhere join the offline share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chat_models import make_chat_model
from run_fixtures import (
    NO_EVALUATION,
    OFFLINE_ONLY,
    Align,
    MakeFolder,
    assert_refused,
    assert_same_runs,
    files_below,
    read_rows,
    write_rows,
)

from align_cli.playground.world import preferences

FOREIGN = [{**row, "annotator": "somebody else"} for row in preferences("few", 0)[60:68]]


@pytest.fixture(scope="module")
def chained(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first round was run as a chain of commands, one after the other; `next` is its policy."""
    folder = make_folder(tmp_path_factory.mktemp("chained"))
    completions = align("generate", "recipe.yaml", cwd=folder)
    preferences = align("label", "recipe.yaml", cwd=folder, stdin=completions.out)
    done = align("train", "recipe.yaml", "--preferences", "-", "-o", "next", cwd=folder, stdin=preferences.out)
    assert done.code == 0, done.err
    return folder


@pytest.mark.long
def test_a_chain_in_a_shell_makes_what_the_first_round_makes(
    make_folder: MakeFolder, finished: Path, tmp_path: Path
) -> None:
    folder, first = make_folder(tmp_path), finished / "run" / "rounds" / "001"
    chain = (
        "align generate recipe.yaml | tee completions.jsonl | align label recipe.yaml -i - | tee preferences.jsonl"
        " | align train recipe.yaml --preferences - -o next/"
    )
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    done = subprocess.run(
        ["sh", "-c", chain], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not re.search(r": \d+ of \d+ ", line)]  # on a slow machine
    lines = [re.sub(r"[\d.]+ s, .*|loss .*", "", line) for line in said]
    assert lines == [
        "round 0 sft: ",
        "round 1 generate: ",
        "round 1 label: ",
        "16 pairs",
        "labels: tie share 0, longer won 0.25, agreement of labels and hidden 1",
        "round 1 train: ",
        "round 1 is in next: ",
    ]
    for name in ("completions.jsonl", "preferences.jsonl"):
        assert (folder / name).read_bytes() == (first / name).read_bytes()
    assert files_below(folder / "next") == files_below(first / "checkpoint")


def test_a_policy_that_a_chain_made_is_evaluated_as_in_its_round(chained: Path, finished: Path, align: Align) -> None:
    done = align("evaluate", "recipe.yaml", "--policy", "next", cwd=chained)
    assert done.code == 0, done.err
    assert done.out.encode() == (finished / "run" / "rounds" / "001" / "evaluation.json").read_bytes()


def test_the_initial_policy_is_evaluated_as_in_round_zero(chained: Path, finished: Path, align: Align) -> None:
    done = align("evaluate", "recipe.yaml", "-o", "zero.json", cwd=chained)
    assert done.code == 0, done.err
    assert (chained / "zero.json").read_bytes() == (
        finished / "run" / "rounds" / "000" / "evaluation.json"
    ).read_bytes()


def test_a_second_chain_makes_what_the_second_round_makes(chained: Path, finished: Path, align: Align) -> None:
    second = finished / "run" / "rounds" / "002"
    completions = align("generate", "recipe.yaml", "--policy", "next", cwd=chained)
    assert completions.out.encode() == (second / "completions.jsonl").read_bytes()
    preferences = align("label", "recipe.yaml", "-i", "-", cwd=chained, stdin=completions.out)
    assert preferences.out.encode() == (second / "preferences.jsonl").read_bytes()
    trained = align(
        "train", "recipe.yaml", "--preferences", "-", "--policy", "next", "-o", "after", cwd=chained,
        stdin=preferences.out,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert files_below(chained / "after") == files_below(second / "checkpoint")


def test_a_chain_makes_no_more_of_the_run_than_its_initial_policy(chained: Path) -> None:
    assert sorted(path.name for path in (chained / "run" / "rounds").iterdir()) == ["000"]
    assert "evaluation.json" not in [path.name for path in (chained / "run" / "rounds" / "000").iterdir()]


def test_a_whole_run_goes_on_from_the_initial_policy_that_a_chain_made(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    shutil.copytree(finished / "run", folder / "run")
    shutil.rmtree(folder / "run" / "rounds" / "001")
    shutil.rmtree(folder / "run" / "rounds" / "002")
    assert align("generate", "recipe.yaml", "-q", cwd=folder).code == 0
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.err.splitlines()[0] == "run: going on after round 0 evaluate, with round 1 generate"
    assert_same_runs(folder, finished)


def test_single_stages_refuse_the_initial_policy_of_another_recipe(chained: Path, align: Align) -> None:
    for command in (["generate"], ["evaluate"]):
        refused = align(*command, "recipe.yaml", "seed=5", cwd=chained)
        assert_refused(refused)
        assert "seed was 0 and is now 5" in refused.err


def test_plain_pairs_join_the_offline_share_and_every_one_is_used(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, train__steps_per_round=6, **OFFLINE_ONLY, **NO_EVALUATION)
    write_rows(folder / "given.jsonl", FOREIGN)
    model = finished / "run" / "rounds" / "000" / "checkpoint"
    done = align(
        "train", "recipe.yaml", "--preferences", "given.jsonl", "--policy", model, "-o", "next", cwd=folder,
        collated=folder / "collated.jsonl",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out == ""
    used = [json.dumps(ids) for _, *ids in map(json.loads, (folder / "collated.jsonl").read_text().splitlines())]
    assert len(used) == len(set(used)) == len(read_rows(folder / "pairs.jsonl")) + len(FOREIGN)
    assert json.loads((folder / "next" / "training_state.json").read_text())["round"] == 1


def train_on(text: str, folder: Path, align: Align, *overrides: str) -> str:
    """`align train --preferences -` on a text, which must be refused before any model is loaded."""
    before = sorted(path.name for path in folder.iterdir())
    refused = align("train", "recipe.yaml", *overrides, "--preferences", "-", "-o", "next", cwd=folder, stdin=text)
    assert_refused(refused)
    assert sorted(path.name for path in folder.iterdir()) == before
    return refused.err


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


BROKEN = {
    lines(FOREIGN[0]) + '{"prompt": \n' + lines(FOREIGN[1]) + "[1]\n": (
        "<stdin>:2: not JSON at character 13 (Expecting value): '{\"prompt\":'\n"
        "<stdin>:4: not a JSON object but list\n"
        "hint: each line is one preference in JSON\n"
        "2 faults\n"
    ),
    lines({"prompt": "a", "chosen": "b"}): (
        "<stdin>:1: key 'rejected' is missing\nhint: each line is one preference in JSON\n"
    ),
    lines({**FOREIGN[0], "label": "high"}): (
        "<stdin>:1: key 'label': input should be a valid number\nhint: each line is one preference in JSON\n"
    ),
    '{"prompt": "a", "chosen": "b", "rejected": "c", "label": NaN}\n': (
        "<stdin>:1: not JSON: NaN is not a JSON number\nhint: each line is one preference in JSON\n"
    ),
    "": "<stdin>: there are no preferences\nhint: look at what the command before it in the pipe says\n",
    "\n\n": "<stdin>: there are no preferences\nhint: look at what the command before it in the pipe says\n",
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_pairs_are_refused_by_their_lines(
    make_folder: MakeFolder, align: Align, tmp_path: Path, text: str
) -> None:
    assert train_on(text, make_folder(tmp_path), align) == BROKEN[text]


def test_more_broken_lines_than_anybody_reads_are_counted(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    err = train_on("x\n" * 30, make_folder(tmp_path), align)
    assert err == (
        "<stdin>:1: not JSON at character 1 (Expecting value): 'x'; and so in 29 more rows: 2-30\n"
        "hint: each line is one preference in JSON\n"
    )


@pytest.mark.parametrize("label", [1.5, -0.1, 1e300])
def test_a_label_that_is_no_probability_is_refused_by_its_line(
    make_folder: MakeFolder, align: Align, finished_copy: Path, label: float
) -> None:
    assert "<stdin>:2" in train_on(lines(FOREIGN[0], {**FOREIGN[1], "label": label}), finished_copy, align)


def test_ids_that_the_policy_does_not_have_are_refused(finished_copy: Path, align: Align) -> None:
    ids = {"prompt_ids": [5], "chosen_ids": [999_999], "rejected_ids": [7]}
    assert_refused(
        align(
            "train",
            "recipe.yaml",
            "--preferences",
            "-",
            "-o",
            "next",
            cwd=finished_copy,
            stdin=lines(*({**row, **ids, "source": "dpr"} for row in FOREIGN)),
        )
    )


def test_text_that_is_no_unicode_is_refused(finished_copy: Path, align: Align) -> None:
    rows = [{**row, "chosen": "\ud800"} for row in FOREIGN]
    assert_refused(
        align("train", "recipe.yaml", "--preferences", "-", "-o", "next", cwd=finished_copy, stdin=lines(*rows))
    )


def test_offline_pairs_alone_do_not_stand_for_those_of_the_policy(finished_copy: Path, align: Align) -> None:
    err = train_on(lines(*FOREIGN), finished_copy, align)
    assert "source 'dpr' has a share of 0.5 but no pairs" in err


def test_the_remedy_for_offline_pairs_alone_speaks_of_the_pairs_that_were_given(
    finished_copy: Path, align: Align
) -> None:
    assert "--preferences" in train_on(lines(*FOREIGN), finished_copy, align)


def test_pairs_that_do_not_say_that_the_policy_wrote_them_are_refused_in_plain_words(
    finished_copy: Path, align: Align
) -> None:
    rows = read_rows(finished_copy / "run" / "rounds" / "001" / "preferences.jsonl")
    for row in rows[2:]:
        assert (row.pop("chosen_by"), row.pop("rejected_by")) == ("policy", "policy")
    assert train_on(lines(*rows), finished_copy, align) == (
        f"method.sources.dpr: {len(rows) - 2} pairs of source dpr say of neither response that the policy wrote it\n"
        "hint: label completions of `align generate`; or set chosen_by and rejected_by of each pair\n"
    )


def test_pairs_of_an_unknown_writer_are_refused_by_their_lines(finished_copy: Path, align: Align) -> None:
    rows = read_rows(finished_copy / "run" / "rounds" / "001" / "preferences.jsonl")
    rows[1]["rejected_by"] = "gpt"
    assert train_on(lines(*rows), finished_copy, align) == (
        "<stdin>:2: key 'rejected_by': input should be 'dataset', 'policy' or 'reference'\n"
        "hint: each line is one preference in JSON\n"
    )


def test_pairs_of_a_source_that_the_mixture_lacks_are_refused(
    make_folder: MakeFolder, finished: Path, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **OFFLINE_ONLY)
    shutil.copytree(finished / "run" / "rounds" / "000", folder / "run" / "rounds" / "000")
    shutil.copy(finished / "run" / "run.json", folder / "run" / "run.json")
    refused = align(
        "train", "recipe.yaml", "--preferences", finished / "run/rounds/001/preferences.jsonl", "-o", "next",
        cwd=folder,
    )  # fmt: skip
    assert_refused(refused)
    assert "'dpr'" in refused.err
    assert not (folder / "next").exists()


def test_an_output_that_is_no_checkpoint_is_refused_and_left(finished_copy: Path, align: Align) -> None:
    (finished_copy / "next").mkdir()
    (finished_copy / "next" / "thesis.tex").write_text("mine")
    for output in ("next", "recipe.yaml"):
        refused = align(
            "train", "recipe.yaml", "--preferences", "-", "-o", output, cwd=finished_copy, stdin=lines(*FOREIGN)
        )
        assert_refused(refused)
        assert refused.err == f"{output}: the output is there and is no checkpoint\nhint: choose a new folder\n"
    assert files_below(finished_copy / "next") == {"thesis.tex": b"mine"}


def test_an_older_checkpoint_is_replaced(finished_copy: Path, align: Align) -> None:
    shutil.copytree(finished_copy / "run" / "rounds" / "002" / "checkpoint", finished_copy / "next")
    pairs = finished_copy / "run" / "rounds" / "001" / "preferences.jsonl"
    done = align("train", "recipe.yaml", "--preferences", pairs, "-o", "next", "-q", cwd=finished_copy)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert files_below(finished_copy / "next") == files_below(finished_copy / "run" / "rounds" / "001" / "checkpoint")


def test_completions_without_a_source_that_labels_them_are_refused(
    make_folder: MakeFolder, finished: Path, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **OFFLINE_ONLY)
    refused = align("label", "recipe.yaml", "-i", finished / "run/rounds/001/completions.jsonl", cwd=folder)
    assert_refused(refused)
    assert refused.err == (
        "method.sources: no source of this recipe labels completions\n"
        "hint: give source dpr a share and a labeler, or dpp or dmd a share\n"
    )


def test_generating_without_prompts_says_which_key_is_missing(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **OFFLINE_ONLY)
    refused = align("generate", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "data.prompts" in refused.err


def test_a_policy_of_another_vocabulary_is_refused_beside_the_initial_one(
    chained: Path, align: Align, tmp_path: Path
) -> None:
    other = make_chat_model(tmp_path / "other", template=None)
    refused = align("evaluate", "recipe.yaml", "--policy", str(other), "-q", cwd=chained)
    assert_refused(refused)
    assert f"{other}: its vocabulary is not the initial policy's: '" in refused.err


@pytest.mark.parametrize("command", ["generate", "evaluate", "train"])
def test_a_policy_that_is_not_there_is_named(finished_copy: Path, align: Align, command: str) -> None:
    extra = ["--preferences", "run/rounds/001/preferences.jsonl", "-o", "next"] if command == "train" else []
    refused = align(command, "recipe.yaml", *extra, "--policy", "nxet", cwd=finished_copy)
    assert_refused(refused)
    assert refused.err.splitlines()[0].startswith("nxet: the model cannot be loaded: ")


@pytest.mark.parametrize(("command", "option"), [("generate", "-o"), ("evaluate", "-o")], ids=["generate", "evaluate"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    finished_copy: Path, align: Align, command: str, option: str
) -> None:
    (finished_copy / "folder").mkdir()
    assert_refused(align(command, "recipe.yaml", option, "folder", "-q", cwd=finished_copy))


def test_evaluating_against_a_previous_policy_that_is_not_there_says_so(
    chained: Path, finished: Path, align: Align
) -> None:
    model = finished / "run" / "rounds" / "002" / "checkpoint"
    refused = align("evaluate", "recipe.yaml", "--policy", model, "-q", cwd=chained)
    assert_refused(refused)
    assert refused.err == (
        "run: the previous policy, of round 1, is not in the run's folder\n"
        "hint: evaluate against the initial policy alone: evaluate.against=[initial]\n"
    )
