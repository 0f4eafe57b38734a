"""The paper's gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "prosma",
    "the paper's gate",
    "A sparse mask over positions, and a weight per channel",
    parts=2,
    thresholds=True,
    place=1,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Sparse mask over positions and channel weights (equations 1 to 5): the paper's."""
    from napari_prosma.nn.gates import ChannelMask, Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options), ChannelMask(skip, gating, options))
