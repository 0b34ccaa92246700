"""`align export`: what leaves a run is what the run has, whole or not at all, and the run stays as it is."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Stop
from killed_runs import make_run, train
from paused import held
from run_fixtures import SPIN_LIKE, Align, MakeFolder, assert_refused, files_below, read_rows

from align_cli.artifacts.records import Completion
from align_cli.artifacts.store import read_records
from align_cli.errors import RunError
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.run.chosen import choose_round, open_run
from align_cli.run.export import export_round
from align_cli.run.folder import RunFolder
from align_cli.run.folder.manifest import read_manifest, write_manifest
from align_cli.stages.base import CHECKPOINT, Artifact

WARM = "adapters, warm start"
MERGED = "adapters merged between rounds, warm start"
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
WHOLE = sorted(["README.md", "config.json", "generation_config.json", "model.safetensors", *TOKENIZER])
ADAPTER = sorted(
    ["README.md", "adapter_config.json", "adapter_model.safetensors", "generation_config.json", *TOKENIZER]
)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of adapters. Shared: tests that touch it take a copy."""
    folder = make_run(tmp_path_factory.mktemp("adapters") / "whole", WARM)
    done = train(folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def adapters_copy(adapters: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapters, tmp_path / "copy"))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def logps(model: Any, completions: list[Completion], pad_token_id: int) -> torch.Tensor:
    batch = pad_batch(
        [one.prompt_ids for one in completions], [one.completion_ids for one in completions], pad_token_id
    )
    with torch.no_grad():
        return response_logps(model, batch)


def runs_own(folder: Path, number: int) -> tuple[torch.Tensor, Callable[[Any], torch.Tensor]]:
    """log π of a run's own policy on the responses that it sampled, and what says the same of another model."""
    with chdir(folder):
        results = open_run(Path("run"))
        policy = load_recipe_policy(results.recipe, results.checkpoint(number))
    completions = read_records(folder / "run" / "rounds" / "002" / "completions.jsonl", Completion)
    pad_token_id = policy.tokenizer.pad_token_id
    return logps(policy.model, completions, pad_token_id), lambda model: logps(model, completions, pad_token_id)


def test_all_weights_leave_as_the_bytes_that_they_are(finished: Path, align: Align, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = files_below(finished / "run")
    done = align("export", "run", tmp_path / "out", "--round", "1", cwd=finished)
    assert (done.code, done.out) == (0, f"{tmp_path / 'out'}\n"), done.err
    assert f"round 1, as asked for: the model in {tmp_path / 'out'}" in done.err
    assert names(tmp_path / "out") == WHOLE
    checkpoint = finished / "run" / "rounds" / "001" / "checkpoint"
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (checkpoint / name).read_bytes()
    expected, of_model = runs_own(finished, 1)
    assert torch.equal(of_model(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<eos>"
    assert files_below(finished / "run") == before


@pytest.mark.parametrize("number", [0, 2])
def test_an_adapter_leaves_with_the_runs_log_probabilities(
    number: int, adapters: Path, align: Align, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    expected, of_model = runs_own(adapters, number)
    which = ("--round", str(number))
    for done in (
        align("export", "run", tmp_path / "adapter", *which, cwd=adapters),
        align("export", "run", tmp_path / "merged", *which, "--merge", cwd=adapters),
    ):
        assert done.code == 0, done.err
    assert (names(tmp_path / "adapter"), names(tmp_path / "merged")) == (ADAPTER, WHOLE)
    with chdir(tmp_path):  # where the base's relative path leads nowhere
        models = [
            AutoModelForCausalLM.from_pretrained("adapter", dtype="float32"),
            AutoPeftModelForCausalLM.from_pretrained("adapter", dtype="float32").eval(),
            AutoModelForCausalLM.from_pretrained("merged", dtype="float32"),
        ]
    for model in models:
        torch.testing.assert_close(of_model(model), expected, rtol=0, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(adapters / "base")
    assert (of_model(base) - expected).abs().max() > 1e-2


@pytest.mark.long
def test_merged_updates_leave_with_the_runs_log_probabilities(align: Align, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_run(tmp_path / "run", MERGED)
    assert train(folder).code == 0
    expected, of_model = runs_own(folder, 2)
    for name, options in (("adapter", ()), ("merged", ("--merge",))):
        done = align("export", "run", tmp_path / name, "--round", "2", *options, cwd=folder)
        assert done.code == 0, done.err
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="float32")
        torch.testing.assert_close(of_model(model), expected, rtol=0, atol=1e-4)
    earlier, _ = runs_own(folder, 1)
    assert (earlier - expected).abs().max() > 1e-2


def test_a_run_that_began_with_an_adapter_of_ones_own_leaves_without_it(
    adapters: Path, align: Align, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    policy = {"lora": {"rank": None, "adapter": "adapter"}, "sft": None}
    folder = make_run(tmp_path / "mine", WARM, policy=policy)
    shutil.copytree(adapters / "run" / "rounds" / "002" / "checkpoint", folder / "adapter")
    assert train(folder).code == 0
    initial = align("export", "run", "initial", "--round", "0", cwd=folder)
    assert initial.code == 0, initial.err
    expected, of_model = runs_own(folder, 2)
    shutil.rmtree(folder / "adapter")
    for done in (
        align("export", "run", "out", "--round", "2", cwd=folder),
        align("export", "run", "merged", "--round", "2", "--merge", cwd=folder),
    ):
        assert done.code == 0, done.err
    for name in ("out", "merged"):
        found = of_model(AutoModelForCausalLM.from_pretrained(folder / name, dtype="float32"))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    started_from = AutoModelForCausalLM.from_pretrained(folder / "initial", dtype="float32")
    expected, of_model = runs_own(adapters, 2)
    torch.testing.assert_close(of_model(started_from), expected, rtol=0, atol=1e-4)


def test_what_left_stops_and_samples_as_the_run_did(adapters: Path, align: Align, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    done = align("export", "run", tmp_path / "out", "--merge", "--round", "2", cwd=adapters)
    assert done.code == 0, done.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    config = model.generation_config
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 1.0, 0, 1.0)
    assert (config.max_new_tokens, config.eos_token_id, config.pad_token_id) == (10, [1], 0)
    sampled = model.generate(torch.tensor([[5, 6, 7]]).expand(64, 3))
    assert sampled.shape[1] <= 13
    ended = (sampled[:, 3:] == 1).long().cumsum(-1)
    assert bool(((sampled[:, 3:] == 0) | (ended == 0) | ((sampled[:, 3:] == 1) & (ended == 1))).all())
    first = model.generate(torch.tensor([[5]]).expand(4096, 1), max_new_tokens=1)[:, 1]
    with torch.no_grad():
        probabilities = model(torch.tensor([[5]])).logits[0, -1].softmax(-1)
    rare = probabilities < probabilities.sort(descending=True).values[50]  # what transformers' own top-k 50 leaves out
    assert abs(float(rare[first].float().mean()) - float(probabilities[rare].sum())) < 0.05
    assert float(probabilities[rare].sum()) > 0.05


def test_the_best_round_is_taken_and_said_else_the_last(three_rounds: Path, align: Align, tmp_path: Path) -> None:
    rates = {
        number: json.loads((three_rounds / "run" / "rounds" / f"00{number}" / "evaluation.json").read_text())["against"]
        for number in (1, 2, 3)
    }
    wins = {0: 0.5, **{number: against["initial"]["win_rate"] for number, against in rates.items()}}
    best = max(wins, key=lambda number: wins[number])
    told = align("export", "run", tmp_path / "best", "--json", cwd=three_rounds)
    assert told.code == 0, told.err
    written = json.loads(told.out)
    assert (written["round"], written["kind"], written["hub"]) == (best, "whole", None)
    assert written["why"].startswith("the best by win rate against the initial policy")
    last = align("export", "run", tmp_path / "last", "--round", "last", "--json", "-q", cwd=three_rounds)
    assert (json.loads(last.out)["round"], json.loads(last.out)["why"], last.err) == (3, "the last", "")


def test_the_card_counts_the_rows_of_every_file(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", rounds=1, **SPIN_LIKE)
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    assert align("export", "run", tmp_path / "out", "--round", "last", cwd=folder).code == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    table = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in card.splitlines() if line[:1] == "|"]
    told = {key: (file, rows) for key, file, rows in table}
    files = {
        "policy.sft.dataset": "lessons.jsonl",
        "data.preferences": "pairs.jsonl",
        "data.demonstrations": "demonstrations.jsonl",
        "data.eval_preferences": "eval_pairs.jsonl",
    }
    for key, file in files.items():
        assert told[key] == (file, str(len(read_rows(folder / file)))), key


def test_where_rounds_were_not_compared_the_last_is_taken(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=2, evaluate__against=["previous"])
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    done = align("export", "run", "out", "--json", cwd=folder)
    assert json.loads(done.out)["round"] == 2
    assert json.loads(done.out)["why"] == "the last, since no evaluation compares rounds with the initial policy"
    refused = align("export", "run", "best", "--round", "best", cwd=folder)
    assert_refused(refused)
    assert "no evaluation compares a round that can be had with the initial policy" in refused.err


def test_rounds_without_a_checkpoint_are_told_with_those_that_have_one(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=4, checkpoints={"every_rounds": 2, "keep": 1})
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    kept = [number for number in range(5) if (folder / "run" / "rounds" / f"00{number}" / "checkpoint").is_dir()]
    *others, last = map(str, kept)
    there = f"hint: of its rounds {', '.join(others)} and {last} are there: --round {last}"
    told = {
        3: "round 3 left no checkpoint, as checkpoints.every_rounds says",
        5: "the run has not finished round 5",
    }
    if 2 not in kept:
        told[2] = "the checkpoint of round 2 was let go, as checkpoints.keep says"
    for number, words in told.items():
        refused = align("export", "run", "out", "--round", str(number), cwd=folder)
        assert_refused(refused)
        assert refused.err.splitlines() == [f"run: {words}", there]
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "out"], "there is no such folder"),
        (["recipe.yaml", "out"], "this is a file, not a run"),
        (["base", "out"], "this is a model, not a run"),
        (["run/rounds/001/checkpoint", "out"], "hint: give the run and the round: run --round 1"),
        (["run", "out", "--round", "worst"], "the round is 'worst'; it must be best, last or a number"),
        (["run", "run/out"], "it lies in the run"),
        (["run", "base"], "what is there is not empty"),
        (["run", "recipe.yaml"], "what is there is a file"),
        (["run", "recipe.yaml/out"], "it lies below a file"),
        (["run", "."], "this is the folder that you are in"),
        (["run", "out", "--public"], "--public goes with --push-to-hub"),
        (["run", "out", "--push-to-hub", "me/mine"], "the adapter's base is a folder of this machine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_exported_is_refused_in_words(
    arguments: list[str], words: str, adapters: Path, align: Align
) -> None:
    before = files_below(adapters)
    refused = align("export", *arguments, cwd=adapters)
    assert_refused(refused)
    assert words in refused.err
    assert files_below(adapters) == before


def test_an_empty_folder_and_a_link_to_one_are_filled(finished: Path, align: Align, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    done = align("export", "run", tmp_path / "link", cwd=finished)
    assert done.code == 0, done.err
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == WHOLE


def test_there_is_no_adapter_to_merge_in_all_weights(finished: Path, align: Align, tmp_path: Path) -> None:
    refused = align("export", "run", tmp_path / "out", "--merge", cwd=finished)
    assert_refused(refused)
    assert "there is no adapter to merge" in refused.err


def test_a_damaged_checkpoint_is_refused_and_a_damaged_optimizer_is_no_matter(
    finished_copy: Path, align: Align
) -> None:
    checkpoint = finished_copy / "run" / "rounds" / "002" / "checkpoint"
    (checkpoint / "optimizer.safetensors").write_bytes(b"")
    assert align("export", "run", "first", "--round", "2", cwd=finished_copy).code == 0
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)
    refused = align("export", "run", "second", "--round", "2", cwd=finished_copy)
    assert_refused(refused)
    assert "model.safetensors: the artifact is not what was written" in refused.err
    assert not (finished_copy / "second").exists()


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_another_base_than_the_runs_is_refused(merge: bool, adapters_copy: Path, align: Align) -> None:
    command = ("export", "run", "out", *["--merge"] * merge)
    weights = adapters_copy / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused = align(*command, cwd=adapters_copy)
    assert_refused(refused)
    assert "the contents of policy.model_name_or_path have changed" in refused.err
    shutil.rmtree(adapters_copy / "base")
    refused = align(*command, cwd=adapters_copy)
    assert_refused(refused)
    assert "the base that the run was made from is not there" in refused.err
    assert not (adapters_copy / "out").exists()


def test_a_run_of_another_schema_is_refused(finished_copy: Path, align: Align) -> None:
    path = finished_copy / "run" / "rounds" / "002" / "manifest.json"
    write_manifest(path, {**read_manifest(path, 2, ""), "schema_version": 99})
    refused = align("export", "run", "out", cwd=finished_copy)
    assert_refused(refused)
    assert "it was written with artifact schema 99" in refused.err


@pytest.mark.parametrize("moment", [Stop("rename", 1), Stop("rename", 2)], ids=["in the midst", "before it appears"])
def test_a_kill_leaves_no_half_folder(moment: Stop, finished_copy: Path, align: Align) -> None:
    assert align("export", "run", "out", cwd=finished_copy, stop=moment).code == -signal.SIGKILL
    assert not (finished_copy / "out").exists()
    done = align("export", "run", "out", cwd=finished_copy)
    assert done.code == 0, done.err
    assert names(finished_copy / "out") == WHOLE
    assert [path.name for path in finished_copy.glob("out*")] == ["out"]


def test_a_run_that_is_at_work_is_exported_from(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=Stop("step", 2, within="round 2 train")):
        done = align("export", "run", "out", "--round", "last", "--json", cwd=folder)
        assert done.code == 0, done.err
        assert json.loads(done.out)["round"] == 1
    assert align("export", "run", "later", "--round", "last", cwd=folder).code == 0


@pytest.fixture
def at_work(finished_copy: Path) -> Iterator[Path]:
    with chdir(finished_copy):
        yield finished_copy


def test_a_checkpoint_that_the_run_lets_go_meanwhile_is_told(at_work: Path) -> None:
    results = open_run(Path("run"))
    chosen = choose_round(results, "1")
    RunFolder("run").manifests.drop(Artifact(1, CHECKPOINT))
    with pytest.raises(RunError, match="let the checkpoint of round 1 go while it was read") as refused:
        export_round(results, chosen, Path("out"), merge=False)
    assert "of its rounds 0 and 2 are there" in str(refused.value)
    assert not Path("out").exists()
    assert not Path("out.partial").exists()
