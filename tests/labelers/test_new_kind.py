"""A new kind of labeler is a section, a scorer and a line in the table: nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from align_cli.artifacts.records import Completion
from align_cli.errors import LabelerError, RecipeError
from align_cli.labelers import Comparer, Scorer, build_labeler
from align_cli.recipe import code_that_runs, describe_keys, dump, load_recipe, resolved
from align_cli.recipe.sections.labelers import LABELER_KINDS, LabelerKind, LabelerSection
from align_cli.recipe.sections.labelers.base import Gives
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking, check_labelers

KINDS = ", ".join(LABELER_KINDS)

RECIPE = """\
output_dir: runs/first
policy: {model_name_or_path: playground}
data: {prompts: playground, preferences: playground, eval_prompts: playground}
labelers:
  wordy: {kind: words, wanted: wanted.txt, weight: 2.0}
  given: {kind: dataset}
method: {sources: {offline: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: wordy}}}
train: {steps_per_round: 1}
evaluate: {scorer: wordy}
"""


class WordsLabelerSection(LabelerSection):
    """A labeler of kind `words`: how many of the wanted words a completion has."""

    kind: Literal["words"] = Field(description="what gives the labels")
    wanted: str = Field(description="text file, one word a line")
    weight: float = Field(1.0, gt=0, description="score of a word")
    hook: str | None = Field(None, description="Python that it calls")

    def code(self) -> dict[str, str]:
        return {} if self.hook is None else {"hook": self.hook}

    def files(self) -> dict[str, str]:
        return {**super().files(), "wanted": self.wanted}


class WordsLabeler(Scorer):
    batch_size = 8

    def __init__(self, name: str, section: WordsLabelerSection, note: Callable[[str], None]) -> None:
        self.name = name
        self._weight = section.weight
        self._wanted = Path(section.wanted).read_text(encoding="utf-8").split()

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        return [self._weight * sum(text.split().count(word) for word in self._wanted) for text in completions]


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is in the table, and the test's folder holds a recipe and the file of words."""
    monkeypatch.chdir(tmp_path)
    Path("wanted.txt").write_text("good\nfine\n", encoding="utf-8")
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.setitem(LABELER_KINDS, "words", LabelerKind(WordsLabelerSection, f"{__name__}:WordsLabeler"))


def faults_of(*overrides: str) -> list[tuple[str, str]]:
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", overrides)
    return [(fault.what, fault.hint) for fault in caught.value.faults]


def test_a_recipe_with_the_kind_loads_and_is_written_and_read_back() -> None:
    recipe = load_recipe("recipe.yaml")
    assert resolved(recipe)["labelers"]["wordy"] == {
        "kind": "words", "wanted": "wanted.txt", "weight": 2.0, "hook": None
    }  # fmt: skip
    Path("again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load_recipe("again.yaml")
    assert again == recipe
    assert isinstance(again.labelers["wordy"], WordsLabelerSection)
    assert dump(again) == dump(recipe)


def test_its_scorer_is_built_and_scores() -> None:
    scorer = build_labeler("wordy", load_recipe("recipe.yaml").labelers["wordy"])
    assert scorer.name == "wordy"
    assert scorer.score(["p", "p"], ["good and fine", "bad"]) == [4.0, 0.0]


def test_its_keys_are_described() -> None:
    docs = {doc.path: doc for doc in describe_keys()}
    weight = docs["labelers.<name>.weight"]
    assert (weight.type, weight.range, weight.default) == ("a number", "above 0", "1.0")
    assert weight.kinds == ("words",)
    assert docs["labelers.<name>.kind"].type == f"one of {KINDS}, words"


def test_it_is_described_no_longer_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "labelers.<name>.weight" in {doc.path for doc in describe_keys()}
    monkeypatch.delitem(LABELER_KINDS, "words")
    assert "labelers.<name>.weight" not in {doc.path for doc in describe_keys()}


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("labelers.wordy.weight=-1", "labelers.wordy.weight is -1; it must be above 0", ""),
        ("labelers.wordy.weigth=1", "unknown key labelers.wordy.weigth", "did you mean labelers.wordy.weight?"),
        ("labelers.wordy={kind: words}", "labelers.wordy.wanted is missing", "add it: text file, one word a line"),
        (
            "labelers.given.kind=word",
            f"labelers.given.kind is 'word'; it must be one of {KINDS}, words",
            "did you mean words?",
        ),
        (
            "labelers.wordy.wanted=wantd.txt",
            "labelers.wordy.wanted: there is no file 'wantd.txt'",
            "did you mean wanted.txt?",
        ),
        (
            "labelers.wordy.hook=no place",
            "labelers.wordy.hook is 'no place'; it must be package.module:name or path/to/file.py:name",
            "as in align_cli.playground:hidden_reward",
        ),
        (
            "method.sources.offline.labeler=wordy",
            "method.sources.offline.labeler is 'wordy', of kind words; offline pairs keep their own labels",
            "leave it out, or name a labeler of kind dataset",
        ),
    ],
)
def test_its_faults_are_worded_as_those_of_any_labeler(override: str, what: str, hint: str) -> None:
    assert faults_of(override) == [(what, hint)]


def test_a_kind_without_scores_trains_and_evaluates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABELER_KINDS, "words", LabelerKind(WordsLabelerSection))
    assert [what for what, _ in faults_of()] == [
        "method.sources.dpr.labeler is 'wordy', of kind words; no words labels the policy's responses",
        "evaluate.scorer is 'wordy', of kind words; a scorer must judge what the policy writes",
    ]


def test_its_code_is_shown() -> None:
    Path("hooks.py").touch()
    assert code_that_runs(load_recipe("recipe.yaml", ["labelers.wordy.hook=hooks.py:f"])) == [
        "labelers.wordy: hooks.py:f"
    ]


class Unmade(WordsLabeler):
    def __init__(self, name: str) -> None:
        raise AssertionError("never reached: it is made of three things")


class Nameless(WordsLabeler):
    def __init__(self, name: str, section: WordsLabelerSection, note: Callable[[str], None]) -> None:
        """It forgets who it is."""


class Raising(WordsLabeler):
    def score(self, prompts: object, completions: object, prompt_indices: object = None) -> list[float]:
        raise SystemExit("no more")


class Short(WordsLabeler):
    def score(self, prompts: object, completions: object, prompt_indices: object = None) -> list[float]:
        return [1.0]


class Endless(WordsLabeler):
    def score(self, prompts: object, completions: Sequence[str], prompt_indices: object = None) -> list[float]:
        return [float("inf")] * len(completions)


@pytest.mark.parametrize(
    ("made", "what", "hint"),
    [
        ("Unmade", "making it, {place}, raised", ""),
        ("Absent", "making it, {place}, raised", ""),
        ("RECIPE.count", "making it, {place}, raised", ""),
        ("Nameless", "{place} made a labeler whose name is no str", "set self.name in its __init__"),
    ],
)
def test_a_labeler_of_others_that_cannot_be_made_is_told_in_words(
    made: str, what: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{__name__}:{made}"
    monkeypatch.setitem(LABELER_KINDS, "words", LabelerKind(WordsLabelerSection, place))
    with pytest.raises(LabelerError) as caught:
        build_labeler("wordy", load_recipe("recipe.yaml").labelers["wordy"])
    (fault,) = caught.value.faults
    assert (fault.where, fault.what, fault.hint) == ("labelers.wordy", what.format(place=place), hint)
    assert "align_cli/labelers" not in (fault.snippet or ""), "its traceback is its own"


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ("Raising", "scoring raised"),
        ("Short", "it gave 1 score for 2 completions"),
        ("Endless", "its score of a completion is 'inf'"),
    ],
)
def test_what_a_labeler_of_others_does_wrong_is_told_in_words(
    made: str, what: str, monkeypatch: pytest.MonkeyPatch, make_completion: Callable[..., Completion]
) -> None:
    monkeypatch.setitem(LABELER_KINDS, "words", LabelerKind(WordsLabelerSection, f"{__name__}:{made}"))
    labeler = build_labeler("wordy", load_recipe("recipe.yaml").labelers["wordy"])
    with pytest.raises(LabelerError) as caught:
        Asking(NoProgress()).scores(labeler, [make_completion(0, 0), make_completion(0, 1)], "scores")
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == ("labelers.wordy", what)
    if made == "Raising":
        assert "SystemExit: no more" in (fault.snippet or "")


class VersusSection(WordsLabelerSection):
    """A labeler of kind `words`: which of two completions is longer."""

    @property
    def gives(self) -> Gives:
        return "verdicts"


class PaidSection(VersusSection):
    """One that costs money."""

    COSTS: ClassVar[bool] = True


class Versus(Comparer):
    """The longer one wins; what it was asked is kept."""

    batch_size = 8
    asked: ClassVar[list[tuple[str, str, str]]] = []

    def __init__(self, name: str, section: VersusSection, note: Callable[[str], None]) -> None:
        self.name = name
        self.asked.clear()

    def compare(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str], prompt_indices: object = None
    ) -> list[float | None]:
        self.asked.extend(zip(prompts, firsts, seconds, strict=True))
        return [float(len(one) > len(other)) for one, other in zip(firsts, seconds, strict=True)]


class Torn(Versus):
    def compare(self, *asked: object) -> list[float | None]:
        raise KeyError("no such word")


class Sure(Versus):
    def compare(self, prompts: Sequence[str], *asked: object) -> list[float | None]:
        return [100.0] * len(prompts)


class Lone(Versus):
    def compare(self, *asked: object) -> list[float | None]:
        return [1.0]


ROWS = [{"prompt": "one"}, {"prompt": "three"}, {"prompt": "never looked at"}]


def tried(made: str, section: type[LabelerSection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABELER_KINDS, "words", LabelerKind(section, f"{__name__}:{made}"))
    check_labelers([build_labeler("wordy", load_recipe("recipe.yaml").labelers["wordy"])], ROWS)


def test_a_comparer_is_tried_on_two_prompts_as_a_scorer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tried("Versus", VersusSection, monkeypatch)
    assert Versus.asked == [("one", "one", "three"), ("three", "three", "one")]


def test_a_comparer_that_costs_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried("Versus", PaidSection, monkeypatch)
    assert Versus.asked == []


@pytest.mark.parametrize(
    ("made", "section", "what"),
    [
        ("Torn", VersusSection, "its check raised"),
        ("Sure", VersusSection, "its verdict on a pair is '100.0'"),
        ("Lone", VersusSection, "it gave 1 verdict on 2 pairs"),
        ("Raising", WordsLabelerSection, "its check raised"),
        ("Short", WordsLabelerSection, "it gave 1 score for 2 completions"),
        ("Endless", WordsLabelerSection, "its score of a completion is 'inf'"),
    ],
)
def test_what_it_does_wrong_is_known_before_anything_is_sampled(
    made: str, section: type[LabelerSection], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LabelerError) as caught:
        tried(made, section, monkeypatch)
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == ("labelers.wordy", what)
