"""A model's card: what it tells, and what it keeps to itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from align_cli.artifacts.records import Evaluation
from align_cli.engines.base import SamplingSettings
from align_cli.recipe import Recipe, load_recipe
from align_cli.report.card import FILL_IN, Base, CardFacts, DataFact, model_card

SAMPLING = SamplingSettings(0.7, 0, 0.9, 256)
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789"


def evaluation(number: int, **against: dict[str, Any]) -> Evaluation:
    return Evaluation(
        round=number,
        policy="0123456789abcdef",
        num_prompts=200,
        scorer="hidden",
        reward={"mean": 0.5, "standard_error": 0.1},
        against=against,
        kl={"mean": 1.5, "standard_error": 0.2, "reference": "0123456789abcdef"},
        length={"mean": 11.5, "standard_error": 0.1},
        eos_rate=0.99,
        distinct_2=0.2,
        preferences=None,
        sampling=SAMPLING._asdict(),
    )


WIN = {"win_rate": 0.66, "low": 0.6, "high": 0.72, "wins": 132, "ties": 0, "losses": 68, "policy": "0123456789abcdef"}


@pytest.fixture
def recipe(write_recipe: Callable[..., Path], tmp_path: Path) -> Recipe:
    """One that names places of the machine, absolute and relative."""
    path = write_recipe(
        tmp_path,
        data__preferences="data/mine/pairs.jsonl",
        data__system_prompt="/no_think",
        labelers__ours={
            "kind": "function",
            "function": "/home/somebody/rewards.py:polite",
            "arguments": {"words": ["/home/somebody/words.txt"]},
        },
    )
    return load_recipe(path, check_files=False)


@pytest.fixture
def facts(recipe: Recipe) -> CardFacts:
    return CardFacts(
        name="me/mine",
        kind="whole",
        base=Base("Qwen/Qwen2.5-0.5B", is_of_hub=True, license="apache-2.0"),
        recipe=recipe,
        round=1,
        why="the last",
        evaluations=[evaluation(0), evaluation(1, initial=WIN)],
        data=[
            DataFact("data.preferences", "pairs.jsonl", 1234, "ab" * 32),
            DataFact("data.prompts", "trl-lib/tldr:default", None, None, is_of_hub=True),
        ],
        local_keys=["data.preferences", "labelers.ours.function"],
        versions={"align": "0.1.0", "torch": "2.13.0"},
        sampling=SAMPLING,
        chats=True,
    )


def front_matter(card: str) -> dict[str, Any]:
    _, block, _ = card.split("---\n", 2)
    read: dict[str, Any] = yaml.safe_load(block)
    return read


def recipe_in(card: str) -> dict[str, Any]:
    found = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert found is not None
    read: dict[str, Any] = yaml.safe_load(found[1])
    return read


def test_the_front_matter_says_what_the_hub_asks(facts: CardFacts) -> None:
    assert front_matter(model_card(facts)) == {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "datasets": ["trl-lib/tldr"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["align", "preference-alignment", "sigmoid"],
    }


def test_a_base_that_is_a_folder_and_a_license_that_nobody_knows_are_left_to_the_author(facts: CardFacts) -> None:
    card = model_card(facts.__class__(**{**vars(facts), "base": Base("mine"), "kind": "merged"}))
    assert not {"base_model", "license"} & front_matter(card).keys()
    assert "The base is a folder: say where it is published." in card
    assert "`mine` with a LoRA adapter merged into its weights" in card


def test_every_figure_has_its_interval_and_its_number_of_prompts(facts: CardFacts) -> None:
    lines = model_card(facts).splitlines()
    assert "| round | n | win vs initial | reward | KL | length | EOS | distinct-2 | pair acc. |" in lines
    assert "| 0 | 200 | – | 0.50 ± 0.10 | 1.50 ± 0.20 | 11.5 | 99% | 0.20 | – |" in lines
    cells = ["1", "200", "0.66 [0.60, 0.72]", "0.50 ± 0.10", "1.50 ± 0.20", "11.5", "99%", "0.20", "–"]
    assert "| " + " | ".join(f"**{cell}**" for cell in cells) + " |" in lines


def test_data_stand_with_their_counts_and_checksums(facts: CardFacts) -> None:
    lines = model_card(facts).splitlines()
    assert "| `data.preferences` | `pairs.jsonl` | 1,234 | `abababababababab` |" in lines
    hub = "[trl-lib/tldr:default](https://huggingface.co/datasets/trl-lib/tldr)"
    assert f"| `data.prompts` | {hub} | – | – |" in lines


def test_the_recipe_is_whole_and_tells_no_path_of_the_machine(facts: CardFacts, tmp_path: Path) -> None:
    card = model_card(facts)
    assert str(tmp_path) not in card
    assert "/home/" not in card
    assert "data/mine" not in card
    read = recipe_in(card)
    assert read["output_dir"] == "run"
    assert read["data"]["preferences"] == "pairs.jsonl"
    assert read["data"]["system_prompt"] == "/no_think"
    assert read["labelers"]["ours"]["function"] == "rewards.py:polite"
    assert read["labelers"]["ours"]["arguments"] == {"words": ["words.txt"]}
    assert read["method"]["sources"]["offline"] == {"mixing": 0.5, "labeler": "dataset"}


def test_secrets_are_masked(facts: CardFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_KEY", "correct-horse-battery-staple-42")
    why = f"asked for with {TOKEN} and correct-horse-battery-staple-42"
    card = model_card(facts.__class__(**{**vars(facts), "why": why}))
    assert "asked for with *** and ***" in card


def test_what_only_the_author_knows_is_marked(facts: CardFacts) -> None:
    card = model_card(facts)
    for title in ("Intended use", "Limits", "License of the data", "License of the model", "Contact"):
        assert f"- **{title}** ({FILL_IN}):" in card


@pytest.mark.parametrize("kind", ["whole", "merged", "adapter"])
@pytest.mark.parametrize("chats", [True, False], ids=["chats", "plain"])
def test_what_it_says_of_loading_is_python(kind: Any, chats: bool, facts: CardFacts) -> None:
    card = model_card(facts.__class__(**{**vars(facts), "kind": kind, "chats": chats, "base": Base("mine")}))
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for block in blocks:
        compile(block, "card", "exec")
    assert len(blocks) == (2 if kind == "adapter" else 1)
    assert ("AutoPeftModelForCausalLM" in blocks[0]) == (kind == "adapter")
    assert ("/no_think" in blocks[0]) == chats
