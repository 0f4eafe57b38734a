"""The gates of the skip connections: eight names, one protocol.

A gate takes the skip ``x`` (B, C_x, *spatial) and the gating tensor ``t`` (B, C_g, *spatial) of the same
grid and returns ``x * c * psi``. ``psi`` (B, 1, *spatial) comes from a *spatial part*, ``c`` (B, C_x) from a
*channel part*; either may be missing.

=============  ==========================================  ===================
name           spatial part                                channel part
=============  ==========================================  ===================
prosma         proximal-sparse mask (equations 1 to 4)     squeeze (equation 5)
spatial        proximal-sparse mask                        none
channel        none                                        squeeze
none           none                                        none
scale          none                                        a constant per channel
dense          the same with lambda = 0, trained so        squeeze
prosma-exact   ours: psi exactly 0 where z is empty        squeeze
attention      additive attention (Oktay et al. 2018)      none
=============  ==========================================  ===================

What a gate is (exact zeros, thresholds, what it keeps when it selects nothing) stands in its file in
``nn.gate_kinds``; nothing compares names.

What a gate saw is kept in a ``SkipTrace``. The arithmetic with and without one is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.blocks import CONV, NORM
from napari_prosma.nn.fast import forward as fast
from napari_prosma.nn.fast import learning as fast_learning
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.prox import soft_threshold, threshold_logit


@dataclass(frozen=True)
class Change:
    """What is done to one gate without training it again; the default leaves it as it is.

    Attributes
    ----------
    threshold : float
        Factor on every lambda of the gate, 0 or more; without effect where a gate has no lambda.
    psi : float, optional
    c : float or tuple of float, optional
        What the part is set to everywhere, c also channel by channel; without effect where a gate has no such
        part.
    skip : tuple of float, optional
        What the decoder gets in place of the gated skip, a value per channel; a single one is for all, so
        that (0,) cuts the skip.
    """

    threshold: float = 1.0
    psi: float | None = None
    c: float | tuple[float, ...] | None = None
    skip: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"lambda can be scaled by 0 or more, found {self.threshold}")
        c = self.c if isinstance(self.c, tuple) else (self.c,)
        values = [value for value in (self.psi, *c, *(self.skip or ())) if value is not None]
        if not all(map(math.isfinite, values)):
            raise ValueError(f"a part of a gate can be set to a number, found {values}")


@dataclass
class SkipTrace:
    """What one gate saw and did; tensors are detached, on the grid of its skip.

    Attributes
    ----------
    level : int
        Encoder level, 1 = finest.
    skip, gated : (B, C_x, *spatial)
        x and x~.
    field, z : (B, C_a, *spatial) or None
        u and its soft-thresholded form, where the gate has a proximal part.
    threshold : (C_a,) or None
        lambda.
    psi, psi_dense : (B, 1, *spatial) or None
        The spatial mask, and what the same weights give with lambda = 0 (counterfactual, not retrained).
    channel : (B, C_x) or None
        c.
    floor : float or None
        The value of psi where z is empty: sigmoid of Psi's bias, 0 for ``prosma-exact``.
    """

    level: int
    skip: Tensor
    gated: Tensor
    field: Tensor | None = None
    z: Tensor | None = None
    threshold: Tensor | None = None
    psi: Tensor | None = None
    psi_dense: Tensor | None = None
    channel: Tensor | None = None
    floor: float | None = None

    def cropped(self, size: tuple[int, ...]) -> SkipTrace:
        """The same without what lies beyond ``size`` on the right and bottom."""
        window = (slice(None), slice(None), *(slice(0, n) for n in size))
        changed = {
            name: getattr(self, name)[window]
            for name in ("skip", "gated", "field", "z", "psi", "psi_dense")
            if getattr(self, name) is not None
        }
        return SkipTrace(**{**vars(self), **changed})

    def summary(self) -> dict[str, float]:
        """Numbers of this gate over all positions kept; a channel is dead where all of its z are zero."""
        figures: dict[str, float] = {}
        if self.z is not None:
            empty = self.z == 0
            per_channel = empty.movedim(1, 0).flatten(1)
            figures["z_zero_fraction"] = float(empty.float().mean())
            figures["floor_pixel_fraction"] = float(empty.all(dim=1).float().mean())
            figures["dead_channel_fraction"] = float(per_channel.all(dim=1).float().mean())
        if self.threshold is not None:
            figures["lambda_mean"] = float(self.threshold.mean())
            figures["lambda_min"] = float(self.threshold.min())
            figures["lambda_max"] = float(self.threshold.max())
        if self.floor is not None:
            figures["gate_floor"] = self.floor
        if self.psi is not None:
            figures["psi_mean"] = float(self.psi.float().mean())
            figures["psi_std"] = float(self.psi.float().std(correction=0))
        return figures


@dataclass
class GateTrace:
    """Collects a :class:`SkipTrace` per gated level during ``model(x, trace=trace)``."""

    skips: dict[int, SkipTrace] = field(default_factory=dict)


class ProximalMask(nn.Module):
    """Multi-scale compatibility field, soft-threshold, projection (equations 1 to 4).

    ``q = W_x x``, ``k = W_g t``, ``v = relu(q + k)``, ``u = phi [D_1 v, ..., D_m v]``,
    ``z = soft_threshold(u, softplus(theta))``, ``psi = sigmoid(Psi z)``.
    With ``sparse=False`` lambda is 0 and there is no theta: the dense gate.
    """

    def __init__(
        self, skip_channels: int, gating_channels: int, dims: int, options: GateOptions, sparse: bool = True
    ) -> None:
        super().__init__()
        self.dilations = options.dilations
        latent = options.latent(skip_channels)
        conv = CONV[dims]
        normed = options.norm == "batch"

        def norm() -> nn.Module:
            return NORM[dims](latent) if normed else nn.Identity()

        self.from_skip = conv(skip_channels, latent, 1, bias=not normed)
        self.norm_skip = norm()
        self.from_gating = conv(gating_channels, latent, 1, bias=not normed)
        self.norm_gating = norm()
        self.scales = nn.ModuleList(
            conv(latent, latent, 3, padding=d, dilation=d, groups=latent, bias=False)
            for d in options.dilations
        )
        self.mix = conv(len(options.dilations) * latent, latent, 1, bias=not normed)
        self.norm_field = norm()
        self.theta = (
            nn.Parameter(torch.full((latent,), threshold_logit(options.threshold))) if sparse else None
        )
        self._make_projection(latent, conv)

    def _make_projection(self, latent: int, conv: Callable[..., nn.Conv2d | nn.Conv3d]) -> None:
        self.project = conv(latent, 1, 1)

    def threshold(self) -> Tensor | None:
        """lambda (C_a,), or None for the dense gate."""
        return None if self.theta is None else F.softplus(self.theta)

    def floor(self) -> float:
        """psi where z is empty."""
        return float(torch.sigmoid(self._bias().detach()))

    def _bias(self) -> Tensor:
        assert self.project.bias is not None
        return self.project.bias

    def _projection(self) -> tuple[Tensor, Tensor | None]:
        return self.project.weight, self._bias()

    def field(self, skip: Tensor, gating: Tensor) -> Tensor:
        """u (B, C_a, *spatial), before the threshold."""
        if fast.applies(skip):
            q = fast.normed_product(self.from_skip, self.norm_skip, skip)
            k = fast.normed_product(self.from_gating, self.norm_gating, gating)
            v = fast.compatibility(q, k)
            return fast.context(v, list(self.scales.parameters()), self.dilations, self.mix, self.norm_field)
        v = F.relu(self.norm_skip(self.from_skip(skip)) + self.norm_gating(self.from_gating(gating)))
        return self.norm_field(self.mix(torch.cat([scale(v) for scale in self.scales], dim=1)))

    def readout(self, z: Tensor) -> Tensor:
        """psi (B, 1, *spatial) of z."""
        if fast.applies(z):
            return torch.sigmoid(fast.project(z, self.project.weight, self._bias()))
        return torch.sigmoid(self.project(z))

    def forward(
        self, skip: Tensor, gating: Tensor, skip_trace: SkipTrace | None = None, scale: float = 1.0
    ) -> Tensor:
        """psi; ``scale`` multiplies lambda."""
        u = self.field(skip, gating)
        threshold = self.threshold()
        if threshold is not None and scale != 1:
            threshold = threshold * scale
        if threshold is None:
            psi = self.readout(u)
        else:
            shrink = fast.shrunk if fast.applies(u) else soft_threshold
            psi = self.readout(shrink(u, threshold))
        if skip_trace is not None:
            self._tell(skip_trace, u.detach(), psi.detach(), threshold)
        return psi

    def learned(
        self, skip: Tensor, gating: Tensor, c: Tensor | None, skip_trace: SkipTrace | None
    ) -> Tensor | None:
        """``[x * c * psi, t]`` with ``c`` (B, C_x) or None; None where the fast way does not apply."""
        norms = fast_learning.learning_norms(skip, (self.norm_skip, self.norm_gating, self.norm_field))
        if norms is None:
            return None
        threshold, (project, bias) = self.threshold(), self._projection()
        weights = fast_learning.Weights(
            c=c,
            threshold=threshold,
            from_skip=self.from_skip.weight,
            gain_skip=norms[0].weight,
            shift_skip=norms[0].bias,
            from_gating=self.from_gating.weight,
            gain_gating=norms[1].weight,
            shift_gating=norms[1].bias,
            mix=self.mix.weight,
            gain_field=norms[2].weight,
            shift_field=norms[2].bias,
            project=project,
            bias=bias,
            scales=tuple(self.scales.parameters()),
        )
        both, seen = fast_learning.learned(
            skip, gating, weights, norms, self.dilations, skip_trace is not None
        )
        if skip_trace is not None and seen is not None:
            self._tell(skip_trace, seen.field, seen.psi, threshold)
        return both

    def fused(self, skip: Tensor, gating: Tensor, c: Tensor | None, skip_trace: SkipTrace | None) -> Tensor:
        """``[x * c * psi, t]`` with ``c`` (B, C_x) or None, from u on in one kernel."""
        from napari_prosma.nn.fast import tail

        u, threshold = self.field(skip, gating), self.threshold()
        both, psi = tail.joined(skip, gating, c, u, threshold, *self._projection())
        if skip_trace is not None:
            self._tell(skip_trace, u.detach(), psi, threshold)
        return both

    def _tell(self, skip_trace: SkipTrace, field: Tensor, psi: Tensor, threshold: Tensor | None) -> None:
        skip_trace.field, skip_trace.psi, skip_trace.floor = field, psi, self.floor()
        skip_trace.z = field if threshold is None else soft_threshold(field, threshold.detach())
        if threshold is not None:
            skip_trace.threshold = threshold.detach()
            skip_trace.psi_dense = self.readout(field.to(skip_trace.z.dtype)).detach()


class ExactMask(ProximalMask):
    """Ours: ``psi = 1 - exp(-sum_c w_c |z_c|)``, ``w_c = softplus(omega_c)``; exactly 0 where z is empty."""

    def _make_projection(self, latent: int, conv: Callable[..., nn.Conv2d | nn.Conv3d]) -> None:
        # With u ~ N(0, 1) and lambda = ln 2 the mean of |z| is 0.29; this start makes psi about 0.5.
        self.omega = nn.Parameter(torch.full((latent,), threshold_logit(2.4 / latent)))

    def floor(self) -> float:
        return 0.0

    def _projection(self) -> tuple[Tensor, Tensor | None]:
        return F.softplus(self.omega), None

    def readout(self, z: Tensor) -> Tensor:
        weight = F.softplus(self.omega).to(z.dtype).view(-1, *[1] * (z.ndim - 2))
        return -torch.expm1(-(weight * z.abs()).sum(dim=1, keepdim=True))


class AttentionMask(nn.Module):
    """Additive attention of Attention U-Net (Oktay et al. 2018), with batch norms as in its common code."""

    def __init__(self, skip_channels: int, gating_channels: int, dims: int, options: GateOptions) -> None:
        super().__init__()
        latent = max(skip_channels // options.latent_ratio, 1)
        conv, norm = CONV[dims], NORM[dims]
        self.from_skip = nn.Sequential(conv(skip_channels, latent, 1), norm(latent))
        self.from_gating = nn.Sequential(conv(gating_channels, latent, 1), norm(latent))
        self.project = nn.Sequential(conv(latent, 1, 1), norm(1), nn.Sigmoid())

    def forward(
        self, skip: Tensor, gating: Tensor, skip_trace: SkipTrace | None = None, scale: float = 1.0
    ) -> Tensor:
        """psi; there is no lambda for ``scale`` to multiply."""
        psi = self.project(F.relu(self.from_skip(skip) + self.from_gating(gating)))
        if skip_trace is not None:
            skip_trace.psi = psi.detach()
        return psi


class ChannelMask(nn.Module):
    """``c = sigmoid(MLP(GAP(t)))`` (equation 5); depends on the window through the global average."""

    def __init__(self, skip_channels: int, gating_channels: int, options: GateOptions) -> None:
        super().__init__()
        hidden = max(gating_channels // options.squeeze_ratio, options.squeeze_min)
        self.squeeze = nn.Linear(gating_channels, hidden)
        self.excite = nn.Linear(hidden, skip_channels)

    def forward(self, gating: Tensor, skip_trace: SkipTrace | None = None) -> Tensor:
        c = torch.sigmoid(self.excite(F.relu(self.squeeze(fast.pooled(gating)))))
        if skip_trace is not None:
            skip_trace.channel = c.detach()
        return c


class ConstantScale(nn.Module):
    """``c_j = sigmoid(b_j)``, b from 0: learned, and the same for every image (the null model of a gate)."""

    def __init__(self, skip_channels: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(skip_channels))

    def forward(self, gating: Tensor, skip_trace: SkipTrace | None = None) -> Tensor:
        c = torch.sigmoid(self.logit).expand(len(gating), -1)
        if skip_trace is not None:
            skip_trace.channel = c.detach()
        return c


class Gate(nn.Module):
    """``x~ = x * c * psi``; a part that is None counts as 1.

    Attributes
    ----------
    is_fused : bool
        Whether its end is one kernel where that can be; see ``nn.build.fuse``.
    """

    is_fused = False

    def __init__(self, spatial: nn.Module | None, channel: nn.Module | None) -> None:
        super().__init__()
        self.spatial = spatial
        self.channel = channel

    def forward(
        self,
        skip: Tensor,
        gating: Tensor,
        trace: GateTrace | None = None,
        level: int = 1,
        change: Change | None = None,
    ) -> Tensor:
        """Gate ``skip`` (B, C_x, *spatial) by ``gating`` (B, C_g, *spatial) of the same grid."""
        return self.joined(skip, gating, trace, level, change)[:, : skip.shape[1]]

    def joined(
        self,
        skip: Tensor,
        gating: Tensor,
        trace: GateTrace | None = None,
        level: int = 1,
        change: Change | None = None,
    ) -> Tensor:
        """``[x~, t]`` (B, C_x + C_g, *spatial) along the channels: what the decoder takes.

        A part that ``change`` sets still leaves its u and z in the trace, beside the psi or c it is set to.
        """
        kept = None if trace is None else SkipTrace(level, skip.detach(), skip.detach())
        change = Change() if change is None else change
        c = None if self.channel is None else self.channel(gating, kept)
        if change.c is not None and c is not None:
            set_to = c.new_tensor(change.c)
            c = None if change.c == 1 else set_to.reshape(-1, *(1,) * (c.ndim - 2)).expand_as(c)
            if kept is not None and kept.channel is not None:
                kept.channel = set_to.expand_as(kept.channel)
        both = None
        if isinstance(self.spatial, ProximalMask) and change == Change():
            in_one = self.spatial.fused if self.is_fused and fast.fuses(skip) else self.spatial.learned
            both = in_one(skip, gating, c, kept)
        if both is None:
            both = self._joined(skip, gating, c, kept, change)
        if trace is not None and kept is not None:
            # A copy, or the trace would keep t as well.
            kept.gated = both[:, : skip.shape[1]].detach().clone()
            trace.skips[level] = kept
        return both

    def _joined(
        self, skip: Tensor, gating: Tensor, c: Tensor | None, skip_trace: SkipTrace | None, change: Change
    ) -> Tensor:
        psi = None if self.spatial is None else self.spatial(skip, gating, skip_trace, change.threshold)
        if change.psi is not None and psi is not None:
            if skip_trace is not None and skip_trace.psi is not None:
                skip_trace.psi, skip_trace.floor = torch.full_like(skip_trace.psi, change.psi), None
            psi = None if change.psi == 1 else torch.full_like(psi, change.psi)
        if change.skip is not None:
            value = torch.tensor(change.skip, dtype=skip.dtype, device=skip.device)
            constant = value.view(1, -1, *[1] * (skip.ndim - 2)).expand_as(skip)
            return torch.cat([constant, gating], dim=1)
        if psi is not None and fast.applies(skip):
            return fast.joined(skip, c, psi, gating)
        gated = skip if c is None else skip * c.view(*c.shape, *[1] * (skip.ndim - 2))
        return torch.cat([gated if psi is None else gated * psi, gating], dim=1)


def make_gate(
    name: str, skip_channels: int, gating_channels: int, dims: int, options: GateOptions | None = None
) -> Gate:
    """Gate ``name`` (a key of ``GATES``) for a skip of ``skip_channels`` in ``dims`` (2 or 3) dimensions."""
    if name not in GATES:
        raise ValueError(f"unknown gate {name!r}; choose one of {', '.join(GATES)}")
    return GATES[name].make(skip_channels, gating_channels, dims, options or GateOptions())
