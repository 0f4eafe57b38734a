"""Attention U-Net (Oktay et al. 2018), as in its common code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import WIDTHS, network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("attention-unet", WIDTHS["large"], gate="attention", place=3)
def make(spec: ModelSpec) -> Network:
    """Attention U-Net (Oktay et al. 2018), as in its common code."""
    from napari_prosma.nn.baselines.attention_unet import AttentionUNet

    return AttentionUNet(spec)
