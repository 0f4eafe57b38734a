"""The paper's mask alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "spatial",
    "its mask only",
    "The sparse mask over positions, no weights per channel",
    parts=1,
    thresholds=True,
    place=2,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """The mask without the channel weights: the paper's ablation."""
    from napari_prosma.nn.gates import Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options), None)
