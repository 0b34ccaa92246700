"""Runs whose responses come from servers: killed and taken up again, and what is left of the servers."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ended import all_gone
from forked import Stop
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_same_runs, read_rows
from text_server import TextServer

TEXT_SERVER = Path(__file__).parent.parent / "text_server.py"
ServedFolder = Callable[..., Path]
DPR = 1
"""The number of the source in what training is given."""


@pytest.fixture(scope="module")
def served_folder(make_folder: MakeFolder) -> ServedFolder:
    """`served_folder(path, base_urls=[...])`: the small recipe with the engine `server`."""

    def make(folder: Path, gradient: float = 0.3, **server: Any) -> Path:
        changes = {"generate__engine": "server", "generate__server": server, **NO_EVALUATION}
        return make_folder(folder, method__sources__dpr__gradient=gradient, **changes)

    return make


@pytest.fixture
def server(tiny_policy_folder: Path) -> Iterator[TextServer]:
    """A server that loads whatever weights it is told to, and whose answers depend on nothing but the request."""
    with TextServer(tiny_policy_folder, reloads=True) as made:
        yield made


@pytest.mark.long
def test_a_killed_run_ends_in_the_same_bytes_and_asks_again_for_what_was_under_way_alone(
    served_folder: ServedFolder, server: TextServer, align: Align, tmp_path: Path
) -> None:
    keys = {"base_urls": [server.url], "concurrency": 2}
    whole, killed = served_folder(tmp_path / "whole", **keys), served_folder(tmp_path / "killed", **keys)
    assert align("train", "recipe.yaml", cwd=whole, collated=tmp_path / "collated.jsonl").code == 0
    asked_by_whole, server.asked = server.asked, []
    for stop in (Stop("append", 3, within="round 1 generate"), Stop("amid append", 2, within="round 2 generate")):
        assert align("train", "recipe.yaml", cwd=killed, stop=stop).code == -signal.SIGKILL
    done = align("train", "recipe.yaml", cwd=killed)
    assert done.code == 0, done.err
    assert_same_runs(killed, whole)
    num_tried, in_flight = 2, 2 + 1  # of servers in each process that goes on; the answers that were not yet durable
    assert len(server.asked) - len(asked_by_whole) <= 2 * (num_tried + in_flight)
    assert_trained_on_what_was_sampled(whole, tmp_path / "collated.jsonl")


def assert_trained_on_what_was_sampled(folder: Path, collated: Path) -> None:
    """Every pair that training was given holds the very ids that the server sampled."""
    sampled = [row for path in sorted(folder.glob("run/rounds/*/completions.jsonl")) for row in read_rows(path)]
    by_prompt: dict[tuple[int, ...], list[list[int]]] = {}
    for row in sampled:
        by_prompt.setdefault(tuple(row["prompt_ids"]), []).append(row["completion_ids"])
    trained = [json.loads(line) for line in collated.read_text().splitlines()]
    pairs = [ids for source, *ids in trained if source == DPR]
    assert pairs
    for prompt, chosen, rejected in pairs:
        assert chosen in by_prompt[tuple(prompt)]
        assert rejected in by_prompt[tuple(prompt)]


def test_the_figures_of_a_round_say_how_far_server_and_trainer_lie_apart(
    served_folder: ServedFolder, server: TextServer, align: Align, tmp_path: Path
) -> None:
    folder = served_folder(tmp_path, base_urls=[server.url])
    assert align("train", "recipe.yaml", "rounds=1", cwd=folder).code == 0
    events = read_rows(folder / "run" / "ledger.jsonl")
    (figures,) = [one["figures"] for one in events if one["event"] == "finish" and one["stage"] == "generate"]
    of_policy = figures["engine"]["policy"]
    assert of_policy["servers"] == 1
    assert of_policy["logp_difference"]["largest"] < 1e-3
    assert set(of_policy) >= {"requests", "recomputed", "from_text", "surprise", "greedy_tokens", "equal_responses"}
    status = align("status", "run", cwd=folder)
    assert "nats" in status.out


@pytest.mark.long
def test_what_a_wrong_server_answered_is_not_kept(
    served_folder: ServedFolder, tiny_policy_folder: Path, align: Align, tmp_path: Path
) -> None:
    def equal(body: Any, answer: Any) -> Any:
        if "choices" in answer:
            answer["choices"] = [{**answer["choices"][0], "index": at} for at in range(len(answer["choices"]))]
        return answer

    with TextServer(tiny_policy_folder, reloads=True, wrong=equal) as wrong:
        folder = served_folder(tmp_path, base_urls=[wrong.url])
        failed = align("train", "recipe.yaml", "rounds=1", cwd=folder)
        assert failed.code == 2
        assert "all responses to a prompt are equal" in failed.err
    with TextServer(tiny_policy_folder, reloads=True) as right:
        done = align("train", "recipe.yaml", "rounds=1", f"generate.server.base_urls=[{right.url}]", cwd=folder)
        assert done.code == 0, done.err
    rows = read_rows(folder / "run" / "rounds" / "001" / "completions.jsonl")
    first, second = ([row["completion_ids"] for row in rows if row["sample_index"] == at] for at in (0, 1))
    assert sum(one == other for one, other in zip(first, second, strict=True)) < len(first) / 2


@pytest.mark.long
def test_servers_that_give_text_alone_serve_a_run_without_coefficients(
    served_folder: ServedFolder, tiny_policy_folder: Path, align: Align, tmp_path: Path
) -> None:
    with TextServer(tiny_policy_folder, takes="text") as server:
        folder = served_folder(tmp_path, gradient=0.0, base_urls=[server.url], update="name")
        done = align("train", "recipe.yaml", "rounds=1", cwd=folder)
        assert done.code == 0, done.err
        refused = align("generate", "recipe.yaml", "method.sources.dpr.gradient=0.3", cwd=folder)
    rows = read_rows(folder / "run" / "rounds" / "001" / "completions.jsonl")
    assert all(row["from_text"] is True and len(row["logps"]) == row["num_tokens"] for row in rows)
    assert refused.code == 2
    assert "method.sources.dpr.gradient the method needs the tokens that were sampled" in refused.err


def test_a_single_command_needs_no_run_around_it(
    served_folder: ServedFolder, server: TextServer, align: Align, tmp_path: Path
) -> None:
    folder = served_folder(tmp_path, base_urls=[server.url])
    done = align("generate", "recipe.yaml", "-o", "completions.jsonl", cwd=folder)
    assert done.code == 0, done.err
    assert {row["engine"] for row in read_rows(folder / "completions.jsonl")} == {"server"}


@pytest.mark.long
def test_servers_of_aligns_own_end_with_the_stage_and_with_a_killed_run_which_goes_on_to_the_same_bytes(
    served_folder: ServedFolder, align: Align, tmp_path: Path
) -> None:
    command = f"{sys.executable} {TEXT_SERVER} {{model}} --port {{port}} --child --pids {tmp_path}/pids"
    keys = {"command": command, "num_servers": 2, "concurrency": 2}
    whole, killed = served_folder(tmp_path / "whole", **keys), served_folder(tmp_path / "killed", **keys)
    done = align("train", "recipe.yaml", cwd=whole)
    assert done.code == 0, done.err
    pids = [int(line) for line in (tmp_path / "pids").read_text().splitlines()]
    assert len(pids) == 2 * 2 * 2  # rounds, servers, a server and its child
    assert all_gone(pids, 1.0)
    stop = Stop("append", 3, within="round 2 generate")
    assert align("train", "recipe.yaml", cwd=killed, stop=stop).code == -signal.SIGKILL
    pids = [int(line) for line in (tmp_path / "pids").read_text().splitlines()]
    assert all_gone(pids, 20.0)
    done = align("train", "recipe.yaml", cwd=killed)
    assert done.code == 0, done.err
    assert_same_runs(killed, whole)
    leftovers = [path.name for path in (killed / "run" / "servers").iterdir() if path.name.startswith("align-")]
    assert leftovers == []


@pytest.mark.long
def test_a_server_of_aligns_own_that_dies_is_told_of_with_its_log_and_the_run_goes_on(
    served_folder: ServedFolder, align: Align, tmp_path: Path
) -> None:
    command = f"{sys.executable} {TEXT_SERVER} {{model}} --port {{port}} --dies-after 6"
    folder = served_folder(tmp_path, command=command, concurrency=1)
    failed = align("train", "recipe.yaml", "rounds=1", cwd=folder)
    assert failed.code == 2
    assert "has ended with exit status 3" in failed.err
    assert "| listening at http://127.0.0.1:" in failed.err
    kept = read_rows_of_journal(folder / "run" / "work" / "001-generate" / "policy-samples.jsonl")
    assert kept == 4 * 2  # one of six tried the server, and one was not answered
    healthy = command.replace("--dies-after 6", "")
    done = align("train", "recipe.yaml", "rounds=1", f"generate.server.command={healthy}", cwd=folder)
    assert done.code == 0, done.err


def read_rows_of_journal(path: Path) -> int:
    """How many samples a journal holds."""
    rows = [json.loads(line.partition(b" ")[2]) for line in path.read_bytes().splitlines()]
    return sum("sample" in row for row in rows)


def test_a_command_whose_program_is_not_there_is_refused_before_anything_is_loaded(
    served_folder: ServedFolder, align: Align, tmp_path: Path
) -> None:
    folder = served_folder(tmp_path, command="no-such-program {model} --port {port}")
    refused = align("check", "recipe.yaml", cwd=folder)
    assert refused.code == 2
    assert "there is no program 'no-such-program'" in refused.err
    quick = align("check", "--quick", "recipe.yaml", cwd=folder)
    assert "generate.server.command: no-such-program {model} --port {port}" in quick.out
