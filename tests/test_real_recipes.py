"""The recipes for real models run from end to end: tiny models of their families, a few rows of their schemas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import yaml
from chat_models import CHATML, chat_tokenizer

from align_cli.cli.reporters import RunReporter
from align_cli.recipe import Recipe, load_recipe, resolved
from align_cli.run.loop import align_rounds

ROOT = Path(__file__).parent.parent
FAMILIES = {"smollm2": "llama", "qwen2.5-0.5b": "qwen2", "llama-3.1-8b-lora": "llama", "phi-3-safe": "phi3"}
NAMES = [f"{family}{variant}" for family in FAMILIES for variant in ("", "-offline")]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
MORE_IDS = 8
"""Some families' tokenizers bring tokens of their own."""
SHORT = (
    "train.per_device_train_batch_size=4",
    "train.gradient_accumulation_steps=1",
    "train.steps_per_round=1",
    "evaluate.num_prompts=4",
    "generate.max_new_tokens=8",
    "generate.batch_size=4",
)
QUESTIONS = ["Name a colour.", "What is two plus two?", "Who wrote it?", "Say yes.", "Why is it red?", "Count to four."]


def ultrafeedback() -> Iterator[dict[str, Any]]:
    """Rows as `HuggingFaceH4/ultrafeedback_binarized` has them."""
    for number, question in enumerate(QUESTIONS):
        asked = {"role": "user", "content": question}
        answers = [{"role": "assistant", "content": text} for text in (f"It is {number}.", "no")]
        yield {
            "prompt": question,
            "prompt_id": f"{number:064x}",
            "chosen": [asked, answers[0]],
            "rejected": [asked, answers[1]],
            "messages": [asked, answers[0]],
            "score_chosen": 8.0,
            "score_rejected": 3.5,
        }


def safe_rlhf() -> Iterator[dict[str, Any]]:
    """Rows as `PKU-Alignment/PKU-SafeRLHF` has them."""
    for number, question in enumerate(QUESTIONS):
        yield {
            "prompt": question,
            "response_0": f"It is {number}.",
            "response_1": "I would rather not say.",
            "prompt_source": "Alpaca3-70B",
            "response_0_source": "Alpaca3-8B",
            "response_1_source": "Alpaca2-7B",
            "is_response_0_safe": number % 2 == 0,
            "is_response_1_safe": True,
            "better_response_id": number % 2,
            "safer_response_id": 1 - number % 2,
        }


def write_split(folder: Path, split: str, rows: Iterator[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_policy(folder: Path, family: str) -> str:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = chat_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer) + MORE_IDS, **SIZES, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_reward_model(folder: Path, family: str, template: str | None) -> str:
    """A classifier with one output: a decoder that is asked in chats, or an encoder that takes two texts."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = chat_tokenizer(template)
    sizes = {key: value for key, value in SIZES.items() if family != "bert" or key != "num_key_value_heads"}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), num_labels=1, **sizes, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


EASY = ["fine", "is", "it", "look", "one", "up", "yes"]


def of_smollm2(folder: Path, *, is_online: bool) -> list[str]:
    """What its recipes take from the user, instructions and pairs, and the lexicon."""
    rows = [{"instruction": question, "input": "", "output": "Yes."} for question in QUESTIONS]
    pairs = [
        {"prompt": question, "chosen": f"It is {number}.", "rejected": "No."}
        for number, question in enumerate(QUESTIONS)
    ]
    instructions, preferences, lexicon = (folder / name for name in ("alpaca.json", "plain.jsonl", "easy_words.txt"))
    instructions.write_text(json.dumps(rows), encoding="utf-8")
    preferences.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    lexicon.write_text("\n".join(EASY), encoding="utf-8")
    changed = {"data.preferences": preferences, "data.eval_prompts": f"{instructions}[:4]"}
    if is_online:
        changed |= {"data.prompts": f"{instructions}[2:]", "labelers.lexicon.arguments.lexicon": lexicon}
    return [f"{key}={value}" for key, value in changed.items()]


def of_the_hub(path: Path, folder: Path) -> list[str]:
    """Folders in the place of the Hub's data sets, and tiny reward models."""
    write_split(folder / "ultrafeedback", "train_prefs", ultrafeedback())
    write_split(folder / "ultrafeedback", "test_prefs", ultrafeedback())
    write_split(folder / "safe", "train", safe_rlhf())
    write_split(folder / "safe", "test", safe_rlhf())
    places = {"HuggingFaceH4/ultrafeedback_binarized": "ultrafeedback", "PKU-Alignment/PKU-SafeRLHF": "safe"}
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = []
    for key, name in recipe["data"].items():
        for place, ours in places.items():
            if str(name).startswith(place):
                changed.append(f"data.{key}={folder / ours}{name.removeprefix(place)}")
    assert len(changed) >= 3
    models = {
        "trains": lambda: make_reward_model(folder / "trains", "llama", CHATML),
        "judges": lambda: make_reward_model(folder / "judges", "bert", None),
    }
    return [*changed, *(f"labelers.{name}.model_name_or_path={models[name]()}" for name in recipe["labelers"])]


@pytest.fixture
def made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recipe]:
    """A recipe with everything that is not the recipe's own made small, or taken from a folder."""
    monkeypatch.chdir(ROOT)

    def make(name: str) -> Recipe:
        path = ROOT / "recipes" / f"{name}.yaml"
        family = FAMILIES[name.removesuffix("-offline")]
        is_online = not name.endswith("-offline")
        is_ours = name.startswith("smollm2")
        changed = of_smollm2(tmp_path, is_online=is_online) if is_ours else of_the_hub(path, tmp_path)
        if is_online:
            changed += ["rounds=2", "generate.prompts_per_round=4"]
        return load_recipe(
            path,
            [
                f"output_dir={tmp_path / 'run'}",
                f"policy.model_name_or_path={make_policy(tmp_path / 'policy', family)}",
                *SHORT,
                *changed,
            ],
        )

    return make


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_end_to_end(name: str, made_small: Callable[[str], Recipe]) -> None:
    recipe = made_small(name)
    evaluations = align_rounds(recipe, RunReporter())
    assert [one.round for one in evaluations] == list(range(recipe.rounds + 1))
    last = evaluations[-1]
    assert last.num_prompts == 4
    assert last.against["initial"]["policy"] == evaluations[0].policy != last.policy
    assert last.reward is not None
    steps = [json.loads(line) for line in (Path(recipe.output_dir) / "rounds/001/training.jsonl").open()]
    assert all(step["loss"] > 0 and step["grad_norm"] > 0 for step in steps)


@pytest.mark.long
def test_the_one_that_fits_its_own_reward_model_runs_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": one, "chosen": f"It is {number}.", "rejected": "No."} for number, one in enumerate(QUESTIONS)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    model = make_policy(tmp_path / "policy", "llama")
    recipe = load_recipe(
        ROOT / "recipes/smollm2-reward.yaml",
        [
            f"output_dir={tmp_path / 'run'}",
            "rounds=2",
            "generate.prompts_per_round=4",
            f"policy.model_name_or_path={model}",
            f"reward.model_name_or_path={model}",
            "reward.per_device_train_batch_size=2",
            "reward.gradient_accumulation_steps=1",
            f"reward.preferences={path}[:4]",
            f"reward.eval_preferences={path}[4:]",
            f"data.preferences={path}[:4]",
            f"data.eval_preferences={path}[4:]",
            f"data.prompts={path}[2:]",
            f"data.eval_prompts={path}[:4]",
            f"labelers.judge.model_name_or_path={make_reward_model(tmp_path / 'judges', 'bert', None)}",
            *SHORT,
        ],
    )
    evaluations = align_rounds(recipe, RunReporter())
    assert [one.scorer for one in evaluations] == ["judge"] * 3
    report = json.loads((tmp_path / "run/rounds/000/reward.json").read_text())
    assert (report["num_pairs"], report["num_steps"], report["held_out"]["num_pairs"]) == (4, 4, 2)
    labelled = [json.loads(line) for line in (tmp_path / "run/rounds/001/preferences.jsonl").open()]
    assert {pair["labeler"] for pair in labelled} == {"ours"}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("-offline")])
def test_its_baseline_differs_in_what_the_baseline_is_about_alone(name: str) -> None:
    """Same model, data, steps, KL and evaluation: what is compared is the method."""
    ours, theirs = (
        resolved(load_recipe(ROOT / "recipes" / f"{each}.yaml", check_files=False))
        for each in (name, f"{name}-offline")
    )
    assert [source for source, section in theirs["method"]["sources"].items() if section] == ["offline"]
    for section in ("policy", "evaluate"):
        assert theirs[section] == ours[section]
    assert theirs["data"] == {**ours["data"], "prompts": None}
    assert theirs["method"]["kl"] == ours["method"]["kl"] and ours["method"]["kl"]["on"] == "all"
    assert theirs["method"]["beta"] == ours["method"]["beta"]
    steps = [each["rounds"] * each["train"].pop("steps_per_round") for each in (ours, theirs)]
    assert steps[0] == steps[1]
    assert theirs["train"] == ours["train"]
    assert all(theirs["generate"][key] == ours["generate"][key] for key in ("max_new_tokens", "batch_size"))


class TestPlainWords:
    """recipes/rewards/plain_words.py: by a lexicon, by a formula, and pairs about it."""

    @pytest.fixture
    def module(self) -> dict[str, Any]:
        return run_path(str(ROOT / "recipes/rewards/plain_words.py"))

    @pytest.fixture
    def lexicon(self, tmp_path: Path) -> str:
        path = tmp_path / "easy_words.txt"
        path.write_text("cat\ncarry\nwalk\nthe\n", encoding="utf-8")
        return str(path)

    @pytest.mark.parametrize(
        ("answer", "share"),
        [
            ("The cat walks.", 1.0),
            ("Cats carried the walker", 1.0),
            ("The feline perambulates", 1 / 3),
            ("perambulation", 0.0),
            ("... 12 !", 0.0),
            ("", 0.0),
        ],
    )
    def test_the_share_of_easy_words_forgives_endings(
        self, module: dict[str, Any], lexicon: str, answer: str, share: float
    ) -> None:
        assert module["EasyWords"](lexicon)([""], [answer]) == pytest.approx([share])

    def test_reading_ease_is_fleschs(self, module: dict[str, Any]) -> None:
        """Six words of one syllable in a sentence; then four words of eleven syllables in two sentences."""
        easy, hard = module["reading_ease"](
            ["", ""], ["The cat sat on the mat.", "Incomprehensible words. Exceedingly odd."]
        )
        assert easy == pytest.approx(206.835 - 1.015 * 6 - 84.6)
        assert hard == pytest.approx(206.835 - 1.015 * 2 - 84.6 * 12 / 4)
        assert module["reading_ease"]([""], ["42"]) == [0.0]

    def test_pairs_become_pairs_about_plain_words(self, module: dict[str, Any], lexicon: str, tmp_path: Path) -> None:
        path = tmp_path / "pairs.jsonl"
        answers = [("the cat", "a feline"), ("a feline", "the cat"), ("the cat", "the walk")]
        rows = [{"prompt": "Which?", "chosen": chosen, "rejected": rejected} for chosen, rejected in answers]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        made = list(module["about_plain_words"](str(path), lexicon))
        assert [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in made] == [
            ("the cat", "a feline")
        ] * 2
        assert made[0]["prompt"] == [{"role": "user", "content": "Which?"}]
