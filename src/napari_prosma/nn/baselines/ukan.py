"""U-KAN (Li et al. 2024): on coarse grids Kolmogorov-Arnold layers, whose every weight is a spline.

2D: 6,356,689 parameters at (16, 32, 128, 160, 256), 25,359,265 at twice the widths, three channels in, one
out. In 3D a reconstruction: no public code exists, so the same blocks stand on three axes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.token_unet import TokenNorm, TokenUNet
from napari_prosma.nn.baselines.unet import DoubleConv
from napari_prosma.nn.blocks import CONV, NORM

ORDER, INTERVALS = 3, 5
"""Cubic splines on five intervals of [-1, 1]."""
NOISE = 0.1
"""Spread of the splines at the start, per interval."""


class KANLinear(nn.Module):
    """``y_o = sum_i a_oi silu(x_i) + s_oi sum_k c_oik B_k(x_i)`` over the last axis.

    B_k are the ``INTERVALS + ORDER`` B-splines on a uniform grid over [-1, 1] that is continued by ``ORDER``
    intervals on both sides; outside of that they are zero and only the silu is left.
    """

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        step = 2 / INTERVALS
        self.register_buffer("knots", torch.arange(-ORDER, INTERVALS + ORDER + 1) * step - 1)
        self.base = nn.Parameter(torch.empty(features_out, features_in))
        self.coefficients = nn.Parameter(torch.empty(features_out, features_in, INTERVALS + ORDER))
        self.scale = nn.Parameter(torch.empty(features_out, features_in))
        nn.init.kaiming_uniform_(self.base, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.scale, a=math.sqrt(5))
        nn.init.uniform_(self.coefficients, -NOISE / 2 / INTERVALS, NOISE / 2 / INTERVALS)

    def basis(self, x: Tensor) -> Tensor:
        """``B_k(x)`` (*shape, INTERVALS + ORDER), by the recursion of Cox and de Boor, in float32 or more."""
        knots: Tensor = self.knots  # type: ignore[assignment]
        x = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)[..., None]
        splines = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
        for k in range(1, ORDER + 1):
            rising = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
            falling = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
            splines = rising * splines[..., :-1] + falling * splines[..., 1:]
        return splines

    def forward(self, x: Tensor) -> Tensor:
        splines = (self.coefficients * self.scale[..., None]).flatten(1)
        return F.linear(F.silu(x), self.base) + F.linear(self.basis(x).flatten(-2), splines)


class KANBlock(nn.Module):
    """``x + DW(KAN(DW(KAN(DW(KAN(LN x))))))``; DW is a depthwise 3 x 3 (x 3) convolution, BN and ReLU."""

    def __init__(self, channels: int, dims: int, layers: int = 3) -> None:
        super().__init__()
        self.norm = TokenNorm(channels)
        self.layers = nn.ModuleList(self.layer(channels) for _ in range(layers))
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                CONV[dims](channels, channels, 3, padding=1, groups=channels), NORM[dims](channels), nn.ReLU()
            )
            for _ in range(layers)
        )

    def layer(self, channels: int) -> nn.Module:
        return KANLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        within = self.norm(x)
        for layer, convolution in zip(self.layers, self.convolutions, strict=True):
            within = convolution(layer(within.movedim(1, -1)).movedim(-1, 1))
        return x + within


class UKAN(TokenUNet):
    """Two Conv3-BN-ReLU per stage, KAN blocks on tokens."""

    def stage(self, channels_in: int, channels_out: int) -> nn.Module:
        return DoubleConv(channels_in, channels_out, self.spec.dims)

    def block(self, channels: int) -> nn.Module:
        return KANBlock(channels, self.spec.dims)

    def up_stage(self, channels_in: int, channels_out: int, after: int) -> nn.Module:
        return DoubleConv(channels_in, channels_out, self.spec.dims, channels_between=channels_in)

    def make_last_stage(self, channels: int) -> nn.Module:
        return DoubleConv(channels, channels, self.spec.dims)
