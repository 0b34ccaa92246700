"""Fuzz the readers of artifacts with atheris: records from files and pipes, evaluations, manifests.

The first byte of an input says which artifact the rest is (see READERS). A record that is read must be written and read
back as the same record.

    python benchmarks/fuzz/artifacts.py --seconds 1800 --corpus DIR --findings DIR
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["align_cli"]):
    from align_cli.artifacts.json_text import to_json
    from align_cli.artifacts.records import SCHEMA_VERSION, Completion, Evaluation, Preference, Record
    from align_cli.artifacts.store import parse_records, read_json, read_record, read_records
    from align_cli.errors import AlignError
    from align_cli.run.fingerprints import changes
    from align_cli.run.folder import RunFolder
    from align_cli.stages.base import Artifact

from common import Target, fuzz

SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 16}
COMPLETION: dict[str, Any] = {
    "prompt": "a prompt :",
    "completion": " an answer .",
    "prompt_ids": [3, 4],
    "completion_ids": [10, 20, 1],
    "logps": [-0.5, -1.25e-3, 0.0],
    "finish_reason": "stop",
    "num_tokens": 3,
    "round": 1,
    "prompt_index": 0,
    "sample_index": 1,
    "seed": 2**63 - 1,
    "policy": "0123456789abcdef",
    "engine": "transformers",
    "sampling": SAMPLING,
}
CHAT = {
    **COMPLETION,
    "prompt": [{"role": "user", "content": "why?"}],
    "completion": [{"role": "assistant", "content": "because", "thinking": {"a": [None, True]}}],
}
PAIR: dict[str, Any] = {"prompt": "p", "chosen": "a", "rejected": "b"}
FULL_PAIR: dict[str, Any] = {
    **PAIR,
    "label": 0.5,
    "source": "dpr",
    "labeler": "hidden",
    "prompt_ids": [1, 2],
    "chosen_ids": [3],
    "rejected_ids": [],
    "chosen_score": 1.5,
    "rejected_score": -2,
    "chosen_logp": -10.5,
    "rejected_logp": None,
    "round": 2,
    "prompt_index": 7,
    "policy": "0123456789abcdef",
    "other_ids": [[1, 2], [3]],
    "other_logps": [-1.0, -2.0],
}
EVALUATION: dict[str, Any] = {
    "round": 1,
    "policy": "0123456789abcdef",
    "num_prompts": 2,
    "scorer": "hidden",
    "reward": {"mean": 1.0, "standard_error": 0.5},
    "against": {"initial": {"win_rate": 0.5, "low": 0.0, "high": 1.0, "wins": 1, "ties": 0, "policy": "x"}},
    "kl": {"mean": 0.0, "standard_error": 0.0, "reference": "x"},
    "length": {"mean": 3.0, "standard_error": 0.0},
    "eos_rate": 1.0,
    "distinct_2": 0.5,
    "preferences": {"accuracy": 0.5, "margin": 0.0, "num_pairs": 4},
    "sampling": SAMPLING,
}
INPUTS: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "recipe": {"seed": 0, "method.beta": 0.1, "labelers": {"hidden": {"kind": "function"}}},
    "files": {"prompts.jsonl": "00ff"},
    "upstream": {"rounds/000/checkpoint": "abcd"},
}
MANIFEST: dict[str, Any] = {
    "round": 1,
    "schema_version": SCHEMA_VERSION,
    "stages": {"evaluate": {"inputs": INPUTS, "outputs": {"evaluation.json": "0" * 64, "samples.jsonl": "1" * 64}}},
}
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-artifacts-"))


# Instrumented, so that each kind of input counts as something new and keeps its seeds.
@atheris.instrument_func
def _read_completions(path: Path) -> None:
    _written_and_read_again(read_records(path, Completion), Completion)


@atheris.instrument_func
def _read_preferences(path: Path) -> None:
    _written_and_read_again(read_records(path, Preference), Preference)


@atheris.instrument_func
def _read_pipe(path: Path) -> None:
    """As from standard input: text whose bytes turn out to be wrong only while it is read."""
    stream = io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8")
    _written_and_read_again(parse_records(stream, Preference, "<stdin>"), Preference)


def _written_and_read_again(records: list[Any], kind: type[Record]) -> None:
    lines = [to_json(record.to_dict()) for record in records]
    try:
        again = parse_records(lines, kind, "again")
    except AlignError as error:
        raise AssertionError(f"what was written is refused: {error}") from error
    assert again == records, "what was written is read as something else"


@atheris.instrument_func
def _read_evaluation(path: Path) -> None:
    _written_and_read_again([read_record(path, Evaluation)], Evaluation)


@atheris.instrument_func
def _read_manifest(path: Path) -> None:
    """One without a checksum of its own is given the right one: what is looked at behind that is to be reached."""
    manifests, evaluation = RunFolder(FOLDER).manifests, Artifact(1, "evaluation.json")
    place = manifests.place(Artifact(1, "manifest.json"))
    place.parent.mkdir(parents=True, exist_ok=True)
    manifest = read_json(path)
    if isinstance(manifest, dict) and "checksum" not in manifest:
        checksum = hashlib.sha256(to_json(manifest).encode()).hexdigest()
        path.write_text(json.dumps({**manifest, "checksum": checksum}), encoding="utf-8")
    path.replace(place)
    for stage in manifests.of_round(1)["stages"].values():
        assert all(isinstance(sentence, str) for sentence in changes(stage["inputs"], INPUTS))
    manifests.recorded_checksum(evaluation)
    manifests.verified(evaluation)


@atheris.instrument_func
def _read_document(path: Path) -> None:
    json.dumps(read_json(path), allow_nan=False)


READERS: tuple[Callable[[Path], None], ...] = (
    _read_completions,
    _read_preferences,
    _read_pipe,
    _read_evaluation,
    _read_manifest,
    _read_document,
)


def read(data: bytes) -> None:
    path = FOLDER / "artifact.json"
    path.write_bytes(data[1:])
    READERS[data[0] % len(READERS) if data else 0](path)


def seeds() -> list[bytes]:
    lines = [
        (0, [COMPLETION]),
        (0, [CHAT, COMPLETION]),
        (1, [PAIR, FULL_PAIR]),
        (1, [{**PAIR, "prompt": CHAT["prompt"], "chosen": CHAT["completion"], "rejected": CHAT["completion"]}]),
        (2, [FULL_PAIR, PAIR, {**PAIR, "chosen": "\ud83d"}]),
        (3, [EVALUATION]),
        (3, [{**EVALUATION, "scorer": None, "reward": None, "against": {}, "preferences": None}]),
        (4, [MANIFEST]),
        (5, [MANIFEST]),
    ]
    found = [bytes([kind]) + "\n".join(map(json.dumps, rows)).encode() for kind, rows in lines]
    return [
        *found,
        b"\x03" + json.dumps(EVALUATION, indent=2).encode(),
        b"\x01\xef\xbb\xbf" + json.dumps(PAIR).encode(),
    ]


def words() -> list[str]:
    keys = sorted({*COMPLETION, *FULL_PAIR, *EVALUATION, *MANIFEST, *INPUTS, "inputs", "outputs", "role", "content"})
    objects = [json.dumps(row) for row in (PAIR, FULL_PAIR, COMPLETION, CHAT, EVALUATION, INPUTS, SAMPLING)]
    return [*keys, *(f'"{key}": ' for key in keys), *objects, "stop", "evaluation.json"]


if __name__ == "__main__":
    fuzz(Target("artifacts", read, seeds(), words(), max_bytes=16_384, num_kinds=len(READERS)))
