from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys

import pytest

from align_cli.playground import grammar, hidden_reward, world

ROWS_SCRIPT = """
import hashlib, json
from align_cli.playground import world
rows = [world.prompts(3), world.eval_prompts(3), world.sft_corpus(3)[:300]]
rows += [world.preferences("few", 3), world.eval_preferences("other-writer", 3)]
print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())
"""


def texts(rows: list[dict]) -> list[str]:
    return [row["prompt"] for row in rows]


def rewards(rows: list[dict], column: str) -> list[float]:
    return hidden_reward(texts(rows), [row[column] for row in rows])


def test_no_word_has_two_meanings() -> None:
    topic_words = list(itertools.chain.from_iterable(grammar.TOPICS.values()))
    words = [*topic_words, *grammar.OPINIONS, *grammar.ADVERBS, *grammar.PLACES]
    assert len(words) == len(set(words))
    assert not set(grammar.ADJECTIVES) & set(grammar.VERBS)


def test_there_are_thousands_of_prompts_and_hundreds_are_held_out() -> None:
    training, held_out = texts(world.prompts(0)), texts(world.eval_prompts(0))
    assert len(training) == len(set(training)) > 5000
    assert len(held_out) == len(set(held_out)) >= 512
    assert all(grammar.topic_of(prompt) for prompt in training + held_out)


def test_no_seed_trains_on_a_prompt_that_another_seed_evaluates() -> None:
    held_out = set(texts(world.eval_prompts(1)))
    assert held_out.isdisjoint(texts(world.prompts(0)))
    assert held_out.isdisjoint(texts(world.sft_corpus(0)))
    for setting in world.SETTINGS:
        assert held_out.isdisjoint(texts(world.preferences(setting, 0)))
        assert held_out.issuperset(texts(world.eval_preferences(setting, 0)))


def test_prompts_are_taken_from_the_front_of_a_seeded_order() -> None:
    assert world.prompts(0, 50) == world.prompts(0)[:50]
    assert world.prompts(0, 50) != world.prompts(1, 50)
    assert sorted(texts(world.prompts(0))) == sorted(texts(world.prompts(1)))


def test_rows_are_the_same_in_another_process_and_differ_by_seed() -> None:
    def run(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", ROWS_SCRIPT], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    rows = [world.prompts(3), world.eval_prompts(3), world.sft_corpus(3)[:300]]
    rows += [world.preferences("few", 3), world.eval_preferences("other-writer", 3)]
    here = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert run("1") == run("2") == here
    assert world.sft_corpus(4)[:10] != world.sft_corpus(3)[:10]
    assert world.preferences("few", 4) != world.preferences("few", 3)


@pytest.mark.parametrize("name", world.SETTINGS)
def test_a_setting_has_the_pairs_it_promises(name: str) -> None:
    pairs, held_out = world.preferences(name, 0), world.eval_preferences(name, 0)
    assert len(pairs) == world.SETTINGS[name].num_pairs
    assert len(held_out) >= 256
    for row in pairs + held_out:
        assert row.keys() == {"prompt", "chosen", "rejected"}
        assert row["chosen"] != row["rejected"]
        assert row["chosen"].startswith(" ") and row["rejected"].startswith(" ")


def test_settings_are_told_apart_by_size_and_writer() -> None:
    sizes = {name: setting.num_pairs for name, setting in world.SETTINGS.items()}
    assert sizes == {"plenty": 1000, "few": 300, "other-writer": 500, "almost-none": 32}
    assert world.preferences("few", 0) == world.preferences("plenty", 0)[:300]
    assert world.preferences("few", 0, num=1000) == world.preferences("plenty", 0)


@pytest.mark.parametrize("name", ["plenty", "other-writer"])
def test_labels_are_as_noisy_as_bradley_terry_at_temperature_one(name: str) -> None:
    pairs = [pair for seed in range(3) for pair in world.preferences(name, seed)]
    margins = [a - b for a, b in zip(rewards(pairs, "chosen"), rewards(pairs, "rejected"), strict=True)]
    agreement = statistics.mean(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins)
    expected = [1 / (1 + math.exp(-abs(margin))) for margin in margins]
    standard_error = math.sqrt(sum(p * (1 - p) for p in expected)) / len(margins)
    assert agreement == pytest.approx(statistics.mean(expected), abs=4 * standard_error)
    assert 0.70 < agreement < 0.82


def test_the_sft_corpus_is_a_neutral_mix_of_short_reviews() -> None:
    rows = world.sft_corpus(0)
    scores = rewards(rows, "completion")
    lengths = [len(row["completion"].split()) for row in rows]
    assert len(rows) == 4000
    assert abs(statistics.mean(scores)) < 0.3
    assert 1.0 < statistics.stdev(scores) < 1.5
    assert 8 < statistics.mean(lengths) < 14
    assert all(row["completion"].startswith(" ") and row["completion"].endswith(" .") for row in rows)


def test_the_other_writer_is_longer_and_less_on_topic() -> None:
    plain, other = world.preferences("plenty", 0), world.preferences("other-writer", 0)
    mean_words = [statistics.mean(len(row["chosen"].split()) for row in rows) for rows in (plain, other)]
    assert mean_words[1] > mean_words[0] + 5
    assert statistics.mean(rewards(other, "rejected")) < statistics.mean(rewards(plain, "rejected")) - 0.5


def test_a_prompt_without_a_topic_cannot_be_reviewed() -> None:
    with pytest.raises(ValueError, match="names no topic"):
        grammar.write_review("what now ?", grammar.PLAIN_WRITER, random.Random(0))
