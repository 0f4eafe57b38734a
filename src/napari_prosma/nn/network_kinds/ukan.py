"""U-KAN (Li et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("ukan", (16, 32, 128, 160, 256), dims=(2, 3), tokens=True, place=7)
def make(spec: ModelSpec) -> Network:
    """U-KAN (Li et al. 2024)."""
    from napari_prosma.nn.baselines.ukan import UKAN

    return UKAN(spec)
