"""Logits of a model at the positions of given responses.

One way to run a model over responses, used by training (with gradient) and by evaluation (without).

Shapes: B sequences, T tokens of prompt and response, C of them from the first response position of any sequence on,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from align_cli.artifacts.records import Preference
    from align_cli.models.load import Policy


class TokenBatch(NamedTuple):
    """Sequences padded on the right.

    Args:
        input_ids_BT: prompt, response, padding.
        attention_mask_BT: 1 on prompt and response.
        completion_mask_BT: 1 on the response.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    completion_mask_BT: torch.Tensor

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(*(tensor.to(device) for tensor in self))


class ResponseLogits(NamedTuple):
    """What a model predicts at response positions.

    Args:
        logits_BCV: scores for the next token, with gradient where it is enabled.
        targets_BC: the token that stands there.
        mask_BC: 1 where that token belongs to the response.
    """

    logits_BCV: torch.Tensor
    targets_BC: torch.Tensor
    mask_BC: torch.Tensor


def pad_batch(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad_token_id: int) -> TokenBatch:
    """Prompts with their responses as one batch, padded on the right.

    Args:
        prompts: B lists of token ids, none empty.
        responses: B lists of token ids.
        pad_token_id: what fills the rest; it is masked.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    pairs = list(zip(prompts, responses, strict=True))
    return TokenBatch(
        padded([prompt + response for prompt, response in pairs], pad_token_id),
        padded([[1] * (len(prompt) + len(response)) for prompt, response in pairs], 0),
        padded([[0] * len(prompt) + [1] * len(response) for prompt, response in pairs], 0),
    )


def response_logps(model: PreTrainedModel | torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """log π(y|x) of every response of a batch: (B,), with gradient where it is enabled."""
    from align_cli.methods.logprobs import sequence_logps, token_logps

    predicted = response_logits(model, batch)
    return sequence_logps(token_logps(predicted.logits_BCV, predicted.targets_BC), predicted.mask_BC)


def implicit_reward_margins(policy: Policy, reference: Policy, pairs: Sequence[Preference], beta: float) -> list[float]:
    """β(s(chosen) − s(rejected)) of every pair, without gradient: what the policy's implicit reward says of it.

    Args:
        policy: the policy.
        reference: what its log-ratios s are taken against.
        pairs: with token ids; they are scored together.
        beta: the loss's β.
    """
    import torch

    tokens = pad_batch(
        [pair.prompt_ids or [] for pair in pairs] * 2,
        [pair.chosen_ids or [] for pair in pairs] + [pair.rejected_ids or [] for pair in pairs],
        policy.tokenizer.pad_token_id,
    ).to(policy.model.device)
    with torch.no_grad():
        ratios_2B = response_logps(policy.model, tokens) - response_logps(reference.model, tokens)
        chosen_B, rejected_B = ratios_2B.chunk(2)
    margins: list[float] = (beta * (chosen_B - rejected_B)).tolist()
    return margins


def response_logits(model: PreTrainedModel | torch.nn.Module, batch: TokenBatch) -> ResponseLogits:
    """One forward pass; the LM head runs only from the first response position of the batch on.

    Args:
        model: a causal language model whose forward takes `logits_to_keep`, as those of transformers do.
        batch: tokens on the model's device.
    """
    num_tokens = batch.input_ids_BT.shape[1]
    first_response = int(batch.completion_mask_BT.argmax(dim=1).min()) if num_tokens else 0
    kept = num_tokens - max(first_response - 1, 0)
    outputs = model(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        use_cache=False,
        logits_to_keep=kept,
    )
    return ResponseLogits(
        outputs.logits[:, :-1], batch.input_ids_BT[:, -kept + 1 :], batch.completion_mask_BT[:, -kept + 1 :]
    )
