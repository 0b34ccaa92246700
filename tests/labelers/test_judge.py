"""A judge through the public labeler, against a server on loopback that counts every request and can go wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import (
    SCORE_TEMPLATE,
    TEMPLATE,
    Answering,
    Body,
    JudgeServer,
    chat,
    first_wins,
    length_scores,
    longer_wins,
)

from align_cli.artifacts.answers import Answers
from align_cli.errors import LabelerError
from align_cli.labelers import Comparer, Scorer, build_labeler
from align_cli.labelers.verdicts import Pair, Verdicts
from align_cli.recipe.sections.labelers import JudgeLabelerSection
from align_cli.servers import endpoint
from align_cli.servers.pace import Pace

Make = Callable[..., Any]
Serve = Callable[..., JudgeServer]

PROMPTS, FIRSTS, SECONDS = ["p1", "p2", "p3"], ["aaaa", "b", "cc"], ["a", "bbb", "dd"]
WINNERS = [1.0, 0.0, 0.5]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between retries are short; how long they are is told in `test_pace`."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(answering, faults)` is a server, up to the end of the test."""
    servers: list[JudgeServer] = []

    def start(answering: Answering = longer_wins, faults: dict[int, str] | None = None, **options: Any) -> JudgeServer:
        servers.append(JudgeServer(answering, faults or {}, **options).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(server, **keys)` is a judge that asks this server, one request at a time, and keeps answers in a file."""
    (tmp_path / "pairwise.txt").write_text(TEMPLATE, encoding="utf-8")
    (tmp_path / "score.txt").write_text(SCORE_TEMPLATE, encoding="utf-8")

    def build(server: JudgeServer, notes: list[str] | None = None, **keys: Any) -> Any:
        template = str(tmp_path / f"{keys.pop('template', 'pairwise')}.txt")
        defaults = {"base_url": server.url, "model": "judge", "template": template, "concurrency": 1}
        section = JudgeLabelerSection(kind="judge", **{**defaults, **keys})
        return build_labeler("j", section, (notes if notes is not None else []).append, answers_in(tmp_path))

    return build


def answers_in(folder: Path) -> Answers:
    return Answers(folder / "answers" / "j.jsonl")


def fault_of(error: pytest.ExceptionInfo[LabelerError]) -> tuple[str, str, str]:
    fault = error.value.faults[0]
    return fault.where, fault.what, fault.hint


def test_a_pairwise_template_makes_a_comparer_and_one_for_scores_a_scorer(make: Make, serve: Serve) -> None:
    judge, scoring = make(serve()), make(serve(length_scores), template="score")
    assert isinstance(judge, Comparer) and judge.compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert isinstance(scoring, Scorer) and scoring.score(PROMPTS, FIRSTS) == [4.0, 1.0, 2.0]


def test_each_pair_is_shown_in_both_orders_and_what_the_judge_hears_is_the_template_filled_in(
    make: Make, serve: Serve
) -> None:
    server = serve()
    make(server).compare(PROMPTS[:1], FIRSTS[:1], SECONDS[:1])
    assert server.questions == ["p1|aaaa|a", "p1|a|aaaa"]
    body = server.asked[0].body
    assert {name: body[name] for name in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "judge", "temperature": 0.0, "max_tokens": 1024, "seed": 0,
    }  # fmt: skip


def test_a_judge_that_looks_at_the_position_alone_says_tie_and_has_its_bias_in_the_figures(
    make: Make, serve: Serve
) -> None:
    judge = make(serve(first_wins))
    assert judge.compare(PROMPTS, FIRSTS, SECONDS) == [0.5, 0.5, 0.5]
    figures = judge.figures(judge.take_counts())
    assert (figures["position_bias"], figures["order_flip_share"], figures["tie_share"]) == (0.5, 1.0, 0.0)


def test_in_one_order_a_pair_and_its_mirror_image_are_one_question(make: Make, serve: Serve) -> None:
    server = serve(first_wins)
    judge = make(server, orders="one")
    prompts, firsts, seconds = (
        [f"p{n}" for n in range(40)],
        [f"a{n}" for n in range(40)],
        [f"b{n}" for n in range(40)],
    )
    verdicts = judge.compare(prompts, firsts, seconds)
    assert judge.compare(prompts, seconds, firsts) == [1 - verdict for verdict in verdicts]
    assert len(server.asked) == 40
    assert 8 < sum(verdicts) < 32  # drawn by content: neither side is always shown first


def test_votes_are_averaged_and_each_has_a_seed_of_its_own(make: Make, serve: Serve) -> None:
    def by_seed(path: str, body: Body) -> tuple[int, Body]:
        return 200, chat(body, "[[A]]" if body["seed"] % 4 < 3 else "[[B]]")

    server = serve(by_seed)
    judge = make(server, orders="one", votes=4, temperature=0.7, seed=8)
    (verdict,) = judge.compare(["p"], ["a"], ["b"])
    assert verdict in (0.75, 0.25)  # by which side was shown first
    assert [one.body["seed"] for one in server.asked] == [8, 9, 10, 11]


def test_completions_that_read_the_same_are_a_tie_and_not_asked_about(make: Make, serve: Serve) -> None:
    server = serve()
    assert make(server).compare(["p"], ["same"], [[{"role": "assistant", "content": "same"}]]) == [0.5]
    assert server.asked == []


def test_conversations_are_read_with_their_roles_and_braces_in_texts_are_text(make: Make, serve: Serve) -> None:
    server = serve()
    chat_prompt = [{"role": "system", "content": "Be {first}."}, {"role": "user", "content": "What is {0}?"}]
    make(server, orders="one").compare([chat_prompt], ['{"a": {prompt}}'], ["{second} {{x}} \\1"])
    (question,) = server.questions
    shown = question.split("|")
    assert shown[0] == "system: Be {first}.\n\nuser: What is {0}?"
    assert set(shown[1:]) == {"{second} {{x}} \\1", '{"a": {prompt}}'}


@pytest.mark.parametrize("fault", ["429", "429 for a second", "500", "503", "empty", "half", "half json", "drop"])
def test_a_fault_that_passes_is_asked_again_and_counted(fault: str, make: Make, serve: Serve, tmp_path: Path) -> None:
    server = serve(longer_wins, {2: fault})
    judge = make(server)
    assert judge.compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    counts = judge.take_counts()
    assert (counts["calls"], counts["retries"], counts["answers"]) == (7, 1, 6)
    assert len(server.asked) == 7
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == server.tokens()
    assert calls_kept_in(tmp_path) == 7


@pytest.mark.parametrize("fault", ["nonsense", "third", "nothing"])
def test_an_answer_without_a_verdict_is_none_is_not_kept_and_is_paid_for(
    fault: str, make: Make, serve: Serve, tmp_path: Path
) -> None:
    server = serve(longer_wins, {1: fault, 2: fault, 3: fault})
    judge = make(server)
    assert judge.compare(PROMPTS, FIRSTS, SECONDS) == [None, 0.0, 0.5]
    counts = judge.take_counts()
    assert (counts["unparsable"], counts["answers"], counts["retries"]) == (3, 3, 0)
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == server.tokens()
    again = make(server)
    assert again.compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert len(server.asked) == 9  # the three that failed, once more
    assert tokens_kept_in(tmp_path) == server.tokens()


def test_what_is_kept_is_asked_for_never_again_and_its_tokens_count_as_when_it_came(make: Make, serve: Serve) -> None:
    server = serve(longer_wins, {3: "500"})
    first, second = make(server), make(server)
    assert first.compare(PROMPTS, FIRSTS, SECONDS) == second.compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert len(server.asked) == 7
    assert first.take_counts() == second.take_counts()


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": 7}, {"seed": 1}, {"extra_body": {"top_p": 0.5}}],
    ids=lambda change: next(iter(change)),
)
def test_an_answer_to_another_request_is_no_answer(change: dict[str, Any], make: Make, serve: Serve) -> None:
    server = serve()
    make(server).compare(PROMPTS[:1], FIRSTS[:1], SECONDS[:1])
    make(server, **change).compare(PROMPTS[:1], FIRSTS[:1], SECONDS[:1])
    assert len(server.asked) == 4


def test_another_address_way_or_budget_asks_for_nothing_again(make: Make, serve: Serve) -> None:
    make(serve()).compare(PROMPTS, FIRSTS, SECONDS)
    moved = serve()
    make(moved, concurrency=4, budget={"calls": 6}, max_retries=1).compare(PROMPTS, FIRSTS, SECONDS)
    assert moved.asked == []


def test_questions_that_are_the_same_are_asked_once(make: Make, serve: Serve) -> None:
    server = serve()
    assert make(server, concurrency=8).compare(["p"] * 5, ["aa"] * 5, ["a"] * 5) == [1.0] * 5
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [("500", "500"), ("429", "429"), ("empty", "it is empty"), ("half json", "it is no JSON"), ("drop", "broke")],
)
def test_a_fault_that_stays_stops_after_the_last_retry_and_says_what_came_is_kept(
    fault: str, said: str, make: Make, serve: Serve
) -> None:
    server = serve(longer_wins, dict.fromkeys(range(3, 100), fault))
    with pytest.raises(LabelerError) as error:
        make(server, max_retries=2).compare(PROMPTS, FIRSTS, SECONDS)
    where, what, hint = fault_of(error)
    assert (where, "asked 3 times" in what, said in what, "is kept" in hint) == ("labelers.j", True, True, True)
    assert len(server.asked) == 5
    mended = serve()
    assert make(mended).compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert len(mended.asked) == 4


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        ("400 max_tokens is not supported, use max_completion_tokens", "max_completion_tokens"),
        ("400 this model takes temperature 1 only", "temperature"),
        ("400 the maximum context length is 2048", "longer than the model can read"),
        ("401", "api_key_env"),
        ("403", "api_key_env"),
        ("429 insufficient_quota", "no money left"),
    ],
)
def test_a_refusal_is_not_asked_again_and_says_what_to_do(fault: str, hint: str, make: Make, serve: Serve) -> None:
    server = serve(longer_wins, {1: fault})
    with pytest.raises(LabelerError) as error:
        make(server).compare(PROMPTS, FIRSTS, SECONDS)
    assert hint in fault_of(error)[2]
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_a_server_that_does_not_answer_in_time_is_asked_again(fault: str, make: Make, serve: Serve) -> None:
    server = serve(longer_wins, {1: fault})
    assert make(server, timeout_seconds=0.3).compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert len(server.asked) == 7


def test_a_wait_that_a_server_asks_for_holds_all_requests(
    make: Make, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float] = []
    hold = Pace.hold
    monkeypatch.setattr(Pace, "hold", lambda pace, seconds: (held.append(seconds), hold(pace, seconds)))
    make(serve(longer_wins, {2: "429 for a second", 5: "429"})).compare(PROMPTS, FIRSTS, SECONDS)
    assert held == [1.0]


def test_a_wait_that_is_longer_than_ten_minutes_is_told_and_not_waited_for(make: Make, serve: Serve) -> None:
    server = serve(longer_wins, {1: "429 for a second"})
    judge = make(server)
    longest, endpoint.LONGEST_ASKED_SECONDS = endpoint.LONGEST_ASKED_SECONDS, 0.5
    try:
        with pytest.raises(LabelerError, match="it asks to wait for 1 seconds"):
            judge.compare(PROMPTS, FIRSTS, SECONDS)
    finally:
        endpoint.LONGEST_ASKED_SECONDS = longest
    assert len(server.asked) == 1


def test_a_model_that_is_not_served_names_those_that_are(make: Make, serve: Serve) -> None:
    server = serve(lambda path, body: (404, {"error": {"message": "no such model"}}), models=["judge-7b", "other"])
    with pytest.raises(LabelerError) as error:
        make(server).compare(PROMPTS, FIRSTS, SECONDS)
    assert fault_of(error)[0] == "labelers.j.model"
    assert fault_of(error)[2] == "the server has the models judge-7b, other"
    assert len(server.asked) == 1


def test_an_address_without_v1_is_told_before_anything_is_asked_and_when_it_is(make: Make, serve: Serve) -> None:
    server = serve()
    judge = make(server, base_url=server.root)
    for ask in (lambda: judge.check(PROMPTS), lambda: judge.compare(PROMPTS, FIRSTS, SECONDS)):
        with pytest.raises(LabelerError) as error:
            ask()
        assert fault_of(error)[0] == "labelers.j.base_url"
        assert fault_of(error)[2] == f"set it to {server.url}"
    assert server.asked == []


def test_a_check_asks_for_nothing_that_costs_and_tells_of_a_model_that_is_not_named(make: Make, serve: Serve) -> None:
    notes: list[str] = []
    server = serve(models=["another"])
    make(server, notes).check(PROMPTS)
    assert server.asked == []
    assert notes == ["labelers.j: judge is not among the models that the server names: another"]
    silent: list[str] = []
    make(serve(models=None), silent).check(PROMPTS)  # a server that names none
    make(serve(models=[500]), silent).check(PROMPTS)  # `transformers serve` without a cache of models
    assert silent == []


def test_a_check_finds_a_server_that_is_not_there(make: Make, serve: Serve) -> None:
    server = serve()
    judge = make(server, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(LabelerError, match="there was no connection") as error:
        judge.check(PROMPTS)
    assert "labelers.j.base_url" in fault_of(error)[2]


def test_a_key_is_read_from_its_variable_and_shown_nowhere(
    make: Make, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judge = make(serve(), api_key_env="MY_JUDGE")
    with pytest.raises(LabelerError) as error:
        judge.check(PROMPTS)
    assert fault_of(error)[:2] == ("labelers.j.api_key_env", "the environment variable MY_JUDGE is not set")
    monkeypatch.setenv("MY_JUDGE", "an ordinary phrase")
    server = serve(longer_wins, {7: "401 the key an ordinary phrase is wrong"})
    judge = make(server, api_key_env="MY_JUDGE")
    assert judge.compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert server.asked[0].headers["authorization"] == "Bearer an ordinary phrase"
    with pytest.raises(LabelerError) as error:
        judge.compare(["p4"], ["a"], ["b"])
    assert "ordinary" not in str(error.value)
    assert b"ordinary" not in (tmp_path / "answers" / "j.jsonl").read_bytes()


def test_without_a_variable_no_key_of_the_environment_is_sent(
    make: Make, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    server = serve()
    make(server).compare(PROMPTS, FIRSTS, SECONDS)
    assert all("of-another-service" not in json.dumps(one.headers) for one in server.asked)


def test_thinking_is_no_verdict_and_a_cut_answer_is_told(make: Make, serve: Serve) -> None:
    def thinks(path: str, body: Body) -> tuple[int, Body]:
        prompt = body["messages"][0]["content"].split("|")[0]
        if prompt == "cut":
            return 200, chat(body, "<think>is it [[A]]", "length")
        return 200, chat(body, "<think>is it [[B]]?</think>\n**[[A]]**")

    notes: list[str] = []
    judge = make(serve(thinks), notes, orders="one")
    verdicts = judge.compare(["whole", "cut"], ["a", "a"], ["b", "b"])
    assert verdicts[0] in (0.0, 1.0) and verdicts[1] is None
    assert judge.take_counts()["first_wins"] == 1
    assert notes == ["labelers.j: answers are cut before the verdict; max_tokens may be too low"]


def test_a_server_that_ignores_max_tokens_is_told_of_once(make: Make, serve: Serve) -> None:
    notes: list[str] = []
    server = serve(lambda path, body: (200, chat(body, "word " * 30 + "[[A]]")))
    judge = make(server, notes, max_tokens=5)
    judge.compare(PROMPTS, FIRSTS, SECONDS)
    assert notes == ["labelers.j: the server's answers are longer than max_tokens (31 > 5)"]
    assert judge.take_counts()["completion_tokens"] == server.tokens()[1] == 6 * 31


def test_a_budget_of_calls_is_never_exceeded_spans_runs_and_when_raised_goes_on(make: Make, serve: Serve) -> None:
    server = serve(longer_wins, {2: "500"})
    for _ in range(2):
        with pytest.raises(LabelerError) as error:
            make(server, concurrency=4, budget={"calls": 4}).compare(PROMPTS, FIRSTS, SECONDS)
        assert fault_of(error)[0] == "labelers.j.budget.calls"
        assert "the budget of 4 calls has run out" in fault_of(error)[1]
        assert len(server.asked) == 4
    assert make(server, budget={"calls": 7}).compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert len(server.asked) == 7


def test_a_budget_of_tokens_or_money_stops_before_the_next_request(make: Make, serve: Serve) -> None:
    server = serve()
    with pytest.raises(LabelerError, match=r"the budget of 9 tokens has run out: 10 tokens were used"):
        make(server, budget={"tokens": 9}).compare(PROMPTS, FIRSTS, SECONDS)
    assert len(server.asked) == 2  # of one token and four
    price = {"input": 1e6, "output": 2e6}
    with pytest.raises(LabelerError, match="the budget of 27 money has run out: 27 was spent"):
        make(server, budget={"money": 27.0}, price=price).compare(PROMPTS, FIRSTS, SECONDS)
    assert len(server.asked) == 3
    judge = make(server, price=price)
    assert judge.compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    assert judge.figures(judge.take_counts())["cost"] == 6 * (1 + 2 * 4)


def test_a_budget_is_of_one_model_and_not_of_who_else_answered_under_the_labelers_name(
    make: Make, serve: Serve, tmp_path: Path
) -> None:
    verdicts, pair = Verdicts(answers_in(tmp_path)), Pair.of("p1", "aaaa", "a")
    for number in range(5):
        verdicts.keep(pair, f"reader {number}", "first", "first")
    answers_in(tmp_path).keep({"of": "a kind of somebody else's"}, 0.5)
    server = serve(longer_wins, {2: "500", 3: "nonsense"})
    make(server, model="dearer", max_unparsable=1.0).compare(PROMPTS, FIRSTS, SECONDS)
    assert len(server.asked) == 7
    assert make(server, budget={"calls": 6}).compare(PROMPTS, FIRSTS, SECONDS) == WINNERS
    with pytest.raises(LabelerError, match=r"the budget of 6 calls has run out: 6 requests"):
        make(server, budget={"calls": 6}).compare(["p4"], ["a"], ["b"])
    with pytest.raises(LabelerError, match=r"the budget of 7 calls has run out: 7 requests"):
        make(server, model="dearer", budget={"calls": 7}).compare(["p4"], ["a"], ["b"])


def test_answers_that_do_not_say_whose_they_are_count_where_they_are_a_judges(
    make: Make, serve: Serve, tmp_path: Path
) -> None:
    took = {"calls": 1, "prompt_tokens": 3, "completion_tokens": 4}
    answers_in(tmp_path).keep({"body": "of an older align"}, {"text": "[[A]]", "retries": 0, **took})
    answers_in(tmp_path).spent(took)
    with pytest.raises(LabelerError, match="the budget of 14 tokens has run out: 14 tokens"):
        make(serve(), budget={"tokens": 14}).compare(PROMPTS, FIRSTS, SECONDS)


def test_a_server_that_counts_no_tokens_cannot_be_held_to_a_budget_of_tokens(make: Make, serve: Serve) -> None:
    def silent(path: str, body: Body) -> tuple[int, Body]:
        return 200, {**chat(body, "[[A]]"), "usage": None}

    notes: list[str] = []
    assert make(serve(silent), notes).compare(["p"], ["a"], ["b"]) == [0.5]
    assert len(notes) == 1 and "does not say how many tokens" in notes[0]
    with pytest.raises(LabelerError, match="does not say how many tokens"):
        make(serve(silent), budget={"tokens": 100}).compare(["q"], ["a"], ["b"])


def test_too_many_answers_without_a_verdict_stop_the_stage_and_one_is_shown(make: Make, serve: Serve) -> None:
    judge = make(serve(lambda path, body: (200, chat(body, "Both are fine."))))
    judge.compare([f"p{n}" for n in range(9)], ["a"] * 9, ["bb"] * 9)
    judge.check_counts(judge.take_counts())  # 18 answers say too little
    judge.compare([f"p{n}" for n in range(10)], ["a"] * 10, ["bb"] * 10)
    counts = judge.take_counts()
    with pytest.raises(LabelerError) as error:
        judge.check_counts(counts)
    assert fault_of(error)[0] == "labelers.j.max_unparsable"
    assert fault_of(error)[1] == (
        "20 of 20 answers hold no verdict, more than max_unparsable allows (0.2); one of them: 'Both are fine.'"
    )
    judge.check_counts({"answers": 80, "unparsable": 20})


def test_a_slow_answer_holds_no_other_up_and_no_more_than_concurrency_are_under_way(make: Make, serve: Serve) -> None:
    others_came = threading.Event()
    late: list[bool] = []

    def wait_for_others(number: int, body: Body) -> None:
        if number == 1:
            late.append(not others_came.wait(20))
        if number == 20:
            others_came.set()

    server = serve(on_request=wait_for_others)
    judge = make(server, concurrency=3)
    judge.compare([f"p{n}" for n in range(10)], ["a"] * 10, ["bb"] * 10)
    assert late == [False]  # the first was answered after all others
    assert server.most_at_once <= 3


def test_after_a_refusal_nothing_new_begins_and_what_is_under_way_is_kept(make: Make, serve: Serve) -> None:
    def wait_for_the_refusal(number: int, body: Body) -> None:
        while number == 2 and server.num_under_way > 1:
            time.sleep(0.01)
        time.sleep(0.3 if number == 2 else 0)

    server = serve(longer_wins, {1: "401"}, on_request=wait_for_the_refusal)
    with pytest.raises(LabelerError, match="401"):
        make(server, concurrency=2).compare(PROMPTS, FIRSTS, SECONDS)
    assert len(server.asked) == 2
    make(server).compare(PROMPTS, FIRSTS, SECONDS)
    assert len(server.asked) == 7


def test_figures_of_nothing_are_nothing(make: Make, serve: Serve) -> None:
    judge = make(serve())
    assert judge.figures(judge.take_counts()) == {}


def test_a_batch_has_work_for_all_that_may_be_under_way(make: Make, serve: Serve) -> None:
    server = serve()
    assert make(server, concurrency=8).batch_size == 32
    assert make(server, concurrency=8, orders="one").batch_size == 64
    assert make(server, concurrency=1, votes=100, temperature=1.0).batch_size == 1


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return answers_in(folder).rows()


def calls_kept_in(folder: Path) -> int:
    return sum(row["answer"]["calls"] if "for" in row else row["spent"]["calls"] for row in rows_in(folder))


def tokens_kept_in(folder: Path) -> tuple[int, int]:
    took = [row["answer"] if "for" in row else row["spent"] for row in rows_in(folder)]
    return (
        sum(one.get("prompt_tokens", 0) for one in took),
        sum(one.get("completion_tokens", 0) for one in took),
    )
