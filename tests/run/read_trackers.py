"""What trackers kept of a run, read back with their own libraries."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 32_768
HEADER = 7


class Kept(NamedTuple):
    """One run as a tracker has it.

    Args:
        steps: those that it has a loss of, in its order.
        kl: of each round's end, step and value.
        samples: at how many steps it has responses.
        config: a value of the recipe, `rounds`, as text.
    """

    steps: list[int]
    kl: list[tuple[int, float]]
    samples: int
    config: str


def kept(name: str, folder: Path) -> Kept:
    """What a tracker has in a run's folder, which holds one run alone."""
    return {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}[name](folder)


def _tensorboard(folder: Path) -> Kept:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = (folder / "tensorboard").iterdir()
    found = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    (recipe,) = found.Tensors("recipe/text_summary")
    text = recipe.tensor_proto.string_val[0].decode()
    return Kept(
        [event.step for event in found.Scalars("train/loss")],
        [(event.step, event.value) for event in found.Scalars("evaluation/kl")],
        len({event.step for event in found.Tensors("samples/00/text_summary")}),
        text.split("\nrounds: ")[1][0],
    )


def _wandb(folder: Path) -> Kept:
    from wandb.proto import wandb_internal_pb2

    (place,) = (folder / "wandb").glob("offline-run-*")
    (file,) = place.glob("*.wandb")
    records = [wandb_internal_pb2.Record.FromString(one) for one in _leveldb_records(file.read_bytes())]
    begun = next(one.run for one in records if one.WhichOneof("record_type") == "run")
    rows: list[dict[str, Any]] = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.WhichOneof("record_type") == "history"
    ]
    places = [row["_step"] for row in rows]
    assert places == sorted(set(places))
    return Kept(
        [row["global_step"] for row in rows if "train/loss" in row],
        [(row["global_step"], row["evaluation/kl"]) for row in rows if "evaluation/kl" in row],
        sum(any(name.startswith("samples") for name in row) for row in rows),
        next(item.value_json for item in begun.config.update if item.key == "rounds"),
    )


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's form, behind a header of its own."""
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def _mlflow(folder: Path) -> Kept:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("align")
    (run,) = client.search_runs([experiment.experiment_id])
    name = run.info.run_id
    return Kept(
        [metric.step for metric in client.get_metric_history(name, "train/loss")],
        [(metric.step, metric.value) for metric in client.get_metric_history(name, "evaluation/kl")],
        len(client.list_artifacts(name, "samples")),
        run.data.params["rounds"],
    )


def _trackio(folder: Path) -> Kept:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    assert Path(trackio.TRACKIO_DIR) == folder.resolve() / "trackio"
    (name,) = SQLiteStorage.get_runs("align")
    rows = SQLiteStorage.get_logs("align", name)
    return Kept(
        [row["step"] for row in rows if "train/loss" in row],
        [(row["step"], row["evaluation/kl"]) for row in rows if "evaluation/kl" in row],
        sum("samples" in row for row in rows),
        str(SQLiteStorage.get_run_config("align", name)["rounds"]),
    )


def main() -> None:
    """Show what a tracker has, from a process of its own: trackio reads its folder when it is imported."""
    import sys

    print(json.dumps(kept(sys.argv[1], Path(sys.argv[2]))))  # noqa: T201 - for the test that started it


if __name__ == "__main__":
    main()
