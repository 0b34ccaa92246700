"""`key=value` after a recipe."""

from __future__ import annotations

import pytest

from align_cli.recipe.written.tree import escaped

SHARED = """\
output_dir: &dir runs/first
policy: {model_name_or_path: *dir, sft: &warm {dataset: playground, max_steps: 5}}
data: {prompts: *dir, preferences: playground}
method: {sources: {offline: {mixing: 1}}}
train: {steps_per_round: 1}
"""


def test_overrides_set_nested_keys_lists_sections_and_null(load):
    recipe = load(
        "method.beta=0.2",
        "rounds=5",
        "method.sources.dpr.gradient=0",
        "evaluate.against=[initial]",
        "policy.sft={dataset: playground}",
        "data.eval_prompts=null",
        "labelers.given=",
        "labelers.given={kind: dataset}",
        "output_dir=a=b",
    )
    assert (recipe.method.beta, recipe.rounds, recipe.evaluate.against) == (0.2, 5, ["initial"])
    assert recipe.method.sources.dpr.gradient == 0
    assert recipe.policy.sft.dataset == "playground"
    assert recipe.data.eval_prompts is None
    assert recipe.output_dir == "a=b"


def test_an_override_makes_the_sections_it_needs(load):
    recipe = load("policy.sft.dataset=playground", "generate.max_new_tokens=8")
    assert (recipe.policy.sft.dataset, recipe.generate.max_new_tokens) == ("playground", 8)


def test_the_last_of_two_overrides_of_a_key_holds(load):
    assert load("rounds=5", "rounds=6").rounds == 6


def test_an_override_of_an_anchor_changes_its_aliases(load):
    recipe = load("output_dir=other", text=SHARED)
    assert recipe.output_dir == recipe.data.prompts == recipe.policy.model_name_or_path == "other"


def test_an_override_of_an_alias_changes_that_key_alone(load):
    recipe = load("data.prompts=other", text=SHARED)
    assert (recipe.output_dir, recipe.data.prompts) == ("runs/first", "other")


def test_an_override_inside_an_alias_leaves_the_anchor(load):
    text = SHARED.replace("data:", "labelers: {a: {kind: function, function: 'm:f', arguments: *warm}}\ndata:")
    recipe = load("labelers.a.arguments.max_steps=9", text=text)
    assert recipe.labelers["a"].arguments["max_steps"] == 9
    assert recipe.policy.sft.max_steps == 5


def test_a_fault_in_an_override_is_located_there(faults_of):
    (fault,) = faults_of("method.beta=-1")
    assert (
        str(fault)
        == "override 'method.beta=-1': method.beta is -1; it must be above 0\nhint: 0.1 to 0.5 is usual for DPO"
    )


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("rounds", "an override needs a key and a value"),
        ("=3", "this override names no key"),
        ("method..beta=3", "this override names no key"),
        ("a\ud800b=3", "this override holds a control character"),
        ("rounds=[1", "this is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("rounds=*a", "*a names no anchor above it"),
        ("rounds.x=1", "rounds.x"),
        ("output_dir.x=1", "output_dir is 'runs/first', not a section"),
    ],
)
def test_overrides_that_cannot_be_applied_are_faults(faults_of, override, what):
    (fault,) = faults_of(override)
    assert what in fault.what or what in fault.where
    assert fault.where == f"override '{escaped(override)}'"


def test_an_item_of_a_list_cannot_be_overridden(faults_of, minimal):
    (fault,) = faults_of("evaluate.against.0=initial", text=minimal + "evaluate: {against: [initial]}\n")
    assert fault.what == "evaluate.against is a list; give it whole"
    assert fault.hint == "as in evaluate.against=[...]"


def test_malformed_overrides_are_reported_beside_a_broken_file(faults_of):
    assert [fault.where for fault in faults_of("rounds", text="a: [")] == ["recipe.yaml:1:5", "override 'rounds'"]


def test_an_override_can_mend_the_recipe(load, minimal):
    assert load("train.steps_per_round=3", text=minimal.replace("50", "0")).train.steps_per_round == 3
