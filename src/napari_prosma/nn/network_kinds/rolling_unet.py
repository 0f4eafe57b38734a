"""Rolling-Unet (Liu et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import WIDTHS, network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("rolling-unet", WIDTHS["base"], place=6)
def make(spec: ModelSpec) -> Network:
    """Rolling-Unet (Liu et al. 2024)."""
    from napari_prosma.nn.baselines.rolling_unet import RollingUNet

    return RollingUNet(spec)
