"""Training that is begun again in a new process from any checkpoint within a round ends as if it had not stopped.

Ends are compared as checkpoints, byte for byte: weights, optimizer, schedule, position. So are the steps' figures.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_training import START, make_trainer, random_pair, random_tokens

from align_cli.artifacts.checksums import checksum
from align_cli.models.load import Policy, load_policy
from align_cli.recipe.sections.policy import SftSection
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import (
    TrainingState,
    random_state,
    read_optimizer_state,
    read_training_state,
    restore_random_state,
    save_checkpoint,
)
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.sft import SupervisedTrainer

NUM_STEPS = 3
BATCH = 4
ROUNDS = 2
DROPOUT = 0.3

BILEVEL = Objective((SourceTerms("offline"), SourceTerms("dpr", 0.3, policy_responses=True)))
SIMPO = Objective((SourceTerms("offline"), SourceTerms("dpr", policy_responses=True)), "simpo", beta=2.0, gamma=1.0)


class Case(NamedTuple):
    """How a round is trained.

    Args:
        objective: None for TRL's own loss.
        micro: pairs a forward pass.
        dtype: of the weights.
        dropout: whether attention drops out, which takes random numbers at every step.
        arguments: of TRL's.
        settings: of the trainer.
    """

    objective: Objective | None = BILEVEL
    micro: int = BATCH
    dtype: str = "float32"
    dropout: bool = False
    arguments: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    settings: dict[str, Any] = {}  # noqa: RUF012


CASES = {
    "bilevel, sources measured": Case(settings={"source_grad_norms": "round"}),
    "own schedule, new optimizer": Case(settings={"reset_optimizer": True, "schedule_spans_run": False}),
    "dropout, accumulation": Case(micro=2, dropout=True),
    "TRL's loss, dropout": Case(None, dropout=True, arguments={"loss_type": ["exo_pair"], "label_smoothing": 0.01}),
    "SimPO": Case(SIMPO),
    "half precision": Case(dtype="bfloat16"),
}
MORE_CASES = {
    "cosine": Case(arguments={"lr_scheduler_type": "cosine", "warmup_steps": 2}),
    "own schedule, old optimizer": Case(settings={"schedule_spans_run": False}),
    "accumulation": Case(micro=1),
    "dropout": Case(dropout=True),
    "TRL's losses, accumulation": Case(None, micro=2, arguments={"loss_type": ["robust", "apo_zero"]}),
    "Adafactor": Case(arguments={"optim": "adafactor"}),
    "momentum": Case(arguments={"optim": "sgd", "optim_args": "momentum=0.9"}),
}
EIGHT_BITS = {
    "8 bits": Case(arguments={"optim": "adamw_bnb_8bit"}),
    "8 bits, half precision": Case(dtype="bfloat16", arguments={"optim": "paged_adamw_8bit"}),
}
BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
ALL_CASES = [
    *(pytest.param(case, id=name) for name, case in CASES.items()),
    *(pytest.param(case, id=name, marks=pytest.mark.long) for name, case in MORE_CASES.items()),
    *(pytest.param(case, id=name, marks=BITSANDBYTES) for name, case in EIGHT_BITS.items()),
]


@pytest.fixture(scope="module")
def dropout_folders(model_folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The two models with dropout, which the configuration switches on."""
    folders = [Path(shutil.copytree(folder, tmp_path_factory.mktemp("dropout") / "model")) for folder in model_folders]
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": DROPOUT}))
    return folders


class Ended(NamedTuple):
    """What training came to.

    Args:
        checkpoint: the checksum of a checkpoint of its end.
        records: the figures of its steps.
    """

    checkpoint: str
    records: list[dict[str, float]]


def round_batches() -> list[list[TrainingPair]]:
    rng = random.Random(0)
    pairs = [random_pair(rng, source=index % 2, number=index // 2) for index in range(NUM_STEPS * BATCH)]
    return [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]


def keeping(kept: list[Path], scratch: Path, policy: Policy, optimizer: Callable[[], Any]) -> Any:
    """Takes in checkpoints as a run does."""

    def keep(state: TrainingState) -> None:
        kept.append(scratch / f"kept-{len(kept)}")
        save_checkpoint(kept[-1], policy, state, optimizer())

    return keep


def train_last_round(
    case: Case, folders: list[Path], scratch: Path, resumed_from: Path | None, kept: list[Path]
) -> Ended:
    """All rounds with one trainer, of which the last is kept step by step; or the rest of it, in a new one."""
    policy, reference = (load_policy(place, dtype=case.dtype) for place in (resumed_from or folders[0], folders[1]))
    trainer = make_trainer(
        _Models(policy, reference), case.objective, scratch / "trainer", batch=BATCH, micro=case.micro,
        arguments={"max_steps": ROUNDS * NUM_STEPS, "learning_rate": 1e-3} | case.arguments, **case.settings,
    )  # fmt: skip
    start, optimizer_state = START, None
    if resumed_from is not None:
        state = read_training_state(resumed_from)
        assert state is not None
        start, optimizer_state = state, read_optimizer_state(resumed_from, state)
    else:
        for _ in range(ROUNDS - 1):
            start = trainer.train_round(round_batches(), start)
    keep = keeping(kept, scratch, policy, lambda: trainer.optimizer)
    end = trainer.train_round(round_batches(), start, optimizer_state, keep, keep_every=1)
    return _ended(scratch / "end", policy, end, trainer.optimizer, trainer.step_records)


class _Models(NamedTuple):
    policy: Policy
    reference: Policy


def _ended(
    folder: Path, policy: Policy, state: TrainingState, optimizer: Any, records: list[dict[str, float]]
) -> Ended:
    save_checkpoint(folder, policy, state, optimizer)
    return Ended(checksum(folder), list(records))


@pytest.mark.parametrize("case", ALL_CASES)
def test_a_round_begun_again_from_any_checkpoint_within_it_ends_the_same(
    case: Case, model_folders: list[Path], dropout_folders: list[Path], tmp_path: Path
) -> None:
    folders = dropout_folders if case.dropout else model_folders
    kept: list[Path] = []
    straight = train_last_round(case, folders, tmp_path / "straight", None, kept)
    assert len(kept) == NUM_STEPS - 1
    assert len(straight.records) == NUM_STEPS
    for number, checkpoint in enumerate(kept, start=1):
        torch.rand(number)  # wherever this process's random generators stand
        again: list[Path] = []
        resumed = train_last_round(case, folders, tmp_path / f"from-{number}", checkpoint, again)
        assert resumed == straight, number
        assert [checksum(folder) for folder in again] == [checksum(folder) for folder in kept[number:]]


def test_dropout_takes_part_in_warm_starts_alone(
    model_folders: list[Path], dropout_folders: list[Path], tmp_path: Path
) -> None:
    folders = {"without": model_folders, "with": dropout_folders}
    without, with_dropout = (
        train_last_round(MORE_CASES["dropout"], each, tmp_path / name, None, []) for name, each in folders.items()
    )
    assert without.records == with_dropout.records
    plain, thinned = (warm_start(each[0], tmp_path / f"warm {name}", None, []) for name, each in folders.items())
    assert plain.records[0]["loss"] != thinned.records[0]["loss"]


def test_checkpoints_are_kept_every_so_many_steps_but_not_at_the_end(model_folders: list[Path], tmp_path: Path) -> None:
    models = _Models(*(load_policy(folder) for folder in model_folders))
    trainer = make_trainer(models, BILEVEL, tmp_path, batch=BATCH, arguments={"max_steps": 4})
    batches = [*round_batches(), round_batches()[0]]
    for keep_every, expected in ((1, [1, 2, 3]), (2, [2]), (3, [3]), (4, []), (None, [])):
        states: list[TrainingState] = []
        trainer.train_round(batches, START, keep=states.append, keep_every=keep_every)
        assert [state.global_step for state in states] == expected
        assert [len(state.steps or ()) for state in states] == expected
        assert all(state.round == 0 for state in states)


def demonstrations() -> list[tuple[list[int], list[int]]]:
    rng = random.Random(0)
    return [(random_tokens(rng, 2, 6), random_tokens(rng, 1, 8)) for _ in range(10)]


def warm_start(folder: Path, scratch: Path, resumed_from: Path | None, kept: list[Path]) -> Ended:
    """A warm start of NUM_STEPS steps, kept step by step; or the rest of it."""
    policy = load_policy(resumed_from or folder)
    section = SftSection(dataset="unused", max_steps=NUM_STEPS, per_device_train_batch_size=BATCH, warmup_steps=1)
    trainer = SupervisedTrainer(policy, section, seed=0, scratch_dir=scratch / "trainer", on_step=lambda: None)
    state = read_training_state(resumed_from) if resumed_from else None
    optimizer_state = read_optimizer_state(resumed_from, state) if resumed_from and state else None
    keep = keeping(kept, scratch, policy, lambda: trainer.optimizer)
    losses = trainer.train_on(demonstrations(), state or START, optimizer_state, keep, keep_every=1)
    assert losses == [record["loss"] for record in trainer.step_records]
    return _ended(scratch / "end", policy, trainer.state_now(), trainer.optimizer, trainer.step_records)


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_a_warm_start_begun_again_from_any_checkpoint_ends_the_same(
    dropout: bool, model_folders: list[Path], dropout_folders: list[Path], tmp_path: Path
) -> None:
    folder = (dropout_folders if dropout else model_folders)[0]
    kept: list[Path] = []
    straight = warm_start(folder, tmp_path / "straight", None, kept)
    assert len(kept) == NUM_STEPS - 1
    for number, checkpoint in enumerate(kept, start=1):
        torch.rand(number)
        again: list[Path] = []
        assert warm_start(folder, tmp_path / f"from-{number}", checkpoint, again) == straight, number
        assert [checksum(folder) for folder in again] == [checksum(folder) for folder in kept[number:]]


def test_random_generators_go_on_where_they_were_also_through_json() -> None:
    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.normal()), float(torch.rand(()))]

    draw()  # leaves half of a pair of normal numbers behind
    state = json.loads(json.dumps(random_state()))
    expected = [draw() for _ in range(3)]
    restore_random_state(state)
    assert [draw() for _ in range(3)] == expected
