from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align_cli.engines.drawing import draw, invert_cdf


def rows(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64)


def column(*uniforms: float) -> torch.Tensor:
    return torch.tensor(uniforms, dtype=torch.float64)[:, None]


def test_a_uniform_number_falls_into_its_tokens_stretch() -> None:
    probabilities = rows(*[[0.25, 0.5, 0.25]] * 7)
    uniforms = column(0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 0.9999)
    assert invert_cdf(probabilities, uniforms).flatten().tolist() == [0, 0, 1, 1, 1, 2, 2]


LAST = math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    ("probabilities", "uniform", "token"),
    [
        ([0.0, 0.0, 1.0], 0.0, 2),
        ([1.0, 0.0, 0.0], LAST, 0),
        ([0.0, 1.0, 0.0], 0.0, 1),
        ([0.0, 1.0, 0.0], LAST, 1),
        ([0.5, 0.0, 0.5], 0.5, 2),
        ([0.5, 0.0, 0.0, 0.5], LAST, 3),
        ([1e-300, 1.0], 0.0, 0),
        ([0.1] * 10 + [0.0], LAST, 9),
        ([0.3, 0.3, 0.3], LAST, 2),
        ([2.0, 2.0], 0.5, 1),
    ],
)
def test_the_edges_never_give_a_token_of_probability_zero(
    probabilities: list[float], uniform: float, token: int
) -> None:
    assert invert_cdf(rows(probabilities), column(uniform)).item() == token


weights = st.lists(st.just(0.0) | st.floats(1e-12, 1.0), min_size=1, max_size=40).filter(any)


@settings(max_examples=200)
@given(weights, st.floats(0.0, LAST))
def test_no_uniform_number_gives_a_token_of_probability_zero(probabilities: list[float], uniform: float) -> None:
    total = math.fsum(probabilities)
    token = int(invert_cdf(rows([each / total for each in probabilities]), column(uniform)).item())
    assert probabilities[token] > 0
    below, above = math.fsum(probabilities[:token]) / total, math.fsum(probabilities[: token + 1]) / total
    assert below - 1e-9 <= uniform <= above + 1e-9


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_log_probabilities_in_single_precision_are_those_of_double_precision(spread: float) -> None:
    logits_BV = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)) * spread
    uniforms_B = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens_B, logps_B = draw(logits_BV, uniforms_B)
    exact_BV = logits_BV.double().log_softmax(-1)
    assert (logps_B - exact_BV.gather(-1, tokens_B[:, None])[:, 0]).abs().max() < 1e-6
    assert (logps_B <= 0).all()
    after_B = exact_BV.exp().cumsum(-1).gather(-1, tokens_B[:, None])[:, 0]
    before_B = after_B - exact_BV.gather(-1, tokens_B[:, None])[:, 0].exp()
    assert (before_B - 1e-6 <= uniforms_B).all() and (uniforms_B <= after_B + 1e-6).all()


logits = st.lists(st.just(-math.inf) | st.floats(-200.0, 200.0, width=32), min_size=1, max_size=40)


@settings(max_examples=200)
@given(logits.filter(lambda row: max(row) > -math.inf), st.floats(0.0, LAST))
def test_a_token_that_was_ruled_out_is_never_drawn(row: list[float], uniform: float) -> None:
    (token,), (logp,) = draw(torch.tensor([row]), torch.tensor([uniform], dtype=torch.float64))
    assert row[token] > -math.inf and math.isfinite(logp)


def test_logits_that_are_not_finite_have_no_log_probability() -> None:
    logits_BV = torch.tensor([[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]])
    assert draw(logits_BV, torch.full((3,), 0.5, dtype=torch.float64)).logps_B.isnan().all()
