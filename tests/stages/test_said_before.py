"""What references said in earlier rounds: whose word counts, which rounds are looked at, and what another is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align_cli.artifacts.records import PairLogps
from align_cli.recipe import Recipe
from align_cli.stages.base import REFERENCE_LOGPS, Artifact
from align_cli.stages.said_before import SaidBefore, reference_digest, rounds_that_asked


class Rounds:
    """Three rounds with two references; notes which are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, number: int) -> list[PairLogps]:
        self.read.append(number)
        logps = (float(number), number + 0.5)
        return [
            PairLogps("one", "shared", f"own {number}", *logps),
            *[PairLogps("other", f"theirs {number}", "shared", *logps)] * (number == 2),
        ]


def test_each_round_is_read_once_and_what_was_said_first_counts() -> None:
    before, rounds = SaidBefore(), Rounds()
    assert before.of("one", [], rounds) == {}
    assert before.of("one", [1], rounds) == {"shared": 1.0, "own 1": 1.5}
    assert before.of("one", [1, 3], rounds) == {"shared": 1.0, "own 1": 1.5, "own 3": 3.5}
    assert before.of("one", [1, 3], rounds)["shared"] == 1.0
    assert rounds.read == [1, 3]


@pytest.mark.parametrize(
    ("reference", "numbers", "said"),
    [
        ("other", [1, 2, 3], {"theirs 2": 2.0, "shared": 2.5}),
        ("one", [3], {"shared": 3.0, "own 3": 3.5}),
        ("one", [1], {"shared": 1.0, "own 1": 1.5}),
        ("none", [1, 2, 3], {}),
    ],
)
def test_what_is_known_is_what_the_rounds_say_whatever_was_asked_before(
    reference: str, numbers: Sequence[int], said: dict[str, float]
) -> None:
    before = SaidBefore()
    before.of("one", [1, 2, 3], Rounds())
    assert before.of(reference, numbers, Rounds()) == SaidBefore().of(reference, numbers, Rounds()) == said


class History:
    """Rounds that have asked, and which round's policy each hands on where it was rolled back."""

    def __init__(self, *asked: int, **bases: int) -> None:
        self.asked, self.bases = asked, {int(name[1:]): base for name, base in bases.items()}

    def holds(self, artifact: Artifact) -> bool:
        return artifact.name == REFERENCE_LOGPS and artifact.round in self.asked

    def base(self, round_number: int) -> int:
        return self.bases.get(round_number, round_number)


def test_rounds_with_the_same_reference_are_looked_at(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    initial, previous = tiny_recipe(tmp_path), tiny_recipe(tmp_path, "policy.reference=previous")
    assert rounds_that_asked(initial, History(1, 3, 4), 4, REFERENCE_LOGPS) == [1, 3]
    assert rounds_that_asked(initial, History(1, 3, 4), 4, REFERENCE_LOGPS, itself=True) == [1, 3, 4]
    assert rounds_that_asked(previous, History(1, 2, 3), 4, REFERENCE_LOGPS) == []
    assert rounds_that_asked(previous, History(1, 2, 3, 4), 4, REFERENCE_LOGPS, itself=True) == [4]
    assert rounds_that_asked(previous, History(1, 2, 3, _3=1, _2=1), 4, REFERENCE_LOGPS) == [2, 3], (
        "rounds 2 and 3 were rolled back"
    )


@pytest.mark.parametrize(
    "change",
    [
        "policy.dtype=bfloat16",
        "policy.attn_implementation=eager",
        "train.kernel=plain",
        "policy.quantization={bits: 8}",
    ],
)
def test_a_reference_that_is_run_otherwise_is_another(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, change: str
) -> None:
    def recipe(*overrides: str) -> Recipe:
        policy = {"model_name_or_path": str(tmp_path), "lora": {"rank": 2}}
        return tiny_recipe(tmp_path, *overrides, policy=policy)

    version = "0123456789abcdef"
    digests = {
        reference_digest(recipe(), version),
        reference_digest(recipe(), version[::-1]),
        reference_digest(recipe(change), version),
    }
    assert len(digests) == 3 and all(len(digest) == 16 for digest in digests)
    assert reference_digest(recipe("train.learning_rate=0.5", "rounds=7"), version) in digests
