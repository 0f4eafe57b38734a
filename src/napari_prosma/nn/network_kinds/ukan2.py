"""Implicit U-KAN 2.0 (Cheng et al. 2025), a reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("ukan2", (16, 32, 128, 160, 256), dims=(2, 3), tokens=True, place=8)
def make(spec: ModelSpec) -> Network:
    """Implicit U-KAN 2.0 (Cheng et al. 2025), a reconstruction."""
    from napari_prosma.nn.baselines.ukan2 import UKAN2

    return UKAN2(spec)
