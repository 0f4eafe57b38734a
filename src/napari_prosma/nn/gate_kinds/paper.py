"""The paper's gate and its ablations, what they are compared with, and ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.nn.gate_kinds import GateOptions, gate

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate


@gate("prosma", "as published", "A sparse mask over positions, and a weight per channel", thresholds=True)
def prosma(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Sparse mask over positions and channel weights (equations 1 to 5): the paper's."""
    from napari_prosma.nn.gates import ChannelMask, Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options), ChannelMask(skip, gating, options))


@gate(
    "spatial",
    "its mask only",
    "The sparse mask over positions, no weights per channel",
    parts=1,
    thresholds=True,
)
def spatial(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """The mask without the channel weights: the paper's ablation."""
    from napari_prosma.nn.gates import Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options), None)


@gate("channel", "its channels only", "A weight per channel, no mask over positions", parts=1)
def channel(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """The channel weights without the mask: the paper's ablation."""
    from napari_prosma.nn.gates import ChannelMask, Gate

    return Gate(None, ChannelMask(skip, gating, options))


@gate("none", "plain U-Net", "Every skip passes whole; to compare with", parts=0)
def none(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Every skip passes whole: a plain residual U-Net."""
    from napari_prosma.nn.gates import Gate

    return Gate(None, None)


@gate(
    "scale",
    "a constant",
    "A learned constant per channel, the same for every image; to compare with",
    parts=1,
    in_ablation=True,
)
def scale(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """A learned constant per channel, sigmoid(b), the same for every image: the null model."""
    from napari_prosma.nn.gates import ConstantScale, Gate

    return Gate(None, ConstantScale(skip))


@gate(
    "attention",
    "additive attention",
    "The mask of LeeJunHyun's code; to compare with",
    parts=1,
    in_ablation=True,
)
def attention(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Additive attention as in LeeJunHyun's Image_Segmentation, with its norms; not the grid attention of
    Oktay et al."""
    from napari_prosma.nn.gates import AttentionMask, Gate

    return Gate(AttentionMask(skip, gating, dims, options), None)


@gate("dense", "no threshold", "The paper's gate without its threshold; to compare with", in_ablation=True)
def dense(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """The paper's with lambda = 0, trained so: the comparison that isolates the thresholds."""
    from napari_prosma.nn.gates import ChannelMask, Gate, ProximalMask

    return Gate(ProximalMask(skip, gating, dims, options, sparse=False), ChannelMask(skip, gating, options))


@gate(
    "prosma-exact",
    "exact zeros",
    "Ours: where z is zero in every channel the mask is exactly zero",
    thresholds=True,
    exact_zeros=True,
    in_ablation=True,
)
def prosma_exact(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
    """Ours: the mask is exactly zero where z is zero in every channel."""
    from napari_prosma.nn.gates import ChannelMask, ExactMask, Gate

    return Gate(ExactMask(skip, gating, dims, options), ChannelMask(skip, gating, options))
