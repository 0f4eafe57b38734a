"""What an inspection gives: a ``GateRecord`` of one image, with a ``SkipRecord`` per gated skip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.geometry import Geometry

if TYPE_CHECKING:
    from napari_prosma.model.applying import Segmentation
    from napari_prosma.model.checkpoint import Checkpoint

OF_THE_FIRST = "prediction of the first model"
"""Without a label, what a second model is measured against."""


@dataclass(frozen=True)
class Means:
    """What a gate does on average over one image: what its parts are set to, to see what selecting is worth.

    Attributes
    ----------
    psi, c : float, optional
        Weighted by the energy of the skip, over the positions and over the channels.
    skip : tuple of float
        Mean of the gated skip, per channel.
    """

    psi: float | None
    c: float | None
    skip: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class SkipRecord:
    """What one gate did to one image; maps lie on the skip's own grid (method of section 1.6).

    Attributes
    ----------
    level : int
        Encoder level, 1 = finest.
    factor : int
        How much coarser its grid is than the network's input.
    geometry : Geometry
        Of the maps: coarser than the image by the skip's factor, with its true offset.
    zero_fraction : (*grid) in [0, 1], optional
        Share of the latent channels in which z is exactly 0, in the window whose centre is nearest.
    without_evidence : (*grid) bool, optional
        True where z is 0 in every channel, in the window whose centre is nearest.
    z, u : (C_a, *grid), optional
        With their sign, from the window whose centre is nearest. Left out where they would be large.
    psi, psi_dense : (*grid) in [0, 1], optional
        The spatial mask, and the counterfactual with lambda = 0 and the same weights; weighted means where
        windows overlap, but psi is its very floor where ``without_evidence`` is.
    energy : (*grid)
        ``sum_c x^2``.
    energy_kept : (*grid) in [0, 1]
        ``sum_c x~^2 / sum_c x^2``; 0 where x is 0.
    relative_energy : (*grid), optional
        ``psi^2`` over its mean, weighted by ``energy``: 1 = as on average; missing where there is no psi.
    selectivity : float
        Share of the energy of x~ that no constant per channel explains, each position from the window whose
        centre is nearest.
    empty_share : float, optional
        Share of positions without evidence, the weighted mean over windows.
    means : Means
    channel, channel_spread : (C_x,), optional
        c, mean and standard deviation over windows.
    threshold, field_spread, channel_zeros, field_peak : (C_a,), optional
        lambda; std(u), zero fraction of z and max|u| per latent channel.
    floor : float, optional
        psi where z is empty.
    inside, outside : (*grid) bool, optional
        Where at least half of what a position covers is foreground, and where background; the measures that
        compare the two are made with them.
    wrong : (*grid) bool, optional
        Where label and prediction differ, of what is labelled; only with a label.
    measures : dict
        The numbers, by name.
    """

    level: int
    factor: int
    geometry: Geometry
    energy: np.ndarray
    energy_kept: np.ndarray
    selectivity: float
    means: Means
    relative_energy: np.ndarray | None = None
    empty_share: float | None = None
    zero_fraction: np.ndarray | None = None
    without_evidence: np.ndarray | None = None
    z: np.ndarray | None = None
    u: np.ndarray | None = None
    psi: np.ndarray | None = None
    psi_dense: np.ndarray | None = None
    channel: np.ndarray | None = None
    channel_spread: np.ndarray | None = None
    threshold: np.ndarray | None = None
    field_spread: np.ndarray | None = None
    channel_zeros: np.ndarray | None = None
    field_peak: np.ndarray | None = None
    floor: float | None = None
    inside: np.ndarray | None = None
    outside: np.ndarray | None = None
    wrong: np.ndarray | None = None
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ChannelMaps:
    """One feature channel of a skip, as the encoder made it and as the decoder receives it.

    Attributes
    ----------
    level, channel : int
    before, after : (*grid) float32
        x and x~ of the channel; their ratio is ``c * psi``.
    geometry : Geometry
        Of the skip's grid.
    """

    level: int
    channel: int
    before: np.ndarray
    after: np.ndarray
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class GateRecord:
    """What every gate of a model did to one image.

    Attributes
    ----------
    name, gate : str
    checkpoint : Checkpoint
        The model.
    image : Image
        As it was given.
    skips : by level, 1 = finest
    segmentation : Segmentation
        Of the very same pass.
    reference : "label", "prediction" or ``OF_THE_FIRST``
        What foreground means in the measures.
    label : (*spatial), optional
        The true label, where one was given.
    second : GateRecord, optional
        A second model's, for the comparison side by side.
    """

    name: str
    gate: str
    checkpoint: Checkpoint
    image: Image
    skips: dict[int, SkipRecord]
    segmentation: Segmentation
    reference: str
    label: np.ndarray | None = None
    second: GateRecord | None = None
