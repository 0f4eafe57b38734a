"""The frame that U-NeXt, U-KAN and U-KAN 2.0 share: convolutions on fine grids, tokens on the two coarsest.

``[stage, max-pool] x (L - 2), [embed by a strided convolution, block] x 2`` down, and up again with
skips that are added. A token is the vector of channels at one position of a grid.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.baselines.unet import doubled
from napari_prosma.nn.blocks import CONV, POOL
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec


class TokenNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of (B, C, *spatial)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TokenUNet(Baseline):
    """The frame; a child says what a stage, a block of tokens and a stage of the decoder are.

    Its decoder's last stage halves nothing and adds nothing: the finest skip lies on half the image's grid.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        widths, dims = spec.widths, spec.dims
        fine, (coarse, deepest) = widths[:-2], widths[-2:]
        self.pool = POOL[dims](2)
        self.stages = nn.ModuleList(
            self.stage(i, o) for i, o in zip((spec.in_channels, *fine[:-1]), fine, strict=True)
        )
        self.embeddings = nn.ModuleList(
            nn.Sequential(CONV[dims](i, o, 3, stride=2, padding=1), TokenNorm(o))
            for i, o in ((fine[-1], coarse), (coarse, deepest))
        )
        self.blocks = nn.ModuleList(nn.Sequential(self.block(w), TokenNorm(w)) for w in (coarse, deepest))
        descending = widths[::-1]
        self.up_stages = nn.ModuleList(
            self.up_stage(i, o, after) for after, (i, o) in enumerate(pairwise(descending))
        )
        self.up_blocks = nn.ModuleList(nn.Sequential(self.block(w), TokenNorm(w)) for w in (coarse, fine[-1]))
        self.last_stage = self.make_last_stage(widths[0])
        self.head = CONV[dims](widths[0], spec.out_channels, 1)

    def stage(self, channels_in: int, channels_out: int) -> nn.Module:
        """Convolutions of the encoder."""
        raise NotImplementedError

    def block(self, channels: int) -> nn.Module:
        """What works on tokens, from and to (B, channels, *spatial)."""
        raise NotImplementedError

    def up_stage(self, channels_in: int, channels_out: int, after: int) -> nn.Module:
        """Convolutions of the decoder, before the grid is doubled; ``after`` counts from the deepest, 0."""
        raise NotImplementedError

    def make_last_stage(self, channels: int) -> nn.Module:
        """Convolutions before the grid is doubled to that of the image."""
        raise NotImplementedError

    def deepest_block(self) -> nn.Module:
        return self.blocks[-1]

    def logits(self, image: Tensor, trace: GateTrace | None) -> Tensor:
        skips = []
        x = image
        for stage in self.stages:
            x = F.relu(self.pool(stage(x)))
            skips.append(x)
        for embed, block in zip(self.embeddings, self.blocks, strict=True):
            x = block(embed(x))
            skips.append(x)
        skips.pop()
        for after, stage in enumerate(self.up_stages):
            x = F.relu(doubled(stage(x))) + skips.pop()
            if after < len(self.up_blocks):
                x = self.up_blocks[after](x)
        return self.head(F.relu(doubled(self.last_stage(x))))
