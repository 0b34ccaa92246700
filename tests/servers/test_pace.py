"""When requests to a server may go out, by a clock of the test's own; and what a Retry-After asks for."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from align_cli.errors import LabelerError
from align_cli.recipe.sections.labelers import JudgeLabelerSection
from align_cli.servers.endpoint import Endpoint
from align_cli.servers.faults import retry_after
from align_cli.servers.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_limits_every_turn_is_now() -> None:
    pace = Pace(clock=Clock())
    assert [pace.turn(1000.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_requests_are_spread_evenly_over_a_minute() -> None:
    clock = Clock()
    pace = Pace(requests_per_minute=30, clock=clock)
    assert [pace.turn() for _ in range(3)] == [0.0, 2.0, 4.0]
    clock.now += 60.0
    assert [pace.turn() for _ in range(2)] == [0.0, 2.0]  # turns that nobody took are gone


def test_tokens_are_reckoned_as_expected_and_corrected_by_what_they_were() -> None:
    pace = Pace(tokens_per_minute=600, clock=Clock())
    assert [pace.turn(10.0), pace.turn(10.0)] == [0.0, 1.0]
    pace.correct(30.0)
    assert pace.turn(10.0) == 5.0
    pace.correct(-20.0)
    assert pace.turn(10.0) == 5.0  # no turn comes before one that was given out
    assert pace.turn(10.0) == 6.0


def test_of_both_limits_the_later_turn_holds() -> None:
    pace = Pace(requests_per_minute=60, tokens_per_minute=600, clock=Clock())
    assert [pace.turn(30.0), pace.turn(1.0), pace.turn(1.0)] == [0.0, 3.0, 4.0]


def test_what_a_server_asks_for_holds_for_all() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.hold(5.0)
    pace.hold(2.0)
    assert pace.turn() == 5.0
    clock.now += 6.0
    assert pace.turn() == 0.0


def test_waits_double_up_to_a_minute_and_no_two_are_alike() -> None:
    section = JudgeLabelerSection(kind="judge", base_url="http://x/v1", model="m")
    endpoint = Endpoint("labelers.j", section.base_url, "base_url", section, Pace())
    for attempt, longest in [(0, 0.5), (1, 1.0), (4, 8.0), (7, 60.0), (5000, 60.0)]:
        waits = {endpoint.backoff(attempt) for _ in range(50)}
        assert len(waits) == 50
        assert all(longest / 2 <= wait <= longest for wait in waits)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, 0.0),
    ],
)
def test_what_a_server_asks_to_wait(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_wait_for_is_so_many_seconds_from_now() -> None:
    assert 3500 < retry_after({"retry-after": formatdate(time.time() + 3600, usegmt=True)}) <= 3601


def test_an_environment_without_the_key_is_a_users_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_KEY", "  ")
    section = JudgeLabelerSection(kind="judge", base_url="http://x/v1", model="m", api_key_env="EMPTY_KEY")
    with pytest.raises(LabelerError, match="the environment variable EMPTY_KEY is not set"):
        _ = Endpoint("labelers.j", section.base_url, "base_url", section, Pace()).key
