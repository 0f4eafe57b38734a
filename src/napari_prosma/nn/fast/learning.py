"""A gate while it learns, on a processor: one function with a backward pass of its own.

It goes through few images at a time, so that what lies between stays in the cache. Of all that is computed
only v, phi [D v] and psi are kept for the backward pass; the rest is computed again. ``nn.gates`` says what a
gate is, ``nn.fast.forward`` holds the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from napari_prosma.nn.fast.forward import (
    CONV,
    LAST,
    along,
    blocks_of,
    depthwise,
    in_lanes,
    is_plain,
    join,
    laid_as,
    mixed_scales,
    product,
    project,
    room_for_both,
    rows_of,
    shrunk,
    spread,
)

Norm = nn.BatchNorm2d | nn.BatchNorm3d


def learning_norms(x: Tensor, norms: Sequence[nn.Module]) -> tuple[Norm, ...] | None:
    """``norms`` if a gate with them is learning from ``x`` and ``learned`` computes it, else None."""
    learning = tuple(
        norm
        for norm in norms
        if isinstance(norm, Norm) and norm.training and norm.track_running_stats and norm.momentum is not None
    )
    fits = is_plain(x) and torch.is_grad_enabled() and len(learning) == len(norms)
    return learning if fits else None


class Weights(NamedTuple):
    """What a gate learns, in the order in which ``learned`` takes it; shapes as its modules hold them.

    ``threshold`` is lambda, which theta becomes outside; ``c`` too is computed before. Both may be missing.
    Without ``bias`` psi is that of ``prosma-exact``, ``1 - exp(-sum_c project_c |z_c|)``.
    """

    c: Tensor | None
    threshold: Tensor | None
    from_skip: Tensor
    gain_skip: Tensor
    shift_skip: Tensor
    from_gating: Tensor
    gain_gating: Tensor
    shift_gating: Tensor
    mix: Tensor
    gain_field: Tensor
    shift_field: Tensor
    project: Tensor
    bias: Tensor | None
    scales: tuple[Tensor, ...]


class Seen(NamedTuple):
    """u (B, C_a, *spatial) and psi (B, 1, *spatial) of a pass, without gradients."""

    field: Tensor
    psi: Tensor


def learned(
    skip: Tensor,
    gating: Tensor,
    weights: Weights,
    norms: Sequence[Norm],
    dilations: Sequence[int],
    is_seen: bool,
) -> tuple[Tensor, Seen | None]:
    """``[x * c * psi, t]`` of a gate that learns, and what was computed on the way if ``is_seen``.

    ``norms``, after W_x, W_g and phi, learn their running statistics.
    """
    *single, scales = weights
    seen: list[Seen] = []
    both = _Learned.apply(skip, gating, norms, tuple(dilations), seen if is_seen else None, *single, *scales)
    return both, seen[0] if is_seen else None


def _weights(given: Sequence[Tensor | None]) -> Weights:
    single = len(Weights._fields) - 1
    return Weights(*given[:single], scales=tuple(given[single:]))  # type: ignore[arg-type, misc]


def _part(c: Tensor | None, at: slice) -> Tensor | None:
    return None if c is None else c[at]


def affine(x: Tensor, gain: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """``gain * x + shift`` by channel."""
    out = torch.empty_like(x) if out is None else out
    lanes = in_lanes(x)
    torch.addcmul(along(shift, lanes), lanes, along(gain, lanes), out=in_lanes(out))
    return out


def add_scaled(x: Tensor, other: Tensor, gain: Tensor) -> Tensor:
    """``x + gain * other`` by channel, in place."""
    lanes = in_lanes(x)
    lanes.addcmul_(in_lanes(other), along(gain, lanes))
    return x


class _Statistics(NamedTuple):
    """What a learning batch norm takes from all images: mean and 1 / standard deviation (C,)."""

    mean: Tensor
    scale: Tensor
    elements: int

    @staticmethod
    def learned(norm: Norm, parts: Sequence[Tensor]) -> _Statistics:
        """Of ``parts`` (some images each); ``norm`` learns its running statistics."""
        count = sum(x.numel() for x in parts) // norm.num_features
        if count < 2:
            raise ValueError("batch norm needs more than one value per channel to learn from")
        means, variances, shares = [], [], []
        for x in map(in_lanes, parts):
            found = torch.batch_norm_update_stats(x, None, None, 0.0)
            mean, variance = (numbers.view(-1, norm.num_features) for numbers in found)
            means.append(mean)
            variances.append(variance)
            shares.append(mean.new_full((len(mean), 1), x.numel() / x.shape[1] / count))
        each, share = torch.cat(means), torch.cat(shares)
        mean = (share * each).sum(dim=0)
        variance = (share * (torch.cat(variances) + (each - mean).square())).sum(dim=0)
        assert norm.momentum is not None
        assert norm.num_batches_tracked is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        return _Statistics(mean, torch.rsqrt(variance + norm.eps), count)

    def forward(self, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """What the norm multiplies by, and adds."""
        by = gain * self.scale
        return by, shift - by * self.mean

    def sums(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient (2, C) of gain and shift, from some images ``x`` and the gradient of their norm."""
        lanes = in_lanes(x)
        mean, scale = along(self.mean, lanes).flatten(), along(self.scale, lanes).flatten()
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            in_lanes(gradient), lanes, None, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        return torch.stack([by.view(-1, len(self.mean)).sum(dim=0) for by in sums])

    def backward(self, gain: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``a, b, s`` of the gradient ``a * gradient + b * x + s`` of what was normalised."""
        by_gain, by_shift = sums
        on_gradient = gain * self.scale
        on_x = -on_gradient * self.scale * by_gain / self.elements
        return on_gradient, on_x, -on_gradient * by_shift / self.elements - on_x * self.mean


def _correlation(v: Tensor, gradient: Tensor, step: int) -> Tensor:
    """Gradient (C', C, 3, 3[, 3]) of the weight of a convolution dilated by ``step``, both channels-last.

    In 3D slice by slice, which lie as images in memory: many times faster than PyTorch's own.
    """
    shape = (gradient.shape[1], v.shape[1], 3, 3)
    if v.ndim == 4:
        return conv2d_weight(v, shape, gradient, padding=step, dilation=step)
    v, gradient, depth, found = v.movedim(2, 1), gradient.movedim(2, 1), v.shape[2], []
    for by in (-step, 0, step):
        if abs(by) >= depth:
            found.append(v.new_zeros(shape))
            continue
        seen = v[:, max(0, by) : depth + min(0, by)].flatten(0, 1)
        given = gradient[:, max(0, -by) : depth + min(0, -by)].flatten(0, 1)
        found.append(conv2d_weight(seen, shape, given, padding=step, dilation=step))
    return torch.stack(found, dim=2)


def _mixed_backward(
    v: Tensor, gradient: Tensor, phi: Tensor, dilations: Sequence[int], scales: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of v, phi and the scales.

    ``phi_r D_r`` is a full convolution with weight ``phi_r * D_r``. The gradient of that weight gives those
    of both factors and costs less than they do one by one, for which ``D_r v`` would be computed again.
    """
    conv, taps = CONV[v.ndim], tuple(range(2, v.ndim))
    by_v, by_phi, by_scales = None, [], []
    for part, scale, dilation in zip(phi.split(v.shape[1], dim=1), scales, dilations, strict=True):
        by_weight = _correlation(v, gradient, dilation)
        by_phi.append((by_weight * scale.transpose(0, 1)).sum(dim=taps, keepdim=True))
        by_scales.append((by_weight * part).sum(dim=0).unsqueeze(1))
        # With an odd kernel and as much padding, the transposed convolution is one with the flipped kernel.
        back = laid_as(conv(gradient, part.transpose(0, 1)), v)
        given = depthwise(back, scale.flip(taps), dilation)
        by_v = given if by_v is None else by_v.add_(given)
    assert by_v is not None
    return by_v, torch.cat(by_phi, dim=1), by_scales


def _add_product(x: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
    """``x`` and the ``product`` of y by ``weight``, into ``out``."""
    if y.ndim == 5 and y.is_contiguous() and out.is_contiguous():
        by = weight.flatten(1).expand(len(y), -1, -1)
        torch.baddbmm(x.flatten(2), by, y.flatten(2), out=out.flatten(2))
    else:
        torch.add(x, product(y, weight), out=out)


def _pointwise_weight(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient (C', C, *ones) of the weight of ``product``."""
    if x.ndim == 5 and x.is_contiguous():
        found = (gradient.flatten(2) @ x.flatten(2).transpose(1, 2)).sum(dim=0)
    else:
        plane, by_plane = x.flatten(2, -2), gradient.flatten(2, -2)
        found = conv2d_weight(plane, (gradient.shape[1], x.shape[1], 1, 1), by_plane).flatten(1)
    return found.view(*found.shape, *[1] * (x.ndim - 2))


def _opening(z: Tensor, w: Weights) -> Tensor:
    if w.bias is None:
        return project(z.abs(), w.project.neg(), None).expm1_().neg_()
    return project(z, w.project, w.bias).sigmoid_()


class _Learned(torch.autograd.Function):
    """A whole gate that learns; see ``learned``.

    Every norm needs something of all images before the next can be computed, so it goes through them three
    times forward and three times back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        skip: Tensor,
        gating: Tensor,
        norms: Sequence[Norm],
        dilations: tuple[int, ...],
        seen: list[Seen] | None,
        *given: Tensor | None,
    ) -> Tensor:
        w = _weights(given)
        blocks = blocks_of(skip, len(w.from_skip))
        qs = [product(skip[at], w.from_skip) for at in blocks]
        ks = [laid_as(product(gating[at], w.from_gating), q) for at, q in zip(blocks, qs, strict=True)]
        of_skip, of_gating = _Statistics.learned(norms[0], qs), _Statistics.learned(norms[1], ks)
        on_q, shift_q = of_skip.forward(w.gain_skip, w.shift_skip)
        on_k, shift_k = of_gating.forward(w.gain_gating, w.shift_gating)
        vs, mixed = [], []
        for q, k in zip(qs, ks, strict=True):
            v = add_scaled(affine(q, on_q, shift_q + shift_k, out=q), k, on_k).relu_()
            vs.append(v.contiguous(memory_format=LAST[v.ndim]))
            mixed.append(mixed_scales(vs[-1], w.mix, None, dilations, w.scales))
        of_field = _Statistics.learned(norms[2], mixed)
        to_field = of_field.forward(w.gain_field, w.shift_field)
        both, psis, fields = room_for_both(skip, gating), [], []
        for at, x in zip(blocks, mixed, strict=True):
            u = affine(x, *to_field)
            z = u if w.threshold is None else shrunk(u, w.threshold)
            psis.append(_opening(z, w))
            join(skip[at], _part(w.c, at), psis[-1], gating[at], out=both[at])
            if seen is not None:
                fields.append(u)
        if seen is not None:
            seen.append(Seen(torch.cat(fields), torch.cat(psis)))
        ctx.save_for_backward(skip, gating, *given, *vs, *mixed, *psis)
        ctx.given, ctx.blocks, ctx.dilations = len(given), blocks, dilations
        ctx.statistics = of_skip, of_gating, of_field
        return both

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        skip, gating, *kept = ctx.saved_tensors
        w, kept = _weights(kept[: ctx.given]), kept[ctx.given :]
        blocks: list[slice] = ctx.blocks
        vs, mixed, psis = (kept[n * len(blocks) : (n + 1) * len(blocks)] for n in range(3))
        of_skip, of_gating, of_field = ctx.statistics
        by_gated, by_gating = gradient.split((skip.shape[1], gating.shape[1]), dim=1)

        # From [x c psi, t] to u.
        flat = w.project.flatten()
        by_project, by_threshold = torch.zeros_like(flat), torch.zeros_like(flat)
        by_bias, sums_field = flat.new_zeros(1), flat.new_zeros(2, len(flat))
        by_c, by_fields, to_field = [], [], of_field.forward(w.gain_field, w.shift_field)
        for at, x, psi in zip(blocks, mixed, psis, strict=True):
            both = (by_gated[at] * skip[at]).flatten(2)
            if w.c is None:
                by_psi = both.sum(dim=1)
            else:
                by_psi = w.c[at].unsqueeze(1) @ both
                by_c.append((both @ psi.flatten(2).transpose(1, 2)).squeeze(2))
            by_psi = by_psi.view_as(psi)
            by_sum = (by_psi * (1 - psi) if w.bias is None else by_psi * psi * (1 - psi)).reshape(-1, 1)
            z = affine(x, *to_field)
            if w.threshold is not None:
                z = shrunk(z, w.threshold)
            # The derivatives of the sum behind psi: by the projection, by -lambda, by u.
            rows, is_exact = rows_of(z), w.bias is None
            by_project += ((rows.abs() if is_exact else rows).t() @ by_sum).flatten()
            by_bias += by_sum.sum()
            rows.sign_()
            if w.threshold is not None:
                by_threshold -= flat * ((rows.abs() if is_exact else rows).t() @ by_sum).flatten()
            if not is_exact and w.threshold is None:
                rows.fill_(1)
            elif not is_exact:
                rows.abs_()
            lanes = in_lanes(z)
            lanes.mul_(along(flat, lanes))
            rows.mul_(by_sum)
            sums_field += of_field.sums(z, x)
            by_fields.append(z)

        # From u to q + k.
        on_field, on_x, shift = of_field.backward(w.gain_field, sums_field)
        by_mix, by_scales = torch.zeros_like(w.mix), [torch.zeros_like(scale) for scale in w.scales]
        sums_skip, sums_gating = (w.gain_skip.new_zeros(2, len(flat)) for _ in range(2))
        by_sums, qs, ks = [], [], []
        for at, v, x, by_field in zip(blocks, vs, mixed, by_fields, strict=True):
            by_x = add_scaled(affine(x, on_x, shift), by_field, on_field)
            by_v, more, each = _mixed_backward(v, by_x, w.mix, ctx.dilations, w.scales)
            by_mix += more
            for by_scale, one in zip(by_scales, each, strict=True):
                by_scale += one
            qs.append(product(skip[at], w.from_skip))
            ks.append(laid_as(product(gating[at], w.from_gating), qs[-1]))
            by_sums.append(laid_as(torch.ops.aten.threshold_backward(by_v, v, 0), qs[-1]))
            sums_skip += of_skip.sums(by_sums[-1], qs[-1])
            sums_gating += of_gating.sums(by_sums[-1], ks[-1])

        # From q + k to x and t.
        on_sum_q, on_q, shift_q = of_skip.backward(w.gain_skip, sums_skip)
        on_sum_k, on_k, shift_k = of_gating.backward(w.gain_gating, sums_gating)
        by_from_skip, by_from_gating = torch.zeros_like(w.from_skip), torch.zeros_like(w.from_gating)
        by_skip, by_t = torch.empty_like(skip), torch.empty_like(gating)
        for at, q, k, by_sum, psi in zip(blocks, qs, ks, by_sums, psis, strict=True):
            by_q = add_scaled(affine(q, on_q, shift_q, out=q), by_sum, on_sum_q)
            by_k = add_scaled(affine(k, on_k, shift_k, out=k), by_sum, on_sum_k)
            by_from_skip += _pointwise_weight(skip[at], by_q)
            by_from_gating += _pointwise_weight(gating[at], by_k)
            opened = torch.mul(by_gated[at], psi, out=by_skip[at])
            if w.c is not None:
                opened.mul_(spread(w.c[at], opened))
            _add_product(opened, by_q, w.from_skip.transpose(0, 1), out=opened)
            _add_product(by_gating[at], by_k, w.from_gating.transpose(0, 1), out=by_t[at])

        return (
            by_skip,
            by_t,
            *(None, None, None),
            torch.cat(by_c) if by_c else None,
            None if w.threshold is None else by_threshold,
            by_from_skip,
            *sums_skip,
            by_from_gating,
            *sums_gating,
            by_mix,
            *sums_field,
            by_project.view_as(w.project),
            None if w.bias is None else by_bias,
            *by_scales,
        )
