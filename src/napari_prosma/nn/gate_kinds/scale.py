"""A learned constant per channel: the null model of every gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "scale",
    "a constant",
    "A learned constant per channel, the same for every image; to compare with",
    parts=1,
    place=5,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """A learned constant per channel, sigmoid(b), the same for every image: the null model."""
    from napari_prosma.nn.gates import ConstantScale, Gate

    return Gate(None, ConstantScale(skip))
