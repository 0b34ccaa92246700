"""What models say of given responses: log-probabilities, and the exact KL between two models along them.

One way to run a model over responses, used by training (with gradient) and by evaluation and labels (without). How no
batch's logits are made for it is `head`'s, how a prompt is read once for all of its responses `layout`'s.

Shapes: B sequences, T tokens of prompt and response, C = T − 1 of them that a model can be asked for, N tokens of the
batch's responses in the order of its rows, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

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

    def rows(self, wanted_B: torch.Tensor) -> TokenBatch:
        """Some of the sequences, without columns that are padding alone."""
        longest = int(self.attention_mask_BT[wanted_B].sum(1).max())
        return TokenBatch(*(tensor[wanted_B, :longest] for tensor in self))

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


def reference_scores(
    model: PreTrainedModel | torch.nn.Module, batch: TokenBatch, *, plain: bool = False
) -> ReferenceScores:
    """One forward pass of a frozen model, without gradient; see `score_responses`."""
    import torch

    from align_cli.models.head import score_tokens
    from align_cli.models.layout import each_alone, lay_out

    layout = each_alone(batch) if plain else lay_out(model, batch)
    with torch.no_grad():
        found = score_tokens(model, layout.tokens, plain=plain)
    logps_N, states_NH = layout.for_batch(found.logps_N), layout.for_batch(found.states_NH)
    return ReferenceScores(model, _spread(logps_N, batch).sum(-1), states_NH)


def score_responses(
    model: PreTrainedModel | torch.nn.Module,
    batch: TokenBatch,
    reference: ReferenceScores | None = None,
    kl_of_B: torch.Tensor | None = None,
    *,
    plain: bool = False,
) -> ResponseScores:
    """One forward pass.

    Args:
        model: a causal language model of transformers.
        batch: tokens on the model's device.
        reference: of this batch, where the KL to it is wanted; plain too where this is.
        kl_of_B: the sequences that it is wanted of; None for all.
        plain: whether each sequence is read alone and all logits are made, as a model does by itself.
    """
    from align_cli.models.head import Anchor, score_tokens
    from align_cli.models.layout import each_alone, lay_out

    layout, mask_BC = each_alone(batch) if plain else lay_out(model, batch), batch.completion_mask_BT[:, 1:]
    anchor, wanted_BC = None, mask_BC.bool()
    if reference is not None:
        wanted_BC = wanted_BC if kl_of_B is None else wanted_BC & kl_of_B[:, None]
        wanted_M = layout.wanted(wanted_BC[mask_BC.bool()])
        anchor = Anchor(reference.model, layout.of_batch(reference.states_NH), wanted_M)
    found = score_tokens(model, layout.tokens, anchor, plain=plain)
    logps_BC, kl_BC = (_spread(layout.for_batch(column), batch) for column in (found.logps_N, found.kl_N))
    return ResponseScores(logps_BC, kl_BC * wanted_BC, mask_BC)


def _spread(values_N: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """(B, C) each token's value at its place, 0 elsewhere."""
    mask_BC = batch.completion_mask_BT[:, 1:].bool()
    return values_N.new_zeros(mask_BC.shape).masked_scatter(mask_BC, values_N)


class PairOfTokens(Protocol):
    """A pair as models read it: a preference, or what training makes of it."""

    @property
    def prompt_ids(self) -> list[int] | None: ...
    @property
    def chosen_ids(self) -> list[int] | None: ...
    @property
    def rejected_ids(self) -> list[int] | None: ...


def pair_logps(policy: Policy, pairs: Sequence[PairOfTokens]) -> list[tuple[float, float]]:
    """log π of the chosen and of the rejected response of every pair, without gradient.

    Args:
        policy: whom to ask.
        pairs: with token ids; they are scored together.
    """
    import torch

    tokens = pad_batch(
        [pair.prompt_ids or [] for pair in pairs] * 2,
        [pair.chosen_ids or [] for pair in pairs] + [pair.rejected_ids or [] for pair in pairs],
        policy.tokenizer.pad_token_id,
    ).to(policy.model.device)
    with torch.no_grad():
        chosen, rejected = response_logps(policy.model, tokens).view(2, -1).tolist()
    return list(zip(chosen, rejected, strict=True))


def reward_margins(
    policy_logps: Sequence[Sequence[float]], reference_logps: Sequence[Sequence[float]], beta: float
) -> list[float]:
    """β(s(chosen) − s(rejected)) of every pair, by what is said of its two responses.

    Args:
        policy_logps: log π of each pair's chosen and rejected response.
        reference_logps: log π_ref of them.
        beta: the loss's β.
    """
    import torch

    chosen_B, rejected_B = (torch.tensor(policy_logps) - torch.tensor(reference_logps)).unbind(1)
    margins: list[float] = (beta * (chosen_B - rejected_B)).tolist()
    return margins


def implicit_reward_margins(policy: Policy, reference: Policy, pairs: Sequence[Preference], beta: float) -> list[float]:
    """`reward_margins` of pairs, which are scored together, without gradient: what the policy's implicit reward says.

    Args:
        policy: the policy.
        reference: what its log-ratios s are taken against.
        pairs: with token ids.
        beta: the loss's β.
    """
    return reward_margins(pair_logps(policy, pairs), pair_logps(reference, pairs), beta)
