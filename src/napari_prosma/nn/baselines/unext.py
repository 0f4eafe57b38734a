"""U-NeXt (Valanarasu and Patel 2022): few convolutions, and on coarse grids an MLP over shifted channels.

1,471,921 parameters at (16, 32, 128, 160, 256), three channels in, one out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.token_unet import TokenNorm, TokenUNet
from napari_prosma.nn.blocks import CONV, NORM

SHIFTS = (-2, -1, 0, 1, 2)
"""Positions by which the fifths of the channels move; what leaves the grid is lost, zeros come in."""


def shifted(x: Tensor, axis: int) -> Tensor:
    """``x`` (B, C, y, x) with the k-th fifth of its channels moved by ``SHIFTS[k]`` along ``axis``."""
    reach, length = max(SHIFTS), x.shape[axis]
    padding = [0, 0] * (x.ndim - 1 - axis) + [reach, reach]
    parts = torch.chunk(F.pad(x, padding), len(SHIFTS), dim=1)
    return torch.cat(
        [part.narrow(axis, reach - shift, length) for part, shift in zip(parts, SHIFTS, strict=False)], dim=1
    )


class ShiftedMLP(nn.Module):
    """``x + W_2 shift_x(GELU(DW(W_1 shift_y(LN x))))``: shifts along y, then x; DW is depthwise, 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = TokenNorm(channels)
        self.first = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.second = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        within = F.gelu(self.depthwise(self.first(shifted(self.norm(x), axis=2))))
        return x + self.second(shifted(within, axis=3))


class UNeXt(TokenUNet):
    """One Conv3-BN per stage, shifted MLPs on tokens; 2D."""

    def stage(self, channels_in: int, channels_out: int) -> nn.Module:
        dims = self.spec.dims
        return nn.Sequential(CONV[dims](channels_in, channels_out, 3, padding=1), NORM[dims](channels_out))

    def block(self, channels: int) -> nn.Module:
        return ShiftedMLP(channels)

    def up_stage(self, channels_in: int, channels_out: int, after: int) -> nn.Module:
        return self.stage(channels_in, channels_out)

    def make_last_stage(self, channels: int) -> nn.Module:
        return CONV[self.spec.dims](channels, channels, 3, padding=1)
