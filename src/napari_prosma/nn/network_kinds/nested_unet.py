"""U-Net++ (Zhou et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import WIDTHS, network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("unet++", WIDTHS["base"], place=4)
def make(spec: ModelSpec) -> Network:
    """U-Net++ (Zhou et al. 2018)."""
    from napari_prosma.nn.baselines.nested_unet import NestedUNet

    return NestedUNet(spec)
