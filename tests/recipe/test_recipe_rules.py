"""Each rule across keys: a recipe that breaks it, and one that does not."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

from align_cli.recipe import rules, sections

ONE_SOURCE = "method.sources={offline: {mixing: 1.0}}"
NO_GRADIENT = "method.sources.dpr.gradient=0"
QLORA = ("policy.model_name_or_path=owner/name", "policy.lora={rank: 2}")
NEW_MODEL = ("policy={from_scratch: {hidden_size: 48, num_attention_heads: 6}, sft: {dataset: playground}}",)

BROKEN = [
    (['output_dir="runs/a\\nb"'], "output_dir is 'runs/a\\nb'; it must hold no line break"),
    (['output_dir="runs/a\\tb"'], "it must hold no line break, tab or other control character"),
    ([f"output_dir=runs/{'x' * 256}/b"], "each name in it must be at most 255 bytes long"),
    ([f"output_dir=runs/{'é' * 128}"], "each name in it must be at most 255 bytes long"),
    ([f"output_dir={'deep/' * 800}"], "4000 bytes long; it must be at most 3840 bytes long"),
    (["method.sources={}"], "method.sources names no source"),
    (["method.sources.offline.mixing=0.5"], "the shares offline 0.5 and dpr 0.3 sum to 0.8; they must sum to 1"),
    (["method.sources.dpr.labeler=null"], "method.sources.dpr has no labeler"),
    (["method.sources.dpr.labeler=hiden"], "method.sources.dpr.labeler is 'hiden'; labelers defines no such labeler"),
    (["method.sources.dpr.labeler=given"], "method.sources.dpr.labeler is 'given', of kind dataset"),
    (["method.sources.offline.labeler=hidden"], "method.sources.offline.labeler is 'hidden', of kind function"),
    (["method.sources.offline.labeler=x"], "labelers defines no such labeler"),
    (["evaluate.scorer=given"], "evaluate.scorer is 'given', of kind dataset"),
    (["evaluate.scorer=hiden"], "labelers defines no such labeler"),
    (["evaluate.scorer=hidden", "data.eval_prompts=null"], "data.eval_prompts is not set"),
    (["labelers={hidden: {kind: function, function: 'm:f'}, a b: {kind: dataset}}"], "name 'a b' is not a word"),
    (["labelers.dataset={kind: function, function: 'm:f'}"], "labelers.dataset is not of kind dataset"),
    (["data.preferences=null"], "data.preferences is not set"),
    (["data.prompts=null"], "data.prompts is not set"),
    (["generate.num_generations=1"], "needs at least 2 completions"),
    (["generate.top_k=5"], "generate.top_k is 5; with a gradient above 0"),
    (["generate.top_p=0.9"], "generate.top_p is 0.9; with a gradient above 0"),
    (["generate.temperature=0.7"], "responses of another temperature than 1 need importance weights"),
    (
        ["method.kl={coefficient: 0.1, on: all, gradient: full}"],
        "method.kl.gradient is full on the responses of offline",
    ),
    (
        [
            "method.kl.coefficient=0.1",
            "method.sources.dpr.mixing=0",
            "method.sources.offline.mixing=1",
            "method.sources.dpr.gradient=0",
        ],
        "no source samples the policy",
    ),
    (
        ["method.sources.dpr.mixing=0", "method.sources.dpp={mixing: 0.3}", "data.prompts=null"],
        "the source dpp samples",
    ),
    (
        ["method.sources={ddp: {mixing: 0.7}, dpr: {mixing: 0.3, labeler: hidden}}", "data.preferences=null"],
        "the source ddp takes its pairs from it",
    ),
    (["label.ties=drop"], "label.ties is drop; with a gradient above 0"),
    (["label.equal_texts=drop"], "label.equal_texts is drop"),
    (["label.empty_texts=drop"], "label.empty_texts is drop"),
    (["label.min_margin=0.1"], "label.min_margin is 0.1"),
    (["policy.model_name_or_path=null"], "policy names no model"),
    ([*NEW_MODEL, "policy.model_name_or_path=playground"], "policy has both"),
    ([*NEW_MODEL, "policy.sft=null"], "policy.from_scratch without policy.sft"),
    ([*NEW_MODEL, "policy.from_scratch.num_attention_heads=7"], "it must divide hidden_size, 48"),
    ([*NEW_MODEL, "policy.from_scratch.num_attention_heads=16"], "a head of 3 would be odd"),
    (["policy.device=gpu"], "policy.device is 'gpu'; it must be auto, cpu, cuda, mps or xpu"),
    (["policy.device=cuda.1"], "policy.device is 'cuda.1'"),
    (["policy.dtype=float16", "train.fp16=true"], "torch scales the gradients of float32 weights alone"),
    (["policy.quantization={bits: 4}"], "policy.quantization without policy.lora"),
    ([*QLORA, "policy.quantization={bits: 8, double: true}"], "policy.quantization.double with 8 bits; it is for 4"),
    ([*QLORA, "policy.load_in_4bit=true"], "unknown key policy.load_in_4bit"),
    (["train.use_cpu=true"], "train.use_cpu is refused"),
    (["evaluate.against=[initial, initial]"], "evaluate.against names initial more than once"),
    (["data.eval_prompts=reviews"], "data.eval_prompts is reviews, and the recipe has no section reviews"),
    (["data.prompts=./no.txt"], "data.prompts is './no.txt'; there is no such file or folder"),
    (["data.preferences=pairs.jsonl"], "data.preferences is 'pairs.jsonl'; there is no such file or folder"),
    (["data.demonstrations=shown.jsonl"], "data.demonstrations is 'shown.jsonl'; there is no such file or folder"),
    (["policy.sft={dataset: ../no}"], "policy.sft.dataset is '../no'"),
    (["policy.model_name_or_path=/no/model"], "policy.model_name_or_path is '/no/model'"),
    (["reviews={liked: here.txt, disliked: no}"], "reviews.disliked is 'no'; there is no such file"),
    (["output_dir=' '"], "output_dir is ' '; it must not be empty"),
    (["labelers.hidden.function=score"], "it must be package.module:name or path/to/file.py:name"),
    (["labelers.hidden.function='a b:c'"], "it must be package.module:name"),
    (["labelers.hidden.function=no.py:score"], "labelers.hidden.function: there is no file 'no.py'"),
]

SOUND = [
    ["method.sources={offline: {mixing: 1.0}}", "data.prompts=null", "generate.num_generations=1"],
    ["method.sources={dpr: {mixing: 1, labeler: hidden}}", "data.preferences=null"],
    ["method.sources={offline: {mixing: 1}, dpr: {mixing: 0, gradient: 0.5}}", "generate.top_p=0.5"],
    ["method.sources.offline.mixing=0.1", "method.sources.dpr.mixing=0.9"],
    ["method.sources.offline.labeler=given"],
    ["evaluate.scorer=hidden"],
    ["method.sources={ddp: {mixing: 0.5, gradient: 0.2}, dpp: {mixing: 0.5, gradient: 0.2}}"],
    ["generate.temperature=0.7", "method.importance_weight_cap=10"],
    ["generate.num_generations=4"],
    ["method.kl={coefficient: 0.1, on: all, gradient: pathwise}"],
    ["method.kl={coefficient: 0.1, on: policy, gradient: full}"],
    ["train.replay_rounds=2"],
    ["data.eval_prompts=null"],
    [NO_GRADIENT, "generate.top_k=5", "generate.top_p=0.9", "generate.temperature=0.7", "generate.num_generations=4"],
    [NO_GRADIENT, "label={ties: drop, equal_texts: drop, empty_texts: drop, min_margin: 0.1}"],
    ["label={labels: soft, ties: keep, temperature: 2}"],
    [*NEW_MODEL],
    ["policy.dtype=float16", "policy.model_name_or_path=owner/name", "policy.lora={rank: 2}", "train.fp16=true"],
    ["policy.device=cuda:1"],
    [*QLORA, "policy.quantization={bits: 4, type: fp4, double: true, compute_dtype: bfloat16}"],
    [*QLORA, "policy.quantization={bits: 8}"],
    ["evaluate.against=[]"],
    ["reviews={liked: here.txt, disliked: ./here.txt}", "data.prompts=reviews"],
    ["data.prompts=here.txt", "data.eval_prompts=owner/name", "policy.model_name_or_path=owner/name"],
    ["labelers.hidden.function=code.py:score"],
    ["labelers.hidden.function=package.module:Class.method"],
]


@pytest.fixture(autouse=True)
def files(tmp_path):
    (tmp_path / "here.txt").touch()
    (tmp_path / "code.py").touch()


@pytest.mark.parametrize(("overrides", "what"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_is_a_fault_with_a_remedy(faults_of, overrides, what):
    (fault,) = faults_of(*overrides)
    assert what in fault.what
    assert fault.hint or "empty" in fault.what


@pytest.mark.parametrize("overrides", SOUND, ids=" ".join)
def test_what_the_rules_allow_loads(load, overrides):
    load(*overrides)


def test_rules_hold_beside_other_faults(faults_of):
    whats = [fault.what for fault in faults_of("rounds=x", "method.sources.offline.mixing=0.5", "method.beta=-1")]
    assert len(whats) == 3
    assert any("sum to 0.8" in what for what in whats)


@pytest.mark.parametrize("override", ["method.sources.ddp={mixing: 0.4}", "method.sources.dpr.mixing=2", "method=3"])
def test_a_rule_keeps_silent_where_its_own_keys_are_faulty(faults_of, override):
    assert not any("sum to" in fault.what for fault in faults_of("method.sources.offline.mixing=0.5", override)[1:])
    assert len(faults_of(override)) == 1


def test_shares_are_told_how_to_sum_to_one(faults_of):
    (fault,) = faults_of("method.sources.offline.mixing=0.6")
    assert fault.hint == "set method.sources.dpr.mixing to 0.4"
    (fault,) = faults_of(ONE_SOURCE.replace("1.0", "0.9"))
    assert fault.hint == "set method.sources.offline.mixing to 1"


def test_a_rule_points_to_the_value_that_breaks_it(faults_of, minimal):
    (fault,) = faults_of(text=minimal + "generate:\n  top_p: 0.9\n")
    assert fault.where == "recipe.yaml:18:10"
    (fault,) = faults_of(text=minimal.replace("mixing: 0.7", "mixing: 0.6"))
    assert fault.where == "recipe.yaml:12:3"


def test_a_mistyped_file_gets_the_nearest_name(faults_of):
    (fault,) = faults_of("data.prompts=./heer.txt")
    assert fault.hint == "did you mean ./here.txt?"
    (fault,) = faults_of("labelers.hidden.function=cod.py:score")
    assert fault.hint == "did you mean code.py?"


def test_naming_a_function_runs_nothing(load):
    Path("code.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    load("labelers.hidden.function=code.py:score")


def test_what_a_section_asks_is_asked_of_every_recipe():
    for found in pkgutil.iter_modules(sections.__path__, f"{sections.__name__}."):
        section = importlib.import_module(found.name)
        for kind in ("RULES", "FILE_RULES", "WARNINGS"):
            assert set(getattr(section, kind, ())) <= set(getattr(rules, kind)), f"{found.name}.{kind}"
