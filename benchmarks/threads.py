"""What a second thread is worth: steps of models of several sizes, alone on the machine and beside a busy process.

    python benchmarks/threads.py > benchmarks/results/threads.md

Each line is a process of its own, pair by pair with the others; a step is 16 sequences of 64 tokens, forward and
backward. Takes about five minutes, on a machine where nothing else is at work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIZES = {
    "0.1M": (64, 2, 500),
    "2M": (192, 3, 4096),
    "8M": (320, 5, 4096),
    "23M": (512, 6, 8192),
    "66M": (768, 8, 12288),
}
"""Width, depth, vocabulary."""
SETTINGS = ((1, "active"), (2, "active"), (2, "passive"))
"""Threads, and how they wait (OMP_WAIT_POLICY)."""


def seconds_per_step(size: str, num_threads: int, seconds: float) -> float:
    """The median of the steps that fit into so many seconds, after one that does not count."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(num_threads)
    width, depth, vocabulary = SIZES[size]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=width // 32,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(vocabulary, (16, 64))
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 4 or time.monotonic() < end:
        begin = time.monotonic()
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()
        times.append(time.monotonic() - begin)
    return statistics.median(times[1:])


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """So many other processes at work."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured(size: str, num_threads: int, wait: str, seconds: float) -> float:
    """The same in a process of its own."""
    line = [sys.executable, __file__, "--one", size, str(num_threads), "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_WAIT_POLICY": wait}
    return float(subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "THREADS"))
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(f"{seconds_per_step(arguments.one[0], int(arguments.one[1]), arguments.seconds)}\n")
        return
    command = f"python benchmarks/threads.py --repetitions {arguments.repetitions} --seconds {arguments.seconds:g}"
    names = [f"{threads} thread{'s' * (threads > 1)}, {wait}" for threads, wait in SETTINGS]
    sys.stdout.write(
        f"`{command}`: CPU with {os.cpu_count()} cores, median milliseconds a step\n\n"
        f"| weights | other processes | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}\n"
    )
    for size in SIZES:
        for others in (0, 1):
            found: dict[tuple[int, str], list[float]] = {setting: [] for setting in SETTINGS}
            for _ in range(arguments.repetitions):
                for setting, times in found.items():
                    with busy_processes(others):
                        times.append(measured(size, *setting, arguments.seconds))
            cells = [f"{1000 * statistics.median(times):.1f}" for times in found.values()]
            sys.stdout.write(f"| {size} | {others} | {' | '.join(cells)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
