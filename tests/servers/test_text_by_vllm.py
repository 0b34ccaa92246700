"""Two rounds of `sail-dpr` on SmolLM2, sampled by a real vLLM that align starts. `make test-servers` runs it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from real_runs import (
    MODEL,
    ROOT,
    all_below,
    all_gone,
    assert_pairs_are_what_was_sampled,
    figures_of,
    finish,
    kept,
    own_pairs,
    rows_of,
    said,
    servers_below,
    start,
    wait_for,
    write_recipe,
)

pytestmark = pytest.mark.servers

VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
ENVIRONMENT = "VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1"
COMMAND = (
    f"env {ENVIRONMENT} VLLM_ALLOW_RUNTIME_LORA_UPDATING=True {VLLM} serve {{model}} --host 127.0.0.1 --port {{port}} "
    "--max-model-len 256 --max-num-seqs 4 --enforce-eager --dtype bfloat16 --seed 0 --generation-config vllm "
    "--logprobs-mode processed_logprobs"
)


@pytest.fixture(autouse=True)
def there_is_what_it_takes() -> None:
    assert MODEL.is_dir(), "make smollm2 makes the model"
    assert VLLM.exists(), "make vllm installs it"


def assert_server_and_trainer_agree(folder: Path, number: int) -> None:
    """bfloat16 there, float32 here."""
    figures = figures_of(folder, number)
    difference = figures["logp_difference"]
    assert 0 < difference["mean"] < 1.0, difference
    assert difference["largest"] < 3.0, difference
    assert abs(difference["kl"]) < 0.02, difference
    assert figures["recomputed"] == figures["from_text"] == 0
    assert figures["compared_responses"] == 20
    assert abs(figures["surprise"]["deviations"]) < 6


def test_adapters_are_loaded_into_one_server_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    server = {"command": f"{COMMAND} --enable-lora --max-lora-rank 8", "update": "adapter", "concurrency": 2}
    write_recipe(tmp_path, server, lora={"rank": 4})
    killed = start(tmp_path)
    wait_for(lambda: len(kept(tmp_path, 2)) >= 4, killed, tmp_path)
    processes = all_below(killed)
    assert len(processes) >= 3, "a keeper, vLLM and its engine"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert all_gone(processes)
    before = kept(tmp_path, 2)
    assert 4 <= len(before) < 20
    going_on = start(tmp_path)
    wait_for(lambda: servers_below(going_on), going_on, tmp_path)
    finish(going_on, tmp_path)
    rows = rows_of(tmp_path, 2, "completions.jsonl")
    for position, sample in before.items():
        assert (rows[position]["completion_ids"], rows[position]["logps"]) == (sample["token_ids"], sample["logps"])
    assert {row["policy"] for row in rows} != {row["policy"] for row in rows_of(tmp_path, 1, "completions.jsonl")}
    assert_pairs_are_what_was_sampled(tmp_path)
    for number in (1, 2):
        assert_server_and_trainer_agree(tmp_path, number)
    log = (tmp_path / "run" / "servers" / "server-0.log").read_text()
    assert "/v1/load_lora_adapter" in log
    assert "/v1/unload_lora_adapter" in log


def test_adapters_of_the_round_before_serve_while_a_round_trains(tmp_path: Path) -> None:
    server = {"command": f"{COMMAND} --enable-lora --max-lora-rank 8", "update": "adapter", "concurrency": 2}
    write_recipe(tmp_path, server, lora={"rank": 4})
    finish(start(tmp_path, "generate.rounds_ahead=1", "rounds=3"), tmp_path)
    versions = [{row["policy"] for row in rows_of(tmp_path, number, "completions.jsonl")} for number in (1, 2, 3)]
    assert versions[0] == versions[1] != versions[2], "round 2 is sampled before round 1 is trained"
    behind = [{pair.get("rounds_behind", 0) for pair in own_pairs(tmp_path, number)} for number in (1, 2, 3)]
    assert behind == [{0}, {1}, {1}]
    assert_pairs_are_what_was_sampled(tmp_path)
    for number in (1, 2, 3):
        assert_server_and_trainer_agree(tmp_path, number)


def test_whole_weights_are_served_by_new_servers_each_round_and_one_that_is_killed_is_left_out(tmp_path: Path) -> None:
    write_recipe(tmp_path, {"command": COMMAND, "num_servers": 2, "concurrency": 1, "max_retries": 2})
    running = start(tmp_path)
    wait_for(lambda: kept(tmp_path, 1), running, tmp_path)
    processes, servers = all_below(running), servers_below(running)
    assert len(servers) == 2
    servers[1].kill()
    wait_for(lambda: rows_of(tmp_path, 1, "completions.jsonl") if not kept(tmp_path, 1) else [], running, tmp_path)
    assert all_gone(processes, 5.0), "the stage is over"
    finish(running, tmp_path)
    assert "is left out; its requests go to the others" in said(tmp_path)
    assert len(figures_of(tmp_path, 1)["left_out"]) == 1
    assert figures_of(tmp_path, 2)["left_out"] == []
    assert_pairs_are_what_was_sampled(tmp_path)
    for number in (1, 2):
        assert_server_and_trainer_agree(tmp_path, number)
