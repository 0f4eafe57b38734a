"""U-Net (Ronneberger et al. 2015); in 3D its residual form (Kerfoot et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import WIDTHS, network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("unet", WIDTHS["large"], dims=(2, 3), place=2)
def make(spec: ModelSpec) -> Network:
    """U-Net (Ronneberger et al. 2015); in 3D its residual form (Kerfoot et al. 2018)."""
    from napari_prosma.nn.baselines.unet import UNet
    from napari_prosma.nn.baselines.volume_unet import VolumeUNet

    return VolumeUNet(spec) if spec.dims == 3 else UNet(spec)
