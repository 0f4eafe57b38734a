"""The paper's gate with lambda = 0, trained so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "dense",
    "no threshold",
    "The paper's gate without its threshold; to compare with",
    parts=2,
    is_twin=True,
    place=7,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """The paper's with lambda = 0, trained so: the comparison that isolates the thresholds."""
    from napari_prosma.nn.gates import ChannelMask, Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options, sparse=False), ChannelMask(skip, gating, options))
