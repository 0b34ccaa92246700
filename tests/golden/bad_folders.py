"""Folders for bad input: a sound recipe with what it reads, a finished run, a model; then what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from align_cli.artifacts.files import write_text
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.artifacts.store import write_json
from align_cli.recipe import Recipe, dump, load_recipe
from align_cli.run.fingerprints import Fingerprints
from align_cli.run.folder import RunFolder
from align_cli.run.plan import plan_steps
from align_cli.stages import stage_named
from align_cli.stages.base import Artifact, Done

RECIPE = """\
output_dir: run
seed: 0
rounds: 2
policy: {model_name_or_path: ./model}
data: {prompts: prompts.jsonl, preferences: pairs.jsonl, eval_prompts: held_out.jsonl}
labelers:
  mine: {kind: function, function: "labeler.py:score"}
  other: {kind: function, function: "labeler.py:score"}
method:
  beta: 0.1
  sources:
    offline: {mixing: 0.5}
    dpr: {mixing: 0.5, gradient: 0.3, labeler: mine}
generate: {num_generations: 2, max_new_tokens: 16, prompts_per_round: 4}
train: {learning_rate: 1.0e-4, per_device_train_batch_size: 4, steps_per_round: 2}
evaluate: {num_prompts: 2, scorer: other}
"""
SOUND = {
    "recipe.yaml": RECIPE,
    "prompts.jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n{"prompt": "d"}\n',
    "held_out.jsonl": '{"prompt": "e"}\n{"prompt": "f"}\n',
    "pairs.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
    "labeler.py": "def score(prompts, completions):\n    return [float(len(text)) for text in completions]\n",
    "model/config.json": "{}\n",
}
SAMPLING: dict[str, float | int] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 16}
PREFERENCE = Preference("a", "b", "c", source="dpr", labeler="mine")
COMPLETION = Completion(
    prompt="a", completion="b", prompt_ids=[1], completion_ids=[2], logps=[-0.5], finish_reason="stop", num_tokens=1,
    round=1, prompt_index=0, sample_index=0, seed=7, policy="0123456789abcdef", engine="transformers",
    sampling=SAMPLING,
)  # fmt: skip
STDIN = {"COMPLETION": to_json(COMPLETION.to_dict()) + "\n", "PREFERENCE": to_json(PREFERENCE.to_dict()) + "\n"}


def prepare(folder: Path, case: Mapping[str, Any], model: Path | None) -> AbstractContextManager[None]:
    """Fill the working folder with what a case finds there; the context holds what the case says is held.

    Args:
        folder: empty, and the working folder.
        case: `finished` (a run of two rounds), then `edit`, `files`, `bytes`, `repeat` and `remove`; `locked`.
        model: a folder to take as `./model` where the case needs a real one.
    """
    for name, text in SOUND.items():
        put(folder / name, text.encode())
    if model is not None:
        shutil.copytree(model, folder / "model", dirs_exist_ok=True)
    if case.get("finished"):
        finish_run(load_recipe("recipe.yaml"))
    edits = case.get("edit", {})
    in_files = edits if all(isinstance(edit, dict) for edit in edits.values()) else {"recipe.yaml": edits}
    for name, changes in in_files.items():
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        put(folder / name, text.encode())
    for name, text in case.get("files", {}).items():
        put(folder / name, text.encode())
    for name, digits in case.get("bytes", {}).items():
        put(folder / name, bytes.fromhex(digits))
    for name, (text, times) in case.get("repeat", {}).items():
        put(folder / name, text.encode() * times)
    for name in case.get("remove", []):
        (folder / name).unlink()
    return RunFolder("run").locked() if case.get("locked") else nullcontext()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def finish_run(recipe: Recipe) -> None:
    """A run whose every step is finished, with artifacts that no model has made."""
    folder = RunFolder(recipe.output_dir)
    folder.path.mkdir()
    folder.begin(dump(recipe), recipe.seed)
    fingerprints = Fingerprints(recipe, folder.manifests)
    for step in plan_steps(recipe):
        names = stage_named(step.stage).writes
        for name in names:
            place = folder.manifests.place(Artifact(step.round, name))
            if name == "checkpoint":
                write_text(place / "config.json", f'{{"round": {step.round}}}\n')
            elif name == "evaluation.json":
                write_json(place, evaluation(step.round).to_dict())
            else:
                write_text(place, STDIN["COMPLETION"])
        folder.manifests.finish(step, fingerprints.of(step), names, Done({}))
        folder.ledger.log("finish", round=step.round, stage=step.stage, seconds=1.0, figures=None)


def evaluation(number: int) -> Evaluation:
    win: dict[str, float | int | str] = {"win_rate": 0.5, "low": 0.25, "high": 0.75, "wins": 1, "ties": 0, "losses": 1}
    return Evaluation(
        round=number,
        policy=f"policy{number}",
        num_prompts=2,
        scorer="other",
        reward={"mean": 1.0, "standard_error": 0.25},
        against={"initial": win, "previous": win} if number else {},
        kl={"mean": 0.5, "standard_error": 0.25, "reference": "policy0"},
        length={"mean": 3.0, "standard_error": 0.25},
        eos_rate=1.0,
        distinct_2=0.5,
        preferences=None,
        sampling=SAMPLING,
    )
