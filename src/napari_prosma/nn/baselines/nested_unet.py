"""U-Net++ (Zhou et al. 2018): between encoder and decoder every skip passes through nested, dense blocks.

9,163,329 parameters at 32..512, three channels in, one out; without deep supervision, as the tables run it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.baselines.unet import DoubleConv
from napari_prosma.nn.blocks import CONV, INTERPOLATION
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec


class NestedUNet(Baseline):
    """Node ``X(i, j)`` of level i sees ``X(i, 0), ..., X(i, j - 1)`` and ``X(i + 1, j - 1)`` upsampled.

    ``X(i, 0)`` is the encoder, ``X(0, L - 1)`` gives the logits.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        widths, dims = spec.widths, spec.dims
        self.nodes = nn.ModuleDict()
        for j in range(len(widths)):
            for i in range(len(widths) - j):
                seen = j * widths[i] + widths[i + 1] if j else (spec.in_channels, *widths)[i]
                self.nodes[f"{i}_{j}"] = DoubleConv(seen, widths[i], dims)
        self.head = CONV[dims](widths[0], spec.out_channels, 1)

    def deepest_block(self) -> nn.Module:
        return self.nodes[f"{len(self.spec.widths) - 1}_0"]

    def logits(self, image: Tensor, trace: GateTrace | None) -> Tensor:
        depth = len(self.spec.widths)
        rows: list[list[Tensor]] = []
        x = image
        for i in range(depth):
            x = self.nodes[f"{i}_0"](x if i == 0 else F.max_pool2d(x, 2))
            rows.append([x])
        for j in range(1, depth):
            for i in range(depth - j):
                below = F.interpolate(
                    rows[i + 1][j - 1],
                    scale_factor=2,
                    mode=INTERPOLATION[self.spec.dims],
                    align_corners=True,
                )
                rows[i].append(self.nodes[f"{i}_{j}"](torch.cat([*rows[i], below], dim=1)))
        return self.head(rows[0][-1])
