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
    """The gate of a skip with so many channels."""
    from napari_prosma.nn.gates import ChannelMask, Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options), ChannelMask(skip, gating, options))
