"""The paper's channel weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "channel",
    "its channels only",
    "A weight per channel, no mask over positions",
    parts=1,
    place=3,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """The channel weights without the mask: the paper's ablation."""
    from napari_prosma.nn.gates import ChannelMask, Gate

    return Gate(None, ChannelMask(skip, gating, options))
