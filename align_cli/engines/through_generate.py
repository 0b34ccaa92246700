"""Sampling through transformers' own `generate`: for models whose cache is not rows that `decoding` can move.

`generate` does all but the drawing: our logits processor stands last, has the token drawn, and leaves `generate` no
choice but to take it. Every sequence of a batch runs until the last one has ended.

Prompts of a batch are padded on the left. Some recurrent models read the padding too, and those of transformers that
keep a state, as RWKV, can mix up what stands in one batch. What goes together is measured once a model.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.drawing import Draws
from align_cli.errors import AlignError, first_line
from align_cli.models.devices import in_float64

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from align_cli.models.load import Policy

Together = Literal["any", "one length", "none"]
"""Which prompts a batch may hold."""


def generate(
    policy: Policy,
    requests: Sequence[Request],
    settings: SamplingSettings,
    heard: Callable[[list[int]], None] | None = None,
) -> list[Sample]:
    """One batch of responses, of requests that go together.

    Args:
        policy: what is sampled.
        requests: what is asked for.
        settings: how it is sampled.
        heard: called with all tokens so far of a single request; what it raises ends the sampling.
    """
    from transformers import LogitsProcessorList

    draws, ends = Draws(policy, requests, settings, heard), policy.eos_token_ids
    with torch.no_grad(), _bare_generation(policy, max_new_tokens=settings.max_new_tokens, eos_token_id=ends):
        prompts = _padded(policy, [request.prompt_ids for request in requests])
        policy.model.generate(**prompts, logits_processor=LogitsProcessorList([_processor(draws)]))
    return draws.samples()


def _processor(draws: Draws):
    from transformers import LogitsProcessor

    class Drawing(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return torch.full_like(scores, -torch.inf).scatter(-1, draws.draw(scores)[:, None], 0.0)

    return Drawing()


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


def _greedy_logps(policy: Policy, prompts: Sequence[list[int]]) -> torch.Tensor:
    """(2, V): what is said of the first two tokens behind the first prompt of a batch."""
    with torch.no_grad(), _bare_generation(policy, max_new_tokens=2, return_dict_in_generate=True, output_logits=True):
        steps = policy.model.generate(**_padded(policy, prompts)).logits
    return torch.stack([in_float64(logits_BV[0]).log_softmax(-1) for logits_BV in steps])


def _padded(policy: Policy, prompts: Sequence[list[int]]) -> BatchEncoding:
    return policy.tokenizer.pad(
        {"input_ids": prompts},
        padding_side="left",
        return_attention_mask=True,  # some tokenizers do not name it among their outputs
        return_tensors="pt",
    ).to(policy.model.device)


@contextmanager
def _bare_generation(policy: Policy, **settings: Any) -> Iterator[None]:
    """Let `generate` see these settings alone: what a model's own config adds, such as a repetition penalty, would be
    sampled from but not be in the log-probabilities that training computes.

    Raises:
        AlignError: if transformers has no way to generate with such a model.
    """
    from transformers import GenerationConfig

    model, pad = policy.model, policy.tokenizer.pad_token_id
    own = model.generation_config
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad, **settings)
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
