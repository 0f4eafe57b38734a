"""The gate's arithmetic as it is done fastest on a processor; ``nn.gates`` says what it is.

The same numbers to rounding, from fewer and better-suited operations:

- Batch norms that are not learning are folded into the 1x1 convolution before them.
- The compatibility v lies channels-last, where depthwise convolutions are several times faster, and a dilated
  one is a plain one on every phase of the grid (all positions whose coordinates leave the same remainders).
- Where a gate has few channels, several positions side by side are taken as channels, which fills the
  processor's vectors.

``applies`` says where, without gradients; ``nn.fast.learning`` is for gates that learn. Everywhere else, as
on a GPU, under autocast, in an exported or compiled network and where a batch has few positions
(``FEWEST``), the gate computes as it is written; its end is one kernel on CUDA where ``fuses``
(``nn.fast.tail``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pointwise = nn.Conv2d | nn.Conv3d
CONV = {4: F.conv2d, 5: F.conv3d}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_LANES = 64
"""Channels from which PyTorch's kernels fill the processor's vectors."""

_TOGETHER = 2**20
"""Numbers of v that are computed at a time: two images of the finest gate of a usual network."""

FEWEST = {4: 2**14, 5: 2**9}
"""Positions of a batch, by the number of its axes, from which this way is the faster one.

With fewer the time goes into the number of operations (``benchmarks/results/gate-short.json``).
"""

_REFERENCE = ContextVar("reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """Within it every gate computes as it is written in ``nn.gates``, by the operations of the paper.

    What was computed forward within it is also differentiated so.
    """
    token = _REFERENCE.set(True)
    try:
        yield
    finally:
        _REFERENCE.reset(token)


def is_plain(x: Tensor) -> bool:
    """Whether a gate computes the fast way from ``x`` (B, C, *spatial), with gradients or without."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or _as_written():
        return False
    return len(x) * math.prod(x.shape[2:]) >= FEWEST[x.ndim]


def fuses(x: Tensor) -> bool:
    """Whether a gate that was told to (``nn.build.fuse``) computes its end from ``x`` by ``nn.fast.tail``."""
    return (x.is_cuda or _is_interpreted()) and _has_triton() and not _as_written()


def _as_written() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or _REFERENCE.get()


def _is_interpreted() -> bool:
    """Whether Triton computes on the processor, slowly, as it does for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def applies(x: Tensor) -> bool:
    """Whether a gate computes the fast way from ``x`` without gradients; it depends on nothing measured."""
    return is_plain(x) and not torch.is_grad_enabled()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of ``x`` (B, C, *spatial) by ``weight`` (C', C, *ones)."""
    if x.ndim == 4 or not x.is_contiguous():
        return CONV[x.ndim](x, weight, bias)
    # Not ``matmul``, which may turn the whole of x round first.
    y = torch.bmm(weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)).unflatten(2, x.shape[2:])
    return y if bias is None else y.add_(bias.view(-1, *[1] * (x.ndim - 2)))


def normed_product(convolution: Pointwise, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(convolution(x))`` of a 1x1 convolution, with the norm folded into it where it is fixed."""
    weight, bias = convolution.weight, convolution.bias
    if not _is_fixed(norm):
        return norm(product(x, weight, bias))
    return product(x, *_folded(weight, bias, norm))


def compatibility(q: Tensor, k: Tensor) -> Tensor:
    """v = relu(q + k), channels-last; ``q`` is written over."""
    return F.relu(q.add_(k), inplace=True).contiguous(memory_format=LAST[q.ndim])


def context(
    v: Tensor, scales: Sequence[Tensor], dilations: Sequence[int], mix: Pointwise, norm: nn.Module
) -> Tensor:
    """u (B, C_a, *spatial), channels-last: ``norm(mix([D_1 v, ...]))``.

    Parameters
    ----------
    v : (B, C_a, *spatial)
        Channels-last.
    scales : (C_a, 1, 3, 3[, 3]) each
    dilations : as many
    mix : 1x1 convolution
    norm : batch norm or identity
    """
    weight, bias = mix.weight, mix.bias
    if _is_fixed(norm):
        weight, bias = _folded(weight, bias, norm)
    u = torch.empty_like(v)
    for at in blocks_of(v, v.shape[1]):
        u[at] = mixed_scales(v[at], weight, bias, dilations, scales)
    return u if _is_fixed(norm) else norm(u)


def shrunk(u: Tensor, threshold: Tensor) -> Tensor:
    """z (B, C, *spatial) of u: ``soft_threshold``, to the last digit."""
    z, lanes = torch.empty_like(u), in_lanes(u)
    bound = along(threshold, lanes)
    torch.sub(lanes, lanes.clamp(-bound, bound), out=in_lanes(z))
    return z


def project(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution of ``z`` (B, C, *spatial) to one channel."""
    y = z.contiguous(memory_format=LAST[z.ndim]).movedim(1, -1) @ weight.flatten()
    return (y if bias is None else y.add_(bias)).unsqueeze(1)


def pooled(x: Tensor) -> Tensor:
    """Mean (B, C) of ``x`` (B, C, *spatial) over its positions."""
    return _Pooled.apply(x) if is_plain(x) else x.flatten(2).mean(dim=2)


def joined(skip: Tensor, c: Tensor | None, psi: Tensor, gating: Tensor) -> Tensor:
    """``[x * c * psi, t]`` along the channels, with ``c`` (B, C_x) and ``psi`` (B, 1, *spatial)."""
    both = room_for_both(skip, gating)
    join(skip, c, psi, gating, out=both)
    return both


def _is_fixed(norm: nn.Module) -> bool:
    return isinstance(norm, nn.modules.batchnorm._BatchNorm) and not norm.training


def _folded(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does what a convolution and its fixed norm do."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - gain * norm.running_mean
    if bias is not None:
        shift = shift + gain * bias
    return weight * gain.view(-1, *[1] * (weight.ndim - 1)), shift


def layout(x: Tensor) -> torch.memory_format:
    """Channels-last or not; where both fit, as written."""
    last = x.is_contiguous(memory_format=LAST[x.ndim]) and not x.is_contiguous()
    return LAST[x.ndim] if last else torch.contiguous_format


def room_for_both(skip: Tensor, gating: Tensor) -> Tensor:
    shape = (skip.shape[0], skip.shape[1] + gating.shape[1], *skip.shape[2:])
    return torch.empty(shape, dtype=skip.dtype, memory_format=layout(skip))


def spread(c: Tensor, x: Tensor) -> Tensor:
    """``c`` (B, C) as a factor of ``x`` (B, C, *spatial)."""
    return c.view(*c.shape, *[1] * (x.ndim - 2))


def rows_of(x: Tensor) -> Tensor:
    """(B * positions, C) view of a channels-last tensor."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def blocks_of(x: Tensor, latent: int) -> list[slice]:
    """The images of ``x`` (B, C, *spatial), a few at a time, where v has ``latent`` channels."""
    step = max(1, _TOGETHER // (latent * math.prod(x.shape[2:])))
    return [slice(first, first + step) for first in range(0, len(x), step)]


def laid_as(x: Tensor, other: Tensor) -> Tensor:
    """``x`` in the memory layout of ``other``."""
    return x.contiguous(memory_format=layout(other))


def join(skip: Tensor, c: Tensor | None, psi: Tensor, gating: Tensor, out: Tensor) -> None:
    gated = torch.mul(skip, psi if c is None else spread(c, skip), out=out[:, : skip.shape[1]])
    if c is not None:
        gated.mul_(psi)
    out[:, skip.shape[1] :] = gating


def _phases(x: Tensor, step: int) -> Tensor:
    """``x`` (B, C, *spatial) by phases, (B * step ** (dims - 1), step * C, *ceil(spatial / step)).

    The phases of the last axis become channels, those of the others images; both channels-last.
    """
    if step == 1:
        return x
    x = x.movedim(1, -1)
    missing = [-n % step for n in x.shape[1:-1]]
    if any(missing):
        x = F.pad(x, (0, 0, *(pad for n in reversed(missing) for pad in (0, n))))
    batch, *size, channels = x.shape
    cells = [n // step for n in size]
    before = [part for n in cells[:-1] for part in (n, step)]
    x = x.reshape(batch, *before, cells[-1], step * channels)
    phase, cell = range(2, 2 * len(size) - 1, 2), range(1, 2 * len(size), 2)
    return x.permute(0, *phase, *cell, x.ndim - 1).flatten(0, len(phase)).movedim(-1, 1)


def _unphased(x: Tensor, step: int, batch: int, size: Sequence[int]) -> Tensor:
    """The inverse of ``_phases`` for ``batch`` images of ``size``."""
    if step == 1:
        return x
    x = x.movedim(1, -1)
    dims = len(size)
    cells, channels = x.shape[1:-1], x.shape[-1] // step
    x = x.reshape(batch, *[step] * (dims - 1), *cells, step * channels)
    order = [axis for n in range(dims - 1) for axis in (dims + n, 1 + n)]
    x = x.permute(0, *order, 2 * dims - 1, 2 * dims)
    x = x.reshape(batch, *(n * step for n in cells), channels).movedim(-1, 1)
    return x[(slice(None), slice(None), *(slice(0, n) for n in size))]


def depthwise(x: Tensor, weight: Tensor, step: int) -> Tensor:
    """Depthwise convolution of ``x``, channels-last, dilated by ``step``."""
    batch, channels, *size = x.shape
    conv = CONV[x.ndim]
    if step == 1 or x.ndim == 4:
        return conv(x, weight, padding=step, dilation=step, groups=channels)
    repeated = weight.repeat(step, *[1] * (weight.ndim - 1))
    y = conv(_phases(x, step), repeated, padding=1, groups=step * channels)
    return _unphased(y, step, batch, size).contiguous(memory_format=LAST[x.ndim])


def in_lanes(x: Tensor) -> Tensor:
    """``x`` (B, C, *spatial) as (B', side * C, M, 1): channels-last with ``side`` positions side by side.

    Channels-first tensors have long rows anyway and stay (B, C, positions, 1).
    """
    if layout(x) is torch.contiguous_format:
        return x.flatten(2).unsqueeze(-1)
    rows, channels, side = rows_of(x), x.shape[1], 1
    while side * channels < _LANES and len(rows) % (2 * side) == 0:
        side *= 2
    return rows.view(1, -1, 1, side * channels).movedim(-1, 1)


def along(numbers: Tensor, lanes: Tensor) -> Tensor:
    """One of ``numbers`` (C,) for every channel of ``lanes``."""
    return numbers.repeat(lanes.shape[1] // len(numbers)).view(-1, 1, 1)


def mixed_scales(
    v: Tensor, phi: Tensor, bias: Tensor | None, dilations: Sequence[int], scales: Sequence[Tensor]
) -> Tensor:
    """``sum_r phi_r D_r v``, which is ``phi [D_1 v, ...]``."""
    conv, mixed = CONV[v.ndim], None
    for part, scale, dilation in zip(phi.split(v.shape[1], dim=1), scales, dilations, strict=True):
        seen = depthwise(v, scale, dilation)
        mixed = laid_as(conv(seen, part, bias), v) if mixed is None else mixed.add_(conv(seen, part))
    assert mixed is not None
    return mixed


class _Pooled(torch.autograd.Function):
    """Global average, whose gradient is the same everywhere and is not written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.flatten(2).mean(dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        batch, channels, *size = ctx.shape
        share = gradient / math.prod(size)
        return share.view(batch, channels, *[1] * len(size)).expand(ctx.shape)
