"""Fuzz the reader of recipes, overrides included, with atheris (Linux; `pip install -c constraints.txt -e ".[fuzz]"`).

An input is a recipe's bytes and then, each behind a byte 0x1E, overrides. A recipe that is sound must also be written
by `dump` and read back as the same recipe.

    python benchmarks/fuzz/recipe.py --seconds 1800 --corpus DIR --findings DIR
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["align_cli", "yaml"]):
    from align_cli.errors import AlignError
    from align_cli.recipe import dump, load_recipe
    from align_cli.recipe.keys import describe_keys

from common import SEPARATOR, Target, fuzz

MINIMAL = b"""\
output_dir: runs/first
policy: {model_name_or_path: playground}
data: {prompts: playground, preferences: playground}
method: {sources: {offline: {mixing: 1.0}}}
train: {steps_per_round: 50}
"""
USUAL = b"""\
# the usual online recipe
output_dir: runs/reviews
seed: 0
rounds: 3
policy:
  model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
  reference: initial
  sft: {dataset: demonstrations.jsonl, max_steps: 600, learning_rate: 3.0e-3}
data:
  prompts: &prompts "prompts.jsonl"
  preferences: 'pairs.jsonl'
  eval_prompts: *prompts
labelers:
  hidden: {kind: function, function: align_cli.playground:hidden_reward, arguments: {a: [1, 2.5, null, {b: yes}]}}
  given: {kind: dataset}
method:
  loss_type: dpo
  beta: 0.1
  sources: &sources
    offline: {mixing: 0.7, labeler: given}
    dpr: {mixing: 0.3, gradient: 0.3, labeler: hidden}
  kl: {coefficient: 0.02, on: policy, gradient: full}
generate: {engine: transformers, num_generations: 2, temperature: 1.0, max_new_tokens: 32, prompts_per_round: 512}
label: {pairs: all, labels: soft, min_margin: 0}
train: {learning_rate: 5.0e-4, per_device_train_batch_size: 64, steps_per_round: 50, optim: adamw_torch, bf16: false}
evaluate:
  num_prompts: 512
  against:
  - initial
  - previous
  scorer: hidden
"""
FROM_SCRATCH = b"""\
%YAML 1.2
---
output_dir: >-
  runs/folded
  text
policy:
  from_scratch: {architecture: llama, hidden_size: 64, num_attention_heads: 4}
  sft: {dataset: reviews}
data: {prompts: reviews, preferences: reviews, eval_prompts: reviews}
reviews: {liked: "liked.txt", disliked: "disliked\\u002etxt", prompt_words: 2}
preset: sail-dpr
labelers: {r: {kind: function, function: "rewards.py:reward"}}
method: {sources: {dpr: {<<: &d {mixing: 0.3, gradient: !!float 1}, labeler: r}, offline: {mixing: 0.7}}}
train: {steps_per_round: 0x10}
...
"""
OVERRIDES = SEPARATOR.join(
    [MINIMAL, b"method.beta=0.2", b"evaluate.against=[initial]", b"train={steps_per_round: 1}", b"rounds=2", b"seed=1"]
)
SEEDS = (
    MINIMAL,
    USUAL,
    FROM_SCRATCH,
    OVERRIDES,
    MINIMAL.replace(b"\n", b"\r\n"),
    b"\xef\xbb\xbf" + MINIMAL,
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    b"",
)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-recipe-"))


def read(data: bytes) -> None:
    os.chdir(FOLDER)  # relative paths of a recipe start here
    recipe_bytes, *overrides = data.split(SEPARATOR)
    path = FOLDER / "recipe.yaml"
    path.write_bytes(recipe_bytes)
    recipe = load_recipe(path, [os.fsdecode(override) for override in overrides], check_files=len(data) % 2 == 0)
    path.write_text(dump(recipe), encoding="utf-8")
    try:
        again = load_recipe(path, check_files=False)
    except AlignError as error:
        raise AssertionError(f"what dump wrote is refused: {error}") from error
    assert again == recipe, "what dump wrote is read as another recipe"


def words() -> list[str]:
    """Every key of a recipe, its last part alone and followed by a colon or an equals sign, and its values."""
    keys = [doc.path.replace("<name>", "hidden") for doc in describe_keys()]
    lasts = [key.rpartition(".")[2] for key in keys]
    values = [word for doc in describe_keys() for word in (*doc.type.split(", "), doc.default)]
    presets = ["preset: iterative-dpo\n", "preset: online-dpo\n", "preset: offline-ipo\n"]
    return [*keys, *lasts, *(f"\n{key}: " for key in lasts), *(f"\x1e{key}=" for key in keys), *values, *presets]


if __name__ == "__main__":
    fuzz(Target("recipe", read, SEEDS, words(), max_bytes=32_768))
