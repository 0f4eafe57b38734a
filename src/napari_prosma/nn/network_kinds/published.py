"""Every system of the paper's Tables 1 and 2; all but ours have no settings but their widths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import OURS, WIDTHS, network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec

TOKEN_WIDTHS = (16, 32, 128, 160, 256)


@network(OURS, WIDTHS["large"], dims=(2, 3))
def prosma_unet(spec: ModelSpec) -> Network:
    """Residual blocks, and a gate on each skip: the paper's, ours."""
    from napari_prosma.nn.unet import ProSMAUNet

    return ProSMAUNet(spec)


@network("unet", WIDTHS["large"], dims=(2, 3))
def unet(spec: ModelSpec) -> Network:
    """U-Net (Ronneberger et al. 2015); in 3D its residual form (Kerfoot et al. 2018)."""
    from napari_prosma.nn.baselines.unet import UNet
    from napari_prosma.nn.baselines.volume_unet import VolumeUNet

    return VolumeUNet(spec) if spec.dims == 3 else UNet(spec)


@network("attention-unet", WIDTHS["large"], gate="attention")
def attention_unet(spec: ModelSpec) -> Network:
    """Attention U-Net (Oktay et al. 2018), as in its common code."""
    from napari_prosma.nn.baselines.attention_unet import AttentionUNet

    return AttentionUNet(spec)


@network("unet++", WIDTHS["base"])
def nested_unet(spec: ModelSpec) -> Network:
    """U-Net++ (Zhou et al. 2018)."""
    from napari_prosma.nn.baselines.nested_unet import NestedUNet

    return NestedUNet(spec)


@network("unext", TOKEN_WIDTHS, tokens=True)
def unext(spec: ModelSpec) -> Network:
    """U-NeXt (Valanarasu and Patel 2022)."""
    from napari_prosma.nn.baselines.unext import UNeXt

    return UNeXt(spec)


@network("rolling-unet", WIDTHS["base"])
def rolling_unet(spec: ModelSpec) -> Network:
    """Rolling-Unet (Liu et al. 2024)."""
    from napari_prosma.nn.baselines.rolling_unet import RollingUNet

    return RollingUNet(spec)


@network("ukan", TOKEN_WIDTHS, dims=(2, 3), tokens=True)
def ukan(spec: ModelSpec) -> Network:
    """U-KAN (Li et al. 2024)."""
    from napari_prosma.nn.baselines.ukan import UKAN

    return UKAN(spec)


@network("ukan2", TOKEN_WIDTHS, dims=(2, 3), tokens=True)
def ukan2(spec: ModelSpec) -> Network:
    """Implicit U-KAN 2.0 (Cheng et al. 2025), a reconstruction."""
    from napari_prosma.nn.baselines.ukan2 import UKAN2

    return UKAN2(spec)
