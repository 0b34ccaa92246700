"""Automatic values, the resolved recipe, differences and what is worth knowing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from align_cli.recipe import (
    Difference,
    Recipe,
    code_that_runs,
    describe_keys,
    differences,
    dump,
    load_recipe,
    resolved,
    warnings_for,
)


@pytest.mark.parametrize(("gradient", "value"), [("0.3", "keep"), ("0", "drop")])
def test_unset_ties_follow_the_gradient(load, gradient, value):
    recipe = load(f"method.sources.dpr.gradient={gradient}")
    assert (recipe.label.ties, recipe.label.equal_texts) == (value, value)
    assert resolved(recipe)["label"]["ties"] == value


def test_ties_that_are_set_stay(load):
    recipe = load("method.sources.dpr.gradient=0", "label.ties=keep")
    assert (recipe.label.ties, recipe.label.equal_texts) == ("keep", "drop")


def test_a_built_in_world_brings_its_held_out_pairs(load):
    assert load().data.eval_preferences == "playground"
    assert load("data.preferences=owner/name").data.eval_preferences is None


def test_losses_go_by_both_names(load):
    assert load("method.loss_type=dpo").method.loss_type == "sigmoid"
    assert load("method.loss_type=slic").method.loss_type == "hinge"


def test_the_resolved_recipe_holds_every_key_in_the_schemas_order(load):
    tree = resolved(load("train.weight_decay=0.1", "train.bf16=false"))
    assert list(tree) == list(Recipe.model_fields)
    assert list(tree["train"])[-2:] == ["bf16", "weight_decay"]
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree


def test_a_dumped_recipe_loads_to_the_same_recipe(load):
    recipe = load(
        "train.learning_rate=5e-7",
        "train.lr_scheduler_type=cosine",
        "labelers.hidden.arguments={on: 'yes', number: '3e4', time: '1:30', empty: {}, many: [1, 2.5, null]}",
        "output_dir='über: # one'",
    )
    Path("again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load_recipe("again.yaml")
    assert again == recipe
    assert dump(again) == dump(recipe)
    assert yaml.safe_load(dump(recipe)) == resolved(recipe)


def test_differences_name_the_keys(load):
    old, new = resolved(load()), resolved(load("rounds=5", "method.beta=0.2", "train.bf16=true"))
    assert differences(old, old) == []
    assert differences(old, new) == [
        Difference("rounds", 3, 5),
        Difference("method.beta", 0.1, 0.2),
        Difference("train.bf16", None, True),
    ]
    assert differences(new, old)[-1] == Difference("train.bf16", True, None)


def test_true_and_1_differ():
    assert differences({"a": 1}, {"a": True}) == [Difference("a", 1, True)]
    assert differences({"a": 1}, {"a": 1.0}) == []


def test_the_code_that_a_recipe_runs_is_listed(load):
    assert code_that_runs(load()) == ["labelers.hidden: package.module:score"]
    assert code_that_runs(load("policy.trust_remote_code=true"))[1:] == [
        "policy.trust_remote_code: code that ships with playground"
    ]


def test_a_scorer_that_is_the_training_labeler_is_worth_a_warning(load):
    (warning,) = warnings_for(load("evaluate.scorer=hidden"))
    assert "training labeler" in warning
    assert warnings_for(load("evaluate.scorer=other", "labelers.other={kind: function, function: 'm:f'}")) == []


def test_completions_that_are_never_used_are_worth_a_warning(load):
    warnings = warnings_for(load("method.sources.dpr.gradient=0", "generate.num_generations=4"))
    assert any("trains on two" in warning for warning in warnings)


def test_every_key_is_documented():
    docs = describe_keys()
    assert [doc.path for doc in docs if not doc.description] == []
    by_path = {doc.path: doc for doc in docs}
    assert len(by_path) == len(docs)
    beta = by_path["method.beta"]
    assert (beta.type, beta.range, beta.default) == ("a number", "above 0", "0.1")
    assert by_path["train.steps_per_round"].default == "required"
    assert by_path["labelers.<name>.kind"].type == "one of dataset, function"
