"""`align doctor`: a mark and a remedy for each thing, and an exit code where one fails."""

from __future__ import annotations

import json
import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, longer_wins

from align_cli.doctor import machine, packages
from align_cli.doctor.finding import Finding
from align_cli.doctor.needs import examine_needs, read_recipe
from align_cli.recipe.shipped import versions_tested


def of(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def judged(folder: Path, write_recipe: Any, url: str, **judge: Any) -> list[Finding]:
    labeler = {"kind": "judge", "base_url": url, "model": "judge", **judge}
    recipe, faults = read_recipe(write_recipe(folder, labelers__judge=labeler), [])
    assert recipe is not None, faults
    return list(examine_needs(recipe))


def test_everything_that_align_asks_for_is_looked_at_and_is_here() -> None:
    found = list(packages.examine_packages())
    asked = {re.split("[<>=]", line)[0] for line in requires("align-cli") or () if "extra" not in line}
    assert asked <= {finding.name for finding in found}
    assert {finding.state for finding in found} == {"ok"}


def test_a_version_out_of_range_or_missing_fails_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requires", lambda name: ["rich<1", "nothing-of-the-kind>=2", "trl>=1"])
    found = list(packages.examine_packages())
    assert of(found, "rich").state == "fail"
    assert of(found, "rich").hint == f"pip install 'rich=={versions_tested()['rich']}'"
    assert of(found, "nothing-of-the-kind").what == "not installed; align needs nothing-of-the-kind>=2"
    assert of(found, "trl").state == "ok"


def test_the_machine_has_threads_memory_disks_and_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(machine.examine_machine(str(tmp_path / "runs" / "new")))
    assert of(found, "disk").what.endswith(f"free at {tmp_path}")
    assert {"devices", "threads", "memory", "hub"} <= {finding.name for finding in found}
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert of(list(machine.examine_machine()), "threads").hint == "unset OMP_NUM_THREADS"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "7000", "a/b/memory.max": "max"}, 7000),
        ("0::/a\n", {"memory.max": "9000", "a/memory.max": "8000"}, 8000),
        ("4:memory:/a\n1:cpu:/b\n", {"memory/a/memory.limit_in_bytes": "6000", "b/memory.max": "5"}, 6000),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("0::/\n", {}, None),
    ],
)
def test_control_groups_bound_the_memory(tmp_path: Path, groups: str, files: dict[str, str], limit: int | None) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert machine.memory_limit_bytes(tmp_path / "root", tmp_path / "cgroup") == limit
    assert machine.memory_limit_bytes(tmp_path, tmp_path / "nothing") is None


def test_a_judges_server_is_asked_for_its_models(tmp_path: Path, write_recipe: Any) -> None:
    with JudgeServer(longer_wins) as server:
        found = of(judged(tmp_path, write_recipe, server.url), "labelers.judge")
        other = of(judged(tmp_path, write_recipe, server.url, model="another"), "labelers.judge")
        assert [asked.path for asked in server.asked if "completions" in asked.path] == []
    assert (found.state, "answers within" in found.what) == ("ok", True)
    assert other.state == "fail" and "another is not among its models" in other.what and other.hint
    gone = of(judged(tmp_path, write_recipe, server.url), "labelers.judge")
    assert gone.state == "fail" and gone.hint


def test_models_devices_and_commands_of_a_recipe(tmp_path: Path, write_recipe: Any) -> None:
    model = {"kind": "reward_model", "model_name_or_path": "org/nothing-here"}
    server = {"command": "vllm-nowhere serve {model} --port {port}"}
    recipe, _ = read_recipe(
        write_recipe(tmp_path, labelers__rm=model, generate__engine="server", generate__server=server), []
    )
    assert recipe is not None
    found = list(examine_needs(recipe))
    assert of(found, "labelers.rm.model_name_or_path").state == "fail"  # HF_HUB_OFFLINE is set in tests
    assert of(found, "generate.server").what == "there is no program vllm-nowhere here"
    assert of(found, "policy.device").what == "auto: cpu"


def test_the_command_says_it_in_lines_or_in_json_and_ends_with_2_where_something_fails(
    tmp_path: Path, write_recipe: Any, align: Any
) -> None:
    write_recipe(tmp_path)
    well = align("doctor", "recipe.yaml", "--json", cwd=tmp_path)
    assert well.code == 0, well.out
    assert {one["state"] for one in json.loads(well.out)} <= {"ok", "warn"}
    ill = align("doctor", "recipe.yaml", "method.bta=1", cwd=tmp_path)
    assert ill.code == 2
    assert "FAIL  recipe" in ill.out and "did you mean method.beta?" in ill.out and "1 thing fails" in ill.out
