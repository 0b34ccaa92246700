"""The playground's rows: prompts, an SFT corpus and preferences whose noise is known.

Which prompts are held out depends on the prompt alone, so no seed ever trains on what another one evaluates. Each row
is drawn from its own coordinates: a setting with fewer pairs of the same writer holds the first of the longer one's.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from align_cli.playground.grammar import ORNATE_WRITER, PLAIN_WRITER, WRITERS, Writer, all_prompts, write_review
from align_cli.playground.reward import hidden_reward
from align_cli.seeds import derive_seed, seeded_order

NUM_SFT_ROWS = 4000
NUM_EVAL_PAIRS = 400
ORNATE_SHARE_OF_SFT = 0.05
HELD_OUT_PERCENT = 12


@dataclass(frozen=True)
class Setting:
    """One kind of offline data.

    Args:
        num_pairs: the number of training pairs.
        temperature: of the Bradley-Terry labels, above 0; the winner is drawn with probability
            sigmoid((reward - other reward) / temperature).
        writer: who wrote both responses, a key of `grammar.WRITERS`.
    """

    num_pairs: int
    temperature: float = 1.0
    writer: str = PLAIN_WRITER.name


SETTINGS: dict[str, Setting] = {
    "plenty": Setting(num_pairs=1000),
    "few": Setting(num_pairs=300),
    "other-writer": Setting(num_pairs=500, writer=ORNATE_WRITER.name),
    "almost-none": Setting(num_pairs=32),
}


def prompts(seed: int, num: int | None = None) -> list[dict]:
    """Training prompts in a seeded order: the first `num`, or all where `num` is None or more than there are."""
    return _prompt_rows(seed, held_out=False)[:num]


def eval_prompts(seed: int) -> list[dict]:
    """The prompts that no training row of any seed has, in a seeded order."""
    return _prompt_rows(seed, held_out=True)


def sft_corpus(seed: int) -> list[dict]:
    """Reviews good and bad: rows of `prompt` and `completion`, a few of them by the ornate writer."""
    training = _prompt_texts(held_out=False)
    rows = []
    for index in range(NUM_SFT_ROWS):
        rng = random.Random(derive_seed(seed, "playground", "sft", index))
        prompt = rng.choice(training)
        writer = ORNATE_WRITER if rng.random() < ORNATE_SHARE_OF_SFT else PLAIN_WRITER
        rows.append({"prompt": prompt, "completion": write_review(prompt, writer, rng)})
    return rows


def preferences(setting: str, seed: int, num: int | None = None) -> list[dict]:
    """A setting's offline pairs on training prompts: rows of `prompt`, `chosen` and `rejected`.

    Args:
        setting: a key of `SETTINGS`.
        seed: of the rows.
        num: how many, instead of the setting's own number.

    Raises:
        KeyError: if there is no such setting.
    """
    found = SETTINGS[setting]
    return _preference_rows(found, found.num_pairs if num is None else num, seed, held_out=False)


def eval_preferences(setting: str, seed: int) -> list[dict]:
    """Pairs on held-out prompts, by the setting's writer and with its label noise.

    Raises:
        KeyError: if there is no such setting.
    """
    return _preference_rows(SETTINGS[setting], NUM_EVAL_PAIRS, seed, held_out=True)


def _prompt_texts(*, held_out: bool) -> list[str]:
    return [prompt for prompt in all_prompts() if _is_held_out(prompt) == held_out]


def _is_held_out(prompt: str) -> bool:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100 < HELD_OUT_PERCENT


def _prompt_rows(seed: int, *, held_out: bool) -> list[dict]:
    texts = _prompt_texts(held_out=held_out)
    order = seeded_order(len(texts), seed, "playground", "prompts", int(held_out))
    return [{"prompt": texts[position]} for position in order]


def _preference_rows(setting: Setting, num: int, seed: int, *, held_out: bool) -> list[dict]:
    texts = _prompt_texts(held_out=held_out)
    writer = WRITERS[setting.writer]
    rows = []
    for index in range(num):
        rng = random.Random(derive_seed(seed, "playground", "preferences", int(held_out), writer.name, index))
        rows.append(_draw_preference(rng.choice(texts), writer, setting.temperature, rng))
    return rows


def _draw_preference(prompt: str, writer: Writer, temperature: float, rng: random.Random) -> dict:
    first = write_review(prompt, writer, rng)
    second = write_review(prompt, writer, rng)
    while second == first:
        second = write_review(prompt, writer, rng)
    first_reward, second_reward = hidden_reward([prompt, prompt], [first, second])
    first_wins = rng.random() < 1 / (1 + math.exp((second_reward - first_reward) / temperature))
    chosen, rejected = (first, second) if first_wins else (second, first)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
