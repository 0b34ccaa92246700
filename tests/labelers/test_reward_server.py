"""A reward server through the public labeler, as vLLM, SGLang and kin answer; and every answer that is no reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, chat_tokenizer
from judge_server import Answering, Body, JudgeServer

from align_cli.errors import LabelerError
from align_cli.labelers import Scorer, build_labeler
from align_cli.recipe.sections.labelers import RewardServerLabelerSection
from align_cli.servers import endpoint

PROMPTS = ["What is two?", [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}], "Why?"]
COMPLETIONS = ["a number", [{"role": "assistant", "content": "me"}], ""]
LENGTHS = [8.0, 2.0, 0.0]
Make = Callable[..., Scorer]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def serve() -> Iterator[Callable[..., JudgeServer]]:
    servers: list[JudgeServer] = []

    def start(answering: Answering, faults: dict[int, str] | None = None) -> JudgeServer:
        servers.append(JudgeServer(answering, faults or {}, base="").__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def make(server: JudgeServer, **keys: Any) -> Scorer:
    section = RewardServerLabelerSection(kind="reward_server", url=server.root, model="rm", **keys)
    labeler = build_labeler("r", section)
    assert isinstance(labeler, Scorer)
    return labeler


def said_in(body: Body) -> list[str]:
    """The completions of a request, in whatever form it asks."""
    if "messages" in body:
        return [body["messages"][-1]["content"]]
    if "text_2" in body:
        return list(body["text_2"])
    return [text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n") for text in body["input"]]


def items(body: Body, name: str, wrap: Callable[[float], Any]) -> tuple[int, Any]:
    found = [{"index": i, name: wrap(float(len(text)))} for i, text in enumerate(said_in(body))]
    return 200, {"data": found[::-1]}  # the index says which is whose


ENDPOINTS: dict[str, Callable[[Body], tuple[int, Any]]] = {
    "classify": lambda body: items(body, "probs", lambda r: [r]),
    "pooling": lambda body: items(body, "data", lambda r: [r]),
    "score": lambda body: items(body, "score", lambda r: r),
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_each_endpoint_is_asked_as_it_is_served(name: str, serve: Callable[..., JudgeServer]) -> None:
    server = serve(lambda path, body: ENDPOINTS[name](body))
    assert make(server, endpoint=name).score(PROMPTS, COMPLETIONS) == LENGTHS
    assert {one.path for one in server.asked} == {f"/{name}"}
    assert all(one.body["model"] == "rm" for one in server.asked)


def test_conversations_go_out_as_messages_and_texts_side_by_side(serve: Callable[..., JudgeServer]) -> None:
    server = serve(lambda path, body: ENDPOINTS[path[1:]](body))
    make(server, concurrency=1).score(PROMPTS, COMPLETIONS)
    assert [one.body["messages"] for one in server.asked][:2] == [
        [{"role": "user", "content": "What is two?"}, {"role": "assistant", "content": "a number"}],
        [*PROMPTS[1], *COMPLETIONS[1]],
    ]
    make(server, endpoint="score", batch_size=2, extra_body={"use_activation": False}).score(PROMPTS, COMPLETIONS)
    bodies = sorted((one.body for one in server.asked[3:]), key=lambda body: -len(body["text_1"]))
    assert bodies[0]["text_1"] == ["What is two?", "Be short.\nWho?"]
    assert bodies[0]["use_activation"] is False
    assert bodies[1]["text_2"] == [""]


def test_with_a_tokenizer_several_texts_go_out_in_one_request(
    serve: Callable[..., JudgeServer], tmp_path: Path
) -> None:
    chat_tokenizer(CHATML).save_pretrained(tmp_path / "rm")
    server = serve(lambda path, body: ENDPOINTS[path[1:]](body))
    assert make(server, tokenizer=str(tmp_path / "rm"), batch_size=3).score(PROMPTS, COMPLETIONS) == LENGTHS
    assert len(server.asked) == 1
    assert server.asked[0].body["input"][0].startswith("<|im_start|>user\nWhat is two?<|im_end|>")


def test_an_embedding_of_one_number_as_sglang_sends_it_is_a_reward_and_reverse_turns_it(
    serve: Callable[..., JudgeServer],
) -> None:
    server = serve(lambda path, body: (200, [{"embedding": [float(len(text))]} for text in said_in(body)]))
    assert make(server, reverse=True).score(PROMPTS, COMPLETIONS) == [-length for length in LENGTHS]


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (
            {"data": [{"index": 0, "probs": [0.2, 0.8], "label": "good", "num_classes": 2}]},
            "2 numbers for one completion",
        ),
        ({"data": [{"index": 0, "probs": ["high"]}]}, "no reward: high"),
        ({"data": [{"index": 0, "probs": [None]}]}, "no reward: None"),
        ({"data": [{"index": 0, "probs": [True]}]}, "no reward: True"),
        ({"data": [{"index": 0, "probs": [float("nan")]}]}, "no reward: nan"),
        ({"data": [{"index": 0, "probs": []}]}, "0 numbers for one completion"),
        ({"data": [{"index": 0, "score": 0.5}]}, "no reward: {'index': 0, 'score': 0.5}"),
        ({"data": [{"probs": [1.0]}, {"probs": [1.0]}]}, "2 for 1 completion"),
    ],
)
def test_what_is_no_reward_is_refused_at_once(answer: Any, what: str, serve: Callable[..., JudgeServer]) -> None:
    server = serve(lambda path, body: (200, answer))
    with pytest.raises(LabelerError) as error:
        make(server, concurrency=1).check(PROMPTS)
    (fault,) = error.value.faults
    assert fault.where == "labelers.r"
    assert what in fault.what
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["429", "500", "empty", "half", "half json", "drop"])
def test_a_fault_that_passes_is_asked_again(fault: str, serve: Callable[..., JudgeServer]) -> None:
    server = serve(lambda path, body: ENDPOINTS["classify"](body), {2: fault})
    assert make(server).score(PROMPTS, COMPLETIONS) == LENGTHS
    assert len(server.asked) == 4


def test_a_fault_that_stays_stops(serve: Callable[..., JudgeServer]) -> None:
    server = serve(lambda path, body: ENDPOINTS["classify"](body), dict.fromkeys(range(1, 99), "500"))
    with pytest.raises(LabelerError, match="was asked 2 times"):
        make(server, concurrency=1, max_retries=1).score(PROMPTS, COMPLETIONS)
    assert len(server.asked) == 2


def test_a_path_that_is_not_there_says_so(serve: Callable[..., JudgeServer]) -> None:
    server = serve(lambda path, body: (404, {"detail": "Not Found"}))
    server.models = None
    with pytest.raises(LabelerError) as error:
        make(server).score(PROMPTS, COMPLETIONS)
    (fault,) = error.value.faults
    assert (fault.where, "404" in fault.what) == ("labelers.r.url", True)
