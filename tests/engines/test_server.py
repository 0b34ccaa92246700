"""The engine `server` against a real HTTP server that samples a real model, and goes wrong in one way at a time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from text_server import TextServer

from align_cli.engines import build_engine
from align_cli.engines.base import Request, Sample, SamplingSettings, sampling_settings
from align_cli.engines.in_process import TransformersEngine
from align_cli.engines.server.folders import WeightFolders
from align_cli.errors import EngineError
from align_cli.models.load import Policy, load_policy
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.playground import world
from align_cli.recipe import Recipe, load_recipe
from align_cli.seeds import derive_seed
from align_cli.servers import endpoint

RECIPE = """\
output_dir: run
num_threads: 1
policy: {model_name_or_path: MODEL}
data: {prompts: playground, preferences: playground}
labelers: {hidden: {kind: function, function: "align_cli.playground:hidden_reward"}}
method: {sources: {offline: {mixing: 0.5}, dpr: {mixing: 0.5, gradient: GRADIENT, labeler: hidden}}}
generate: {engine: server, max_new_tokens: 12, server: {base_urls: URLS, update: as_is, max_retries: 2}}
train: {steps_per_round: 1}
"""
NUM_PROMPTS, K = 12, 2


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.02)


@pytest.fixture(scope="module")
def warm_folder(warm_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warm policy as a folder."""
    folder = tmp_path_factory.mktemp("warm-folder")
    warm_policy.save_weights(folder)
    warm_policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def requests(warm_policy: Policy) -> list[Request]:
    ids = [warm_policy.tokenizer(row["prompt"])["input_ids"] for row in world.prompts(0, NUM_PROMPTS)]
    return [Request(one, derive_seed(0, 1, "test", at, k)) for at, one in enumerate(ids) for k in range(K)]


class Sampling:
    """The engine of a recipe, and what became of one sampling.

    Args:
        recipe: with the engine `server`.
        policy: what is sampled.
        requests: what is asked for.
    """

    def __init__(self, recipe: Recipe, policy: Policy, requests: list[Request]) -> None:
        self.notes: list[str] = []
        self.engine = build_engine(recipe, self.notes.append)
        self.settings = sampling_settings(recipe.generate)
        self._policy, self._requests = policy, requests

    def samples(self, done: dict[int, Sample] | None = None) -> dict[int, Sample]:
        batches = self.engine.generate(self._policy, self._requests, self.settings, done=done or {})
        return dict(one for batch in batches for one in batch)

    def settled(self) -> Any:
        samples = self.samples()
        ordered = [samples[at] for at in range(len(self._requests))]
        return self.engine.settle(self._policy, self._requests, ordered, self.settings)


@pytest.fixture
def sampling(
    warm_policy: Policy, requests: list[Request], warm_folder: Path, tmp_path: Path
) -> Callable[..., Sampling]:
    """`sampling(server, "generate.temperature=0.7", gradient=0)`: of the warm policy, by these servers."""

    def make(*servers: TextServer | str, gradient: float = 0.3, overrides: tuple[str, ...] = ()) -> Sampling:
        urls = [one if isinstance(one, str) else one.url for one in servers]
        text = RECIPE.replace("MODEL", str(warm_folder)).replace("GRADIENT", str(gradient)).replace("URLS", str(urls))
        (tmp_path / "recipe.yaml").write_text(text)
        return Sampling(load_recipe(tmp_path / "recipe.yaml", overrides), warm_policy, requests)

    return make


def of_the_server(
    policy: Policy, asked: list[dict[str, Any]], settings: SamplingSettings
) -> dict[tuple[int, ...], list[Sample]]:
    """What a server that keeps to every word answers to these bodies, by prompt."""
    found = {}
    for body in asked:
        requests = [Request(body["prompt"], body["seed"] + number) for number in range(body["n"])]
        batches = TransformersEngine(1).generate(policy, requests, settings)
        found[tuple(body["prompt"])] = [sample for batch in batches for _, sample in batch]
    return found


def test_what_comes_is_what_the_server_sampled_in_the_order_of_the_requests(
    sampling: Callable[..., Sampling], warm_folder: Path, warm_policy: Policy, requests: list[Request]
) -> None:
    with TextServer(warm_folder) as server:
        one = sampling(server)
        settled = one.settled()
    wanted = of_the_server(warm_policy, server.asked[1:], one.settings)  # the first one tries the server
    for at, (request, sample) in enumerate(zip(requests, settled.samples, strict=True)):
        drawn = wanted[tuple(request.prompt_ids)][at % K]
        assert sample.token_ids == drawn.token_ids
        assert sample.logps == pytest.approx(drawn.logps)
        assert sample.finish_reason == drawn.finish_reason
        assert not sample.from_text
    figures = settled.figures
    assert figures["requests"] == NUM_PROMPTS == len(server.asked) - 1
    assert figures["logp_difference"]["largest"] < 1e-4
    assert abs(figures["logp_difference"]["kl"]) < 1e-5
    assert abs(figures["surprise"]["deviations"]) < 4
    assert figures["recomputed"] == figures["from_text"] == 0
    assert one.notes == []


def test_a_server_is_asked_once_which_models_it_has(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with TextServer(warm_folder) as server:
        sampling(server).samples()
    assert server.num_listed == 1


def test_a_form_that_a_server_does_not_take_is_known_by_the_status_and_not_by_words_of_the_answer(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder, faults={0: "403 the gateway has refused: 422"}) as server:
        with pytest.raises(EngineError, match="refused: 403"):
            sampling(server, gradient=0.0).samples()
        assert len(server.asked) == 1


def test_seeds_come_from_the_requests_and_lie_further_apart_than_there_are_responses(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    with TextServer(warm_folder) as server:
        samples = sampling(server).samples()
    bodies = {tuple(body["prompt"]): body for body in server.asked[1:]}
    assert {body["n"] for body in bodies.values()} == {K}
    for at in range(0, len(requests), K):
        seed = bodies[tuple(requests[at].prompt_ids)]["seed"]
        assert 0 <= requests[at].seed - seed <= K + 1
        assert [samples[at + number].seed for number in range(K)] == [seed, seed + 1]
    seeds = sorted(body["seed"] for body in bodies.values())
    assert all(later - earlier > K for earlier, later in pairwise(seeds))


def test_every_setting_of_sampling_is_said(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with TextServer(warm_folder) as server:
        sampling(server).samples()
    for body in server.asked:
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, -1, 0.0)
        assert (body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (1.0, 0.0, 0.0)
        assert body["stop_token_ids"]


def test_no_more_requests_are_under_way_than_the_recipe_says(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder, seconds=0.05) as server:
        sampling(server, overrides=("generate.server.concurrency=3",)).samples()
    assert server.most_at_once == 3


def test_what_is_there_is_not_asked_for_again(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    with TextServer(warm_folder) as server:
        whole = sampling(server).samples()
        asked = len(server.asked)
        kept = {at: sample for at, sample in whole.items() if at % 5}
        rest = sampling(server).samples(kept)
        owed = {tuple(requests[at].prompt_ids) for at in whole.keys() - kept.keys()}
    assert rest == {at: sample for at, sample in whole.items() if at not in kept}
    assert {tuple(body["prompt"]) for body in server.asked[asked + 1 :]} == owed


def test_where_everything_is_there_no_server_is_needed(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with TextServer(warm_folder) as server:
        whole = sampling(server).samples()
    assert sampling(server).samples(whole) == {}


@pytest.mark.parametrize("fault", ["429", "500", "503", "html", "half", "drop"])
def test_what_may_pass_is_asked_for_again(
    fault: str, sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    with TextServer(warm_folder, faults={3: fault, 4: fault, 9: fault}) as server:
        one = sampling(server, overrides=("generate.server.max_retries=8",))
        assert len(one.samples()) == len(requests)
        assert len(server.asked) == NUM_PROMPTS + 1 + 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500 boiler on fire", "and it answered 500 .*boiler on fire"),
        ("429", "and it answered 429"),
        ("html", "its answer cannot be read: it is no JSON: <html>"),
        ("half", "there was no connection, or it broke"),
    ],
)
def test_what_does_not_pass_ends_the_stage_with_what_the_server_said(
    fault: str, words: str, sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder, faults={0: fault}) as server, pytest.raises(EngineError, match=words):
        sampling(server).samples()


def test_a_server_that_fails_in_the_midst_is_given_up_after_its_retries_and_what_came_is_kept(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder, faults=dict.fromkeys(range(8, 99), "500")) as server:
        one, came = sampling(server, overrides=("generate.server.concurrency=1",)), list[int]()
        with pytest.raises(EngineError, match="failed 3 times in a row: it answered 500") as raised:
            for batch in one.engine.generate(one._policy, one._requests, one.settings):
                came += [at for at, _ in batch]
    assert len(came) == 6 * K
    assert "what it has answered so far is kept" in str(raised.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_is_refused_is_not_asked_for_again(
    status: int, sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    faults = dict.fromkeys(range(5, 99), f"{status} not like this")
    with TextServer(warm_folder, faults=faults) as server:
        with pytest.raises(EngineError, match="not like this"):
            sampling(server, overrides=("generate.server.concurrency=1",)).samples()
        assert len(server.asked) == 5


def test_a_server_that_dies_is_left_out_and_its_requests_go_to_the_other(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    drops = dict.fromkeys(range(3, 99), "drop")
    with TextServer(warm_folder, seconds=0.1) as alive, TextServer(warm_folder, faults=drops) as dying:
        one = sampling(alive, dying, overrides=("generate.server.concurrency=1",))
        settled = one.settled()
    assert len(settled.samples) == len(requests)
    assert settled.figures["left_out"] == [dying.url]
    assert any(f"the server at {dying.url} failed 3 times in a row" in note for note in one.notes)
    answered = {tuple(body["prompt"]) for body in [*alive.asked, *dying.asked[:2]]}
    assert answered == {tuple(request.prompt_ids) for request in requests}


def test_a_server_that_answers_nothing_from_the_beginning_is_left_out(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    with TextServer(warm_folder) as well, TextServer(warm_folder, faults={0: "500"}) as ill:
        one = sampling(ill, well)
        assert len(one.samples()) == len(requests)
    assert any(ill.url in note and "it answered 500" in note and "It is left out" in note for note in one.notes)


def test_where_all_servers_die_the_last_ones_fault_is_told(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    drops = dict.fromkeys(range(3, 99), "drop")
    words = r"no server is left of 2; .*there was no connection, or it broke"
    first, second = (TextServer(warm_folder, faults=drops) for _ in range(2))
    with first, second, pytest.raises(EngineError, match=words):
        # One request at a time: an answer that comes beside failures has a server's count of them begin anew.
        sampling(first, second, overrides=("generate.server.concurrency=1",)).samples()


@pytest.mark.long
def test_a_slow_server_does_not_hold_the_others(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with TextServer(warm_folder) as quick, TextServer(warm_folder, seconds=1.5) as slow:
        one = sampling(quick, slow, overrides=("generate.server.concurrency=1",))
        began = time.monotonic()
        one.samples()
        took = time.monotonic() - began
    assert len(quick.asked) > len(slow.asked)
    assert took < 1.5 * (len(slow.asked) + 2), "the slow one's own requests and nothing more"
    assert len(slow.asked) <= 4


@pytest.mark.parametrize("url", ["http://no-such-host.invalid:8000/v1", "http://127.0.0.1:9/v1"])
def test_a_server_that_is_not_there_is_told_of_before_anything_is_loaded(
    url: str, sampling: Callable[..., Sampling]
) -> None:
    with pytest.raises(EngineError, match=r"there was no connection, or it broke") as raised:
        sampling(url, overrides=("generate.server.max_retries=0",)).engine.check()
    assert url in str(raised.value)
    assert "generate.server.base_urls" in str(raised.value)


def test_of_several_servers_one_that_is_not_there_is_left_out(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    with TextServer(warm_folder) as server:
        one = sampling("http://127.0.0.1:9/v1", server)
        one.engine.check()
        assert len(one.samples()) == len(requests)
    assert any("http://127.0.0.1:9/v1" in note and "left out" in note for note in one.notes)


def edited(**changes: Callable[[dict[str, Any]], Any]) -> Callable[[Any, Any], Any]:
    """An answer in which each choice has other values of these keys; made of the choice."""

    def wrong(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if "choices" in answer:
            for choice in answer["choices"]:
                choice |= {key: change(choice) for key, change in changes.items()}
        return answer

    return wrong


def with_logprobs(change: Callable[[list[float]], list[Any]]) -> Callable[[Any, Any], Any]:
    return edited(logprobs=lambda one: {"token_logprobs": change(one["logprobs"]["token_logprobs"])})


def without_its_end(choice: dict[str, Any]) -> list[int]:
    return choice["token_ids"][:-1] if choice["finish_reason"] == "stop" else choice["token_ids"]


def other_tokens(choice: dict[str, Any]) -> dict[str, Any]:
    return {**choice["logprobs"], "tokens": [f"token_id:{1 + one}" for one in choice["token_ids"]]}


def one_more(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if "choices" in answer:
        answer["choices"].append({**answer["choices"][0], "index": len(answer["choices"])})
    return answer


def all_equal(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if "choices" in answer:
        answer["choices"] = [{**answer["choices"][0], "index": number} for number in range(len(answer["choices"]))]
    return answer


def counting_more(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if "usage" in answer:
        answer["usage"]["prompt_tokens"] += 1
        edited(prompt_token_ids=lambda one: None)(body, answer)
    return answer


def other_tokenizer(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": [*answer["tokens"], 7]} if "tokens" in answer else answer


WRONG = {
    "another prompt is echoed": (
        edited(prompt_token_ids=lambda one: [*one["prompt_token_ids"][:-1], 3]),
        r"read another prompt than the one that it was sent: id \d+ of \d+ is 3 instead of \d+",
    ),
    "a longer prompt is echoed": (
        edited(prompt_token_ids=lambda one: [1, *one["prompt_token_ids"]]),
        "read another prompt than the one that it was sent",
    ),
    "a longer prompt is counted": (counting_more, r"read a prompt of \d+ tokens as one of \d+"),
    "a log-probability is missing": (with_logprobs(lambda logps: logps[:-1]), r"gave \d+ log-probabilit\w+ of \d+ tok"),
    "there are more log-probabilities": (with_logprobs(lambda logps: [*logps, -1.0]), r"gave \d+ log-probabilities of"),
    "a log-probability is above 0": (with_logprobs(lambda logps: [0.5, *logps[1:]]), "gave 0.5 as a log-probability"),
    "a log-probability is nothing": (with_logprobs(lambda logps: [None, *logps[1:]]), "gave None as a log-probability"),
    "log-probabilities are of others": (
        edited(logprobs=other_tokens),
        "log-probabilities of other tokens than its own",
    ),
    "the end is missing": (
        edited(token_ids=without_its_end, logprobs=lambda one: None),
        "ended by itself, and its last",
    ),
    "a response goes on": (
        edited(token_ids=lambda one: [*one["token_ids"][:2], 1, *one["token_ids"][2:]][:12], logprobs=lambda one: None),
        r"went on behind token 3 of a response, 1, which ends it|says that a response",
    ),
    "a response is cut early": (
        edited(
            token_ids=lambda one: one["token_ids"][:3], finish_reason=lambda one: "length", logprobs=lambda one: None
        ),
        "says that a response was cut at 12 tokens, and it has 3",
    ),
    "a response ended for another reason": (edited(finish_reason=lambda one: "abort"), "for the reason 'abort'"),
    "a token is unknown": (
        edited(token_ids=lambda one: [99999, *one["token_ids"][1:]], logprobs=lambda one: None),
        "gave the token id 99999, and the policy has",
    ),
    "there is one more": (one_more, "gave 3 responses where 2 were asked for"),
    "all are equal": (all_equal, r"all responses to a prompt are equal for \d+ of 12 prompts"),
    "another tokenizer": (other_tokenizer, "has another tokenizer than the policy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_server_gets_wrong_is_named(name: str, sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    wrong, words = WRONG[name]
    with TextServer(warm_folder, wrong=wrong) as server, pytest.raises(EngineError, match=words) as raised:
        sampling(server).settled()
    assert raised.value.faults[0].where == "generate.server"
    assert raised.value.faults[0].hint


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ({"top_k": 1}, "the answers are greedy|other settings of sampling"),
        ({"temperature": 0.6}, "likelier than draws as they were asked for|other settings of sampling"),
        ({"top_p": 0.5}, "likelier than draws as they were asked for|other settings of sampling"),
        ({"temperature": 2.5}, "less likely than draws as they were asked for|other settings of sampling"),
    ],
)
@pytest.mark.parametrize("gives_logps", [True, False])
def test_other_sampling_than_was_asked_for_is_seen(
    by: dict[str, Any], words: str, gives_logps: bool, sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    wrong = edited() if gives_logps else edited(logprobs=lambda one: None)
    with TextServer(warm_folder, wrong=wrong, sampling=by) as server, pytest.raises(EngineError, match=words):
        sampling(server).settled()


def test_greedy_answers_are_called_so(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    greedy = TextServer(warm_folder, wrong=edited(logprobs=lambda one: None), sampling={"top_k": 1})
    with greedy as server, pytest.raises(EngineError, match=r"100.0% of the tokens are the likeliest ones, where \d+"):
        sampling(server).settled()


@pytest.mark.parametrize(
    "overrides",
    [("generate.temperature=0.7",), ("generate.top_k=5",), ("generate.top_p=0.8", "generate.temperature=1.3")],
)
def test_what_was_asked_for_is_not_taken_for_wrong(
    overrides: tuple[str, ...], sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder) as server:
        settled = sampling(server, gradient=0.0, overrides=overrides).settled()
    assert settled.figures["logp_difference"]["largest"] < 1e-3
    assert abs(settled.figures["surprise"]["deviations"]) < 4


def test_log_probabilities_that_lack_are_made_by_the_trainer(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder) as server:
        given = sampling(server).settled()
    with TextServer(warm_folder, wrong=edited(logprobs=lambda one: None)) as server:
        made = sampling(server).settled()
    assert made.figures["recomputed"] == len(made.samples)
    assert "logp_difference" not in made.figures
    for one, other in zip(given.samples, made.samples, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logps == pytest.approx(other.logps, abs=1e-4)


def test_log_probabilities_that_lie_too_far_off_are_made_by_the_trainer(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    def lower(logps: list[float]) -> list[float]:
        return [logp - 0.1 for logp in logps]

    with TextServer(warm_folder, wrong=with_logprobs(lower)) as server:
        kept = sampling(server, overrides=("generate.server.max_logp_difference=2",)).settled()
        strict = sampling(server, overrides=("generate.server.max_logp_difference=0.5",))
        made = strict.settled()
    assert kept.figures["recomputed"] == 0
    assert kept.figures["logp_difference"]["kl"] == pytest.approx(-0.1, abs=1e-3)
    assert made.figures["recomputed"] == len(made.samples)
    assert any("max_logp_difference is 0.5" in note for note in strict.notes)
    for one, other in zip(kept.samples, made.samples, strict=True):
        assert [logp + 0.1 for logp in one.logps] == pytest.approx(other.logps, abs=1e-3)


def test_as_many_responses_are_compared_as_the_recipe_says(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    with TextServer(warm_folder) as server:
        few = sampling(server, overrides=("generate.server.compared_responses=6",)).settled()
        whole = sampling(server, overrides=("generate.server.compared_responses=null",)).settled()
    assert few.figures["compared_responses"] == 6
    assert whole.figures["compared_responses"] == len(requests)


def test_a_server_that_ignores_n_is_asked_for_one_response_at_a_time(
    sampling: Callable[..., Sampling], warm_folder: Path, requests: list[Request]
) -> None:
    def first_alone(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "choices": answer["choices"][:1]} if "choices" in answer else answer

    with TextServer(warm_folder) as whole, TextServer(warm_folder, wrong=first_alone) as single:
        assert sampling(single).samples() == sampling(whole).samples()
    assert [body["n"] for body in single.asked] == [2] + [1] * len(requests)


def test_a_server_that_gives_fewer_responses_later_on_is_refused(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    def fewer(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        is_later = "choices" in answer and len(server.asked) > 1
        return {**answer, "choices": answer["choices"][:1]} if is_later else answer

    words = "gave 1 response where 2 were asked for"
    with TextServer(warm_folder, wrong=fewer) as server, pytest.raises(EngineError, match=words):
        sampling(server).samples()


def test_other_weights_than_the_policys_are_refused_before_the_round(
    sampling: Callable[..., Sampling], tiny_policy_folder: Path
) -> None:
    with TextServer(tiny_policy_folder) as server:
        with pytest.raises(EngineError, match=r"differ by \d\.\d+ nats a token over the same responses"):
            sampling(server).samples()
        assert len(server.asked) == 1


def test_a_context_that_is_too_short_is_refused_before_the_round(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder, longest=14) as server:
        with pytest.raises(EngineError, match="reads 14 tokens; the longest prompt has"):
            sampling(server).samples()
        assert server.asked == []


def test_a_model_that_the_server_has_not_is_refused_with_those_that_it_has(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder) as server, pytest.raises(EngineError, match="has no model 'mine'; it has policy"):
        sampling(server, overrides=("generate.server.model=mine",)).samples()


def test_text_alone_is_refused_where_the_method_needs_what_was_sampled(
    sampling: Callable[..., Sampling], warm_folder: Path
) -> None:
    with TextServer(warm_folder, takes="text", name=str(warm_folder)) as server:
        words = r"gives text and no token ids .*Unexpected fields.*method\.sources\.dpr\.gradient the method needs"
        with pytest.raises(EngineError, match=words):
            sampling(server, overrides=(f"generate.server.model={warm_folder}",)).samples()


def test_text_alone_is_tokenised_and_marked(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with TextServer(warm_folder) as server:
        sampled = sampling(server, gradient=0.0).settled()
    with TextServer(warm_folder, takes="text", name=str(warm_folder)) as server:
        one = sampling(server, gradient=0.0, overrides=(f"generate.server.model={warm_folder}",))
        settled = one.settled()
        assert all(isinstance(body["prompt"], str) and "n" not in body for body in server.asked[1:])
    assert settled.figures["from_text"] == settled.figures["recomputed"] == len(settled.samples)
    assert all(sample.from_text and len(sample.logps) == len(sample.token_ids) for sample in settled.samples)
    assert {sample.finish_reason for sample in settled.samples} >= {"length"}
    assert any("responses are tokenised anew" in note for note in one.notes)
    assert sampled.figures["from_text"] == 0


@contextmanager
def adapted(server: TextServer, tmp_path: Path, update: str = "") -> Iterator[tuple[Sampling, Recipe]]:
    """A policy that is an adapter on the server's model."""
    text = RECIPE.replace("{model_name_or_path: MODEL}", f"{{model_name_or_path: {server.folder}, lora: {{rank: 2}}}}")
    text = text.replace("GRADIENT", "0.3").replace("URLS", str([server.url])).replace(", update: as_is", update)
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    policy = load_recipe_policy(recipe)
    ids = [policy.tokenizer(row["prompt"])["input_ids"] for row in world.prompts(0, 4)]
    yield Sampling(recipe, policy, [Request(one, 64 * at) for at, one in enumerate(ids)]), recipe


def train_a_little(policy: Any, version: str) -> None:
    for name, parameter in policy.model.named_parameters():
        if "lora_B.policy" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    policy.version = version


def test_for_a_new_server_an_adapter_is_added_to_its_base(warm_folder: Path, tmp_path: Path) -> None:
    with TextServer(warm_folder) as server, adapted(server, tmp_path) as (one, recipe):
        train_a_little(one._policy, "0123456789abcdef")
        folders = WeightFolders(recipe.policy, lambda: tmp_path / "servers")
        folder = folders.whole(one._policy)
        names = {path.name for path in folder.iterdir()}
        whole = load_policy(folder)
    ids = torch.tensor([one._requests[0].prompt_ids])
    with torch.no_grad():
        found, wanted = (policy.model(ids).logits for policy in (whole, one._policy))
        base = load_policy(warm_folder).model(ids).logits
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, base, atol=1e-2)
    assert not any(name.startswith("adapter") or "optimizer" in name for name in names)
    assert whole.eos_token_ids == one._policy.eos_token_ids
    folders.clear()
    assert list((tmp_path / "servers").iterdir()) == []


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_adapter_is_loaded_under_a_new_name_each_round_and_unloaded_after(
    kind: str, warm_folder: Path, tmp_path: Path
) -> None:
    with TextServer(warm_folder, adapters=kind) as server, adapted(server, tmp_path) as (one, _):
        assert one.settled().figures["logp_difference"]["largest"] < 1e-3
        assert server.num_listed == 1
        one.engine.release()
        before = {name for name in server._policies if name != "policy"}
        train_a_little(one._policy, "0123456789abcdef")
        figures = one.settled().figures
        during = {name for name in server._policies if name != "policy"}
        one.engine.release()
        after = {name for name in server._policies if name != "policy"}
    assert figures["logp_difference"]["largest"] < 1e-3
    assert before == after == set()
    assert len(during) == 1
    loads = [
        body["lora_name"] for path, body in server.told if path.endswith("/load_lora_adapter") and "lora_path" in body
    ]
    assert len(set(loads)) == 2
    assert {body["model"].rpartition(":")[2] for body in server.asked} == set(loads)


def test_an_adapter_that_a_killed_run_left_behind_is_unloaded(warm_folder: Path, tmp_path: Path) -> None:
    with TextServer(warm_folder, adapters="vllm") as server:
        with adapted(server, tmp_path) as (one, _):
            one.samples()
            left = {name for name in server._policies if name != "policy"}
        with adapted(server, tmp_path) as (one, _):
            train_a_little(one._policy, "fedcba9876543210")
            one.samples()
            now = {name for name in server._policies if name != "policy"}
    assert len(left) == len(now) == 1
    assert left != now


def test_a_server_that_loads_no_adapters_is_refused(warm_folder: Path, tmp_path: Path) -> None:
    refused = pytest.raises(EngineError, match="loads no adapters while it runs")
    with TextServer(warm_folder) as server, adapted(server, tmp_path) as (one, _), refused:
        one.samples()


def test_whole_weights_are_reloaded_from_a_folder(
    sampling: Callable[..., Sampling], tiny_policy_folder: Path, warm_policy: Policy
) -> None:
    with TextServer(tiny_policy_folder, reloads=True) as server:
        one = sampling(server, overrides=("generate.server.update=reload",))
        assert one.settled().figures["logp_difference"]["largest"] < 1e-4
    assert [path for path, _ in server.told] == ["/update_weights_from_disk"]


def test_a_server_that_reloads_nothing_is_refused(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with TextServer(warm_folder) as server, pytest.raises(EngineError, match="loads no other weights while it runs"):
        sampling(server, overrides=("generate.server.update=reload",)).samples()


def test_who_stops_taking_samples_ends_the_requests(sampling: Callable[..., Sampling], warm_folder: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(TextServer(warm_folder, seconds=0.2))
        one = sampling(server, overrides=("generate.server.concurrency=1",))
        batches = one.engine.generate(one._policy, one._requests, one.settings)
        next(batches)
        batches.close()
        asked = len(server.asked)
        time.sleep(0.5)
        assert len(server.asked) <= asked + 1


@pytest.mark.long
def test_servers_that_stay_are_started_anew_where_one_has_ended_between_two_stages(
    sampling: Callable[..., Sampling], requests: list[Request], tmp_path: Path
) -> None:
    script = Path(__file__).parent.parent / "text_server.py"
    command = f"{sys.executable} {script} {{model}} --port {{port}} --pids {tmp_path}/pids"
    one = sampling(overrides=(f"generate.server.command={command}", "generate.server.update=as_is"))
    first = one.samples()
    one.engine.release()
    assert one.samples() == first
    (pid,) = (tmp_path / "pids").read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    one.engine._fleet._started[0]._keeper.wait(20)
    one.engine.release()
    assert one.samples() == first
    assert len((tmp_path / "pids").read_text().split()) == 2
    one.engine._fleet.stop()
