"""A ``GateRecord`` as layers: names, fixed limits, colours and true places; no napari in here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_prosma.geometry import Geometry

if TYPE_CHECKING:  # a panel lists KINDS before torch is loaded
    from napari_prosma.inspection.record import ChannelMaps, GateRecord, SkipRecord

KINDS: dict[str, str] = {
    "zeros in z": "bright = the threshold sets most inner channels of the gate to zero here, black = none",
    "without evidence": "marked = z is zero in every channel here, so psi as trained is the gate floor",
    "psi": "bright = the mask lets the skip through here, dark = it holds it back",
    "psi dense": "counterfactual: the mask that the same weights give with lambda = 0, not retrained",
    "psi - dense": "what the threshold changes in the mask: red = more passes here, blue = less",
    "relative energy": "what psi passes here, relative to its own mean (log2, 1/4 to 4 x): red = more, blue "
    "= less",
    "energy kept": "share of the skip's squared values that gets through; bright = much, dark = little",
    "second model": "the mask of the second checkpoint, on the same scale",
}
"""What can be shown per skip, with a sentence on what one sees."""
DEFAULT_KINDS = ("relative energy", "zeros in z", "psi", "psi dense")
MOST_DOUBLINGS = 2.0
"""Relative energy is drawn as its logarithm to base 2, from a quarter to four times."""

TRIED = {
    "selection": "bright = with psi at its mean the prediction changes here: where selecting matters",
    "skip": "bright = with the whole skip at its channel means the prediction changes here",
}
"""What is tried in the panel, and what its layer shows."""

MASK_COLOURS, ZERO_COLOURS, DIFFERENCE_COLOURS, EFFECT_COLOURS = "viridis", "magma", "coolwarm", "inferno"


@dataclass(frozen=True, eq=False)
class MapLayer:
    """One layer to draw."""

    name: str
    data: np.ndarray  # (*grid)
    geometry: Geometry  # its true scale and offset; coarse maps are not resampled
    kind: Literal["image", "labels"]  # "image" or "labels"
    limits: tuple[float, float]  # (low, high): fixed, so that pictures can be compared
    colours: str  # a matplotlib colour map
    meaning: str  # one sentence for a tooltip


def map_layers(
    record: GateRecord, levels: Collection[int] = (), kinds: Collection[str] = DEFAULT_KINDS
) -> list[MapLayer]:
    """Layers of the chosen skips (default all) and kinds (keys of ``KINDS``), coarse skips first.

    What a gate does not have is left out.
    """
    layers = []
    for level in sorted(levels or record.skips, reverse=True):
        for kind in KINDS:
            if kind in kinds and level in record.skips:
                layer = skip_layer(record, level, kind)
                layers += [] if layer is None else [layer]
    return layers


def skip_layer(record: GateRecord, level: int, kind: str) -> MapLayer | None:
    """Layer of one skip and kind, or None where its gate has no such map."""
    if kind == "second model":
        if record.second is None or level not in record.second.skips:
            return None
        skip, gate = record.second.skips[level], record.second.gate
        name, meaning = f"skip {level} psi ({gate})", f"{KINDS[kind]} ({gate})"
    else:
        skip = record.skips[level]
        name, meaning = f"skip {level} {kind}", KINDS[kind]
        if skip.floor == 0 and kind == "psi":
            meaning += "; exactly zero where z is empty"
        elif skip.floor is not None and kind in ("without evidence", "psi"):
            meaning += f"; gate floor {skip.floor:.2f}"
            meaning += " where z is empty, elsewhere more or less, never zero" if kind == "psi" else ""
    data = _data(skip, kind)
    if data is None:
        return None
    colours = {"zeros in z": ZERO_COLOURS, "psi - dense": DIFFERENCE_COLOURS}
    colours["relative energy"] = DIFFERENCE_COLOURS
    limits = {"psi - dense": (-1.0, 1.0), "relative energy": (-MOST_DOUBLINGS, MOST_DOUBLINGS)}
    return MapLayer(
        name=name,
        data=data,
        geometry=skip.geometry,
        kind="labels" if kind == "without evidence" else "image",
        limits=limits.get(kind, (0.0, 1.0)),
        colours=colours.get(kind, MASK_COLOURS),
        meaning=meaning,
    )


def z_layer(record: GateRecord, level: int, channel: int) -> MapLayer:
    """Layer of one latent channel of z, sign kept, with symmetric limits.

    Raises ``ValueError``: the gate has no z, or no such channel.
    """
    skip = record.skips[level]
    if skip.z is None or not 0 <= channel < len(skip.z):
        raise ValueError(f"skip {level} has no channel {channel} of z")
    data = skip.z[channel]
    limit = float(np.abs(skip.z).max()) or 1.0
    return MapLayer(
        name=f"skip {level} z channel {channel}",
        data=data,
        geometry=skip.geometry,
        kind="image",
        limits=(-limit, limit),
        colours=DIFFERENCE_COLOURS,
        meaning="one inner channel after the threshold; gray = exactly zero, red and blue = its two signs",
    )


def channel_layers(maps: ChannelMaps) -> list[MapLayer]:
    """Layers of one feature channel before and after the gate, on one scale, so that they can be compared."""
    high = float(np.abs(maps.before).max()) or 1.0
    return [
        MapLayer(
            name=f"skip {maps.level} channel {maps.channel} {when} the gate",
            data=data,
            geometry=maps.geometry,
            kind="image",
            limits=(0.0, high),
            colours=MASK_COLOURS,
            meaning=f"feature channel {maps.channel} of the encoder {when} the gate; both on one scale",
        )
        for when, data in (("before", maps.before), ("after", maps.after))
    ]


def tried_layer(level: int, what: str, difference: np.ndarray, geometry: Geometry) -> MapLayer:
    """Layer of |dp| (*grid): how far the probabilities move with a mean in place (a key of ``TRIED``)."""
    return MapLayer(
        name=tried_name(level, what),
        data=difference,
        geometry=geometry,
        kind="image",
        limits=(0.0, 1.0),
        colours=EFFECT_COLOURS,
        meaning=TRIED[what],
    )


def tried_name(level: int, what: str) -> str:
    """Name of the layer."""
    return f"skip {level} without {what}"


def is_tried(name: str) -> bool:
    """Whether that is the name of such a layer."""
    first, _, what = name.rpartition(" without ")
    return bool(first) and what in TRIED


def _data(skip: SkipRecord, kind: str) -> np.ndarray | None:
    if kind == "psi - dense":
        return None if skip.psi is None or skip.psi_dense is None else skip.psi - skip.psi_dense
    if kind == "relative energy":
        return None if skip.relative_energy is None else _doublings(skip.relative_energy)
    if kind == "without evidence":
        return None if skip.without_evidence is None else skip.without_evidence.astype(np.uint8)
    held = {
        "zeros in z": skip.zero_fraction,
        "psi": skip.psi,
        "psi dense": skip.psi_dense,
        "energy kept": skip.energy_kept,
        "second model": skip.psi,
    }
    return held[kind]


def _doublings(ratio: np.ndarray) -> np.ndarray:
    """Logarithm to base 2, bounded, so that an exact zero can be drawn too."""
    least = 2.0**-MOST_DOUBLINGS
    return np.log2(ratio.clip(least, 1 / least)).astype(np.float32)
