"""The head's own gradient is autograd's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from align_cli.methods.logprobs import token_kl, token_logps
from align_cli.models import linear_head
from align_cli.models.linear_head import LinearHead, linear_scores

N, H, V = 7, 5, 11
WANTED = torch.tensor([True, False, True, True, False, False, True])
TARGETS = torch.tensor([0, 10, 3, 3, 7, 1, 5])
UPSTREAM = torch.linspace(-1, 2, N, dtype=torch.float64), torch.linspace(2, 0.5, N, dtype=torch.float64)


def tensors(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"states": (N, H), "weight": (V, H), "bias": (V,), "anchor": (N, V)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }


def by_autograd(made: dict[str, torch.Tensor], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits = scale * (made["states"] @ made["weight"].T + made["bias"])
    return token_logps(logits, TARGETS), token_kl(logits, made["anchor"]) * WANTED


def by_hand(made: dict[str, torch.Tensor], scale: float, size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    head = LinearHead(made["weight"], made["bias"], scale)
    return linear_scores(head, made["states"], TARGETS, WANTED, lambda rows, wanted: made["anchor"][rows][wanted], size)


def total(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return sum((one * weights.to(one.dtype)).sum() for one, weights in zip(found, UPSTREAM, strict=True))  # type: ignore


@pytest.mark.parametrize("kept", [0, 6 * V, linear_head.KEPT_NUMBERS], ids=["made again", "kept in part", "kept"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("trained", [("states",), ("states", "weight", "bias"), ("bias",), ("weight",)])
def test_values_and_gradients(
    trained: tuple[str, ...], scale: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_head, "KEPT_NUMBERS", kept)
    made = tensors()
    leaves = [made[name].requires_grad_() for name in trained]
    found, wanted = by_hand(made, scale), by_autograd(made, scale)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(total(each), leaves, retain_graph=True) for each in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    again = torch.autograd.grad(total(found), leaves)  # what was kept is used up; it is made again
    torch.testing.assert_close(again, theirs, rtol=1e-10, atol=1e-12)


def test_without_an_anchor_there_is_no_kl() -> None:
    made = tensors()
    logps, kl = linear_scores(LinearHead(made["weight"], None, 1.0), made["states"], TARGETS, None, None, 2)
    torch.testing.assert_close(logps, token_logps(made["states"] @ made["weight"].T, TARGETS))
    assert not kl.any()
    assert not logps.requires_grad


def test_no_token_has_no_score() -> None:
    made = tensors()
    found = linear_scores(LinearHead(made["weight"], None, 1.0), made["states"][:0], TARGETS[:0], None, None, 2)
    assert [len(column) for column in found] == [0, 0]


def test_autocast_multiplies_in_half_precision_and_sums_in_full() -> None:
    made = tensors(torch.float32)
    leaves = [made[name].requires_grad_() for name in ("states", "weight")]
    with torch.autocast("cpu", torch.bfloat16):
        found = by_hand(made, 1.0)
    wanted = by_autograd(made, 1.0)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.03)
        assert not torch.equal(ours, theirs)
    ours, theirs = (torch.autograd.grad(total(each), leaves) for each in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {}
    for rows in (0, 1, 2, 4, 5, N + int(WANTED.sum()) - 1, N + int(WANTED.sum())):  # a token with a KL takes two
        monkeypatch.setattr(linear_head, "KEPT_NUMBERS", rows * V + V - 1)
        made = tensors()
        made["states"].requires_grad_()
        node: Any = by_hand(made, 1.0)[0].grad_fn
        kept[rows] = len(node.kept.softmax_nV), len(node.kept.kl_gradient_kV)
    assert kept == {0: (0, 0), 1: (0, 0), 2: (1, 1), 4: (2, 1), 5: (3, 2), 10: (6, 3), 11: (7, 4)}


def test_nothing_is_kept_where_there_is_no_gradient() -> None:
    with torch.no_grad():
        assert by_hand(tensors(), 1.0)[0].grad_fn is None
