"""Every combination of answers, hardware in turn, gives a recipe that the loader takes, or is refused for a reason."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_models import make_chat_model

from align_cli.begin.answers import Answers, read_hardware, read_labels
from align_cli.begin.looked import Looked, look_at
from align_cli.begin.written import recipe_text
from align_cli.errors import AlignError, RecipeError
from align_cli.recipe import Recipe, load_recipe, warnings_for
from align_cli.recipe.presets import preset_names

MODELS = ("playground", "model", "org/name-8B-Instruct")
DATA = ("playground", "pairs.jsonl", "shown.jsonl", "prompts.jsonl", "folder", "org/pairs[train_prefs]")
LABELS = (
    "dataset", "function", "function=rewards.py:score", "reward_model", "reward_model=run", "judge",
    "judge=mine@http://10.0.0.5:8000/v1", "policy", "person",
)  # fmt: skip
HARDWARE = ("cpu", "mps", "24gb", "80gb", "8x80gb", "3x16gb")
NUM_ROWS = 40
NUM_PAIRS, STEP = 13, 9
"""Of models and data that go together; and of which the quick suite takes one."""

OF_PAIRS = {"offline-dpo", "offline-ipo", "offline-simpo", "offline-slic", "sail-ddp", "wpo"}
"""Methods that have nothing to train on but pairs."""
LABELLED = {
    "dno", "inpo", "iterative-dpo", "iterative-rpo", "online-dpo", "online-simpo", "rebel", "sail-dpr",
    "sail-dpr-as-published", "sail-mix",
    "selm", "semi-online-dpo", "sppo", "xpo",
}  # fmt: skip
"""Methods whose responses somebody has to label."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    make_chat_model(folder / "model")
    (folder / "rewards.py").write_text("def score(prompts, completions, **_):\n    return [1.0] * len(completions)\n")
    (folder / "folder").mkdir()
    rows = {
        "pairs.jsonl": [{"prompt": f"one {n}", "chosen": " a b", "rejected": " b"} for n in range(NUM_ROWS)],
        "shown.jsonl": [{"prompt": f"one {n}", "completion": " a b"} for n in range(NUM_ROWS)],
        "prompts.jsonl": [{"prompt": f"one {n}"} for n in range(NUM_ROWS)],
    }
    rows |= {"folder/train.jsonl": rows["pairs.jsonl"], "folder/test.jsonl": rows["pairs.jsonl"][:12]}
    for name, written in rows.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def looks(place: Path) -> Iterator[dict[tuple[str, str], Looked]]:
    """What is seen of each source, by each model that can read it; tests run where these lie."""
    pairs = itertools.product(MODELS, DATA)
    with contextlib.chdir(place):
        yield {pair: look_at(pair[1], pair[0]) for pair in pairs if pair[0] != "playground" or pair[1] == "playground"}


def reason(looked: Looked, model: str, labels: str, method: str) -> str:
    """Why answers do not go together, by rules of this test's own; empty where they do."""
    kind = labels.partition("=")[0]
    if method in OF_PAIRS and not looked.has_pairs:
        return "trains on pairs"
    if method == "spin" and "demonstrations" not in looked.uses:
        return "trains on demonstrations"
    if model == "playground" and (method == "self-rewarding" or (method in LABELLED and kind == "policy")):
        return "cannot judge"
    if labels == "reward_model=run" and (method in LABELLED or looked.data != "playground"):
        if model == "playground":
            return "made by the run"
        if not looked.has_pairs:
            return "is fitted on pairs"
    if method == "rebel" and kind in ("judge", "person"):
        return "regresses on a difference of scores"
    if kind == "dataset" and method in LABELLED and not looked.has_pairs:
        return "has no labels to learn from"
    return ""


@pytest.mark.sweep
@pytest.mark.parametrize("method", preset_names())
def test_every_combination_gives_a_sound_recipe_or_a_reason(
    looks: dict[tuple[str, str], Looked], tmp_path: Path, method: str
) -> None:
    combinations = list(itertools.product(enumerate(looks), enumerate(LABELS)))
    assert len(combinations) == NUM_PAIRS * len(LABELS)
    num_sound, of_method = 0, preset_names().index(method)
    for (of_names, names), (of_labels, labels) in combinations:
        # Each hardware meets every model and data, every source of labels and every method.
        hardware = HARDWARE[(of_names + of_labels + of_method) % len(HARDWARE)]
        num_sound += is_sound(names, labels, hardware, method, looks, tmp_path)
    assert num_sound > len(combinations) / 10


@pytest.mark.parametrize("method", preset_names())
def test_every_labels_and_data_go_with_a_method_or_are_refused_with_a_reason(
    looks: dict[tuple[str, str], Looked], tmp_path: Path, method: str
) -> None:
    hardware = itertools.cycle(HARDWARE)
    some = list(itertools.product(looks, LABELS))[preset_names().index(method) % STEP :: STEP]
    assert sum(is_sound(*one, next(hardware), method, looks, tmp_path) for one in some) > 0


def is_sound(
    names: tuple[str, str],
    labels: str,
    hardware: str,
    method: str,
    looks: dict[tuple[str, str], Looked],
    folder: Path,
) -> bool:
    """Whether answers give a sound recipe, and not one of the reasons that there may be."""
    (model, data), looked = names, looks[names]
    told = f"{model} {data} {labels} {hardware} {method}"
    try:
        read = read_labels(labels, data)
    except RecipeError as error:
        assert labels == "function" and data != "playground", f"{told}: {error}"
        return False
    answers = Answers(model, data, read, read_hardware(hardware), method)
    wanted = reason(looked, model, labels, method)
    try:
        text, _ = recipe_text(answers, looked, Path("mine.yaml"))
    except AlignError as error:
        assert wanted and wanted in str(error), f"{told}: {error}"
        assert error.faults[0].hint, told
        return False
    assert not wanted, f"{told}: {wanted}"
    check(text, answers, told, folder)
    return True


def check(text: str, answers: Answers, told: str, folder: Path) -> None:
    """The loader takes it, it is what was asked for, and it warns of nothing but what cannot be helped."""
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        recipe = load_recipe(path)
    except AlignError as error:
        pytest.fail(f"{told}: {error}\n{text}")
    assert recipe.preset == answers.method
    assert recipe.policy.model_name_or_path == answers.model
    assert recipe.data.eval_prompts not in (None, recipe.data.prompts) or answers.data == "playground"
    assert unhelped(recipe) == [], told
    assert [line for line in text.splitlines() if len(line) > 200 or line != line.rstrip()] == []


def unhelped(recipe: Recipe) -> list[str]:
    expected = ("evaluate.scorer", "of generate.num_generations", "method.simpo_gamma")
    return [warning for warning in warnings_for(recipe) if not warning.startswith(expected)]
