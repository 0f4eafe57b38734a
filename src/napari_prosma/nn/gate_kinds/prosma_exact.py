"""Ours: psi is exactly zero where z is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "prosma-exact",
    "exact zeros",
    "Ours: where z is zero in every channel the mask is exactly zero",
    parts=2,
    thresholds=True,
    exact_zeros=True,
    is_twin=True,
    place=8,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Ours: the mask is exactly zero where z is zero in every channel."""
    from napari_prosma.nn.gates import ChannelMask, ExactMask, Gate

    return Gate(ExactMask(skip, gating, dims, options), ChannelMask(skip, gating, options))
