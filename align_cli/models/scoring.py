"""What models say of given responses: log-probabilities, and the exact KL between two models along them.

One way to run a model over responses, used by training (with gradient) and by evaluation and labels (without). How no
batch's logits are made for it is `head`'s.

Shapes: B sequences, T tokens of prompt and response, C = T − 1 of them that a model can be asked for, N tokens of the
batch's responses in the order of its rows, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from align_cli.artifacts.records import Preference
    from align_cli.models.head import Tokens
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


class ResponseScores(NamedTuple):
    """What a model says of responses, with gradient where it is enabled.

    Args:
        logps_BC: log-probability of each token of a response, 0 elsewhere.
        kl_BC: exact KL to the anchor there, in nats; 0 elsewhere, and for sequences that it is not wanted of.
        mask_BC: 1 on the response.
    """

    logps_BC: torch.Tensor
    kl_BC: torch.Tensor
    mask_BC: torch.Tensor


class ReferenceScores(NamedTuple):
    """What a frozen model says of responses, kept for another to be measured against.

    Args:
        model: the frozen model.
        logps_B: log π_ref of each response.
        states_NH: what the model's head was given at each of their tokens.
    """

    model: PreTrainedModel | torch.nn.Module
    logps_B: torch.Tensor
    states_NH: torch.Tensor


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
    return score_responses(model, batch).logps_BC.sum(-1)


def reference_scores(model: PreTrainedModel | torch.nn.Module, batch: TokenBatch) -> ReferenceScores:
    """One forward pass of a frozen model, without gradient."""
    import torch

    from align_cli.models.head import score_tokens

    tokens = _response_tokens(batch)
    with torch.no_grad():
        found = score_tokens(model, tokens)
    return ReferenceScores(model, _spread(found.logps_N, tokens).sum(-1), found.states_NH)


def score_responses(
    model: PreTrainedModel | torch.nn.Module,
    batch: TokenBatch,
    reference: ReferenceScores | None = None,
    kl_of_B: torch.Tensor | None = None,
) -> ResponseScores:
    """One forward pass.

    Args:
        model: a causal language model of transformers.
        batch: tokens on the model's device.
        reference: of this batch, where the KL to it is wanted.
        kl_of_B: the sequences that it is wanted of; None for all.
    """
    from align_cli.models.head import Anchor, score_tokens

    tokens, anchor = _response_tokens(batch), None
    if reference is not None:
        wanted_BT = tokens.predicts_BT if kl_of_B is None else tokens.predicts_BT & kl_of_B[:, None]
        anchor = Anchor(reference.model, reference.states_NH, wanted_BT[tokens.predicts_BT])
    found = score_tokens(model, tokens, anchor)
    return ResponseScores(_spread(found.logps_N, tokens), _spread(found.kl_N, tokens), batch.completion_mask_BT[:, 1:])


def _spread(values_N: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """(B, C) each token's value at its place, 0 elsewhere."""
    predicts_BC = tokens.predicts_BT[:, :-1]
    return values_N.new_zeros(predicts_BC.shape).masked_scatter(predicts_BC, values_N)


def _response_tokens(batch: TokenBatch) -> Tokens:
    from align_cli.models.head import Tokens

    predicts_BT = batch.completion_mask_BT.roll(-1, dims=1).bool()
    predicts_BT[:, -1] = False
    targets_N = batch.input_ids_BT[:, 1:][predicts_BT[:, :-1]]
    inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
    return Tokens(inputs, predicts_BT, targets_N)


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
