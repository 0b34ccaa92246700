"""Values of another shape than their key: what was meant is written in the key's own, and only where it fits."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from align_cli.errors import Fault
from align_cli.recipe import Recipe
from align_cli.recipe.sections import labelers
from align_cli.recipe.sections.labelers import LABELER_KINDS

Load = Callable[..., Recipe]
FaultsOf = Callable[..., list[Fault]]

JUDGE = "labelers.j={kind: judge, base_url: 'http://127.0.0.1:8000/v1', model: m}"
BOTH = "labelers.both={kind: combination, of: {hidden: 1, other: 1}}"
OTHER = "labelers.other={kind: function, function: 'package.module:other'}"
WEIGHTS = "two labelers or more by name, each with its weight, above 0"


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("labelers.both.of=[hidden, other]", "write {hidden: 1, other: 1}"),
        ("labelers.both.of=[{hidden: 1}, {other: 0.5}]", "write {hidden: 1, other: 0.5}"),
        ("labelers.both.of=[{hidden: 1}, {other: 0}]", WEIGHTS),
        ("labelers.both.of=hidden", WEIGHTS),
        ("labelers.both.of=", WEIGHTS),
        ("labelers.both.of.hidden=[2]", "write 2"),
        ("labelers.j.budget=100", "write {calls: 100}, {tokens: 100} or {money: 100}"),
        ("labelers.j.budget=2.5", "write {money: 2.5}"),
        ("labelers.j.budget=10 dollars", "give it keys: calls, tokens, money"),
        ("labelers.j.budget=[100]", "give it keys: calls, tokens, money"),
        ("labelers.j.price=3", "write {input: 3, output: 3}"),
        ("labelers.j.extra_body=[{top_k: 1}, {min_p: 0.1}]", "write {top_k: 1, min_p: 0.1}"),
        ("evaluate.scorers=hidden", "write [hidden]"),
        ("evaluate.scorers={hidden: 1, other: 2}", "write [hidden, other]"),
        ("evaluate.scorers=my judge", 'write ["my judge"]'),
        ("evaluate.scorers='true'", 'write ["true"]'),
        ("evaluate.scorers=3", ""),
        ("evaluate.scorers=" + "long" * 20, ""),
        ("evaluate.scorer=[hidden]", "write hidden"),
        ("evaluate.scorer=[hidden, other]", "evaluate.scorers takes several"),
        ("evaluate.against=initial", "write [initial]"),
        ("evaluate.against=initail", ""),
        ("label.ties=[keep]", "write keep"),
        ("method.kl=0.02", "write {coefficient: 0.02}"),
        ("method.sources.dpr=0.3", "write {mixing: 0.3}"),
        ("method.sources=[dpr]", "give it keys: offline, ddp, dpp, dpr, dmd"),
        ("policy.sft=playground", "write {dataset: playground}"),
        ("policy.lora=true", "give it keys: rank, alpha, target_modules"),
        ("labelers=hidden", "give it labelers by name"),
    ],
)
def test_what_was_meant_is_written_in_the_shape_of_its_key(override: str, hint: str, faults_of: FaultsOf) -> None:
    key = override.partition("=")[0]
    (fault,) = [fault for fault in faults_of(JUDGE, OTHER, BOTH, override) if fault.key == key]
    assert fault.hint.startswith(hint) if hint else fault.hint == ""


@pytest.mark.parametrize(
    "override",
    ["labelers.both.of={hidden: 1, other: 1}", "labelers.j.budget={calls: 100}", "evaluate.scorers=[hidden]"],
)
def test_what_is_proposed_loads(override: str, load: Load) -> None:
    assert load(JUDGE, OTHER, BOTH, override)


def test_a_secret_of_another_shape_is_not_written_again(faults_of: FaultsOf) -> None:
    assert "sk-abcdefghij0123456789" not in str(faults_of(JUDGE, "evaluate.scorers=sk-abcdefghij0123456789"))


@pytest.mark.parametrize(
    ("kind", "template", "hint"),
    [
        ("judge", "pairwize", "did you mean pairwise?"),
        ("self_judge", "aditive", "did you mean additive?"),
        ("self_judge", "pairwize", "align's own are score, additive; paths start at"),
        ("judge", "listwise", "did you mean pairwise?"),
        ("judge", "rubric", "align's own are pairwise, score, additive; paths start at"),
        ("judge", "pairwize.txt", "paths start at"),
    ],
)
def test_a_template_that_is_not_there_is_told_with_the_nearest_of_aligns(
    kind: str, template: str, hint: str, faults_of: FaultsOf
) -> None:
    found = faults_of(JUDGE, "labelers.s={kind: self_judge}", f"labelers.{kind[0]}.template={template}")
    assert [fault.hint.startswith(hint) for fault in found] == [True], found


def test_kinds_that_installed_packages_bring_are_named_and_not_loaded(
    faults_of: FaultsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint("clearer", "no.such.module:KIND", labelers.PLUGINS)

    def entry_points(group: str, **named: Any) -> list[EntryPoint]:
        return [broken] if group == labelers.PLUGINS and named in ({}, {"name": "clearer"}) else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    (fault,) = faults_of("labelers.hidden.kind=cleare")
    assert fault.what.endswith(f"it must be one of {', '.join([*LABELER_KINDS, 'clearer'])}")
    assert fault.hint == "did you mean clearer?"
    (fault,) = faults_of("labelers.new={of: 3}")
    assert fault.hint.endswith(", clearer")
