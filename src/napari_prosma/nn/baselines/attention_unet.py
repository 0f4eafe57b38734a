"""Attention U-Net (Oktay et al. 2018): a U-Net whose skips are weighted by what the decoder already knows.

34,878,573 parameters at 64..1024, three channels in, one out; of these 351,532 in the gates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.unet import UNet
from napari_prosma.nn.blocks import CONV, NORM
from napari_prosma.nn.gates import GateTrace, SkipTrace
from napari_prosma.nn.spec import ModelSpec


class AttentionBlock(nn.Module):
    """``psi = sigmoid(BN(w . relu(BN(W_x x) + BN(W_g t))))`` with half as many channels within."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        conv, norm, within = CONV[dims], NORM[dims], channels // 2
        self.from_skip = nn.Sequential(conv(channels, within, 1), norm(within))
        self.from_gating = nn.Sequential(conv(channels, within, 1), norm(within))
        self.project = nn.Sequential(conv(within, 1, 1), norm(1))

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """psi (B, 1, *spatial) of the skip x and the gating tensor t, both (B, C, *spatial)."""
        return torch.sigmoid(self.project(F.relu(self.from_skip(skip) + self.from_gating(gating))))


class AttentionUNet(UNet):
    """U-Net with ``x * psi`` in place of each skip x; the gating tensor is the one that x is joined with."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.gates = nn.ModuleList(AttentionBlock(w, spec.dims) for w in spec.widths[:-1])

    def passed(self, skip: Tensor, gating: Tensor, s: int, trace: GateTrace | None) -> Tensor:
        psi = self.gates[s](skip, gating)
        gated = skip * psi
        if trace is not None:
            level = s + 1
            trace.skips[level] = SkipTrace(level, skip.detach(), gated.detach(), psi=psi.detach())
        return gated
