"""What a server generates beside the engine in this process: the same prompts, as many responses to each.

The recipe's `command` starts the server, as in a run; its start is timed apart. Each repetition samples both ways
once, in turn, in the same dtype. Wall and CPU seconds are taken, the server's own included: whoever shares the machine
disturbs the first. The own pass over `compared_responses`, which a stage makes besides, is timed too.

    make smollm2 vllm
    OMP_NUM_THREADS=1 python benchmarks/servers.py > benchmarks/results/servers.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import psutil
import torch
from spread import spread

from align_cli.engines.base import Engine, Request, Sample, SamplingSettings, sampling_settings
from align_cli.engines.in_process import TransformersEngine
from align_cli.engines.server import ServerEngine
from align_cli.models.load import Policy
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.models.text import prompt_token_ids
from align_cli.recipe import load_recipe
from align_cli.seeds import derive_seed

COMMAND = (
    "env VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1 {vllm} serve {{model}} "
    "--host 127.0.0.1 --port {{port}} --max-model-len 512 --max-num-seqs {num} --enforce-eager --dtype {dtype} "
    "--generation-config vllm --logprobs-mode processed_logprobs"
)
RECIPE = """\
output_dir: {folder}/run
policy: {{model_name_or_path: {model}, dtype: {dtype}}}
data: {{prompts: playground, preferences: playground}}
labelers: {{hidden: {{kind: function, function: "align_cli.playground:hidden_reward"}}}}
method: {{sources: {{dpr: {{mixing: 1.0, labeler: hidden}}}}}}
generate: {{engine: server, num_generations: 4, max_new_tokens: {tokens}, batch_size: 32}}
train: {{steps_per_round: 1}}
"""
SUBJECTS = (
    *("rain", "bread", "bees", "ice", "rivers", "trains", "maps", "clocks"),
    *("tea", "glass", "chess", "salt", "owls", "snow", "wool", "jazz"),
)
QUESTIONS = ("Write three sentences about {}.", "Explain to a child what is special about {}.")


class Found(NamedTuple):
    """Both engines in one dtype.

    Args:
        times: by the engine's name, in turn.
        started: seconds until the server had answered once.
        compared: seconds of the own pass over the responses that are compared.
        difference: `logp_difference` of a round's figures.
    """

    times: dict[str, list[Took]]
    started: float
    compared: float
    difference: dict[str, float]


class Took(NamedTuple):
    """One sampling.

    Args:
        tokens: how many were sampled.
        wall: seconds.
        cpu: likewise, of all processes that took part.
    """

    tokens: int
    wall: float
    cpu: float


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--vllm", default=".venv-vllm/bin/vllm")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of both engines")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    report(options, {dtype: measure(options, dtype) for dtype in options.dtypes})


def measure(options: argparse.Namespace, dtype: str) -> Found:
    """Both engines in turn, with one server."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "recipe.yaml")
        path.write_text(RECIPE.format(folder=scratch, model=options.model, dtype=dtype, tokens=options.max_new_tokens))
        command = COMMAND.format(vllm=Path(options.vllm).absolute(), num=32, dtype=dtype)
        recipe = load_recipe(path, [f"generate.server={{command: '{command}', concurrency: 32}}"])
        policy, settings = load_recipe_policy(recipe), sampling_settings(recipe.generate)
        requests = requests_for(policy)
        server = ServerEngine(recipe, lambda text: None, lambda: None)
        engines: dict[str, Engine] = {"transformers": TransformersEngine(recipe.generate.batch_size), "vLLM": server}
        begin = time.perf_counter()
        sample(server, policy, requests[:1], settings)  # starts it
        started = time.perf_counter() - begin
        times: dict[str, list[Took]] = {name: [] for name in engines}
        for _ in range(options.repetitions):
            for name, engine in engines.items():
                times[name].append(timed(engine, policy, requests, settings))
        samples = sample(server, policy, requests, settings)
        begin = time.perf_counter()
        figures = server.settle(policy, requests, samples, settings).figures
        compared = time.perf_counter() - begin
        server.release()
    return Found(times, started, compared, figures["logp_difference"])


def requests_for(policy: Policy) -> list[Request]:
    """Four responses to each of 32 questions."""
    texts = [question.format(subject) for subject in SUBJECTS for question in QUESTIONS]
    ids = [prompt_token_ids(policy.tokenizer, [{"role": "user", "content": text}]) for text in texts]
    return [Request(one, derive_seed(0, row, number)) for row, one in enumerate(ids) for number in range(4)]


def sample(engine: Engine, policy: Policy, requests: Sequence[Request], settings: SamplingSettings) -> list[Sample]:
    """All responses, in the order of the requests."""
    found = dict(one for batch in engine.generate(policy, requests, settings) for one in batch)
    return [found[at] for at in range(len(requests))]


def timed(engine: Engine, policy: Policy, requests: Sequence[Request], settings: SamplingSettings) -> Took:
    """Sample once."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    samples = sample(engine, policy, requests, settings)
    return Took(sum(len(one.token_ids) for one in samples), time.perf_counter() - wall, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """What this process and those below it have computed so far."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def report(options: argparse.Namespace, found: dict[str, Found]) -> None:
    """Print the table, and what a server costs besides."""
    sys.stdout.write(
        f"`{' '.join(['OMP_NUM_THREADS=1 python benchmarks/servers.py', *sys.argv[1:]])}`, CPU, "
        f"{torch.get_num_threads()} thread each, {Path(options.model).name}, 32 prompts, 4 responses each of up to "
        f"{options.max_new_tokens} tokens, 32 at a time; medians of {options.repetitions}, [least, most] of the ratios "
        "of samplings in turn.\n\n"
        "| engine | dtype | tokens | tokens a second | tokens a CPU second | times as fast |\n"
        "|---|---|---|---|---|---|\n"
    )
    for dtype, one in found.items():
        for name, took in one.times.items():
            sys.stdout.write(f"| {name} | {dtype} | {' | '.join(beside(one.times['transformers'], took))} |\n")
    for dtype, one in found.items():
        sys.stdout.write(
            f"\nIn {dtype}, starting the server and its first response took {one.started:.0f} s; the own pass over the "
            f"compared responses {one.compared:.1f} s. Log-probabilities: {one.difference['mean']:.2f} nats a response "
            f"apart on average, {one.difference['largest']:.2f} at most, KL {one.difference['kl']:.4f} a token.\n"
        )


def beside(own: list[Took], took: list[Took]) -> tuple[str, str, str, str]:
    """A row's figures: medians, and the tokens a second over those of the engine in this process."""
    ratios = [(two.tokens / two.wall) / (one.tokens / one.wall) for one, two in zip(own, took, strict=True)]
    tokens = statistics.median(one.tokens for one in took)
    by_wall = statistics.median(one.tokens / one.wall for one in took)
    by_cpu = statistics.median(one.tokens / one.cpu for one in took)
    return f"{tokens:.0f}", f"{by_wall:.0f}", f"{by_cpu:.0f}", spread(ratios)


if __name__ == "__main__":
    main()
