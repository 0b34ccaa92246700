"""The examples of recipes/launch are what their programs take, as far as that can be seen without them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from align_cli.recipe import load_recipe

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "recipes" / "launch"


def read(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((LAUNCH / name).read_text())
    return tree


def test_every_example_says_first_what_it_is_for():
    for path in LAUNCH.iterdir():
        lines = path.read_text().splitlines()
        assert lines[1 if lines[0].startswith("#!") else 0].startswith("# "), path.name


def test_the_judged_recipe_is_sound():
    recipe = load_recipe(LAUNCH / "judged.yaml", [])
    assert recipe.global_batch_size % (recipe.launch.num_processes or 1) == 0


def test_the_compose_file_runs_the_judged_recipe_against_its_server():
    compose = read("docker-compose.yaml")
    align, judge = compose["services"]["align"], compose["services"]["judge"]
    assert align["depends_on"] == {"judge": {"condition": "service_healthy"}}
    assert align["command"][:3] == ["align", "train", "recipes/launch/judged.yaml"]
    load_recipe(ROOT / align["command"][2], align["command"][3:])
    labeler = load_recipe(LAUNCH / "judged.yaml", []).labelers["judge"]
    port = judge["command"][judge["command"].index("--port") + 1]
    assert labeler.base_url == f"http://judge:{port}/v1"
    assert labeler.model == judge["command"][judge["command"].index("--model") + 1]
    devices = [service["environment"]["CUDA_VISIBLE_DEVICES"].split(",") for service in (align, judge)]
    assert sorted(device for each in devices for device in each) == [str(number) for number in range(8)]
    for volume in compose["volumes"]:
        assert all(any(one.startswith(volume) for one in service["volumes"]) for service in (align, judge))


def test_the_skypilot_task_starts_every_machine_with_a_rank_of_its_own():
    task = read("skypilot.yaml")
    words = task["run"].replace("\\\n", " ")
    environment = {
        **os.environ,
        "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
        "SKYPILOT_NUM_GPUS_PER_NODE": task["resources"]["accelerators"].split(":")[1],
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }
    said = subprocess.run(
        ["bash", "-c", f'align() {{ printf "%s\\n" "$@"; }}\n{words}'], env=environment, capture_output=True, text=True
    )
    command, path, *overrides = said.stdout.splitlines()
    assert command == "train"
    recipe = load_recipe(ROOT / path, overrides)
    found = recipe.launch.config
    assert (found.num_processes, found.num_machines, found.machine_rank) == (16, 2, 1)
    assert (found.main_process_ip, found.main_process_port) == ("10.0.0.1", 29500)
    assert recipe.output_dir.startswith(next(iter(task["file_mounts"])))


def test_the_slurm_script_gives_every_task_a_rank(tmp_path: Path):
    """bash runs it, with stand-ins for Slurm's two programs."""
    for name, body in {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": 'shift; SLURM_NTASKS=32 SLURM_PROCID=9 SLURM_LOCALID=1 exec "$@"',
        "align": "env | grep -E '^(WORLD_SIZE|RANK|LOCAL_RANK|MASTER_ADDR|MASTER_PORT)='; printf '%s\\n' \"$@\"",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "70001",
        "SLURM_CPUS_PER_TASK": "8",
    }
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sh"), "recipe.yaml", "seed=2"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert {"WORLD_SIZE=32", "RANK=9", "LOCAL_RANK=1", "MASTER_ADDR=node1", "MASTER_PORT=30001"} <= set(said)
    assert said[-3:] == ["train", "recipe.yaml", "seed=2"]


def test_what_the_examples_name_is_there():
    for path in LAUNCH.iterdir():
        for name in re.findall(r"recipes/[\w./-]+\.(?:yaml|sh)", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_of_bashs(path: Path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
