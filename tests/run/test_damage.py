"""Every file of a finished run, damaged in four ways: noticed when it is used, made again, or never used again.

The table says for each file which use notices. `None`: the use does not depend on the file, which is shown either by
the use going through beside the damage, or by the two tests that damage all of them at once and compare the bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet
from run_fixtures import Align, assert_same_runs, files_below
from test_artifacts import CHECKPOINT_FILES, FIRST_ROUND_FILES, MODEL_FILES, ROUND_FILES

from align_cli.artifacts.records import Completion, Evaluation, PairLogps, Preference
from align_cli.artifacts.store import read_record, read_records
from align_cli.cli.reporters import RunReporter
from align_cli.errors import AlignError
from align_cli.recipe import differences, load_recipe, resolved
from align_cli.run.fingerprints import UNRECORDED_KEYS
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import MANIFEST
from align_cli.run.folder.lineage import Origin
from align_cli.run.foresight import foresee
from align_cli.run.loaded import Loaded
from align_cli.run.loop import align_rounds
from align_cli.run.single import evaluate_once
from align_cli.run.status import run_status
from align_cli.run.step import StepRunner
from align_cli.stages.base import Artifact
from align_cli.stages.evaluate import Measured

Outcome = str | None
Use = Callable[[], object]

MADE_AGAIN = "made again"
ITSELF = "itself"


def held(
    again: Outcome = None,
    status: Outcome = None,
    on: Outcome = None,
    evaluate: Outcome = None,
    from_1: Outcome = None,
    from_2: Outcome = None,
) -> dict[str, Outcome]:
    """What each use says of a damaged file: the path that it names, `MADE_AGAIN`, or None where it reads nothing of it.

    Paths are those in the run's folder; `ITSELF` is the damaged file.

    Args:
        again: the finished run is run again, and shows its evaluations.
        status: `align status`.
        on: rounds are raised from 2 to 3.
        evaluate: `align evaluate --policy` with the checkpoint of round 2.
        from_1: a fork from round 1.
        from_2: a fork from round 2.
    """
    return {"again": again, "status": status, "on": on, "evaluate": evaluate, "from_1": from_1, "from_2": from_2}


def everywhere(place: str) -> dict[str, Outcome]:
    return held(place, place, place, place, place, place)


FORKS = {"from_1": ITSELF, "from_2": ITSELF}
# What is shown, in every row of the table.
EVALUATION = held(again=ITSELF, status=ITSELF, on=ITSELF, **FORKS)
TABLE: dict[str, dict[str, Outcome]] = {
    "rounds/000/checkpoint/*": held(on=ITSELF, evaluate=ITSELF, **FORKS),  # the reference
    "rounds/000/training.jsonl": held(**FORKS),
    "rounds/000/samples.jsonl": held(on=ITSELF, evaluate=ITSELF, **FORKS),  # the initial policy as opponent
    "rounds/000/evaluation.json": EVALUATION,
    "rounds/000/manifest.json": everywhere(ITSELF),
    "rounds/001/checkpoint/*": held(**FORKS),
    "rounds/001/completions.jsonl": held(**FORKS),
    "rounds/001/preferences.jsonl": held(on=ITSELF, **FORKS),  # the guard reward_gap looks back two rounds
    "rounds/001/training.jsonl": held(**FORKS),
    "rounds/001/reference_logps.jsonl": held(on=ITSELF, **FORKS),  # what was said then is not asked again
    "rounds/001/held_out_logps.jsonl": held(on=ITSELF, **FORKS),
    "rounds/001/samples.jsonl": held(evaluate=ITSELF, **FORKS),  # the previous policy as opponent of round 2
    "rounds/001/evaluation.json": EVALUATION,
    "rounds/001/manifest.json": everywhere(ITSELF),
    "rounds/002/checkpoint/*": held(on=ITSELF, evaluate=ITSELF, from_2=ITSELF),
    "rounds/002/completions.jsonl": held(from_2=ITSELF),
    "rounds/002/preferences.jsonl": held(on=ITSELF, from_2=ITSELF),
    "rounds/002/training.jsonl": held(from_2=ITSELF),
    "rounds/002/reference_logps.jsonl": held(on=ITSELF, from_2=ITSELF),
    "rounds/002/samples.jsonl": held(on=ITSELF, from_2=ITSELF),
    "rounds/002/evaluation.json": EVALUATION | {"from_1": None},
    "rounds/002/manifest.json": everywhere(ITSELF) | {"from_1": ITSELF},
    # For people: what made the run. Nothing reads it; without it the folder is no run.
    "run.json": held(),
    # For people too, and read by status, which passes over what is no event.
    "ledger.jsonl": held(),
    # For people too, and written anew.
    "report.html": held(),
    "report.json": held(),
    # The run itself goes by the recipe that it is given, and writes this one anew.
    "recipe.yaml": held(status=ITSELF, from_1=ITSELF, from_2=ITSELF),
}
EXCEPTIONS: dict[tuple[str, str], dict[str, Outcome]] = {
    ("run.json", "missing"): everywhere(ITSELF),
    # Like a round that was killed before its manifest: it is made again, to the same bytes.
    ("rounds/002/manifest.json", "missing"): held(again=MADE_AGAIN, on=MADE_AGAIN, from_2="."),
}

ROUND_0_FILES = ("evaluation.json", "manifest.json", "samples.jsonl", "training.jsonl")
FILES = sorted(
    [
        "run.json",
        "recipe.yaml",
        "ledger.jsonl",
        "report.html",
        "report.json",
        *(f"rounds/000/checkpoint/{name}" for name in MODEL_FILES),
        *(f"rounds/000/{name}" for name in ROUND_0_FILES),
        *(f"rounds/{number}/checkpoint/{name}" for number in ("001", "002") for name in CHECKPOINT_FILES),
        *(f"rounds/001/{name}" for name in FIRST_ROUND_FILES),
        *(f"rounds/002/{name}" for name in ROUND_FILES),
    ]
)


def truncate(path: Path) -> None:
    replace(path, path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    replace(path, bytes(content))


def remove(path: Path) -> None:
    path.unlink()


def edit(path: Path) -> None:
    """Change one value as somebody with an editor would; what comes out is as well-formed as before."""
    if path.suffix == ".safetensors":
        content = path.read_bytes()
        (number,) = struct.unpack("<f", content[-4:])
        replace(path, content[:-4] + struct.pack("<f", number + 0.5))
    elif path.suffix == ".yaml":
        replace(path, path.read_bytes().replace(b"beta: 0.1", b"beta: 0.2"))
    elif path.suffix == ".html":
        replace(path, path.read_bytes().replace(b"<title>", b"<title>mine: "))
    else:
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        changed = [json.dumps(edited(json.loads(line))) for line in lines[:1]] + lines[1:]
        replace(path, "".join(line + "\n" for line in changed).encode())


def edited(value: Any) -> Any:
    """The value with its last number, or else its last text, changed."""
    for wanted in (float, int, str):
        found, changed = edited_leaf(value, wanted)
        if found:
            return changed
    raise AssertionError("nothing to edit")


def edited_leaf(value: Any, wanted: type) -> tuple[bool, Any]:
    if isinstance(value, dict | list):
        for key in reversed(list(value) if isinstance(value, dict) else range(len(value))):
            found, changed = edited_leaf(value[key], wanted)
            if found:
                copy = dict(value) if isinstance(value, dict) else list(value)
                copy[key] = changed
                return True, copy
        return False, value
    if type(value) is wanted:
        return True, value + "x" if isinstance(value, str) else value + 1
    return False, value


def replace(path: Path, content: bytes) -> None:
    """Give a file other contents; not the one in the shared run that it is a link of."""
    assert path.read_bytes() != content
    path.unlink()
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "one bit flipped": flip_a_bit,
    "missing": remove,
    "edited by hand": edit,
}


class StepsToDoError(Exception):
    """A run that would begin to work."""


def expected(name: str, damage: str) -> dict[str, Outcome]:
    row = EXCEPTIONS.get((name, damage)) or next(row for pattern, row in TABLE.items() if fnmatchcase(name, pattern))
    return {
        use: place if place in (None, MADE_AGAIN) else str(Path("run", name if place == ITSELF else place))
        for use, place in row.items()
    }


def outcome(use: Use) -> Outcome:
    """What a use ends in: the place that its error names, with a remedy; `MADE_AGAIN`; or None."""
    try:
        use()
    except StepsToDoError:
        return MADE_AGAIN
    except AlignError as error:
        (fault,) = error.faults[:1]
        assert fault.hint or fault.snippet, f"no remedy: {fault}"
        return fault.where.split(":")[0]
    return None


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder that shares the artifacts' bytes with it; the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("rounds"))
    shutil.copytree(finished / "run" / "rounds", folder / "run" / "rounds", copy_function=os.link)
    monkeypatch.chdir(folder)
    return folder


def run_again(*overrides: str, origin: Origin | None = None) -> Use:
    def use() -> object:
        return align_rounds(load_recipe("recipe.yaml", overrides), RunReporter(), origin=origin)

    return use


def fork_from(number: int) -> Use:
    return run_again(f"output_dir=next-{number}", f"rounds={number + 1}", origin=Origin(Path("run"), number))


def evaluate() -> object:
    return evaluate_once(load_recipe("recipe.yaml"), Path("run/rounds/002/checkpoint"), RunReporter())


USES: dict[str, Use] = {
    "again": run_again(),
    "status": lambda: run_status(Path("run")),
    "on": run_again("rounds=3"),
    "evaluate": evaluate,
    "from_1": fork_from(1),
    "from_2": fork_from(2),
}
LOOKS = ("again", "status", "from_1", "from_2")


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that gets as far as its first step ends there."""

    def stop(*_: object) -> None:
        raise StepsToDoError

    monkeypatch.setattr(StepRunner, "carry_out", stop)
    monkeypatch.setattr("align_cli.run.loop.check_inputs", lambda *_: None)


@pytest.fixture
def recorded_stages(three_rounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step reads and writes what it always does; the stage itself answers with what it once made."""
    from align_cli.stages.pairing.pairs import LabelledPairs
    from align_cli.stages.train_round import TrainOutcome

    third = three_rounds / "run" / "rounds" / "003"

    def generate(*_: object, **__: object) -> list[Completion]:
        return read_records(third / "completions.jsonl", Completion)

    def label(*_: object, **__: object) -> LabelledPairs:
        return LabelledPairs(read_records(third / "preferences.jsonl", Preference), {})

    def train(trainer: object, recipe: object, pairs: object, start: Any, *others: Any) -> TrainOutcome:
        said = read_records(third / "reference_logps.jsonl", PairLogps)
        *_, reference, _ = others
        reference.journal.append([{"pairs": [list(pair.to_dict().values())[1:] for pair in said]}])
        steps = [json.loads(line) for line in (third / "training.jsonl").read_text().splitlines()]
        return TrainOutcome(state=start, steps=steps, usage={})

    def samples(*_: object, **__: object) -> list[Completion]:
        return read_records(third / "samples.jsonl", Completion)

    def evaluation(*_: object, **__: object) -> Measured:
        return Measured(read_record(third / "evaluation.json", Evaluation), samples(), [])

    monkeypatch.setattr("align_cli.run.loop.check_inputs", lambda *_: None)
    monkeypatch.setattr("align_cli.stages.generate.generate_completions", generate)
    monkeypatch.setattr("align_cli.stages.pairing.dpr.label_completions", label)
    arguments = SimpleNamespace(max_grad_norm=1.0)
    stub = SimpleNamespace(args=arguments, optimizer=None, optimizer_state=lambda: None, pairs_per_pass=1)
    monkeypatch.setattr(Loaded, "trainer", lambda *_: stub)
    monkeypatch.setattr("align_cli.stages.train_round.train_policy", train)
    monkeypatch.setattr("align_cli.stages.evaluate.generate_completions", samples)
    monkeypatch.setattr("align_cli.stages.evaluate.evaluate_policy", evaluation)


def test_the_table_has_every_file_of_a_finished_run(finished: Path) -> None:
    assert sorted(name for name in files_below(finished / "run") if name != ".lock") == FILES
    rows = {pattern: [name for name in FILES if fnmatchcase(name, pattern)] for pattern in TABLE}
    assert sorted(name for names in rows.values() for name in names) == FILES


def cases() -> Iterator[ParameterSet]:
    """Every file, damaged in every way; the quick tests damage files that only have a checksum in one way each."""
    for index, name in enumerate(FILES):
        for number, damage in enumerate(DAMAGES):
            is_read_in_part = name.endswith(("manifest.json", "evaluation.json")) or "/" not in name
            is_quick = is_read_in_part or index % len(DAMAGES) == number
            yield pytest.param(name, damage, marks=() if is_quick else pytest.mark.long)


def cases_of_going_on() -> Iterator[ParameterSet]:
    """Where the table says that going on names something."""
    for use in ("on", "evaluate"):
        for case in cases():
            if expected(*case.values)[use] not in (None, MADE_AGAIN):
                yield pytest.param(use, *case.values, marks=case.marks)


@pytest.mark.parametrize(("name", "damage"), cases())
def test_a_damaged_file_is_named_with_a_remedy_by_whatever_looks_at_finished_rounds(
    copy: Path, no_steps: None, name: str, damage: str
) -> None:
    DAMAGES[damage](copy / "run" / name)
    looks = [use for use in LOOKS if use != ("from_1" if name.startswith("rounds/002") else "from_2")]
    assert {use: outcome(USES[use]) for use in looks} == {use: wanted_of_look(use, name, damage) for use in looks}


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_either_fork_names_a_damaged_file_that_it_takes_over_and_no_other(
    copy: Path, no_steps: None, name: str, damage: str
) -> None:
    DAMAGES[damage](copy / "run" / name)
    for use in ("from_1", "from_2"):
        assert outcome(USES[use]) == wanted_of_look(use, name, damage)


def wanted_of_look(use: str, name: str, damage: str) -> Outcome:
    wanted = expected(name, damage)[use]
    return MADE_AGAIN if wanted is None and use.startswith("from") else wanted  # a fork has a round to make


def check(*overrides: str, origin: Origin | None = None) -> Use:
    return lambda: foresee(load_recipe("recipe.yaml", overrides), origin)


CHECKS: dict[str, Use] = {
    "again": check(),
    "on": check("rounds=3"),
    "from_1": check("output_dir=next-1", "rounds=2", origin=Origin(Path("run"), 1)),
    "from_2": check("output_dir=next-2", "rounds=3", origin=Origin(Path("run"), 2)),
}


@pytest.mark.parametrize(("name", "damage"), cases())
def test_a_damaged_file_that_a_use_would_name_is_named_by_check_and_no_other(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    monkeypatch.setattr("align_cli.run.foresight.check_inputs", lambda *_: None)
    DAMAGES[damage](copy / "run" / name)
    wanted = {use: expected(name, damage)[use] for use in CHECKS}
    assert {use: outcome(CHECKS[use]) for use in CHECKS} == {
        use: None if place == MADE_AGAIN else place for use, place in wanted.items()
    }


def test_check_names_all_damaged_files_at_once(copy: Path, align: Align) -> None:
    truncate(copy / "run" / "rounds" / "000" / "evaluation.json")
    flip_a_bit(copy / "run" / "rounds" / "002" / "checkpoint" / "model.safetensors")
    finished, going_on = (align("check", "recipe.yaml", rounds, cwd=copy) for rounds in ("rounds=2", "rounds=3"))
    for told in (finished, going_on):
        assert told.code == 2
        assert "run/rounds/000/evaluation.json: the artifact is not what was written" in told.err
    assert "run/rounds/002/checkpoint/model.safetensors: the artifact is not what was written" in going_on.err
    assert "model.safetensors" not in finished.err


@pytest.mark.parametrize(("use", "name", "damage"), cases_of_going_on())
def test_a_damaged_file_is_named_with_a_remedy_by_whatever_goes_on_from_it(
    copy: Path, recorded_stages: None, use: str, name: str, damage: str
) -> None:
    DAMAGES[damage](copy / "run" / name)
    assert outcome(USES[use]) == expected(name, damage)[use]


def damage_all(folder: Path, use: str, kinds: Sequence[str]) -> list[str]:
    """Damage every file that the table says a use does not read, in these ways by turns."""
    damaged = []
    for index, name in enumerate(FILES):
        damage = kinds[index % len(kinds)]
        if expected(name, damage)[use] is None:
            DAMAGES[damage](folder / "run" / name)
            damaged.append(name)
    return damaged


WAYS = [tuple(DAMAGES), *(pytest.param((damage,), marks=pytest.mark.long) for damage in DAMAGES)]


@pytest.mark.parametrize("kinds", WAYS, ids=" ".join)
def test_what_going_on_does_not_read_changes_nothing(
    copy: Path, three_rounds: Path, align: Align, kinds: tuple[str, ...]
) -> None:
    damaged = damage_all(copy, "on", kinds)
    assert {name.rsplit("/", 1)[-1] for name in damaged} >= {"completions.jsonl", "training.jsonl", "model.safetensors"}
    done = align("train", "recipe.yaml", "rounds=3", cwd=copy)
    assert done.code == 0, done.err
    for name in [name for name in damaged if name.startswith("rounds/")]:
        (copy / "run" / name).unlink(missing_ok=True)
        os.link(three_rounds / "run" / name, copy / "run" / name)
    assert_same_runs(copy, three_rounds)  # recipe.yaml is among what is compared: it was written anew


@pytest.mark.parametrize("kinds", WAYS, ids=" ".join)
def test_what_evaluate_does_not_read_changes_nothing(
    copy: Path, finished: Path, align: Align, kinds: tuple[str, ...]
) -> None:
    damage_all(copy, "evaluate", kinds)
    done = align("evaluate", "recipe.yaml", "--policy", "run/rounds/002/checkpoint", "-o", "found.json", cwd=copy)
    assert done.code == 0, done.err
    assert (copy / "found.json").read_bytes() == (finished / "run" / "rounds" / "002" / "evaluation.json").read_bytes()


def test_a_last_round_without_its_manifest_is_made_again(copy: Path, finished: Path, align: Align) -> None:
    remove(copy / "run" / "rounds" / "002" / "manifest.json")
    done = align("train", "recipe.yaml", cwd=copy)
    assert done.code == 0, done.err
    assert_same_runs(copy, finished)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_flipped_bit_of_a_manifest_goes_unnoticed(copy: Path, number: int) -> None:
    manifests = RunFolder("run").manifests
    sound, path = manifests.of_round(number), manifests.place(Artifact(number, MANIFEST))
    content = path.read_bytes()
    for place in range(0, len(content), 61):
        flip_a_bit(path, place / len(content))
        try:
            assert RunFolder("run").manifests.of_round(number) == sound  # a space that became another one
        except AlignError as error:
            assert str(path) in str(error)
        path.write_bytes(content)


def test_no_flipped_bit_of_the_recipe_changes_what_a_fork_is_compared_with(copy: Path) -> None:
    """No round remembers `rounds`, `output_dir`, who computes, or what is done about a run: all may change."""
    folder, path = RunFolder("run"), copy / "run" / "recipe.yaml"
    sound, content = folder.recipe(), path.read_bytes()
    free = ("rounds", "output_dir", "launch.", "guards.", "checkpoints.", "labelers.hidden.batch_size",
            "labelers.ours.batch_size")  # fmt: skip
    for place in range(0, len(content), 37):
        flip_a_bit(path, place / len(content))
        try:
            changed = {change.key for change in differences(resolved(sound), resolved(folder.recipe()))}
            assert {key for key in changed if not key.startswith((*free, *UNRECORDED_KEYS))} == set()
        except AlignError as error:
            assert "run/recipe.yaml" in str(error)
        path.write_bytes(content)


def test_training_figures_that_were_altered_before_the_guards_looked_are_refused(copy: Path, align: Align) -> None:
    manifests = RunFolder("run").manifests
    manifest = manifests.of_round(2)
    del manifest["stages"]["evaluate"]
    manifests.write(2, manifest)
    edit(copy / "run" / "rounds" / "002" / "training.jsonl")
    refused = align("train", "recipe.yaml", cwd=copy)
    assert refused.code == 2
    assert "run/rounds/002/training.jsonl: the artifact is not what was written" in refused.err


def test_a_ledger_of_nonsense_is_passed_over_line_by_line(copy: Path, align: Align) -> None:
    ledger = copy / "run" / "ledger.jsonl"
    num_events = len(RunFolder("run").ledger.events())
    with ledger.open("ab") as stream:
        stream.write(b'[]\n3\n{}\n\xff\xfe\n{"event": "finish"}\n{"event": "finish", "round": "1", "stage": 3}\n')
    shown = align("status", "run", "--json", cwd=copy)
    assert shown.code == 0, shown.err
    assert len(json.loads(shown.out)["ledger"]) == num_events
    assert align("status", "run", cwd=copy).code == 0
