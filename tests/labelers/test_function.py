"""Functions are real modules and files here, written into the folder that the test runs in."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from align_cli.errors import LabelerError
from align_cli.labelers.function import FunctionLabeler, find_function
from align_cli.metrics.estimates import estimate
from align_cli.recipe.sections.labelers import FunctionLabelerSection

MakeLabeler = Callable[..., FunctionLabeler]
PROMPTS = ["one", "two", "three", "four", "five"]
COMPLETIONS = ["a", "bb", "ccc", "dddd", "eeeee"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a labeler imports is forgotten afterwards, so that tests may use a module's name again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def labeler() -> MakeLabeler:
    """`labeler(code)` writes `scores.py` and makes a labeler of its function `score`."""

    def make(code: str, function: str = "scores.py:score", **section: Any) -> FunctionLabeler:
        write("scores.py", code)
        return FunctionLabeler("mine", FunctionLabelerSection(**{"kind": "function", "function": function, **section}))

    return make


def write(name: str, code: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")


def fault_of(call: Callable[[], Any]) -> Any:
    with pytest.raises(LabelerError) as caught:
        call()
    (fault,) = caught.value.faults
    assert fault.where == "labelers.mine"
    return fault


LENGTHS = "def score(prompts, completions):\n    return [len(text) for text in completions]\n"


def test_a_function_of_an_installed_module_scores() -> None:
    section = FunctionLabelerSection(kind="function", function="align_cli.playground:hidden_reward")
    assert len(FunctionLabeler("mine", section).score(PROMPTS, COMPLETIONS)) == 5


def test_a_function_of_a_file_scores(labeler: MakeLabeler) -> None:
    scores = labeler(LENGTHS).score(PROMPTS, COMPLETIONS)
    assert scores == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {type(score) for score in scores} == {float}


@pytest.mark.parametrize("function", ["scores.py:score", "pack.scores:score"])
def test_importing_a_users_code_leaves_nothing_beside_it(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for name in ("helper.py", "later.py", "pack/helping.py"):
        write(name, "")
    late = LENGTHS.replace("    return", "    import later\n    return")
    write("scores.py", f"import helper\n{late}")
    write("pack/scores.py", f"from pack import helping\n{late}")
    section = FunctionLabelerSection(kind="function", function=function)
    assert FunctionLabeler("mine", section).score(["p"], ["ab"]) == [2.0]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["pack"]
    assert not sys.dont_write_bytecode


def test_a_function_of_a_file_in_another_folder_scores(labeler: MakeLabeler, tmp_path: Path) -> None:
    write("deep/er/judge-2.py", LENGTHS)
    assert labeler("", "deep/er/judge-2.py:score").score(["p"], ["ab"]) == [2.0]
    assert labeler("", f"{tmp_path}/deep/er/judge-2.py:score").score(["p"], ["ab"]) == [2.0]


def test_a_module_in_the_current_folder_scores(labeler: MakeLabeler) -> None:
    write("house_of_scores/inner.py", LENGTHS)
    write("house_of_scores/__init__.py", "")
    assert labeler("", "house_of_scores.inner:score").score(["p"], ["ab"]) == [2.0]


def test_a_functions_arguments_make_the_scoring_function(labeler: MakeLabeler) -> None:
    code = """
        def make(factor, offset=0):
            return lambda prompts, completions: [factor * len(text) + offset for text in completions]

        class Judge:
            def __init__(self, factor):
                self.factor = factor

            def __call__(self, prompts, completions):
                return [self.factor * len(text) for text in completions]
    """
    made = labeler(code, "scores.py:make", arguments={"factor": 2, "offset": 1})
    assert made.score(["p"], ["ab"]) == [5.0]
    assert labeler(code, "scores.py:Judge", arguments={"factor": 3}).score(["p"], ["ab"]) == [6.0]


def test_empty_arguments_still_call_the_factory(labeler: MakeLabeler) -> None:
    code = "def make():\n    return lambda prompts, completions: [7] * len(completions)\n"
    assert labeler(code, "scores.py:make", arguments={}).score(["p"], ["ab"]) == [7.0]


def test_a_trl_reward_function_scores_as_it_is(labeler: MakeLabeler) -> None:
    code = "def score(completions, **kwargs):\n    return [float(len(set(text))) for text in completions]\n"
    assert labeler(code).score(["p", "q"], ["aab", ""]) == [2.0, 0.0]


@pytest.mark.parametrize(
    "result",
    [
        "tuple(map(len, completions))",
        "__import__('numpy').array([len(text) for text in completions])",
        "__import__('numpy').array([len(text) for text in completions], dtype='float32')",
        "[__import__('numpy').float32(len(text)) for text in completions]",
        "[__import__('numpy').int64(len(text)) for text in completions]",
        "__import__('torch').tensor([len(text) for text in completions])",
        "__import__('torch').tensor([float(len(text)) for text in completions], requires_grad=True)",
        "__import__('torch').tensor([float(len(text)) for text in completions]).bfloat16()",
    ],
)
def test_lists_arrays_and_tensors_are_lists_of_scores(result: str, labeler: MakeLabeler) -> None:
    scores = labeler(f"def score(prompts, completions):\n    return {result}\n").score(PROMPTS, COMPLETIONS)
    assert scores == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {type(score) for score in scores} == {float}


def test_decimals_and_fractions_are_numbers(labeler: MakeLabeler) -> None:
    code = """
        from decimal import Decimal
        from fractions import Fraction

        def score(prompts, completions):
            return [Decimal("1.5"), Fraction(1, 4)]
    """
    assert labeler(code).score(["p", "q"], ["a", "b"]) == [1.5, 0.25]


def test_a_list_of_tensors_is_a_list_of_scores(labeler: MakeLabeler) -> None:
    code = "import torch\ndef score(prompts, completions):\n    return [torch.tensor(1.5) for _ in completions]\n"
    assert labeler(code).score(["p"], ["a"]) == [1.5]


def test_the_function_sees_at_most_a_batch_at_a_time(labeler: MakeLabeler) -> None:
    code = """
        seen = []

        def score(prompts, completions):
            seen.append((list(prompts), list(completions)))
            return [len(text) for text in completions]
    """
    made = labeler(code, batch_size=2)
    assert made.score(PROMPTS, COMPLETIONS) == [1.0, 2.0, 3.0, 4.0, 5.0]
    seen = made._function.__globals__["seen"]
    assert seen == [(PROMPTS[:2], COMPLETIONS[:2]), (PROMPTS[2:4], COMPLETIONS[2:4]), (PROMPTS[4:], COMPLETIONS[4:])]


def test_no_completions_have_no_scores_and_need_no_call(labeler: MakeLabeler) -> None:
    assert labeler("def score(prompts, completions):\n    raise RuntimeError\n").score([], []) == []


@pytest.mark.parametrize(
    ("result", "what"),
    [
        ("[1.0]", "the function returned 1 score for 2 completions (prompts 2 to 3)"),
        ("[1.0] * 5", "the function returned 5 scores for 2 completions (prompts 2 to 3)"),
        ("[]", "the function returned 0 scores for 2 completions (prompts 2 to 3)"),
        ("[1.0, float('nan')]", "the function returned nan for the prompt with index 3"),
        ("[float('inf'), 1.0]", "the function returned inf for the prompt with index 2"),
        ("[None, 1.0]", "the function returned None for the prompt with index 2"),
        ("[1.0, '2']", "the function returned '2' for the prompt with index 3"),
        ("[1.0, 1j]", "the function returned 1j for the prompt with index 3"),
        ("[[1.0], [2.0]]", "the function returned [1.0] for the prompt with index 2"),
        ("'ab'", "the function returned str; it must return a list of numbers"),
        ("None", "the function returned NoneType; it must return a list of numbers"),
        ("1.0", "the function returned float; it must return a list of numbers"),
        ("{0: 1.0, 1: 2.0}", "the function returned dict; it must return a list of numbers"),
        ("{1.0, 2.0}", "the function returned set; it must return a list of numbers"),
        ("(x for x in (1, 2))", "the function returned generator; it must return a list of numbers"),
        ("__import__('numpy').float64(1)", "the function returned float64; it must return a list of numbers"),
        ("[0.0, __import__('numpy').array([1.0])]", "the function returned array([1.]) for the prompt with index 3"),
        ("[10**5000, 1.0]", "the function returned an integer of 16610 bits for the prompt with index 2"),
        ("[1e101, 1.0]", "the function returned 1e+101 for the prompt with index 2"),
        ("[1.0, -1e308]", "the function returned -1e+308 for the prompt with index 3"),
        (
            "[__import__('decimal').Decimal('sNaN'), 1.0]",
            "the function returned Decimal('sNaN') for the prompt with index 2",
        ),
        ("['x' * 78, 1.0]", f"the function returned '{'x' * 78}' for the prompt with index 2"),
        ("['x' * 79, 1.0]", f"the function returned '{'x' * 78}… for the prompt with index 2"),
    ],
)
def test_what_is_not_a_finite_number_a_completion_is_refused(result: str, what: str, labeler: MakeLabeler) -> None:
    """The second batch is at fault, so that indices count from the start and not from the batch."""
    code = f"def score(prompts, completions):\n    return {result} if 'three' in prompts else [0.0, 0.0]\n"
    made = labeler(code, batch_size=2)
    assert fault_of(lambda: made.score(PROMPTS[:4], COMPLETIONS[:4])).what == what


def test_of_the_largest_scores_that_are_taken_there_is_a_mean_and_an_error(labeler: MakeLabeler) -> None:
    made = labeler("def score(prompts, completions):\n    return [1e100 * (-1) ** i for i in range(len(prompts))]\n")
    assert estimate(made.score(PROMPTS[:4], COMPLETIONS[:4])).standard_error == pytest.approx(1e100 / 3**0.5)


def test_an_integer_beyond_all_floats_is_refused(labeler: MakeLabeler) -> None:
    made = labeler("def score(prompts, completions):\n    return [10**400]\n")
    assert "index 0" in fault_of(lambda: made.score(["p"], ["a"])).what


RAISES_ON_DDDD = """
    def score(prompts, completions):
        return [helper(text) for text in completions]

    def helper(text):
        if text == "dddd":
            raise KeyError("no such word")
        return 1.0
"""


def test_a_function_that_raises_is_shown_with_the_prompt_and_its_own_traceback(labeler: MakeLabeler) -> None:
    made = labeler(RAISES_ON_DDDD, batch_size=3)
    fault = fault_of(lambda: made.score(PROMPTS, COMPLETIONS))
    assert fault.what == "the function raised on the prompt with index 3"
    assert fault.snippet.startswith("Traceback (most recent call last):")
    assert fault.snippet.endswith("KeyError: 'no such word'")
    assert "in score" in fault.snippet and "in helper" in fault.snippet and "scores.py" in fault.snippet


def test_a_function_that_raises_is_shown_once_and_without_our_frames(labeler: MakeLabeler) -> None:
    made = labeler(RAISES_ON_DDDD, batch_size=3)
    fault = fault_of(lambda: made.score(PROMPTS, COMPLETIONS))
    assert fault.snippet.count("Traceback (most recent call last):") == 1
    assert "align_cli" not in fault.snippet


def test_the_cause_of_a_functions_error_is_shown_too(labeler: MakeLabeler) -> None:
    code = """
        def score(prompts, completions):
            try:
                return [int(text) for text in completions]
            except ValueError as error:
                raise RuntimeError("cannot judge this") from error
    """
    fault = fault_of(lambda: labeler(code).score(["p"], ["a"]))
    assert "invalid literal for int()" in fault.snippet
    assert fault.snippet.endswith("RuntimeError: cannot judge this")


def test_a_function_that_raises_on_the_whole_batch_alone_says_so(labeler: MakeLabeler) -> None:
    code = """
        def score(prompts, completions):
            if len(completions) > 1:
                raise MemoryError("too many at once")
            return [1.0]
    """
    made = labeler(code, batch_size=4)
    fault = fault_of(lambda: made.score(PROMPTS, COMPLETIONS))
    assert fault.what == "the function raised on the batch of prompts 0 to 3, on none alone"
    assert fault.snippet.endswith("MemoryError: too many at once")
    assert "align_cli" not in fault.snippet


def test_a_function_that_does_not_take_prompts_is_shown_without_our_frames(labeler: MakeLabeler) -> None:
    made = labeler("def score(completions):\n    return [1.0]\n")
    fault = fault_of(lambda: made.score(["p"], ["a"]))
    assert "unexpected keyword argument 'prompts'" in str(fault)
    assert "align_cli" not in fault.snippet


def test_a_file_that_is_not_there_is_named(labeler: MakeLabeler) -> None:
    assert fault_of(lambda: labeler(LENGTHS, "skores.py:score")).what == "there is no file skores.py"


def test_a_module_that_is_not_there_is_named(labeler: MakeLabeler) -> None:
    for module in ("nowhere_at_all", "nowhere.at.all", "align_cli.nowhere"):
        fault = fault_of(lambda module=module: labeler(LENGTHS, f"{module}:score"))
        assert fault.what == f"there is no module '{module}'"
        assert fault.hint == "give package.module:name or path/to/file.py:name"


def test_a_name_that_is_not_there_is_named_with_the_nearest(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler(LENGTHS, "scores.py:skore"))
    assert fault.what == "scores.py has no function 'skore'"
    assert fault.hint == "did you mean 'score'?"
    assert fault_of(lambda: labeler(LENGTHS, "scores.py:xyz")).hint == "define it there, or name another one"


def test_a_name_that_cannot_be_called_is_no_function(labeler: MakeLabeler) -> None:
    assert fault_of(lambda: labeler("score = 3\n")).what == "scores.py has no function 'score'"


def test_a_function_within_a_class_scores(labeler: MakeLabeler) -> None:
    code = """
        class Judge:
            @staticmethod
            def score(prompts, completions):
                return [1.0] * len(completions)
    """
    assert labeler(code, "scores.py:Judge.score").score(["p"], ["a"]) == [1.0]


@pytest.mark.parametrize("place", ["scores.py:score", "scores:score"])
def test_an_error_while_importing_is_shown_with_its_traceback(place: str, labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("import json\njson.loads('{')\n" + LENGTHS, place))
    assert fault.what == f"importing {place.rpartition(':')[0]} raised"
    assert "JSONDecodeError" in fault.snippet and "json.loads('{')" in fault.snippet
    assert "labelers/function.py" not in fault.snippet


def test_a_file_that_is_not_python_is_shown_with_the_line(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("def score(:\n    pass\n"))
    assert fault.what == "importing scores.py raised"
    assert "SyntaxError" in fault.snippet and "def score(:" in fault.snippet


def test_a_module_that_a_labeler_needs_and_is_not_installed_is_named(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("import nowhere_at_all.inner\n" + LENGTHS))
    assert fault.what == "scores.py needs a module that is missing: nowhere_at_all"


def test_a_missing_module_whose_name_begins_the_labelers_own_is_named(labeler: MakeLabeler) -> None:
    write("vader_scores.py", "import vader\n" + LENGTHS)
    fault = fault_of(lambda: labeler("", "vader_scores:score"))
    assert fault.what == "vader_scores needs a module that is missing: vader"


def test_a_file_may_hold_dataclasses_with_late_annotations(labeler: MakeLabeler) -> None:
    code = """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass
        class Judge:
            factor: float = 1.0

            def __call__(self, prompts: list[str], completions: list[str]) -> list[float]:
                return [self.factor] * len(completions)
    """
    assert labeler(code, "scores.py:Judge", arguments={"factor": 2.0}).score(["p"], ["a"]) == [2.0]


def test_a_factory_that_raises_is_shown_with_its_traceback(labeler: MakeLabeler) -> None:
    code = "def make(path):\n    return open(path)\n"
    fault = fault_of(lambda: labeler(code, "scores.py:make", arguments={"path": "none.txt"}))
    assert fault.what == "scores.py:make raised while it was made with its arguments"
    assert fault.snippet.endswith("No such file or directory: 'none.txt'")
    assert "align_cli" not in fault.snippet


def test_a_factory_that_gives_no_function_is_refused(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("def make(a):\n    return [a]\n", "scores.py:make", arguments={"a": 1}))
    assert fault.what == "scores.py:make with its arguments returned list, not a function"
    assert "leave out `arguments`" in fault.hint


def test_labelers_find_modules_beside_the_recipes_user_only_once() -> None:
    write("beside_me.py", LENGTHS)
    for _ in range(3):
        find_function("beside_me:score", "labelers.mine")
    assert sys.path.count("") <= 1


TALKATIVE = """
    print("imported")

    def make(factor):
        print("made")

        def score(prompts, completions):
            print("asked for", len(completions))
            if "dddd" in completions:
                raise KeyError("no such word")
            return [factor * len(text) for text in completions]

        return score
"""


def test_what_a_function_prints_goes_to_standard_error_and_never_among_the_data(
    labeler: MakeLabeler, capsys: pytest.CaptureFixture[str]
) -> None:
    made = labeler(TALKATIVE, "scores.py:make", arguments={"factor": 2}, batch_size=4)
    assert made.score(PROMPTS[:3], COMPLETIONS[:3]) == [2.0, 4.0, 6.0]
    with pytest.raises(LabelerError):
        made.score(PROMPTS, COMPLETIONS)
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.split("\n")[:3] == ["imported", "made", "asked for 3"]
    assert found.err.count("asked for 1\n") == 4, "one after the other, up to the one that it cannot score"


def test_the_rows_that_prompts_come_from_are_named_in_errors(labeler: MakeLabeler) -> None:
    made = labeler("def score(prompts, completions):\n    return [0.0, float('nan')]\n")
    assert fault_of(lambda: made.score(["p", "q"], ["a", "b"], [70, 90])).what.endswith("the prompt with index 90")
    assert made.batch_size >= 2
    shorter = labeler("def score(prompts, completions):\n    return []\n")
    assert "(prompts 70 to 90)" in fault_of(lambda: shorter.score(["p", "q"], ["a", "b"], [70, 90])).what


OWN_WORDS = """
    from align_cli.errors import LabelerError

    def make(key):
        if not key:
            raise LabelerError("there is no key", where="labelers.mine", hint="set one")

        def score(prompts, completions):
            raise LabelerError("the key has expired", where="labelers.mine", hint="take another")

        return score
"""


def test_a_function_that_says_itself_what_is_wrong_keeps_its_words(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler(OWN_WORDS, "scores.py:make", arguments={"key": ""}))
    assert (fault.what, fault.hint, fault.snippet) == ("there is no key", "set one", "")
    made = labeler(OWN_WORDS, "scores.py:make", arguments={"key": "k"})
    fault = fault_of(lambda: made.score(PROMPTS, COMPLETIONS))
    assert (fault.what, fault.hint, fault.snippet) == ("the key has expired", "take another", "")


def test_a_file_that_a_labeler_looks_for_in_vain_is_not_taken_for_its_own(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("open('words.txt')\n" + LENGTHS))
    assert fault.what == "importing scores.py raised"
    assert fault.snippet.endswith("No such file or directory: 'words.txt'")


def test_a_folder_is_no_file(labeler: MakeLabeler) -> None:
    Path("judge.py").mkdir()
    assert fault_of(lambda: labeler(LENGTHS, "judge.py:score")).what == "there is no file judge.py"


def test_only_what_can_be_called_is_offered_in_a_names_place(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("scores = 3\n" + LENGTHS, "scores.py:scoress"))
    assert fault.hint == "did you mean 'score'?"


def test_a_function_that_does_not_take_what_it_is_called_with_is_told_what_to_take(labeler: MakeLabeler) -> None:
    fault = fault_of(lambda: labeler("def score(completions):\n    return [1.0]\n").score(["p"], ["a"]))
    takes = "it is called with prompts= and completions=; let it take these two, and **kwargs"
    assert fault.hint == f"{takes}; a class needs `arguments`, if only {{}}"


@pytest.mark.parametrize("raised", ["TypeError('unexpected')", "ValueError('no')"])
def test_an_error_of_the_functions_own_brings_no_hint_on_how_it_is_called(labeler: MakeLabeler, raised: str) -> None:
    made = labeler(f"def score(prompts, completions):\n    raise {raised}\n")
    assert fault_of(lambda: made.score(["p"], ["a"])).hint == ""


def test_a_module_that_raises_is_shown_from_its_own_first_line_on(labeler: MakeLabeler) -> None:
    for place in ("scores.py:score", "scores:score"):
        lines = fault_of(lambda place=place: labeler("1 / 0\n" + LENGTHS, place)).snippet.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert "scores.py" in lines[1] and "line 1" in lines[1]
        assert lines[-1] == "ZeroDivisionError: division by zero"


def test_what_a_function_changes_around_it_is_put_back_and_told_once(tmp_path: Path) -> None:
    write(
        "scores.py", "import os\ndef score(prompts, completions):\n    os.chdir('/')\n    return [0.0] * len(prompts)\n"
    )
    write("quiet.py", LENGTHS)
    for file, told in (
        ("scores.py", ["labelers.mine: its code changed the current folder; after every call it is put back"]),
        ("quiet.py", []),
    ):
        notes: list[str] = []
        section = FunctionLabelerSection(kind="function", function=f"{file}:score", batch_size=2)
        made = FunctionLabeler("mine", section, notes.append)
        for _ in range(2):
            assert len(made.score(PROMPTS, COMPLETIONS)) == 5
        assert notes == told
        assert Path.cwd() == tmp_path


def test_who_is_at_fault_is_looked_for_behind_those_that_the_function_refuses_in_words(labeler: MakeLabeler) -> None:
    code = """
        from align_cli.errors import LabelerError

        def score(prompts, completions):
            if len(completions) > 1:
                raise RuntimeError("not together")
            if completions == ["a"]:
                raise LabelerError("too short", where="labelers.mine")
            if completions == ["ccc"]:
                raise KeyError("no such word")
            return [0.0]
    """
    fault = fault_of(lambda: labeler(code).score(PROMPTS, COMPLETIONS))
    assert fault.what == "the function raised on the prompt with index 2"
    assert fault.snippet.endswith("KeyError: 'no such word'")


ANSWERS = """
    class Answers:
        def __init__(self, gold, *, column="answer"):
            self.gold = gold

        def __call__(self, prompts, completions):
            return [float(text == self.gold) for text in completions]

    def anything(gold, **others):
        return Answers(gold)

    def nothing():
        return Answers("a")
"""


@pytest.mark.parametrize(
    ("made", "arguments", "what", "hint"),
    [
        (
            "Answers",
            {"golf": "a"},
            "scores.py:Answers has no argument 'golf'",
            "did you mean gold? it takes gold, column",
        ),
        ("Answers", {"gold": "a", "size": 3}, "scores.py:Answers has no argument 'size'", "it takes gold, column"),
        ("Answers", {"gold": "a", "Gold": 3}, "scores.py:Answers has no argument 'Gold'", "it takes gold, column"),
        ("Answers", {}, "scores.py:Answers needs gold", "add what is lacking: it takes gold, column"),
        ("Answers", {"self": 1, "gold": 2}, "scores.py:Answers has no argument 'self'", "it takes gold, column"),
        ("anything", {"colour": "a"}, "scores.py:anything needs gold", "add what is lacking: it takes gold"),
        ("nothing", {"gold": "a"}, "scores.py:nothing has no argument 'gold'", "it takes none"),
    ],
)
def test_arguments_of_other_names_are_told_with_those_that_it_takes(
    made: str, arguments: dict[str, Any], what: str, hint: str, labeler: MakeLabeler
) -> None:
    with pytest.raises(LabelerError) as caught:
        labeler(ANSWERS, f"scores.py:{made}", arguments=arguments)
    (fault,) = caught.value.faults
    assert (fault.where, fault.what, fault.hint) == ("labelers.mine.arguments", what, hint)
    assert not fault.snippet


def test_arguments_that_it_takes_by_any_name_are_its_own_business(labeler: MakeLabeler) -> None:
    made = labeler(ANSWERS, "scores.py:anything", arguments={"gold": "a", "colour": "red"})
    assert made.score(["p"], ["a"]) == [1.0]


def test_a_scoring_function_with_arguments_is_told_to_have_none(labeler: MakeLabeler) -> None:
    with pytest.raises(LabelerError, match=r"scores\.py:score needs prompts and completions") as caught:
        labeler(LENGTHS, arguments={})
    assert caught.value.faults[0].hint == "leave out `arguments`: it is the scoring function itself"


def test_a_signature_of_its_own_making_is_the_functions_fault_or_says_nothing(labeler: MakeLabeler) -> None:
    code = """
        class Odd:
            __signature__ = "none"

            def __init__(self, gold):
                self.gold = gold

            def __call__(self, prompts, completions):
                return [1.0] * len(completions)
    """
    assert labeler(code, "scores.py:Odd", arguments={"gold": 1}).score(["p"], ["a"]) == [1.0]


CHAT = [{"role": "user", "content": "Which?"}], [{"role": "assistant", "content": "blue"}]


def test_a_reward_function_of_trls_for_text_reads_the_words_of_conversations(labeler: MakeLabeler) -> None:
    prompt, completion = CHAT
    assert labeler(LENGTHS).score([prompt, "p"], [completion, "a"]) == [4.0, 1.0]


@pytest.mark.parametrize(
    "taken",
    [
        "completion[0]['content']",
        "completion[-1].get('content')",
        "[message['content'] for message in completion]",
        "completion.items()",
    ],
)
def test_a_reward_function_of_trls_for_conversations_is_told_that_it_gets_text(
    taken: str, labeler: MakeLabeler
) -> None:
    made = labeler(f"def score(completions, **kwargs):\n    return [len({taken}) for completion in completions]\n")
    fault = fault_of(lambda: made.score([CHAT[0]], [CHAT[1]]))
    assert fault.hint.startswith("prompts and completions come as text, also of conversations")


@pytest.mark.parametrize("broken", ["'text'.no", "[1][str()]", "{}.no", "None.get"])
def test_another_fault_of_the_functions_brings_no_hint_on_conversations(broken: str, labeler: MakeLabeler) -> None:
    made = labeler(f"def score(prompts, completions):\n    return {broken}\n")
    assert fault_of(lambda: made.score(["p"], ["a"])).hint == ""
