"""The end of a gate, from the field u to ``[x * c * psi, t]``, as one Triton kernel forward and one backward.

``z``, what the projection adds up and the products never reach the memory of a GPU: u, x and ``x * c * psi``
are read or written once. ``nn.gates`` says what is computed; under autocast, too, sums have single precision.

Only a network that was told to (``nn.build.fuse``) comes here. This module needs Triton, so it is imported
where a gate is about to compute with it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_prosma.nn.fast.forward import layout

POSITIONS = 128
"""Of a program; what it reads of one channel."""
MOST_CHANNELS = 32
"""Read at a time: with the positions 16 KiB in single precision, which registers hold."""


def joined(
    skip: Tensor,
    gating: Tensor,
    c: Tensor | None,
    field: Tensor,
    threshold: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``[x * c * psi, t]`` and psi, which has no gradient.

    Parameters
    ----------
    skip, gating : (B, C_x, *spatial), (B, C_g, *spatial)
        x and t.
    c : (B, C_x) or None
        The channel gate; None counts as 1.
    field : (B, C_a, *spatial)
        u.
    threshold : (C_a,) or None
        lambda; None counts as 0.
    weight : (1, C_a, *ones) or (C_a,)
        Of the projection.
    bias : (1,) or None
        ``psi = sigmoid(sum_a w_a z_a + bias)``; without it ``1 - exp(-sum_a w_a |z_a|)``.
    """
    return _Tail.apply(skip, gating, c, field, threshold, weight.flatten(), bias)


@triton.jit
def _shrunk(u, bound):  # type: ignore[no-untyped-def]
    """Soft threshold: exact zeros where ``|u| <= bound``."""
    return u - tl.minimum(tl.maximum(u, -bound), bound)


@triton.jit
def _opened(total, EXACT: tl.constexpr):  # type: ignore[no-untyped-def]
    """psi of what the projection adds up to."""
    if EXACT:
        # Near 0 as a series, where 1 - exp(-s) would lose its digits; what is left out is below 1e-10 of it.
        s = tl.minimum(total, 0.125)
        series = s * (1 - s / 2 * (1 - s / 3 * (1 - s / 4 * (1 - s / 5 * (1 - s / 6 * (1 - s / 7))))))
        return tl.where(total < 0.125, series, 1 - tl.exp(-total))
    # Never the exponential of a large positive number.
    small = tl.exp(-tl.abs(total))
    return tl.where(total < 0, small, 1.0) / (1 + small)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    u, x, c, bound, weight, bias, out, psi, positions, latent, channels,
    u_image, u_channel, u_position, x_image, x_channel, x_position, out_image, out_channel, out_position,
    EXACT: tl.constexpr, THRESHOLD: tl.constexpr, CHANNEL: tl.constexpr, SUMS: tl.constexpr,
    SIDE: tl.constexpr, U_SIDE: tl.constexpr, X_SIDE: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    is_there = at < positions
    total = tl.zeros([SIDE], dtype=SUMS)
    for first in range(0, latent, U_SIDE):
        a = (first + tl.arange(0, U_SIDE)).to(tl.int64)
        is_own = a < latent
        own = u + image * u_image + a[:, None] * u_channel + at[None, :] * u_position
        z = tl.load(own, mask=is_own[:, None] & is_there[None, :], other=0.0).to(SUMS)
        if THRESHOLD:
            z = _shrunk(z, tl.load(bound + a, mask=is_own, other=0.0).to(SUMS)[:, None])
        if EXACT:
            z = tl.abs(z)
        total += tl.sum(z * tl.load(weight + a, mask=is_own, other=0.0).to(SUMS)[:, None], axis=0)
    if not EXACT:
        total += tl.load(bias).to(SUMS)
    opened = _opened(total, EXACT)
    tl.store(psi + image * positions + at, opened, mask=is_there)
    for first in range(0, channels, X_SIDE):
        j = (first + tl.arange(0, X_SIDE)).to(tl.int64)
        is_own = j < channels
        mask = is_own[:, None] & is_there[None, :]
        own = x + image * x_image + j[:, None] * x_channel + at[None, :] * x_position
        gated = tl.load(own, mask=mask, other=0.0).to(SUMS) * opened[None, :]
        if CHANNEL:
            gated *= tl.load(c + image * channels + j, mask=is_own, other=0.0).to(SUMS)[:, None]
        own = out + image * out_image + j[:, None] * out_channel + at[None, :] * out_position
        tl.store(own, gated.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    given, u, x, c, bound, weight, psi, by_u, by_x, sums_c, sums_weight, sums_bound, sums_bias,
    positions, latent, channels,
    given_image, given_channel, given_position, u_image, u_channel, u_position,
    x_image, x_channel, x_position, by_u_image, by_u_channel, by_u_position,
    by_x_image, by_x_channel, by_x_position,
    EXACT: tl.constexpr, THRESHOLD: tl.constexpr, CHANNEL: tl.constexpr, SUMS: tl.constexpr,
    SIDE: tl.constexpr, U_SIDE: tl.constexpr, X_SIDE: tl.constexpr,
):  # fmt: skip
    """Sums over positions are left as one number per program, which are added up in a fixed order later."""
    image = tl.program_id(1).to(tl.int64)
    program = image * tl.num_programs(0) + tl.program_id(0)
    at = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    is_there = at < positions
    opened = tl.load(psi + image * positions + at, mask=is_there, other=0.0)
    by_psi = tl.zeros([SIDE], dtype=SUMS)
    for first in range(0, channels, X_SIDE):
        j = (first + tl.arange(0, X_SIDE)).to(tl.int64)
        is_own = j < channels
        mask = is_own[:, None] & is_there[None, :]
        own = given + image * given_image + j[:, None] * given_channel + at[None, :] * given_position
        gradient = tl.load(own, mask=mask, other=0.0).to(SUMS)
        own = x + image * x_image + j[:, None] * x_channel + at[None, :] * x_position
        both = gradient * tl.load(own, mask=mask, other=0.0).to(SUMS)
        if CHANNEL:
            scale = tl.load(c + image * channels + j, mask=is_own, other=0.0).to(SUMS)
            tl.store(sums_c + program * channels + j, tl.sum(both * opened[None, :], axis=1), mask=is_own)
            both *= scale[:, None]
            gradient *= scale[:, None]
        by_psi += tl.sum(both, axis=0)
        own = by_x + image * by_x_image + j[:, None] * by_x_channel + at[None, :] * by_x_position
        tl.store(own, (gradient * opened[None, :]).to(by_x.dtype.element_ty), mask=mask)
    by_total = by_psi * (1 - opened)
    if not EXACT:
        by_total *= opened
        tl.store(sums_bias + program, tl.sum(by_total, axis=0))
    for first in range(0, latent, U_SIDE):
        a = (first + tl.arange(0, U_SIDE)).to(tl.int64)
        is_own = a < latent
        mask = is_own[:, None] & is_there[None, :]
        own = u + image * u_image + a[:, None] * u_channel + at[None, :] * u_position
        z = tl.load(own, mask=mask, other=0.0).to(SUMS)
        if THRESHOLD:
            z = _shrunk(z, tl.load(bound + a, mask=is_own, other=0.0).to(SUMS)[:, None])
        scale = tl.load(weight + a, mask=is_own, other=0.0).to(SUMS)
        sign = tl.where(z > 0, 1.0, tl.where(z < 0, -1.0, 0.0)).to(SUMS)
        by_sum = tl.broadcast_to(by_total[None, :], z.shape)
        told = tl.sum((tl.abs(z) if EXACT else z) * by_sum, axis=1)
        tl.store(sums_weight + program * latent + a, told, mask=is_own)
        if THRESHOLD:
            told = tl.sum((tl.abs(sign) if EXACT else sign) * by_sum, axis=1)
            tl.store(sums_bound + program * latent + a, -scale * told, mask=is_own)
        slope = by_sum * scale[:, None]
        if EXACT:
            slope *= sign
        elif THRESHOLD:
            slope *= tl.abs(sign)
        own = by_u + image * by_u_image + a[:, None] * by_u_channel + at[None, :] * by_u_position
        tl.store(own, slope.to(by_u.dtype.element_ty), mask=mask)


def _rows(x: Tensor) -> Tensor:
    """(B, C, positions) of ``x``, copied where no one step leads from each position to the next."""
    return x.flatten(2)


def _room(x: Tensor, channels: int, kind: torch.dtype) -> Tensor:
    """Of the size and layout of ``x``, so that its ``_rows`` are a view."""
    shape = (len(x), channels, *x.shape[2:])
    return torch.empty(shape, dtype=kind, device=x.device, memory_format=layout(x))


def _constants(
    x: Tensor, field: Tensor, exact: bool, threshold: Tensor | None, c: Tensor | None
) -> dict[str, Any]:
    return {
        "EXACT": exact,
        "THRESHOLD": threshold is not None,
        "CHANNEL": c is not None,
        "SUMS": tl.float64 if field.dtype == torch.float64 else tl.float32,
        "SIDE": POSITIONS,
        "U_SIDE": min(MOST_CHANNELS, triton.next_power_of_2(field.shape[1])),
        "X_SIDE": min(MOST_CHANNELS, triton.next_power_of_2(x.shape[1])),
    }


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        skip: Tensor,
        gating: Tensor,
        c: Tensor | None,
        field: Tensor,
        threshold: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        sums = torch.float64 if field.dtype == torch.float64 else torch.float32
        psi = skip.new_empty((len(skip), 1, *skip.shape[2:]), dtype=sums)
        kind = torch.promote_types(skip.dtype, gating.dtype)
        both = _room(skip, skip.shape[1] + gating.shape[1], kind)
        c = None if c is None else c.contiguous()
        x, u, out = map(_rows, (skip, field, both[:, : skip.shape[1]]))
        grid = triton.cdiv(x.shape[2], POSITIONS), len(x)
        constants = _constants(skip, field, bias is None, threshold, c)
        _forward[grid](
            u, x, c, threshold, weight, bias, out, psi, x.shape[2], u.shape[1], x.shape[1],
            *u.stride(), *x.stride(), *out.stride(), **constants,
        )  # fmt: skip
        both[:, skip.shape[1] :] = gating
        ctx.save_for_backward(skip, c, field, threshold, weight, psi)
        ctx.constants, ctx.grid = constants, grid
        ctx.mark_non_differentiable(psi)
        return both, psi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        skip, c, field, threshold, weight, psi = ctx.saved_tensors
        by_gated, by_gating = gradient.split((skip.shape[1], gradient.shape[1] - skip.shape[1]), dim=1)
        by_skip, by_field = (_room(x, x.shape[1], x.dtype) for x in (skip, field))
        given, x, u, by_x, by_u = map(_rows, (by_gated, skip, field, by_skip, by_field))
        programs = ctx.grid[0] * ctx.grid[1]

        def sums(numbers: int) -> Tensor:
            return psi.new_empty(programs, numbers)

        of_c = None if c is None else sums(x.shape[1])
        of_weight = sums(u.shape[1])
        of_bound = None if threshold is None else sums(u.shape[1])
        of_bias = None if ctx.constants["EXACT"] else sums(1)
        _backward[ctx.grid](
            given, u, x, c, threshold, weight, psi, by_u, by_x, of_c, of_weight, of_bound, of_bias,
            x.shape[2], u.shape[1], x.shape[1],
            *given.stride(), *u.stride(), *x.stride(), *by_u.stride(), *by_x.stride(), **ctx.constants,
        )  # fmt: skip
        return (
            by_skip,
            by_gating,
            None if of_c is None else of_c.view(len(x), -1, x.shape[1]).sum(dim=1).to(c.dtype),
            by_field,
            None if of_bound is None else of_bound.sum(dim=0).to(threshold.dtype),
            of_weight.sum(dim=0).to(weight.dtype),
            None if of_bias is None else of_bias.sum(dim=0).to(weight.dtype),
        )
