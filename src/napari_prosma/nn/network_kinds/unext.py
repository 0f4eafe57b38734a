"""U-NeXt (Valanarasu and Patel 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.network_kinds import network

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec


@network("unext", (16, 32, 128, 160, 256), tokens=True, place=5)
def make(spec: ModelSpec) -> Network:
    """U-NeXt (Valanarasu and Patel 2022)."""
    from napari_prosma.nn.baselines.unext import UNeXt

    return UNeXt(spec)
