"""No gate: a plain U-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "none",
    "plain U-Net",
    "Every skip passes whole; to compare with",
    parts=0,
    place=4,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Every skip passes whole: a plain residual U-Net."""
    from napari_prosma.nn.gates import Gate

    return Gate(None, None)
