"""An online round on a CPU, beside TRL's experimental OnlineDPOTrainer: sample two responses a prompt, score, train.

Both have the same model of 10M parameters, the same prompts of 256 tokens, the same reward function, optimizer and
batches; responses of up to 64 tokens, which random weights hardly ever end before. align's rounds are those of a run of
the preset `online-dpo`, from the first stage's beginning to the last one's end, artifacts and checkpoint written;
its evaluation is not counted, since TRL has none. TRL's are `training_step` and the optimizer's step of as many
batches.
One round of either is measured in turn, in one process: CPU seconds of it, the median of the ratios within a pair of
rounds. Online DPO's round is one optimizer step; a round of several steps, as other presets have, is the second row.
After that one more round of align's is made whose matrix products are written down, and then timed alone: no way of
doing the same work is faster. About a quarter of an hour on an idle core.

    OMP_NUM_THREADS=1 python benchmarks/online_round.py > benchmarks/results/online_round.md
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import yaml
from datasets import Dataset, disable_progress_bars
from spread import spread
from train_step import Products
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from align_cli.playground.model import make_word_tokenizer
from align_cli.recipe import load_recipe
from align_cli.run.loop import align_rounds
from align_cli.stages.base import NoProgress

PROMPT, RESPONSE, BATCH, VOCABULARY, RATE = 256, 64, 8, 8000, 5e-5
STEPS = (1, 8)
COUNTED = ("generate", "label", "train")
MODEL, PROMPTS = "model", "prompts.jsonl"


def reward(prompts: list[str], completions: list[str], **others: Any) -> list[float]:
    """How many different words an answer has."""
    return [float(len(set(completion.split()))) for completion in completions]


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    disable_progress_bars()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        parameters = make_inputs((repetitions + 2) * max(STEPS) * BATCH)
        measured = {steps: measure(steps, repetitions) for steps in STEPS}
        report(measured, repetitions, parameters)


def make_inputs(count: int) -> int:
    """The model, and prompts that are all different; returns the number of weights."""
    config = LlamaConfig(
        vocab_size=VOCABULARY + 3, hidden_size=320, intermediate_size=832, num_hidden_layers=6, num_attention_heads=5,
        num_key_value_heads=5, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(MODEL)
    make_word_tokenizer([f" w{number}" for number in range(VOCABULARY)]).save_pretrained(MODEL)
    rng = random.Random(0)
    texts = ["".join(f" w{rng.randrange(VOCABULARY)}" for _ in range(PROMPT)) for _ in range(count)]
    Path(PROMPTS).write_text("".join(f'{{"prompt": "{text}"}}\n' for text in texts))
    return model.num_parameters()


class Measured(NamedTuple):
    """CPU seconds of rounds: align's, TRL's, align's by stage, and of one round's matrix products, by stage."""

    own: list[float]
    peers: list[float]
    stages: dict[str, list[float]]
    products: dict[str, float]


def measure(steps: int, repetitions: int) -> Measured:
    """CPU seconds of rounds of so many steps."""
    recipe = {
        "output_dir": f"run-{steps}",
        "rounds": repetitions + 4,
        "preset": "online-dpo",
        "policy": {"model_name_or_path": MODEL, "dtype": "float32"},
        "data": {"prompts": PROMPTS, "eval_prompts": PROMPTS},
        "labelers": {"words": {"kind": "function", "function": f"{Path(__file__).resolve()}:reward"}},
        "method": {"sources": {"dpr": {"labeler": "words"}}},
        "generate": {"prompts_per_round": steps * BATCH, "max_new_tokens": RESPONSE},
        "train": {
            "steps_per_round": steps, "per_device_train_batch_size": BATCH, "learning_rate": RATE,
            "lr_scheduler_type": "constant",
        },
        "evaluate": {"num_prompts": 1, "against": ["initial"]},
    }  # fmt: skip
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    clock = Clock(Peer(steps), repetitions)
    with suppress(EnoughError):
        align_rounds(load_recipe("recipe.yaml"), clock)
    own = [sum(clock.seconds[number].values()) for number in clock.counted]
    stages = {stage: [clock.seconds[number][stage] for number in clock.counted] for stage in COUNTED}
    products = {stage: found.seconds() for stage, found in clock.products.items()}
    return Measured(own, [clock.peers[number] for number in clock.counted], stages, products)


class EnoughError(Exception):
    """So many rounds were wanted."""


class Clock(NoProgress):
    """Told what a run does: counts CPU seconds of a round's stages, and lets the peer do a round after each."""

    def __init__(self, peer: Peer, repetitions: int) -> None:
        self._peer = peer
        self.counted = range(2, 2 + repetitions)
        """The rounds that count: the first warms up what a process loads once."""
        self.seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.peers: dict[int, float] = {}
        self.products: dict[str, Products] = {}
        """By stage, of the round after those that count."""

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[Clock]:
        """A stage begins, and ends."""
        if round_number > self.counted[-1] + 1:
            raise EnoughError
        if round_number == self.counted[-1] + 1:
            with Products() as products:
                yield self
            if stage in COUNTED:
                self.products[stage] = products
            return
        if round_number and stage == "generate":
            self.peers[round_number] = self._peer.round()
        begin = time.process_time()
        yield self
        if stage in COUNTED:
            self.seconds[round_number][stage] += time.process_time() - begin

    def note(self, text: str) -> None:
        """Nothing happens."""

    def evaluated(self, evaluation: object) -> None:
        """Nothing happens."""


class Peer:
    """TRL's trainer; a round is as many of its steps."""

    def __init__(self, steps: int) -> None:
        rows = [yaml.safe_load(line) for line in Path(PROMPTS).read_text().splitlines()]
        args = OnlineDPOConfig(
            output_dir=f"peer-{steps}", bf16=False, use_cpu=True, gradient_checkpointing=False, max_steps=steps,
            per_device_train_batch_size=BATCH, learning_rate=RATE, lr_scheduler_type="constant", beta=0.1,
            temperature=1.0, max_new_tokens=RESPONSE, report_to="none", disable_tqdm=True, save_strategy="no",
            dataloader_pin_memory=False,
        )  # fmt: skip
        self._clock = StepClock()
        self._trainer = OnlineDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(MODEL),
            callbacks=[self._clock],
        )
        self._trainer.remove_callback(PrinterCallback)

    def round(self) -> float:
        """CPU seconds of as many steps, from the first one's beginning to the last one's end."""
        self._clock.begin = None
        self._trainer.train()
        return self._clock.seconds


class StepClock(TrainerCallback):
    """CPU seconds from the first step's beginning to the last one's end."""

    begin: float | None = None
    seconds = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first of them counts."""
        self.begin = time.process_time() if self.begin is None else self.begin

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The last of them counts."""
        assert self.begin is not None
        self.seconds = time.process_time() - self.begin


def report(measured: dict[int, Measured], count: int, size: int) -> None:
    """Print the table."""
    sys.stdout.write(
        f"`python benchmarks/online_round.py --repetitions {count}`: CPU, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, {size / 1e6:.1f}M parameters, prompts of {PROMPT} tokens, 2 responses of up to "
        f"{RESPONSE}, {BATCH} prompts a step; medians of {count}, [least, most] of the ratios of rounds in turn; in "
        "brackets the matrix products of the stage alone.\n\n"
        "| steps a round | align, CPU s | generate | label | train | OnlineDPOTrainer, CPU s | times as fast "
        "| with nothing but its products |\n" + "|---" * 8 + "|\n"
    )
    for steps, found in measured.items():
        ratios = [other / one for one, other in zip(found.own, found.peers, strict=True)]
        floor = sum(found.products.values())
        parts = [
            f"{statistics.median(seconds):.2f} ({found.products[stage]:.2f})" for stage, seconds in found.stages.items()
        ]
        sys.stdout.write(
            f"| {steps} | {statistics.median(found.own):.2f} ({floor:.2f}) | {' | '.join(parts)} | "
            f"{statistics.median(found.peers):.2f} | {spread(ratios)} | "
            f"{statistics.median(found.peers) / floor:.2f} |\n"
        )


if __name__ == "__main__":
    main()
