"""The gate's arithmetic as it is done fastest on a processor; ``nn.gates`` says what it is.

The same numbers to rounding, from fewer and better-suited operations:

- Batch norms that are not learning are folded into the 1x1 convolution before them.
- The compatibility v lies channels-last, where depthwise convolutions are several times faster, and a dilated
  one is a plain one on every phase of the grid (all positions whose coordinates leave the same remainders).
- For the backward pass only v, u and the masks are kept; what lies between them is computed again. A fresh
  tensor costs more than most operations on it.

``applies`` says where. Everywhere else, such as on a GPU, under autocast and in an exported or compiled
network, the gate computes as it is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from napari_prosma.nn.prox import soft_threshold

Pointwise = nn.Conv2d | nn.Conv3d
_CONV = {4: F.conv2d, 5: F.conv3d}
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_LANES = 16
"""Channels from which PyTorch's depthwise kernels fill the processor's vectors."""

_TOGETHER = 2
"""Images that are convolved at a time."""

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


def applies(x: Tensor) -> bool:
    """Whether a gate computes the fast way from ``x``; it depends on nothing that is measured."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not _REFERENCE.get()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution of ``x`` (B, C, *spatial) by ``weight`` (C', C, *ones)."""
    if x.ndim == 4 or not x.is_contiguous():
        return _CONV[x.ndim](x, weight, bias)
    y = torch.matmul(weight.flatten(1), x.flatten(2)).unflatten(2, x.shape[2:])
    return y if bias is None else y.add_(bias.view(-1, *[1] * (x.ndim - 2)))


def normed_product(convolution: Pointwise, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(convolution(x))`` of a 1x1 convolution, with the norm folded into it where it is fixed."""
    weight, bias = convolution.weight, convolution.bias
    if not _is_fixed(norm):
        return norm(product(x, weight, bias))
    return product(x, *_folded(weight, bias, norm))


def compatibility(q: Tensor, k: Tensor) -> Tensor:
    """v = relu(q + k), channels-last; ``q`` is written over."""
    return F.relu(q.add_(k), inplace=True).contiguous(memory_format=_LAST[q.ndim])


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
    u = _MultiScale.apply(v, weight, bias, tuple(dilations), *scales)
    return u if _is_fixed(norm) else _learning(norm, u)


def readout(field: Tensor, threshold: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """psi (B, 1, *spatial) of u (B, C_a, *spatial): soft-threshold, projection, sigmoid."""
    return _Readout.apply(field, threshold, weight, bias)


def project(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution of ``z`` (B, C, *spatial) to one channel."""
    z = z.contiguous(memory_format=_LAST[z.ndim])
    return (z.movedim(1, -1) @ weight.flatten()).add_(bias).unsqueeze(1)


def pooled(x: Tensor) -> Tensor:
    """Mean (B, C) of ``x`` (B, C, *spatial) over its positions."""
    return _Pooled.apply(x) if applies(x) else x.flatten(2).mean(dim=2)


def joined(skip: Tensor, c: Tensor, psi: Tensor, gating: Tensor) -> Tensor:
    """``[x * c * psi, t]`` along the channels, with ``c`` (B, C_x) and ``psi`` (B, 1, *spatial)."""
    return _Joined.apply(skip, c, psi, gating)


def _is_fixed(norm: nn.Module) -> bool:
    return isinstance(norm, nn.modules.batchnorm._BatchNorm) and not norm.training


def _learning(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)``, channels-last also in 3D.

    There PyTorch's batch norm copies to channels-first and back; slices on top of each other it takes as they
    are.
    """
    if type(norm) is not nn.BatchNorm3d or norm.momentum is None or not norm.track_running_stats:
        return norm(x)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    tall = x.movedim(1, -1).flatten(1, 2).movedim(-1, 1)
    tall = F.batch_norm(
        tall, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps
    )
    return tall.unflatten(2, x.shape[2:4])


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


def _is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=_LAST[x.ndim]) and not x.is_contiguous()


def _spread(c: Tensor, x: Tensor) -> Tensor:
    """``c`` (B, C) as a factor of ``x`` (B, C, *spatial)."""
    return c.view(*c.shape, *[1] * (x.ndim - 2))


def _rows(x: Tensor) -> Tensor:
    """(B * positions, C) view of a channels-last tensor."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


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


def _depthwise(x: Tensor, weight: Tensor, step: int) -> Tensor:
    """Depthwise convolution of ``x``, channels-last, dilated by ``step``."""
    batch, channels, *size = x.shape
    conv = _CONV[x.ndim]
    if step == 1 or x.ndim == 4:
        return conv(x, weight, padding=step, dilation=step, groups=channels)
    repeated = weight.repeat(step, *[1] * (weight.ndim - 1))
    y = conv(_phases(x, step), repeated, padding=1, groups=step * channels)
    return _unphased(y, step, batch, size).contiguous(memory_format=_LAST[x.ndim])


def _depthwise_weight(x: Tensor, gradient: Tensor, step: int) -> Tensor:
    """Gradient (C, 1, 3, 3[, 3]) of the weight of ``_depthwise``."""
    channels = x.shape[1]
    x, gradient = _phases(x, step).movedim(1, -1), _phases(gradient, step).movedim(1, -1)
    if x.ndim == 4:
        found = _planar_weight(x, gradient)
    else:
        # Slice by slice, which is faster than in three dimensions: depth first, so that slices lie together.
        x, gradient = x.transpose(0, 1).contiguous(), gradient.transpose(0, 1).contiguous()
        depth = len(x)
        found = torch.stack(
            [
                _planar_weight(
                    x[max(0, by) : depth + min(0, by)].flatten(0, 1),
                    gradient[max(0, -by) : depth + min(0, -by)].flatten(0, 1),
                )
                if abs(by) < depth
                else x.new_zeros(x.shape[-1], 1, 3, 3)
                for by in (-1, 0, 1)
            ],
            dim=2,
        )
    return found.unflatten(0, (-1, channels)).sum(dim=0)


def _planar_weight(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient (C, 1, 3, 3) of a plain depthwise weight, of images (B, y, x, C)."""
    images, _, _, channels = x.shape
    together = 2 if channels < _LANES and images % 2 == 0 else 1
    if together == 2:
        x, gradient = (t.unflatten(0, (-1, 2)).permute(0, 2, 3, 1, 4).flatten(3) for t in (x, gradient))
    size = (together * channels, 1, 3, 3)
    found = conv2d_weight(x.movedim(-1, 1), size, gradient.movedim(-1, 1), padding=1, groups=size[0])
    return found.unflatten(0, (together, channels)).sum(dim=0)


class _MultiScale(torch.autograd.Function):
    """``sum_r phi_r D_r v``; keeps v alone, and computes every ``D_r v`` again.

    A few images after another, so that what lies between stays in the cache and is no fresh memory.
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, phi: Tensor, bias: Tensor | None, dilations: tuple[int, ...], *scales: Tensor
    ) -> Tensor:
        ctx.save_for_backward(v, phi, *scales)
        ctx.dilations = dilations
        parts, conv = phi.split(v.shape[1], dim=1), _CONV[v.ndim]
        mixed = torch.empty_like(v)
        for images, out in zip(v.split(_TOGETHER), mixed.split(_TOGETHER), strict=True):
            for n, (part, scale, dilation) in enumerate(zip(parts, scales, dilations, strict=True)):
                seen = _depthwise(images, scale, dilation)
                if n == 0:
                    out.copy_(conv(seen, part, bias))
                else:
                    out.add_(conv(seen, part))
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        v, phi, *scales = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_LAST[v.ndim])
        parts, conv = phi.split(v.shape[1], dim=1), _CONV[v.ndim]
        # With an odd kernel and as much padding, the transposed convolution is one with the flipped kernel.
        flipped = [scale.flip(tuple(range(2, v.ndim))) for scale in scales]
        by_v, by_parts = torch.zeros_like(v), [torch.zeros_like(part) for part in parts]
        by_scales = [torch.zeros_like(scale) for scale in scales]
        for images, given, out in zip(
            v.split(_TOGETHER), gradient.split(_TOGETHER), by_v.split(_TOGETHER), strict=True
        ):
            rows = _rows(given).t()
            for n, dilation in enumerate(ctx.dilations):
                back = conv(given, parts[n].transpose(0, 1))
                by_parts[n] += (rows @ _rows(_depthwise(images, scales[n], dilation))).view_as(parts[n])
                by_scales[n] += _depthwise_weight(images, back, dilation)
                out += _depthwise(back, flipped[n], dilation)
        by_bias = gradient.sum(dim=(0, *range(2, v.ndim))) if ctx.needs_input_grad[2] else None
        return by_v, torch.cat(by_parts, dim=1), by_bias, None, *by_scales


class _Readout(torch.autograd.Function):
    """``sigmoid(Psi soft_threshold(u, lambda))``; keeps u and psi."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, threshold: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        psi = project(soft_threshold(field, threshold), weight, bias).sigmoid_()
        ctx.save_for_backward(field, threshold, weight, psi)
        return psi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        field, threshold, weight, psi = ctx.saved_tensors
        by_logit = (gradient * psi * (1 - psi)).reshape(-1, 1)
        z = soft_threshold(field, threshold).contiguous(memory_format=_LAST[field.ndim])
        rows, flat = _rows(z), weight.flatten()
        by_weight = (rows.t() @ by_logit).view_as(weight)
        rows = rows.sign_()
        by_threshold = -flat * (rows.t() @ by_logit).flatten()
        rows.abs_().mul_(flat).mul_(by_logit)
        return z, by_threshold, by_weight, by_logit.sum(dim=0)


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


class _Joined(torch.autograd.Function):
    """``[x * c * psi, t]``, written where it stays; keeps x, c and psi."""

    @staticmethod
    def forward(ctx: Any, skip: Tensor, c: Tensor, psi: Tensor, gating: Tensor) -> Tensor:
        ctx.save_for_backward(skip, c, psi)
        channels, others = skip.shape[1], gating.shape[1]
        layout = _LAST[skip.ndim] if _is_last(skip) else torch.contiguous_format
        shape = (skip.shape[0], channels + others, *skip.shape[2:])
        both = torch.empty(shape, dtype=skip.dtype, memory_format=layout)
        torch.mul(skip, _spread(c, skip), out=both[:, :channels]).mul_(psi)
        both[:, channels:] = gating
        return both

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        skip, c, psi = ctx.saved_tensors
        by_gated, by_gating = gradient.split((skip.shape[1], gradient.shape[1] - skip.shape[1]), dim=1)
        product = (by_gated * skip).flatten(2)
        by_psi = (c.unsqueeze(1) @ product).view_as(psi)
        by_c = (product @ psi.flatten(2).transpose(1, 2)).squeeze(2)
        by_skip = torch.mul(by_gated, psi, out=product.view_as(by_gated)).mul_(_spread(c, skip))
        return by_skip, by_c, by_psi, by_gating
