"""U-Net in 3D, in its residual form (Kerfoot et al. 2018): strided convolutions in place of pooling.

It is MONAI's ``UNet`` with two residual units and batch norm, weight for weight, so that figures compare;
4,808,917 parameters at 16..256, one channel in, two out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.blocks import CONV, NORM
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec


class ResidualUnit(nn.Module):
    """``units`` times Conv3-BN-PReLU, the first with ``stride``, plus a convolution of the input.

    That one has the kernel 3 where the grid changes, 1 where only the width does, and is left out where
    neither does. With ``bare`` the last unit is the convolution alone.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, units: int = 2, bare: bool = False
    ) -> None:
        super().__init__()
        conv, norm = CONV[3], NORM[3]
        layers: list[nn.Module] = []
        for unit in range(units):
            first = unit == 0
            layers.append(
                conv(
                    channels_in if first else channels_out,
                    channels_out,
                    3,
                    stride=stride if first else 1,
                    padding=1,
                )
            )
            if not (bare and unit == units - 1):
                layers += [norm(channels_out), nn.PReLU()]
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = conv(channels_in, channels_out, 3, stride=stride, padding=1)
        elif channels_in != channels_out:
            self.shortcut = conv(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Level(nn.Module):
    """Down by a strided unit, what lies ``within`` (deeper levels), and up from both by a transposed one."""

    def __init__(self, channels_in: int, channels_out: int, widths: tuple[int, ...], is_top: bool) -> None:
        super().__init__()
        width, *deeper = widths
        self.down = ResidualUnit(channels_in, width, stride=2)
        self.within: nn.Module
        if len(deeper) == 1:
            self.within, joined = ResidualUnit(width, deeper[0]), width + deeper[0]
        else:
            self.within, joined = Level(width, width, tuple(deeper), is_top=False), 2 * width
        self.up = nn.Sequential(
            nn.ConvTranspose3d(joined, channels_out, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm3d(channels_out),
            nn.PReLU(),
            ResidualUnit(channels_out, channels_out, units=1, bare=is_top),
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.up(torch.cat([skip, self.within(skip)], dim=1))


class VolumeUNet(Baseline):
    """Levels within levels; the finest skip lies on half of the image's grid."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.levels = Level(spec.in_channels, spec.out_channels, spec.widths, is_top=True)

    def deepest_block(self) -> nn.Module:
        block: Any = self.levels
        while hasattr(block, "within"):
            block = block.within
        return block

    def last_block(self) -> nn.Module:
        return self.levels.up

    def logits(self, image: Tensor, trace: GateTrace | None) -> Tensor:
        return self.levels(image)
