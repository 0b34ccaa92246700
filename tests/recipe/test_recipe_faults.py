"""How faults of single keys read, and that all of them are reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.errors import RecipeError
from align_cli.recipe import load_recipe
from align_cli.recipe.sections.data import DataSection
from align_cli.recipe.sections.label import LabelSection
from align_cli.recipe.sections.labelers import LABELER_KINDS

KINDS = ", ".join(LABELER_KINDS)

HERE = Path(__file__).parent
LOSSES = (
    "sigmoid, ipo, hinge, simpo, sppo, rebel, inpo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, "
    "aot_unpaired, apo_zero, apo_down, discopop, sft, sigmoid_norm, dpo, slic"
)


def test_ten_faults_are_reported_at_once_in_these_words(monkeypatch):
    monkeypatch.chdir(HERE)
    with pytest.raises(RecipeError) as caught:
        load_recipe("ten_faults.yaml")
    assert len(caught.value.faults) == 10
    assert str(caught.value) + "\n" == Path("ten_faults.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("rounds='3'", "rounds is '3'; it must be a whole number at least 1", "write 3"),
        ("rounds=3.0", "rounds is 3.0; it must be a whole number at least 1", "write 3"),
        ("rounds=true", "rounds is true; it must be a whole number at least 1", ""),
        ("rounds=1_000", "rounds is '1_000'; it must be a whole number at least 1", "write 1000"),
        ("rounds=abc", "rounds is 'abc'; it must be a whole number at least 1", ""),
        ("rounds=", "rounds is empty; it must be a whole number at least 1", ""),
        ("rounds=0", "rounds is 0; it must be at least 1", ""),
        ("method.beta=false", "method.beta is false; it must be a number above 0", "0.1 to 0.5 is usual for DPO"),
        ("method.beta=0,2", "method.beta is '0,2'; it must be a number above 0", "write 0.2"),
        ("method.beta=.inf", "method.beta is inf; it must be a number above 0", "0.1 to 0.5 is usual for DPO"),
        ("method.beta=[1]", "method.beta is [1]; it must be a number above 0", "0.1 to 0.5 is usual for DPO"),
        ("generate.top_p=1.5", "generate.top_p is 1.5; it must be above 0 and at most 1", "1.0 keeps every token"),
        ("policy.trust_remote_code=yes", "policy.trust_remote_code is 'yes'; it must be true or false", "write true"),
        ("output_dir=12", "output_dir is 12; it must be text", "write '12' in quotes"),
        ("label.ties=dorp", "label.ties is 'dorp'; it must be one of keep, drop", "did you mean drop?"),
        ("evaluate.against=x", "evaluate.against is 'x'; it must be a list, each one of initial, previous", ""),
        (
            "evaluate.against=[initail]",
            "evaluate.against[0] is 'initail'; it must be one of initial, previous",
            "did you mean initial?",
        ),
        (
            "labelers.hidden.kind=fuction",
            f"labelers.hidden.kind is 'fuction'; it must be one of {KINDS}",
            "did you mean function?",
        ),
        (
            "labelers.other.batch_size=3",
            "labelers.other.kind is missing",
            f"set it to one of {KINDS}",
        ),
        (
            "data=5",
            "data is 5; it must be a section",
            f"give it keys: {', '.join(DataSection.model_fields)}",
        ),
        (
            "label=",
            "label is empty; it must be a section",
            f"leave the key out, or give it keys: {', '.join(LabelSection.model_fields)}",
        ),
        (
            "method.loss_type=ipoo",
            f"method.loss_type is 'ipoo'; it must be one of {LOSSES}",
            "did you mean ipo?",
        ),
        (
            "method.loss_type=[dpo, ipoo]",
            f"method.loss_type[1] is 'ipoo'; it must be one of {LOSSES}",
            "did you mean ipo?",
        ),
        ("method.loss_type=[]", f"method.loss_type is []; it must be one of {LOSSES}", ""),
        ("method.loss_type={dpo: 1}", f"method.loss_type is a section; it must be one of {LOSSES}", "write [dpo]"),
        ("method.loss_type=[dpo, 3]", f"method.loss_type[1] is 3; it must be one of {LOSSES}", ""),
        ("method.loss_weights=3", "method.loss_weights is 3; it must be a list, each a number", "write [3]"),
        ("method.simpo_gamma=-1", "method.simpo_gamma is -1; it must be at least 0", ""),
        ("method.label_smoothing=0.5", "method.label_smoothing is 0.5; it must be at least 0 and below 0.5", ""),
        ("method.label_smoothing=-0.1", "method.label_smoothing is -0.1; it must be at least 0 and below 0.5", ""),
        ("method.discopop_tau=0", "method.discopop_tau is 0; it must be above 0", ""),
        ("method.ld_alpha=1.5", "method.ld_alpha is 1.5; it must be at least 0 and at most 1", ""),
        ("method.ld_alpha=-0.5", "method.ld_alpha is -0.5; it must be at least 0 and at most 1", ""),
        ("method.use_weighting=1", "method.use_weighting is 1; it must be true or false", ""),
        (
            "method.f_divergence_type=js_diverjence",
            "method.f_divergence_type is 'js_diverjence'; it must be one of reverse_kl, forward_kl, js_divergence, "
            "alpha_divergence",
            "did you mean js_divergence?",
        ),
        ("method.f_alpha_divergence_coef=a", "method.f_alpha_divergence_coef is 'a'; it must be a number", ""),
        ("method.optimism.coefficient=-1", "method.optimism.coefficient is -1; it must be at least 0", ""),
        (
            "method.optimism.on=refrence",
            "method.optimism.on is 'refrence'; it must be one of reference, policy",
            "did you mean reference?",
        ),
        (
            "method.sources.dmd={mixing: 1.5}",
            "method.sources.dmd.mixing is 1.5; it must be at least 0 and at most 1",
            "",
        ),
        (
            "method.sources.dmd={mixing: 0, gradient: -1}",
            "method.sources.dmd.gradient is -1; it must be at least 0",
            "",
        ),
        (
            "generate.num_reference_generations=-1",
            "generate.num_reference_generations is -1; it must be at least 0",
            "",
        ),
        (
            "generate.num_reference_generations=0.5",
            "generate.num_reference_generations is 0.5; it must be a whole number at least 0",
            "",
        ),
        (
            "train.source_grad_norms=steps",
            "train.source_grad_norms is 'steps'; it must be one of round, step, never",
            "did you mean step?",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(faults_of, override, what, hint):
    (fault,) = faults_of(override)
    assert (fault.what, fault.hint) == (what, hint)
    assert fault.where == f"override '{override}'"


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("beta=0.2", "unknown key beta", "did you mean method.beta?"),
        ("sede=1", "unknown key sede", "did you mean seed?"),
        ("method.bta=0.2", "unknown key method.bta", "did you mean method.beta?"),
        ("metod.beta=0.2", "unknown key metod.beta", "did you mean method.beta?"),
        ("generate.max_tokens=3", "unknown key generate.max_tokens", "did you mean generate.max_new_tokens?"),
        (
            "method.labeler=x",
            "unknown key method.labeler",
            "did you mean method.sources.offline.labeler or method.sources.dpr.labeler?",
        ),
        (
            "temperature=1",
            "unknown key temperature",
            "did you mean generate.temperature or label.temperature or evaluate.temperature?",
        ),
        ("max_grad_norm=5", "unknown key max_grad_norm", "did you mean train.max_grad_norm?"),
        (
            "labelers.hidden.functoin=a",
            "unknown key labelers.hidden.functoin",
            "did you mean labelers.hidden.function?",
        ),
        (
            "data.xyzzy=1",
            "unknown key data.xyzzy",
            "data has the keys prompts, preferences, demonstrations, eval_prompts, eval_preferences, criterion, pairs, "
            "as_chat, system_prompt, thinking, max_prompt_tokens, max_completion_tokens, too_long",
        ),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(faults_of, override, what, hint):
    (fault,) = faults_of(override)
    assert (fault.what, fault.hint) == (what, hint)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("policy.peft={}", "adapters are policy.lora"),
        ("policy.lora.r=8", "it is called rank"),
        ("policy.lora.lora_alpha=8", "it is called alpha"),
        ("data.max_prompt_length=8", "it is called max_prompt_tokens"),
        ("data.max_length=8", "set data.max_prompt_tokens and data.max_completion_tokens"),
        (
            "data.truncation_mode=keep_end",
            "set data.too_long to cut: prompts lose their beginning, responses their end",
        ),
    ],
)
def test_a_key_by_another_tools_name_gets_its_name_here(faults_of, override, hint):
    found = [(fault.what, fault.hint) for fault in faults_of(override)]
    assert (f"unknown key {override.split('=')[0]}", hint) in found


@pytest.mark.parametrize(
    "override",
    [
        "labelers.x.kind=policy",
        "generate.engine=openai",
        "generate.engine=vllm",
    ],
)
def test_what_is_not_served_yet_is_called_so_and_has_a_remedy(faults_of, override):
    (fault,) = faults_of(override)
    assert fault.what.endswith("is not served yet")
    assert fault.hint


def test_a_wrong_loss_in_a_list_is_located_at_its_item(faults_of, minimal):
    text = minimal.replace("method:\n", "method:\n  loss_type: [dpo, sftt, ipo, {a: 1}]\n")
    first, second = faults_of(text=text)
    assert (first.where, first.snippet.splitlines()[1].index("^")) == ("recipe.yaml:12:20", 21)
    assert first.what.startswith("method.loss_type[1] is 'sftt'; it must be one of sigmoid, ")
    assert first.hint == "did you mean sft?"
    assert (second.where, second.what.split(";")[0]) == ("recipe.yaml:12:31", "method.loss_type[3] is a section")


def test_a_weight_that_is_no_number_is_located_at_its_item(faults_of, minimal):
    (fault,) = faults_of(text=minimal.replace("method:\n", "method:\n  loss_weights: [1, b, 2]\n"))
    assert (fault.where, fault.what) == ("recipe.yaml:12:21", "method.loss_weights[1] is 'b'; it must be a number")


def test_a_missing_key_points_to_the_section_that_lacks_it(faults_of, minimal):
    (fault,) = faults_of(text=minimal.replace("  steps_per_round: 50", "  learning_rate: 5e-4"))
    assert fault.where == "recipe.yaml:15:1"
    assert fault.what == "train.steps_per_round is missing"
    assert fault.hint == "add it: optimizer steps a round"
    assert fault.snippet == "  train:\n  ^"


def test_missing_sections_point_to_the_start(faults_of):
    faults = faults_of(text="output_dir: runs/first\n")
    assert [fault.what for fault in faults] == [f"{key} is missing" for key in ("policy", "data", "method", "train")]
    assert {fault.where for fault in faults} == {"recipe.yaml:1:1"}


def test_faults_are_ordered_by_line_and_overrides_come_last(faults_of, minimal):
    text = minimal.replace("50", "0").replace("runs/first", "3")
    faults = faults_of("seed=-1", "method.beta=0", text=text)
    assert [fault.where for fault in faults] == [
        "recipe.yaml:1:13",
        "recipe.yaml:16:20",
        "override 'seed=-1'",
        "override 'method.beta=0'",
    ]


def test_text_that_would_move_the_cursor_is_shown_escaped(faults_of, minimal):
    text = minimal.replace("model_name_or_path: playground", 'reference: "a\\e[2Jb"').replace("runs/", "ru\u202ens/")
    assert "\x1b" not in "".join(map(str, faults_of(text=text)))
    (fault,) = faults_of("s\x1bede=1")
    assert "\x1b" not in str(fault)
    (fault,) = faults_of("policy.reference=a\u202eb")
    assert "'a\\u202eb'" in fault.what


def test_any_argument_of_a_function_labeler_is_accepted(load):
    recipe = load("labelers.hidden.arguments={any: {thing: [1, two]}}")
    assert recipe.labelers["hidden"].arguments == {"any": {"thing": [1, "two"]}}
