"""The engine `transformers`: the policy's own model, in this process.

Each request draws from a generator of its own, by inverting the cumulative distribution at one uniform number a token.
So a response does not depend on what else is in its batch. transformers' `generate` does everything else; our logits
processor stands last, picks the token, and leaves `generate` no choice but to take it.

Prompts of a batch are padded on the left. Some recurrent models read the padding too, and those of transformers that
keep a state, as RWKV, can mix up what stands in one batch. What goes together is measured once a model.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.errors import AlignError, OutOfMemoryError, first_line
from align_cli.models.devices import in_float64
from align_cli.models.memory import out_of_memory_as_memory_error

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, GenerationConfig, PreTrainedModel

    from align_cli.models.load import Policy


Together = Literal["any", "one length", "none"]
"""Which prompts a batch may hold."""

APART = {
    "one length": "note: generate: this model reads the padding before a prompt: prompts of one length go together",
    "none": "note: generate: in a batch this model's sequences depend on each other: each is sampled alone",
}


class TransformersEngine:
    """Batched sampling in process.

    Args:
        batch_size: sequences generated together, at least 1; changes speed and memory, not the samples.
        note: told when a batch was too large for the memory.
    """

    name = "transformers"

    def __init__(self, batch_size: int, note: Callable[[str], None] = lambda text: None) -> None:
        self.batch_size = batch_size
        self.note = note
        self._noted: set[int] = set()
        self._goes_together: WeakKeyDictionary[PreTrainedModel, Together] = WeakKeyDictionary()

    def generate(
        self, policy: Policy, requests: Sequence[Request], settings: SamplingSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Yield `(index, sample)` batch by batch, longest prompts first: so memory runs out at once or not at all.

        Which requests make a batch does not depend on what is done: a batch of which anything lacks is made whole,
        because a log-probability's last digits depend on the batch.
        """
        for indices in self._batches(policy, [len(request.prompt_ids) for request in requests]):
            if all(index in done for index in indices):
                continue
            samples = self._generate(policy, [requests[index] for index in indices], settings)
            yield list(zip(indices, samples, strict=True))

    def _batches(self, policy: Policy, lengths: Sequence[int]) -> Iterator[list[int]]:
        by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        together = self._together(policy) if len(lengths) > 1 and self.batch_size > 1 else "any"
        groups = [by_length]
        if together != "any":
            groups = [list(group) for _, group in groupby(by_length, key=lambda index: lengths[index])]
        batch_size = 1 if together == "none" else self.batch_size
        for group in groups:
            for start in range(0, len(group), batch_size):
                yield group[start : start + batch_size]

    def _together(self, policy: Policy) -> Together:
        if policy.model not in self._goes_together:
            try:
                with out_of_memory_as_memory_error():
                    self._goes_together[policy.model] = what_goes_together(policy)
            except MemoryError:  # not even two prompts of a few tokens: batches will be cut into single ones
                return "any"
            if self._goes_together[policy.model] != "any":
                self.note(APART[self._goes_together[policy.model]])
        return self._goes_together[policy.model]

    def _generate(self, policy: Policy, requests: list[Request], settings: SamplingSettings) -> list[Sample]:
        """One batch; in halves where the memory does not hold it.

        Every batch is tried whole first, so that its parts are the same whether or not a process was interrupted.
        """
        try:
            with out_of_memory_as_memory_error():
                return _generate_batch(policy, requests, settings)
        except MemoryError as error:
            half = (len(requests) + 1) // 2
            if half == len(requests):
                raise OutOfMemoryError(
                    f"out of memory while one response was sampled: {error}",
                    where="generate",
                    hint="lower generate.max_new_tokens, or take a smaller model",
                ) from None
        if len(requests) not in self._noted:
            self._noted.add(len(requests))
            self.note(
                f"out of memory with {len(requests)} sequences together; going on with {half} at a time. Lower "
                "generate.batch_size next time"
            )
        parts = (requests[:half], requests[half:])
        return [sample for part in parts for sample in self._generate(policy, part, settings)]


def stream(policy: Policy, request: Request, settings: SamplingSettings, heard: Callable[[list[int]], None]) -> Sample:
    """One response, of which every token is told when it is sampled.

    Args:
        policy: what is sampled.
        request: what is asked for.
        settings: how.
        heard: called with all tokens so far; what it raises ends the sampling.
    """
    (sample,) = _generate_batch(policy, [request], settings, _Listener(heard))
    return sample


class _Listener:
    """What `generate` calls a streamer: it is handed the prompt, then each token."""

    def __init__(self, heard: Callable[[list[int]], None]) -> None:
        self._heard, self._ids, self._is_prompt = heard, list[int](), True

    def put(self, value: torch.Tensor) -> None:
        if not self._is_prompt:
            self._ids += value.flatten().tolist()
            self._heard(self._ids)
        self._is_prompt = False

    def end(self) -> None:
        """There is nothing that was held back."""


def _generate_batch(
    policy: Policy, requests: list[Request], settings: SamplingSettings, streamer: _Listener | None = None
) -> list[Sample]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    prompts = _padded(policy, [request.prompt_ids for request in requests])
    sampler = _seeded_sampler([request.seed for request in requests], settings.max_new_tokens)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=policy.eos_token_ids,
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    with torch.no_grad(), _bare_generation(policy.model, config):
        sequences_BT = policy.model.generate(
            **prompts, logits_processor=LogitsProcessorList([*_warpers(settings), sampler]), streamer=streamer
        )
    if not all(torch.isfinite(logp_B).all() for logp_B in sampler.logps):
        raise AlignError(
            "the policy's logits are not finite: training has diverged, or the weights that were given are damaged",
            where=f"policy {policy.version}",
            hint="lower train.learning_rate, raise method.beta, and go on from an earlier round; a model that was not "
            "trained yet: fetch or save it again",
        )
    new_tokens = sequences_BT[:, prompts["input_ids"].shape[1] :].tolist()
    logps = torch.stack(sampler.logps, dim=1).tolist()
    return [_sample(ids, logp, policy.eos_token_ids) for ids, logp in zip(new_tokens, logps, strict=True)]


TOLERANCES = {"float32": 1e-3}
"""How far log-probabilities may lie apart, in nats, by the weights' type; half precision rounds more."""


def what_goes_together(policy: Policy) -> Together:
    """Which prompts a model can be sampled on in one batch: those for which it says what it says of each alone."""
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    tokens = [number % vocabulary for number in range(1, 9)]
    short, alike = tokens[:3], tokens[3:6]
    alone = _greedy_logps(policy, [short])
    if not alone.isfinite().all():  # sampling says what is wrong with such a model
        return "any"
    tolerance = TOLERANCES.get(str(policy.model.dtype).removeprefix("torch."), 0.1)

    def is_same_beside(other: list[int]) -> bool:
        return bool((_greedy_logps(policy, [short, other]) - alone).abs().max() < tolerance)

    return "any" if is_same_beside(tokens) else "one length" if is_same_beside(alike) else "none"


def _greedy_logps(policy: Policy, prompts: list[list[int]]) -> torch.Tensor:
    """(2, V): what is said of the first two tokens behind the first prompt of a batch."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=2,
        pad_token_id=policy.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    with torch.no_grad(), _bare_generation(policy.model, config):
        steps = policy.model.generate(**_padded(policy, prompts)).logits
    return torch.stack([in_float64(logits_BV[0]).log_softmax(-1) for logits_BV in steps])


def _padded(policy: Policy, prompts: list[list[int]]) -> BatchEncoding:
    return policy.tokenizer.pad(
        {"input_ids": prompts},
        padding_side="left",
        return_attention_mask=True,  # some tokenizers do not name it among their outputs
        return_tensors="pt",
    ).to(policy.model.device)


def _sample(token_ids: list[int], logps: list[float], eos_token_ids: list[int]) -> Sample:
    """Cut a row of the batch behind its first end-of-sequence token."""
    ends = [position for position, token_id in enumerate(token_ids) if token_id in eos_token_ids]
    length = ends[0] + 1 if ends else len(token_ids)
    return Sample(token_ids[:length], logps[:length], "stop" if ends else "length")


def _warpers(settings: SamplingSettings) -> list:
    """transformers' own warpers in its own order; `generate` adds none because it does not know that we sample."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers: list = []
    if settings.temperature != 1:
        warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers


def _seeded_sampler(seeds: list[int], max_new_tokens: int):
    """A logits processor that draws each row's token from the row's own generator."""
    import torch
    from transformers import LogitsProcessor

    generators = [random.Random(seed) for seed in seeds]
    uniforms = [[generator.random() for _ in range(max_new_tokens)] for generator in generators]

    class SeededSampler(LogitsProcessor):
        def __init__(self) -> None:
            self.uniforms_BN = torch.tensor(uniforms, dtype=torch.float64)
            self.logps: list[torch.Tensor] = []

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            logps_BV = in_float64(scores).log_softmax(-1)
            uniforms_B1 = self.uniforms_BN[:, len(self.logps), None].to(logps_BV.device)
            tokens_B1 = invert_cdf(logps_BV.exp(), uniforms_B1)
            self.logps.append(logps_BV.gather(-1, tokens_B1).squeeze(-1).cpu())
            return torch.full_like(scores, -torch.inf).scatter(-1, tokens_B1.to(scores.device), 0.0)

    return SeededSampler()


def invert_cdf(probabilities_BV: torch.Tensor, uniforms_B1: torch.Tensor) -> torch.Tensor:
    """The token in whose stretch of the cumulative distribution the uniform number falls.

    Args:
        probabilities_BV: at least 0; need not sum to exactly 1.
        uniforms_B1: in [0, 1).

    Returns:
        (B, 1) token ids, never one of probability 0.
    """
    import torch

    cumulative_BV = probabilities_BV.cumsum(-1)
    return torch.searchsorted(cumulative_BV, uniforms_B1 * cumulative_BV[:, -1:], right=True).clamp(
        max=probabilities_BV.shape[-1] - 1
    )


@contextmanager
def _bare_generation(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Let `generate` see this config alone: what a model's own adds, such as a repetition penalty, would be sampled
    from but not be in the log-probabilities that training computes.

    Raises:
        AlignError: if transformers has no way to generate with such a model.
    """
    own, model.generation_config = model.generation_config, config
    try:
        yield
    except (ValueError, NotImplementedError) as error:  # as of a cache that has no layer to count tokens by
        raise AlignError(
            f"transformers cannot generate with this model: {first_line(error) or type(error).__name__}",
            where=model.name_or_path,
            hint="take another model of its kind, as one with layers of attention, or another version of transformers",
        ) from error
    finally:
        model.generation_config = own
