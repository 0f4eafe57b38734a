"""Soft-thresholding: what equations 3 and 4 promise."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from napari_prosma.nn.prox import soft_threshold, threshold_logit

law = settings(deadline=None, max_examples=60)

CHANNELS = 3
SHAPES = st.sampled_from([(2, CHANNELS, 4, 5), (1, CHANNELS, 2, 3, 4), (1, CHANNELS, 1, 1)])
# Quarters make |u| == lambda likely, which is where a wrong comparison shows.
NUMBERS = st.one_of(st.integers(-16, 16).map(lambda n: n / 4), st.floats(-50, 50, width=32))
LEVELS = st.one_of(st.integers(0, 12).map(lambda n: n / 4), st.floats(0, 20, width=32))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


fields = SHAPES.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=NUMBERS)).map(_tensor)
pairs = SHAPES.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=NUMBERS).map(_tensor)] * 2)
)
thresholds = hnp.arrays(np.float64, CHANNELS, elements=LEVELS).map(_tensor)


def per_channel(threshold: Tensor, field: Tensor) -> Tensor:
    return threshold.view(1, -1, *[1] * (field.ndim - 2)).expand_as(field)


@law
@given(fields, thresholds)
def test_it_is_torchs_softshrink_channel_by_channel(field: Tensor, threshold: Tensor) -> None:
    """Invariant 1, against an implementation that is not ours."""
    z = soft_threshold(field, threshold)
    for c in range(CHANNELS):
        assert torch.equal(z[:, c], F.softshrink(field[:, c], threshold[c].item()))


@law
@given(fields, thresholds)
def test_it_is_the_printed_sign_formula_and_moreaus_identity(field: Tensor, threshold: Tensor) -> None:
    """Invariant 1, as equation 4 prints it and as u minus the projection onto [-lambda, lambda]."""
    bound = per_channel(threshold, field)
    z = soft_threshold(field, threshold)
    assert torch.equal(z, field.sign() * (field.abs() - bound).clamp(min=0))
    assert torch.equal(z, field - torch.minimum(torch.maximum(field, -bound), bound))


@law
@given(fields, thresholds)
def test_zeros_are_exact_and_only_where_the_field_does_not_pass_the_threshold(
    field: Tensor, threshold: Tensor
) -> None:
    """Invariant 1: the support is {|u| > lambda}, to the bit."""
    assert torch.equal(soft_threshold(field, threshold) == 0, field.abs() <= per_channel(threshold, field))


@law
@given(pairs, thresholds)
def test_no_other_point_has_a_smaller_proximal_objective(
    pair: tuple[Tensor, Tensor], threshold: Tensor
) -> None:
    """Invariant 2: z minimises (y - u)^2 / 2 + lambda |y|, entry by entry."""
    field, noise = pair
    bound = per_channel(threshold, field)

    def objective(point: Tensor) -> Tensor:
        return 0.5 * (point - field) ** 2 + bound * point.abs()

    z = soft_threshold(field, threshold)
    for scale in (1.0, 0.01):
        assert (objective(z) <= objective(z + scale * noise) + 1e-10).all()


@law
@given(fields, thresholds)
def test_it_moves_no_entry_further_than_the_threshold(field: Tensor, threshold: Tensor) -> None:
    """Invariant 3: |u - z| <= lambda, and u - z = lambda sign(z) on the support."""
    bound, z = per_channel(threshold, field), soft_threshold(field, threshold)
    assert ((field - z).abs() <= bound + 1e-12).all()
    support = z != 0
    torch.testing.assert_close((field - z)[support], (bound * z.sign())[support], rtol=0, atol=1e-12)


@law
@given(pairs, thresholds)
def test_it_is_firmly_non_expansive(pair: tuple[Tensor, Tensor], threshold: Tensor) -> None:
    """Invariant 4: ||Su - Sv||^2 <= <Su - Sv, u - v>, hence ||Su - Sv|| <= ||u - v||."""
    u, v = pair
    moved = soft_threshold(u, threshold) - soft_threshold(v, threshold)
    assert (moved**2).sum() <= (moved * (u - v)).sum() + 1e-9
    assert moved.norm() <= (u - v).norm() + 1e-9


@law
@given(fields, thresholds, st.floats(0.01, 100))
def test_it_is_odd_and_scales_with_its_threshold(field: Tensor, threshold: Tensor, scale: float) -> None:
    """Invariant 5: S(-u) = -S(u), S_{a lambda}(a u) = a S_lambda(u)."""
    z = soft_threshold(field, threshold)
    assert torch.equal(soft_threshold(-field, threshold), -z)
    torch.testing.assert_close(
        soft_threshold(scale * field, scale * threshold), scale * z, rtol=1e-9, atol=1e-9 * scale
    )


@law
@given(fields, thresholds, thresholds)
def test_support_never_grows_with_the_threshold(field: Tensor, threshold: Tensor, more: Tensor) -> None:
    """Invariant 6: a larger lambda keeps no new entry and enlarges none."""
    z, shrunk = soft_threshold(field, threshold), soft_threshold(field, threshold + more)
    assert not ((shrunk != 0) & (z == 0)).any()
    assert (shrunk.abs() <= z.abs()).all()


@law
@given(fields, thresholds, thresholds)
def test_two_thresholds_in_a_row_are_their_sum(field: Tensor, first: Tensor, second: Tensor) -> None:
    """Invariant 7: S_a(S_b(u)) = S_{a+b}(u)."""
    torch.testing.assert_close(
        soft_threshold(soft_threshold(field, second), first),
        soft_threshold(field, first + second),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)])
def test_gradients_are_those_of_finite_differences(size: tuple[int, ...]) -> None:
    """Invariant 8: gradcheck in float64 with respect to u and theta, away from the kinks."""
    torch.manual_seed(0)
    theta = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
    field = 2 * torch.randn(2, 3, *size, dtype=torch.float64)
    near = (field.abs() - per_channel(F.softplus(theta), field).detach()).abs() < 1e-3
    field = torch.where(near, field + 0.01, field).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, t: soft_threshold(u, F.softplus(t)), (field, theta))


@law
@given(pairs, hnp.arrays(np.float64, CHANNELS, elements=st.floats(-8, 8)).map(_tensor))
def test_gradients_have_the_closed_form(pair: tuple[Tensor, Tensor], theta: Tensor) -> None:
    """Invariant 8: dL/du = 1[|u| > lambda] dL/dz; dL/dtheta = -sigmoid(theta) sum sign(u) 1[..] dL/dz."""
    field, upstream = pair
    field, theta = field.clone().requires_grad_(), theta.clone().requires_grad_()
    threshold = F.softplus(theta)
    soft_threshold(field, threshold).backward(upstream)
    alive = (field.abs() > per_channel(threshold, field)).detach().double()
    per_entry = (alive * upstream * field.detach().sign()).transpose(0, 1).flatten(1).sum(1)
    assert torch.equal(field.grad, alive * upstream)
    torch.testing.assert_close(theta.grad, -torch.sigmoid(theta.detach()) * per_entry, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_is_positive_and_finite_for_any_reasonable_theta(dtype: torch.dtype) -> None:
    """Invariant 9: softplus over [-60, 60] neither reaches zero nor overflows, and it grows."""
    threshold = F.softplus(torch.linspace(-60, 60, 2001, dtype=dtype))
    assert (threshold > 0).all()
    assert threshold.isfinite().all()
    assert (threshold.diff() > 0).all()


@law
@given(st.floats(1e-6, 100))
def test_threshold_logit_inverts_softplus(threshold: float) -> None:
    """Invariant 9, the way back: the start of theta gives the lambda that was asked for."""
    theta = torch.tensor(threshold_logit(threshold), dtype=torch.float64)
    assert F.softplus(theta).item() == pytest.approx(threshold, rel=1e-7)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_threshold_logit_refuses_what_softplus_cannot_reach(threshold: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        threshold_logit(threshold)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_give_the_zeros_of_float32(dtype: torch.dtype) -> None:
    """Invariant 22: the same u, in half precision or under autocast, has the same exact zeros."""
    torch.manual_seed(0)
    field = torch.randn(2, 4, 64, 64).to(dtype)
    threshold = F.softplus(torch.tensor([-0.3, 0.0, 0.1, 1.0]))
    reference = soft_threshold(field.float(), threshold)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = soft_threshold(field, threshold)
    for z in (soft_threshold(field, threshold), autocast):
        assert z.dtype == torch.float32
        assert torch.equal(z, reference)
