"""Additive attention (Oktay et al. 2018), as in its common code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate(
    "attention",
    "additive attention",
    "The mask of LeeJunHyun's code; to compare with",
    parts=1,
    is_twin=True,
    place=6,
)
def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Additive attention as in LeeJunHyun's Image_Segmentation, with its norms; not the grid attention of
    Oktay et al."""
    from napari_prosma.nn.gates import AttentionMask, Gate

    return Gate(AttentionMask(skip, gating, dims, options), None)
