"""Residual blocks, and a gate on each skip: the paper's, ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import OURS, WIDTHS, network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network(OURS, WIDTHS["large"], dims=(2, 3), place=1)
def make(spec: ModelSpec) -> Network:
    """Residual blocks, and a gate on each skip: the paper's, ours."""
    from napari_prosma.nn.unet import ProSMAUNet

    return ProSMAUNet(spec)
