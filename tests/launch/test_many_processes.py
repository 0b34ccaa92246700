"""Runs of two processes as users start them: one command, torchrun, two machines; and how they end when one fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from chat_models import make_chat_model
from forked import Finished, Stop
from killed_runs import make_run
from paused import held, holder
from run_fixtures import NO_EVALUATION, Align, MakeFolder
from safetensors.torch import load_file
from sweeps import swept
from warm_children import MAIN

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 300.0
CLOSE = 1e-6
EVERY_SOURCE: dict[str, Any] = {
    "rounds": 1,
    "checkpoints": {"every_steps": 1, "optimizer": "all"},
    "data__demonstrations": "playground",
    "method__kl": {"coefficient": 0.02, "target": 0.01},
    "method__sources": {
        "offline": {"mixing": 0.25},
        "ddp": {"mixing": 0.125, "gradient": 0.2},
        "dpp": {"mixing": 0.25, "gradient": 0.2},
        "dpr": {"mixing": 0.25, "gradient": 0.3, "labeler": "ours"},
        "dmd": {"mixing": 0.125, "gradient": 0.3},
    },
    "generate": {"num_generations": 2, "max_new_tokens": 16, "prompts_per_round": 16, "batch_size": 8},
    # Adam divides by the size of a gradient, which blows up the rounding of one near zero: epsilon bounds that.
    "train": {
        "learning_rate": 5.0e-5,
        "adam_epsilon": 1.0e-6,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_round": 10,
    },
}
TWO = ("launch.num_processes=2",)
LOOKING_HERE = "installed_here:look_here"
"""Prepares a command and those that it starts to find the folder's `sitecustomize.py`."""
LINGERING = """
import threading
import time
from pathlib import Path


def linger():
    threading.main_thread().join()
    time.sleep(5)


if "launch.machine_rank=1" in Path("/proc/self/cmdline").read_text().split("\\0"):
    threading.Thread(target=linger).start()
"""
STRATEGIES = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def alone(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run one process has finished: ten steps of all five sources."""
    folder = make_folder(tmp_path_factory.mktemp("alone"), **EVERY_SOURCE)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def begun(alone: Path, tmp_path: Path) -> Path:
    """A folder with the same recipe and nothing run."""
    return Path(shutil.copytree(alone, tmp_path / "begun", ignore=shutil.ignore_patterns("run")))


def weights(folder: Path, number: int = 1) -> torch.Tensor:
    tensors = load_file(folder / "run" / "rounds" / f"{number:03d}" / "checkpoint" / "model.safetensors")
    return torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])


def assert_ends_as(folder: Path, other: Path) -> None:
    """The same samples and labels to the byte, and weights that ten steps have moved, but for rounding."""
    for name in ("completions.jsonl", "preferences.jsonl"):
        ours, theirs = (place / "run" / "rounds" / "001" / name for place in (folder, other))
        assert ours.read_bytes() == theirs.read_bytes(), name
    torch.testing.assert_close(weights(folder), weights(other), rtol=0, atol=CLOSE)
    assert (weights(other) - weights(other, 0)).abs().max() > 100 * CLOSE


def command(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`align train recipe.yaml ...` as a user starts it."""
    program = folder / "start.py"
    program.write_text("from align_cli.cli.main import main\n\nmain()\n")
    return subprocess.Popen(
        [*(launcher or (sys.executable,)), str(program), "train", "recipe.yaml", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How a process ends, and what it says."""
    try:
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    return process.returncode, said


def followers(pid: int) -> list[psutil.Process]:
    """Those that a process has started."""
    return psutil.Process(pid).children(recursive=True)


def step(nth: int) -> Stop:
    """The moment before so many steps of round 1 are done; the one before it is kept by then."""
    return Stop("step", nth, within="round 1 train")


def steps_done(folder: Path) -> int:
    """How many steps of round 1 are kept, as far as another process can see."""
    numbers = [0]
    for place, _, names in os.walk(folder / "run" / "work"):  # which passes over what goes while it looks
        if "training_state.json" not in names:
            continue
        try:
            state = json.loads(Path(place, "training_state.json").read_text())
            numbers += [state["global_step"]] if state["parent"] is not None else []  # the warm start's have none
        except (OSError, ValueError):
            continue
    return max(numbers)


def until(happened: Callable[[], bool], run: Future[Finished]) -> None:
    end = time.monotonic() + TIMEOUT_SECONDS
    while not happened():
        assert not run.done(), run.result().err
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def port() -> Iterator[int]:
    """One that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
    yield number


@pytest.mark.parametrize("strategy", swept(STRATEGIES, "ddp"))
def test_one_command_of_two_processes_ends_as_one(begun: Path, alone: Path, align: Align, strategy: str) -> None:
    done = align("train", "recipe.yaml", *TWO, f"launch.strategy={strategy}", cwd=begun)
    assert done.code == 0, done.err
    assert "2 processes, each with" in done.err
    assert_ends_as(begun, alone)


@pytest.mark.parametrize("strategy", swept(STRATEGIES, "fsdp2"))
def test_a_rank_killed_in_a_step_ends_all_and_one_process_goes_on(
    begun: Path, alone: Path, align: Align, strategy: str
) -> None:
    with held("train", "recipe.yaml", *TWO, f"launch.strategy={strategy}", cwd=begun, at=step(4)) as leader:
        assert steps_done(begun) == 3
        (follower,) = followers(leader.pid)
        follower.send_signal(signal.SIGKILL)
    done = leader.result.result()
    assert done.code == 2
    assert "rank 1 of 2 processes: it was killed by SIGKILL" in done.err
    assert "goes on from what is there" in done.err
    assert "Traceback" not in done.err
    again = align("train", "recipe.yaml", cwd=begun)
    assert again.code == 0, again.err
    assert "round 1 train: going on after step" in again.err
    assert_ends_as(begun, alone)


def zero3(folder: Path) -> str:
    """The override that asks for DeepSpeed's ZeRO-3, by two processes."""
    config = folder / "zero3.yaml"
    text = (ROOT / "recipes" / "launch" / "zero3.yaml").read_text()
    config.write_text(text.replace("num_processes: 8", "num_processes: 2\nuse_cpu: true"))
    return f"launch.accelerate_config={config.name}"


def kept_steps(folder: Path) -> list[Path]:
    """The checkpoints of round 1 that count: those with a record, which is written last."""
    return sorted(path.with_suffix("") for path in (folder / "run" / "work" / "001-train").glob("step-????????.json"))


def test_a_rank_killed_while_it_writes_its_part_leaves_the_checkpoint_before_to_any_number(
    begun: Path, alone: Path, align: Align
) -> None:
    (begun / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if 'ALIGN_FOLLOWS' in os.environ:\n"
        "    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter as Writer\n"
        "    write, times = Writer.write_data, []\n"
        "    def killed_at_the_third(*args):\n"
        "        written = write(*args)\n"
        "        times.append(1)\n"
        "        if len(times) == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return written\n"
        "    Writer.write_data = killed_at_the_third\n"
    )
    asked = (zero3(begun), "checkpoints.sharded=true")
    done = align("train", "recipe.yaml", *asked, cwd=begun, prepare=LOOKING_HERE)
    assert done.code == 2
    assert "rank 1 of 2 processes: it was killed by SIGKILL" in done.err
    assert done.err.count("ZeRO-3 is carried out by torch's FSDP2") == 1
    assert "Traceback" not in done.err
    (begun / "sitecustomize.py").unlink()
    copied = Path(shutil.copytree(begun, begun.parent / "copied"))
    for folder, overrides in ((begun, ()), (copied, asked)):
        again = align("train", "recipe.yaml", *overrides, cwd=folder)
        assert again.code == 0, again.err
        assert "round 1 train: going on after step 2 of the round" in again.err
        assert_ends_as(folder, alone)


def test_a_shard_that_is_lost_is_named_with_what_to_do_and_that_helps(begun: Path, alone: Path, align: Align) -> None:
    asked = (*TWO, "launch.strategy=fsdp2", "checkpoints.sharded=true")
    assert align("train", "recipe.yaml", *asked, cwd=begun, stop=step(5)).code == -signal.SIGKILL
    *_, newest = kept_steps(begun)
    (shard,) = newest.glob("shard-00002-*")
    shard.unlink()
    for overrides in ((), asked):
        done = align("train", "recipe.yaml", *overrides, cwd=begun)
        assert done.code == 2
        assert f"{shard.relative_to(begun)}: a part of the checkpoint is missing" in done.err
        assert "Traceback" not in done.err
    shutil.rmtree(newest)
    again = align("train", "recipe.yaml", *asked, cwd=begun)
    assert again.code == 0, again.err
    assert "round 1 train: going on after step" in again.err
    assert_ends_as(begun, alone)


def test_a_run_of_one_process_goes_on_with_two(begun: Path, alone: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", cwd=begun, stop=step(5)).code == -signal.SIGKILL
    again = align("train", "recipe.yaml", *TWO, "launch.strategy=fsdp2", cwd=begun)
    assert again.code == 0, again.err
    assert "round 1 train: going on after step" in again.err
    assert_ends_as(begun, alone)


def test_no_follower_outlives_a_leader_that_is_killed(begun: Path) -> None:
    with held("train", "recipe.yaml", *TWO, cwd=begun, at=step(2)) as leader:
        left = followers(leader.pid)
        assert left
        os.kill(leader.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(left, timeout=30)
    assert not alive, gone


def test_ctrl_c_ends_all_and_says_how_to_go_on(begun: Path) -> None:
    with held("train", "recipe.yaml", *TWO, cwd=begun, at=step(2)) as leader:
        left = followers(leader.pid)
        os.kill(leader.pid, signal.SIGINT)
    done = leader.result.result()
    assert done.code == 130
    assert "goes on where it stopped" in done.err
    assert "rank" not in done.err
    assert not psutil.wait_procs(left, timeout=30)[1]


def test_the_first_cause_is_shown_and_not_what_followed_from_it(begun: Path, align: Align) -> None:
    """The second process has no such model: the first only misses it."""
    (begun / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'ALIGN_FOLLOWS' in os.environ:\n"
        "    import align_cli.models.of_recipe as of_recipe\n"
        "    from align_cli.errors import DataError\n"
        "    def lost(*args, **kwargs):\n"
        "        raise DataError('the disk of this machine is another one', where='/data', hint='mount it')\n"
        "    of_recipe.load_recipe_policy = lost\n"
    )
    done = align("train", "recipe.yaml", *TWO, cwd=begun, prepare=LOOKING_HERE)
    assert done.code == 2
    assert "rank 1 of 2 processes: the disk of this machine is another one" in done.err
    assert "hint: mount it" in done.err
    assert "Traceback" not in done.err


def test_torchrun_starts_the_same_recipe(begun: Path, alone: Path, port: int) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}")
    code, said = ended(command(begun, launcher=launcher))
    assert code == 0, said
    assert said.count("begins with round 0") == 1
    assert_ends_as(begun, alone)


def test_accelerate_launch_starts_the_same_recipe_and_says_how_it_is_split(begun: Path, alone: Path, port: int) -> None:
    config = begun / "fsdp2.yaml"
    text = (ROOT / "recipes" / "launch" / "fsdp2.yaml").read_text()
    config.write_text(text.replace("num_processes: 8", f"num_processes: 2\nuse_cpu: true\nmain_process_port: {port}"))
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config))
    code, said = ended(command(begun, launcher=launcher))
    assert code == 0, said
    assert "2 processes, each with a part of the model while it trains" in said
    assert_ends_as(begun, alone)


def test_two_machines_run_the_same_command_each_and_end_well_whatever_an_interpreter_waits_for(
    begun: Path, alone: Path, align: Align, port: int
) -> None:
    """The second one lingers: the first is gone by then, and with it the place where failures are looked for."""
    (begun / "sitecustomize.py").write_text(LINGERING)
    meeting = (*TWO, "launch.num_machines=2", "launch.main_process_ip=127.0.0.1", f"launch.main_process_port={port}")
    second = command(begun, *meeting, "launch.machine_rank=1")
    first = align("train", "recipe.yaml", *meeting, "launch.machine_rank=0", cwd=begun)
    assert first.code == 0, first.err
    code, said = ended(second)
    assert code == 0, said
    assert_ends_as(begun, alone)


def test_a_port_that_is_taken_is_named(begun: Path, align: Align) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = align("train", "recipe.yaml", *TWO, f"launch.main_process_port={port}", cwd=begun)
    assert done.code == 2
    assert f"cannot meet at 127.0.0.1:{port}: the port is in use" in done.err
    assert "Traceback" not in done.err


def test_gpus_that_are_not_there_are_not_waited_for(begun: Path, align: Align) -> None:
    config = ROOT / "recipes" / "launch" / "ddp.yaml"
    done = align("train", "recipe.yaml", f"launch.accelerate_config={config}", "launch.num_processes=2", cwd=begun)
    assert done.code == 2
    assert "asks for accelerators, and torch finds none here" in done.err


def test_a_launchers_processes_that_cannot_share_a_step_are_refused(begun: Path, port: int) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", f"--master-port={port}")
    code, said = ended(command(begun, launcher=launcher))
    assert code != 0
    assert "a step has 8 pairs, which 3 processes cannot share evenly" in said


def test_adapters_train_in_two_processes(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    from align_cli.playground.model import make_policy

    changes: dict[str, Any] = {
        **EVERY_SOURCE,
        "rounds": 2,
        "policy": {"model_name_or_path": "./model", "lora": {"rank": 4, "alpha": 8, "between_rounds": "merge"}},
        "train__learning_rate": 1.0e-3,
        "train__steps_per_round": 4,
        **NO_EVALUATION,
    }
    found = {}
    for name, overrides in {"one": (), **{one: (*TWO, f"launch.strategy={one}") for one in STRATEGIES}}.items():
        folder = make_folder(tmp_path / name, **changes)
        make_policy(folder / "model", 0)
        done = align("train", "recipe.yaml", *overrides, cwd=folder)
        assert done.code == 0, done.err
        found[name] = load_file(folder / "run" / "rounds" / "002" / "checkpoint" / "adapter_model.safetensors")
    for strategy in STRATEGIES:
        assert found[strategy].keys() == found["one"].keys()
        for key, tensor in found["one"].items():
            torch.testing.assert_close(found[strategy][key], tensor, rtol=0, atol=1e-5)


def test_an_isolated_stage_that_is_killed_ends_the_run_in_words_and_it_goes_on_to_the_same_bytes(
    begun: Path, alone: Path, align: Align
) -> None:
    isolated = ("train", "recipe.yaml", "launch.isolate=true")
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(align, *isolated, cwd=begun)
        until(lambda: steps_done(begun) >= 2, run)
        leader = holder(begun / "run" / ".lock")
        assert leader is not None
        (stage,) = followers(leader)
        stage.send_signal(signal.SIGKILL)
    assert run.result().code == 2
    assert "the process of round 1 train was killed by SIGKILL" in run.result().err
    done = align(*isolated, cwd=begun)
    assert done.code == 0, done.err
    assert "round 1 train: going on after step" in done.err
    ours, theirs = (folder / "run" / "rounds" for folder in (begun, alone))
    names = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    assert [name for name in names if (ours / name).read_bytes() != (theirs / name).read_bytes()] == []


def test_what_goes_wrong_in_an_isolated_stage_is_said_as_ever(begun: Path, align: Align) -> None:
    sound_when_tried = "[0.0] * min(len(completions), 3)"  # by two responses, before the run
    (begun / "labeler.py").write_text(f"def score(prompts, completions):\n    return {sound_when_tried}\n")
    sooner = ("policy.sft=null", "evaluate.num_prompts=8")
    done = align("train", "recipe.yaml", "launch.isolate=true", *sooner, cwd=begun, forks=False)
    here = align("train", "recipe.yaml", *sooner, cwd=begun)
    assert done.code == here.code == 2
    assert "round 1 generate" in done.err
    assert "the function returned 3 scores for" in done.err
    assert done.err.splitlines()[-2:] == here.err.splitlines()[-2:]


def test_isolated_stages_have_processes_of_their_own(
    make_folder: MakeFolder, alone: Path, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "unmeasured", **EVERY_SOURCE, **NO_EVALUATION)
    done = align("train", "recipe.yaml", "launch.isolate=true", *TWO, cwd=folder)
    assert done.code == 0, done.err
    assert_ends_as(folder, alone)


def test_a_reward_model_scores_in_two_processes_as_in_one(align: Align, tmp_path: Path) -> None:
    found = []
    for name, overrides in (("one", ()), ("two", TWO)):
        folder = make_run(
            tmp_path / name,
            "offline and dpr",
            rounds=1,
            reward={"model_name_or_path": "base_model", "max_steps": 2, "per_device_train_batch_size": 4},
            labelers={"mine": {"kind": "reward_model", "model_name_or_path": "run", "batch_size": 3}},
            method={"sources": {"dpr": {"labeler": "mine"}}},
        )
        make_chat_model(folder / "base_model")
        done = align("train", "recipe.yaml", *overrides, cwd=folder)
        assert done.code == 0, done.err
        found.append((folder / "run" / "rounds" / "001" / "preferences.jsonl").read_bytes())
    assert found[0] == found[1]


def test_single_commands_share_their_work_too(begun: Path, alone: Path, align: Align) -> None:
    whole = alone / "run" / "rounds" / "001"
    sampled = align("generate", "recipe.yaml", *TWO, "-o", "sampled.jsonl", cwd=begun)
    assert sampled.code == 0, sampled.err
    assert "2 processes, each with" in sampled.err
    assert (begun / "sampled.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()
    labelled = align("label", "recipe.yaml", *TWO, "-i", "sampled.jsonl", "-o", "labelled.jsonl", cwd=begun)
    assert labelled.code == 0, labelled.err
    assert (begun / "labelled.jsonl").read_bytes() == (whole / "preferences.jsonl").read_bytes()


def test_what_is_for_one_process_is_refused_under_a_launcher(begun: Path) -> None:
    launched = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "train", "recipe.yaml", "--smoke"],
        cwd=begun,
        env={**os.environ, **launched, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--smoke is for one process, and a launcher has started 2" in done.stderr
