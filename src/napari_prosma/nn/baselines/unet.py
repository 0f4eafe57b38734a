"""U-Net (Ronneberger et al. 2015): convolutions, max-pooling, and skips that pass whole.

2D, in the form that the tables of the field run: padded convolutions with batch norm, upsampling followed by
a convolution. 34,527,041 parameters at 64..1024, three channels in, one out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.blocks import CONV, INTERPOLATION, NORM
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec


class ConvNormReLU(nn.Sequential):
    """Conv3-BN-ReLU. The bias does nothing before a norm, but the published counts have it."""

    def __init__(self, channels_in: int, channels_out: int, dims: int) -> None:
        super().__init__(
            CONV[dims](channels_in, channels_out, 3, padding=1), NORM[dims](channels_out), nn.ReLU()
        )


class DoubleConv(nn.Sequential):
    """Two times Conv3-BN-ReLU; between them ``channels_between``, by default ``channels_out``."""

    def __init__(
        self, channels_in: int, channels_out: int, dims: int, channels_between: int | None = None
    ) -> None:
        between = channels_between or channels_out
        super().__init__(ConvNormReLU(channels_in, between, dims), ConvNormReLU(between, channels_out, dims))


def doubled(x: Tensor) -> Tensor:
    """``x`` (B, C, *spatial) on a grid twice as fine, by linear interpolation."""
    return F.interpolate(x, scale_factor=2, mode=INTERPOLATION[x.ndim - 2], align_corners=False)


class UNet(Baseline):
    """2D U-Net: ``g_s = DoubleConv([x_s, ConvBNReLU(up(g_{s+1}))])``."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        widths, dims = spec.widths, spec.dims
        self.encoder = nn.ModuleList(
            DoubleConv(i, o, dims) for i, o in zip((spec.in_channels, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(ConvNormReLU(widths[s + 1], w, dims) for s, w in enumerate(widths[:-1]))
        self.decoder = nn.ModuleList(DoubleConv(2 * w, w, dims) for w in widths[:-1])
        self.head = CONV[dims](widths[0], spec.out_channels, 1)

    def deepest_block(self) -> nn.Module:
        return self.encoder[-1]

    def logits(self, image: Tensor, trace: GateTrace | None) -> Tensor:
        skips = []
        x = image
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        g = skips.pop()
        for s in reversed(range(len(skips))):
            t = self.up[s](doubled(g))
            g = self.decoder[s](torch.cat([self.passed(skips[s], t, s, trace), t], dim=1))
        return self.head(g)

    def passed(self, skip: Tensor, gating: Tensor, s: int, trace: GateTrace | None) -> Tensor:
        """What of skip ``s`` (from 0) reaches the decoder: all of it."""
        return skip
