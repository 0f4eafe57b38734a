"""Building blocks of the network: convolution, residual block, up block, in 2D and 3D."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
INTERPOLATION = {2: "bilinear", 3: "trilinear"}


def make_norm(kind: str, channels: int, dims: int) -> nn.Module:
    """Norm with learned scale and shift: ``batch``, or ``instance`` (each image by its own statistics)."""
    return NORM[dims](channels) if kind == "batch" else INSTANCE_NORM[dims](channels, affine=True)


class Entry(nn.Sequential):
    """Conv3-BN-ReLU with a stride, by which all that follows lies on a coarser grid than the image."""

    def __init__(
        self, channels_in: int, channels_out: int, dims: int, stride: int, norm: str = "batch"
    ) -> None:
        super().__init__(
            CONV[dims](channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            make_norm(norm, channels_out, dims),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """Conv3-BN-ReLU-Conv3-BN plus shortcut, then ReLU; the shortcut is 1x1-BN where the width changes."""

    def __init__(self, channels_in: int, channels_out: int, dims: int, norm: str = "batch") -> None:
        super().__init__()
        conv = CONV[dims]
        self.body = nn.Sequential(
            conv(channels_in, channels_out, 3, padding=1, bias=False),
            make_norm(norm, channels_out, dims),
            nn.ReLU(),
            conv(channels_out, channels_out, 3, padding=1, bias=False),
            make_norm(norm, channels_out, dims),
        )
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                conv(channels_in, channels_out, 1, bias=False), make_norm(norm, channels_out, dims)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class UpBlock(nn.Module):
    """Linear interpolation to the skip's size, then Conv3-BN-ReLU."""

    def __init__(self, channels_in: int, channels_out: int, dims: int, norm: str = "batch") -> None:
        super().__init__()
        self.mode = INTERPOLATION[dims]
        self.body = nn.Sequential(
            CONV[dims](channels_in, channels_out, 3, padding=1, bias=False),
            make_norm(norm, channels_out, dims),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.body(F.interpolate(x, size=size, mode=self.mode, align_corners=False))
