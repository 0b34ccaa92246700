from __future__ import annotations

from collections.abc import Callable

import pytest

from align_cli.errors import (
    AlignError,
    DataError,
    Fault,
    LabelerError,
    RecipeError,
    RunError,
    all_at_once,
    counted,
    nearest,
)


def test_a_fault_says_where_and_what_then_the_snippet_then_the_hint() -> None:
    fault = Fault(
        "method.beta is -0.1; it must be above 0", "r.yaml:14:9", "0.1 to 0.5 is usual", "  beta: -0.1\n        ^"
    )
    assert str(fault) == (
        "r.yaml:14:9: method.beta is -0.1; it must be above 0\n  beta: -0.1\n        ^\nhint: 0.1 to 0.5 is usual"
    )


def test_a_fault_leaves_out_what_it_has_not() -> None:
    assert str(Fault("it is broken")) == "it is broken"
    assert str(Fault("it is broken", hint="mend it")) == "it is broken\nhint: mend it"
    assert str(Fault("it is broken", where="a.yaml")) == "a.yaml: it is broken"


def test_an_error_of_one_fault_reads_like_the_fault() -> None:
    error = DataError("no such file", where="a.jsonl", hint="check the name", snippet="...")
    assert error.faults == (Fault("no such file", "a.jsonl", "check the name", "..."),)
    assert str(error) == str(error.faults[0])


def test_an_error_of_several_faults_shows_them_all_in_their_order() -> None:
    faults = [Fault("one", "a:1"), Fault("two", "a:2", hint="mend it"), Fault("three")]
    error = RecipeError.of(faults)
    assert isinstance(error, RecipeError)
    assert error.faults == tuple(faults)
    assert str(error) == "a:1: one\na:2: two\nhint: mend it\nthree"


def test_an_error_needs_a_fault() -> None:
    with pytest.raises(ValueError, match="at least one fault"):
        AlignError.of([])


@pytest.mark.parametrize("kind", [RecipeError, DataError, LabelerError, RunError])
def test_every_kind_of_user_error_is_caught_as_one_family(kind: type[AlignError]) -> None:
    with pytest.raises(AlignError):
        raise kind("it is broken")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("learning_rat", "learning_rate"), ("betta", "beta"), ("zzz", None), ("", None)],
)
def test_the_nearest_name_is_found_where_one_is_close(name: str, expected: str | None) -> None:
    assert nearest(name, ["beta", "learning_rate", "loss_type"]) == expected


def test_nothing_is_near_where_nothing_is_known() -> None:
    assert nearest("beta", []) is None


def test_what_several_checks_find_is_told_together_and_each_thing_once() -> None:
    def refuse(*words: str) -> Callable[[], None]:
        def check() -> None:
            raise DataError.of([Fault(word) for word in words])

        return check

    with pytest.raises(AlignError) as caught:
        all_at_once(refuse("a", "b"), lambda: None, refuse("b", "c"))
    assert [fault.what for fault in caught.value.faults] == ["a", "b", "c"]
    with pytest.raises(DataError):
        all_at_once(refuse("a"), refuse("a"))
    all_at_once(lambda: None)


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("pair",), "0 pairs"),
        (1, ("pair",), "1 pair"),
        (2, ("pair",), "2 pairs"),
        (1, ("pass", "passes"), "1 pass"),
        (3, ("pair waits", "pairs wait"), "3 pairs wait"),
    ],
)
def test_one_is_counted_as_one(number: int, words: tuple[str, ...], text: str) -> None:
    assert counted(number, *words) == text
