"""Rolling-UNet (Liu et al. 2024): MLPs over rolled channels see a whole row or column at a time.

1,783,185 (S, 16..256), 7,098,401 (M, 32..512) and 28,324,929 (L, 64..1024) parameters, three channels in, one
out. The paper names the parts; where their norms lie is ours, chosen so that all three counts are met.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.baselines.token_unet import TokenNorm
from napari_prosma.nn.baselines.unet import DoubleConv, doubled
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec


def rolled(x: Tensor, axis: int) -> Tensor:
    """``x`` (B, C, y, x) with channel c rolled by c positions along ``axis``; what leaves comes in again."""
    channels, length = x.shape[1], x.shape[axis]
    position = torch.arange(length, device=x.device)
    # The length as a tensor: what exports the network cannot divide by a size that it does not know yet.
    turn = torch.full((1,), length, device=x.device)
    source = torch.remainder(position - torch.arange(channels, device=x.device)[:, None], turn)
    source = source[None, :, :, None] if axis == 2 else source[None, :, None, :]
    return torch.gather(x, axis, source.expand(x.shape))


class OrthogonalMLP(nn.Module):
    """OR-MLP: ``W_2 roll_b(GELU(W_1 roll_a(x)))`` along two axes a and b, one after the other."""

    def __init__(self, channels: int, axes: tuple[int, int]) -> None:
        super().__init__()
        self.axes = axes
        self.first = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(rolled(F.gelu(self.first(rolled(x, self.axes[0]))), self.axes[1]))


class LongLocalBlock(nn.Module):
    """Lo2: two OR-MLPs (x then y, y then x) for what is far, a separable convolution for what is near."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.far = nn.ModuleList(
            nn.Sequential(TokenNorm(channels), OrthogonalMLP(channels, axes)) for axes in ((3, 2), (2, 3))
        )
        self.far_joined = nn.Conv2d(2 * channels, channels, 1)
        self.near = nn.Sequential(
            TokenNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, channels, 1),
        )
        self.joined = nn.Sequential(TokenNorm(2 * channels), nn.Conv2d(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        far = self.far_joined(torch.cat([mlp(x) for mlp in self.far], dim=1))
        return x + self.joined(torch.cat([far, self.near(x)], dim=1))


class FeatureIncentive(nn.Sequential):
    """FI: Conv3-LN-GELU, which changes the width before and after the blocks."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1), TokenNorm(channels_out), nn.GELU()
        )


class RollingUNet(Baseline):
    """Convolutions on fine grids, Lo2 on the two coarsest and once on the way up; skips are added; 2D."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        widths = spec.widths
        fine, (coarse, deepest) = widths[:-2], widths[-2:]
        self.stages = nn.ModuleList(
            DoubleConv(i, o, 2) for i, o in zip((spec.in_channels, *fine[:-1]), fine, strict=True)
        )
        self.coarse = nn.Sequential(FeatureIncentive(fine[-1], coarse), LongLocalBlock(coarse))
        self.deepest = nn.Sequential(FeatureIncentive(coarse, deepest), LongLocalBlock(deepest))
        self.from_deepest = FeatureIncentive(deepest, coarse)
        self.up_block = LongLocalBlock(coarse)
        self.from_coarse = FeatureIncentive(coarse, fine[-1])
        last = widths[0] // 2
        self.up_stages = nn.ModuleList(
            DoubleConv(i, o, 2, channels_between=i)
            for i, o in zip(fine[::-1], (*fine[-2::-1], last), strict=True)
        )
        self.head = nn.Conv2d(last, spec.out_channels, 1)

    def deepest_block(self) -> nn.Module:
        return self.deepest

    def logits(self, image: Tensor, trace: GateTrace | None) -> Tensor:
        skips = []
        x = image
        for stage in self.stages:
            skips.append(stage(x))
            x = F.max_pool2d(skips[-1], 2)
        coarse = self.coarse(x)
        x = self.deepest(F.max_pool2d(coarse, 2))
        x = self.up_block(doubled(self.from_deepest(x)) + coarse)
        x = self.from_coarse(x)
        for stage in self.up_stages:
            x = stage(doubled(x) + skips.pop())
        return self.head(x)
