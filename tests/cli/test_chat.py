"""`align chat`: answers on a terminal as they are sampled, and one a line through a pipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_models import make_chat_model
from killed_runs import make_run, train
from run_fixtures import Align, assert_refused, files_below
from terminal import CTRL_C, CTRL_D, terminal

PROMPTS = "the hotel\n\nfood : great\n"
OBEYED = [*(chr(code) for code in (*range(9), *range(11, 32), *range(127, 160)))]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of adapters on a base that does not chat. Shared."""
    folder = make_run(tmp_path_factory.mktemp("adapters") / "whole", "adapters, warm start")
    assert train(folder).code == 0
    return folder


@pytest.fixture(scope="module")
def chatting(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that chats in random bytes, control characters among them."""
    folder = tmp_path_factory.mktemp("chatting")
    make_chat_model(folder / "model", context_length=8192)
    return folder


def test_through_a_pipe_each_line_is_a_prompt_of_its_own(finished: Path, align: Align) -> None:
    before = files_below(finished / "run")
    told = align("chat", "run", "--round", "2", "--json", cwd=finished, stdin=PROMPTS)
    assert told.code == 0, told.err
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["prompt"] for row in rows] == ["the hotel", "food : great"]
    assert [list(row["answers"]) for row in rows] == [["round 2"], ["round 2"]]
    assert told.err == "round 2 of run, as asked for\n"
    plain = align("chat", "run", "--round", "2", "-q", cwd=finished, stdin=PROMPTS)
    assert (plain.code, plain.err) == (0, "")
    assert plain.out == "".join(row["answers"]["round 2"] + "\n" for row in rows)
    assert files_below(finished / "run") == before


def test_the_best_round_is_talked_to_where_none_is_named(finished: Path, align: Align) -> None:
    told = align("chat", "run", "--json", cwd=finished, stdin="the hotel\n")
    first, *remarks = told.err.splitlines()
    (title,) = json.loads(told.out)["answers"]
    assert first.startswith(f"{title} of run, the best by win rate against the initial policy")
    assert all(remark.startswith("note: ") for remark in remarks)


def test_an_answer_depends_on_seed_and_temperature_alone(finished: Path, align: Align) -> None:
    def answers(*options: str) -> str:
        done = align("chat", "run", "--round", "1", "-q", *options, cwd=finished, stdin="the hotel\nthe hotel\n")
        assert done.code == 0, done.err
        return done.out

    assert answers() == answers() == answers("--seed", "0")
    assert answers() != answers("--seed", "1")
    first, second = answers().splitlines()
    assert first != second
    first, second = answers("--temperature", "0").splitlines()
    assert first == second
    assert all(len(line.split()) <= 3 for line in answers("--max-new-tokens", "3").splitlines())


@pytest.mark.long
@pytest.mark.parametrize("beside", ["initial", "0"])
def test_two_rounds_answer_as_each_does_alone(beside: str, adapters: Path, align: Align) -> None:
    def answers(*options: str) -> list[dict[str, str]]:
        done = align("chat", "run", "--json", *options, cwd=adapters, stdin=PROMPTS)
        assert done.code == 0, done.err
        return [json.loads(line)["answers"] for line in done.out.splitlines()]

    trained, initial = answers("--round", "2"), answers("--round", "0")
    assert trained != initial
    both = answers("--round", "2", "--beside", beside)
    assert both == [{**one, **other} for one, other in zip(trained, initial, strict=True)]
    plain = align("chat", "run", "--round", "2", "--beside", beside, "-q", cwd=adapters, stdin=PROMPTS)
    asked = [line for line in PROMPTS.splitlines() if line]
    said = ["".join(f"{title}:\n{answer}\n" for title, answer in one.items()) for one in both]
    assert plain.out == "".join(f"> {prompt}\n{answers}" for prompt, answers in zip(asked, said, strict=True))


def test_what_was_exported_answers_as_the_round_did(adapters: Path, align: Align, tmp_path: Path) -> None:
    told = align("chat", "run", "--round", "2", "-q", cwd=adapters, stdin=PROMPTS)
    for options in ([], ["--merge"]):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert align("export", "run", tmp_path / "out", "--round", "2", *options, cwd=adapters).code == 0
        again = align("chat", tmp_path / "out", "-q", cwd=tmp_path, stdin=PROMPTS)
        assert (again.code, again.out) == (0, told.out), again.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./nowhere"], "there is no such model folder"),
        (["no-such-model"], "no-such-model: the model cannot be loaded"),
        (["recipe.yaml"], "this is a file, not a run"),
        (["."], "there is no run in this folder"),
        (["base", "--round", "1"], "this is a model, which has no rounds"),
        (["base", "--beside", "initial"], "this is a model, which has no rounds"),
        (["run", "--round", "7"], "the run has not finished round 7"),
        (["run", "--beside", "7"], "the run has not finished round 7"),
        (["run", "--round", "2", "--beside", "2"], "both are round 2"),
        (["run", "--beside", "worst"], "the round is 'worst'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_who_cannot_be_talked_to_is_told(arguments: list[str], words: str, adapters: Path, align: Align) -> None:
    refused = align("chat", *arguments, cwd=adapters, stdin=PROMPTS)
    assert_refused(refused)
    assert words in refused.err


def test_a_prompt_that_cannot_be_answered_ends_a_script(chatting: Path, align: Align) -> None:
    refused = align("chat", "model", "-q", cwd=chatting, stdin="a" * 20_000 + "\n")
    assert_refused(refused)
    assert "the policy reads 8192" in refused.err


@pytest.mark.long
def test_on_a_terminal_one_talks_begins_anew_and_ends(chatting: Path) -> None:
    with terminal("chat", "model", "--max-new-tokens", "40", "--system", "Be kind.", cwd=chatting) as shown:
        said = shown.until("> ")
        assert "/reset begins anew" in said and "answers are cut at 40 tokens" in said
        shown.type("Name a colour.\r")
        answer = shown.until("\n> ")
        assert [character for character in answer if character in OBEYED and character != "\n"] == []
        assert "\\x" in answer  # the model says control characters, which are shown and not obeyed
        shown.type("/reset\r")
        assert "begun anew" in shown.until("\n> ")
        shown.type("/help\r")
        assert "there is no /help: /reset begins anew" in shown.until("\n> ")
        shown.type("/quit\r")
        assert shown.end()[0] == 0


@pytest.mark.long
def test_ctrl_c_stops_an_answer_and_a_second_one_ends(chatting: Path) -> None:
    with terminal("chat", "model", "--max-new-tokens", "8000", cwd=chatting) as shown:
        shown.until("> ")
        shown.type("Go on and on.\r")
        shown.until("\n")
        shown.until("\\x")  # it is at it, and may come to an end by itself
        shown.type(CTRL_C, seconds_to_react=0)
        shown.until("Ctrl-C again ends")  # nothing that a prompt looks like will do: the model may write it, too
        shown.until("\n> ")
        shown.type("/reset\r")
        shown.until("begun anew")
        shown.until("> ")
        shown.type(CTRL_C)
        shown.until("Ctrl-C again ends")
        shown.until("> ")
        shown.type(CTRL_C)
        code, rest = shown.end()
        assert code == 130
        assert "interrupted" in rest
        assert "Traceback" not in rest


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.long
def test_two_rounds_stand_side_by_side_where_there_is_room(columns: int, adapters: Path, align: Align) -> None:
    options = ("--round", "2", "--beside", "initial", "--max-new-tokens", "4")
    done = align("chat", "run", "--json", *options, cwd=adapters, stdin="the hotel\n")
    trained, initial = json.loads(done.out)["answers"].values()
    with terminal("chat", "run", *options, cwd=adapters, columns=columns) as shown:
        assert "there is no chat template: each text is gone on with by itself" in shown.until("> ")
        shown.type("the hotel\r")
        lines = [line.split() for line in shown.until("\n> ").splitlines()]
        both, apart = [*trained.split(), *initial.split()], [trained.split(), initial.split()]
        if columns == 140:
            assert ["round", "2", "round", "0"] in lines
            assert both in lines
        else:
            assert ["round", "2", "round", "0"] not in lines
            assert [line for line in lines if line in (["round", "2:"], ["round", "0:"], *apart)] == [
                ["round", "2:"], apart[0], ["round", "0:"], apart[1],
            ]  # fmt: skip
        shown.type(CTRL_D)
        assert shown.end()[0] == 0
