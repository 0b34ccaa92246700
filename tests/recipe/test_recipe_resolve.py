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
from align_cli.recipe.sections.labelers import LABELER_KINDS
from align_cli.recipe.sections.method import REPLAY_CAP

KINDS = ", ".join(LABELER_KINDS)


@pytest.mark.parametrize(("gradient", "value"), [("0.3", "keep"), ("0", "drop")])
def test_unset_ties_follow_the_gradient(load, gradient, value):
    recipe = load(f"method.sources.dpr.gradient={gradient}")
    assert (recipe.label.ties, recipe.label.equal_texts) == (value, value)
    assert resolved(recipe)["label"]["ties"] == value


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        (["generate.num_generations=1", "generate.num_reference_generations=1"], "drop"),
        (
            [
                "generate.num_generations=1",
                "generate.num_reference_generations=1",
                "method.optimism.coefficient=0.1",
            ],
            "keep",
        ),
        (["data.demonstrations=playground", "method.sources={dmd: {mixing: 1}}"], "drop"),
        (["data.demonstrations=playground", "method.sources={dmd: {mixing: 1, gradient: 0.5}}"], "keep"),
        (
            ["data.demonstrations=playground", "method.sources={offline: {mixing: 1}, dmd: {mixing: 0, gradient: 1}}"],
            "drop",
        ),
    ],
    ids=["reference completions", "optimism", "mixed pairs", "mixed pairs with a gradient", "mixed pairs of no share"],
)
def test_unset_ties_follow_optimism_and_the_gradient_of_mixed_pairs(load, overrides, value):
    recipe = load("method.sources.dpr.gradient=0", *overrides)
    assert (recipe.label.ties, recipe.label.equal_texts) == (value, value)


def test_ties_that_are_set_stay(load):
    recipe = load("method.sources.dpr.gradient=0", "label.ties=keep")
    assert (recipe.label.ties, recipe.label.equal_texts) == ("keep", "drop")


def test_a_built_in_world_brings_its_held_out_pairs(load):
    assert load().data.eval_preferences == "playground"
    assert load("data.preferences=owner/name").data.eval_preferences is None


def test_losses_go_by_both_names(load):
    assert load("method.loss_type=dpo").method.loss_type == "sigmoid"
    assert load("method.loss_type=slic").method.loss_type == "hinge"


def test_losses_of_a_list_go_by_both_names_too(load):
    method = load("method.loss_type=[dpo, slic, ipo, sft]", "method.sources.dpr.gradient=0").method
    assert method.loss_type == method.loss_types == ["sigmoid", "hinge", "ipo", "sft"]
    assert load("method.loss_type=ipo").method.loss_types == ["ipo"]


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ([], []),
        (["method.loss_type=[slic]"], []),
        (["method.loss_type=simpo", "method.simpo_gamma=2"], []),
        (["method.loss_type=sft"], ["loss_type"]),
        (["method.loss_type=[dpo, ipo]"], ["loss_type"]),
        (["method.ld_alpha=0"], ["ld_alpha"]),
        (["method.use_weighting=true", "method.ld_alpha=1"], ["use_weighting", "ld_alpha"]),
        (["method.f_divergence_type=reverse_kl", "method.label_smoothing=0"], []),
        (["method.loss_type=robust", "method.label_smoothing=0.1"], ["loss_type", "label_smoothing"]),
    ],
)
def test_a_loss_is_trls_where_align_has_not_what_it_asks_for(load, overrides, keys):
    method = load("method.sources.dpr.gradient=0", *overrides).method
    assert (method.trl_keys, method.uses_trl_loss) == (keys, bool(keys))


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.loss_type=[slic, sft, robust]", "method.loss_weights=[1, 0.2, 3e-1]", "method.label_smoothing=0.1"],
        ["method.loss_type=[dpo]"],
        ["method.loss_type=simpo", "method.simpo_gamma=1.5"],
        ["method.f_divergence_type=alpha_divergence", "method.f_alpha_divergence_coef=0.3", "method.ld_alpha=0"],
        [
            "method.optimism={coefficient: 1e-5, on: reference}",
            "generate={num_generations: 1, num_reference_generations: 1}",
        ],
        ["data.demonstrations=playground", "method.sources={dmd: {mixing: 1}}", "train.source_grad_norms=never"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_dumped_recipe_keeps_losses_and_their_options(load, overrides):
    recipe = load("method.sources.dpr.gradient=0", *overrides)
    Path("again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load_recipe("again.yaml")
    assert again == recipe
    assert dump(again) == dump(recipe)
    assert yaml.safe_load(dump(recipe)) == resolved(recipe)
    assert load_recipe("again.yaml", ["method.beta=0.3"]).method.loss_type == recipe.method.loss_type


def test_a_loss_that_became_a_list_differs(load):
    gradient = "method.sources.dpr.gradient=0"
    old, new = resolved(load(gradient)), resolved(load(gradient, "method.loss_type=[dpo, sft]"))
    assert differences(old, new) == [Difference("method.loss_type", "sigmoid", ["sigmoid", "sft"])]


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
    assert code_that_runs(load()) == ["labelers.hidden: package.module:score, which is not found here"]
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


@pytest.mark.parametrize("losses", ["aot", "aot_unpaired", "sft", "[dpo, aot]", "[sft, aot]"])
def test_a_loss_over_a_whole_forward_pass_is_worth_a_warning_where_a_step_has_several(load, losses):
    overrides = ("method.sources.dpr.gradient=0", f"method.loss_type={losses}", "data.eval_prompts=null")
    cut = losses.strip("[]").removeprefix("dpo, ").replace(", ", " and ")
    assert (
        f"method.loss_type {cut}: TRL computes it over each forward pass, so the result depends on "
        "train.per_device_train_batch_size"
    ) in warnings_for(load(*overrides, "train.gradient_accumulation_steps=2"))
    assert not any("forward pass" in warning for warning in warnings_for(load(*overrides)))


def test_a_loss_of_single_pairs_is_worth_no_warning_however_a_step_is_cut(load):
    overrides = ("method.sources.dpr.gradient=0", "method.loss_type=[ipo, robust]")
    warnings = warnings_for(load(*overrides, "train.gradient_accumulation_steps=2"))
    assert not any("forward pass" in warning for warning in warnings)


def test_a_gradient_of_mixed_pairs_above_the_exact_one_is_worth_a_warning(load):
    mixed = "method.sources={offline: {mixing: 0.5}, dmd: {mixing: 0.5, gradient: 1.5}}"
    warnings = warnings_for(load(mixed, "data.demonstrations=playground"))
    assert "method.sources.dmd.gradient is 1.5: 1 is the exact bilevel gradient" in warnings
    warnings = warnings_for(load(mixed, "data.demonstrations=playground", "method.sources.dmd.gradient=1"))
    assert not any("gradient" in warning for warning in warnings)


def test_replayed_mixed_pairs_with_a_gradient_are_worth_a_warning(load):
    mixed = (
        "method.sources={dmd: {mixing: 1, gradient: 1}}",
        "data.demonstrations=playground",
        "train.replay_rounds=1",
    )
    replayed = "train.replay_rounds without method.importance_weight_cap: replayed responses are another policy's"
    assert replayed in warnings_for(load(*mixed, "method.importance_weight_cap=null"))
    assert replayed not in warnings_for(load(*mixed))
    assert replayed not in warnings_for(load(*mixed, "method.sources.dmd.gradient=0"))


NO_TERMS = ("method.sources.dpr.gradient=0",)


@pytest.mark.parametrize(
    ("overrides", "cap"),
    [
        (("train.replay_rounds=1",), REPLAY_CAP),
        (("train.replay_rounds=1", "method.importance_weight_cap=10"), 10),
        (("train.replay_rounds=1", "method.importance_weight_cap=null"), None),
        (("train.replay_rounds=1", *NO_TERMS), None),
        (("train.replay_rounds=1", *NO_TERMS, "method.kl.coefficient=0.1"), REPLAY_CAP),
        (("train.replay_rounds=1", *NO_TERMS, "method.kl={coefficient: 0.1, gradient: pathwise}"), None),
        (("train.replay_rounds=0", "method.kl.coefficient=0.1"), None),
    ],
)
def test_replayed_pairs_are_weighed_where_a_term_is_an_expectation_over_the_policy(load, tmp_path, overrides, cap):
    recipe = load(*overrides)
    assert recipe.method.importance_weight_cap == cap
    assert resolved(recipe)["method"]["importance_weight_cap"] == cap
    written = tmp_path / "resolved.yaml"
    written.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(written).method.importance_weight_cap == cap


@pytest.mark.parametrize(
    ("overrides", "uses"),
    [
        ((), None),
        (("generate.prompts_per_round=8",), "dpr 150"),
        (
            ("generate.prompts_per_round=8", "method.sources.dpr.mixing=0.25", "method.sources.offline.mixing=0.75"),
            "dpr 125",
        ),
        (("generate.prompts_per_round=8", "train.gradient_accumulation_steps=2"), "dpr 300"),
        (("generate.prompts_per_round=8", "generate.num_generations=4"), "dpr 150"),
        (("generate.prompts_per_round=8", "generate.num_generations=4", "label.pairs=all"), "dpr 25"),
        (("generate.prompts_per_round=8", "train.replay_rounds=1"), "dpr 75"),
        (("generate.prompts_per_round=8", "train.replay_rounds=9"), "dpr 50"),
        (("generate.prompts_per_round=8", "method.sources={dpp: {mixing: 1}}", "generate.num_generations=4"), "dpp 83"),
        (("generate.prompts_per_round=8", "method.sources={offline: {mixing: 1}}"), None),
    ],
)
def test_pairs_that_are_used_over_and_over_are_worth_a_warning(load, overrides, uses):
    steps = ("train.steps_per_round=500", "generate.prompts_per_round=512", "rounds=3")
    found = [warning for warning in warnings_for(load(*steps, *overrides)) if "uses each of its" in warning]
    if uses is None:
        assert found == []
    else:
        (warning,) = found
        name, times = uses.split()
        assert f" pairs of {name} {times} times: " in warning


def test_every_key_is_documented():
    docs = describe_keys()
    assert [doc.path for doc in docs if not doc.description] == []
    by_path = {doc.path: doc for doc in docs}
    assert len({(doc.path, doc.kinds) for doc in docs}) == len(docs)
    beta = by_path["method.beta"]
    assert (beta.type, beta.range, beta.default) == ("a number", "above 0", "0.1")
    assert by_path["train.steps_per_round"].default == "required"
    loss = by_path["method.loss_type"]
    assert loss.type.startswith("one of sigmoid, ipo, hinge, simpo, sppo, rebel, inpo, exo_pair, ")
    assert loss.type.endswith(", sigmoid_norm, or a list of them")
    assert (by_path["method.ld_alpha"].range, by_path["method.loss_weights"].type) == (
        "at least 0 and at most 1",
        "a list, each a number",
    )
    assert by_path["labelers.<name>.kind"].type == f"one of {KINDS}"


def test_robust_without_smoothing_is_worth_a_warning(load):
    plain = ("method.loss_type=robust", "method.sources.dpr.gradient=0")
    assert any("robust is then the plain sigmoid loss" in warning for warning in warnings_for(load(*plain)))
    smoothed = warnings_for(load(*plain, "method.label_smoothing=0.1"))
    assert not any("robust" in warning for warning in smoothed)
