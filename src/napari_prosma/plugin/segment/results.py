"""``Result``: one segmented image layer, what the user made of its labels since, and its maps as layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer

from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.layers import GEOMETRY, MEANING, LayerTuple, place_like, result_layer

if TYPE_CHECKING:
    from napari_prosma.model.applying import Segmentation
    from napari_prosma.segmentation.cleaning import Cleaning

PROBABILITY, UNCERTAINTY, DISAGREEMENT = (
    "Probability of the structure according to the model: 0 = none, 1 = certain",
    "How unsure the model is about the class (entropy of its probabilities): 0 = sure, 1 = all classes "
    "equally probable",
    "How much mirrored passes, or the networks of an ensemble, disagree: 0 = not at all, 1 = completely",
)
"""What the maps mean."""


@dataclass(frozen=True, eq=False)
class Cleaned:
    """Labels after cleaning, and what they were made from: made in a thread, shown by ``Result.show``."""

    labels: np.ndarray  # (*spatial)
    drawn: np.ndarray  # (*spatial): what the layer held meanwhile
    by_hand: np.ndarray  # (*spatial) bool: where the user changed it
    # (*spatial): a copy of the labels for the layer, whose array the hand paints into; None where nothing
    # changes.
    to_paint: np.ndarray | None


@dataclass(frozen=True)
class UsedModel:
    """The model that a result is of."""

    path: Path
    dims: int  # whether it looks at slices (2) or volumes (3)
    channels: int  # that it looks at
    data: Path | None = None  # folder that it learned from


class Result:
    """A labels layer and what it came from. What the user painted on it stays, whatever is cleaned.

    Attributes
    ----------
    source : napari Image layer
    labels : napari Labels layer
    found : Segmentation
        As the model left it.
    model : UsedModel
    maps : napari layers
        Of probabilities, uncertainty and disagreement, as they were asked for.
    cleanings : class index -> Cleaning
        What is chosen for this result, also while ``is_cleaned`` is False.
    """

    def __init__(
        self,
        source: ImageLayer,
        labels: LabelsLayer,
        segmentation: Segmentation,
        model: UsedModel,
        maps: tuple[Layer, ...] = (),
    ) -> None:
        self.source, self.labels, self.found, self.model, self.maps = (
            source,
            labels,
            segmentation,
            model,
            maps,
        )
        self.cleanings: dict[int, Cleaning] = {}
        self.is_cleaned = False
        self._ours = segmentation.labels  # what the layer held when it was last written by the program
        self._by_hand = np.zeros(segmentation.labels.shape, bool)

    @property
    def probabilities(self) -> np.ndarray | None:
        """Of every class (K, *spatial); None where they were too large to keep."""
        every = len(self.found.probabilities) == len(self.found.class_names)
        return self.found.probabilities if every else None

    @property
    def is_corrected(self) -> bool:
        """Whether a hand painted on the labels."""
        return bool(self._by_hand.any()) or not np.array_equal(self.labels.data, self._ours)

    def cleaning(self, class_index: int) -> Cleaning:
        """What is chosen for a class."""
        from napari_prosma.segmentation.cleaning import Cleaning

        return self.cleanings.get(class_index, Cleaning())

    def clean(self, cleanings: Mapping[int, Cleaning]) -> Cleaned:
        """The labels cleaned so ({} = as the model left them), but as painted where the user painted.

        For a thread: the layer is read, not written.

        Raises ``DataError``: the labels layer has another shape than its image.
        """
        from napari_prosma.segmentation.cleaning import cleaned

        drawn = np.array(self.labels.data)
        if drawn.shape != self.found.labels.shape:
            raise DataError(
                f"the labels '{self.labels.name}' have shape {drawn.shape} now, but their image has "
                f"{self.found.labels.shape}; segment it again"
            )
        by_hand = self._by_hand | (drawn != self._ours)
        labels = self.found.labels
        if cleanings:
            basis = labels if self.probabilities is None else self.probabilities
            labels = cleaned(basis, self.found.geometry, cleanings)
        labels = np.where(by_hand, drawn, labels).astype(drawn.dtype)
        to_paint = None if np.array_equal(labels, drawn) else labels.copy()
        return Cleaned(labels, drawn, by_hand, to_paint)

    def show(self, made: Cleaned) -> bool:
        """Show them, unless the user painted meanwhile: then False, and they have to be made anew."""
        if not np.array_equal(self.labels.data, made.drawn):
            return False
        self._ours, self._by_hand = made.labels, made.by_hand
        if made.to_paint is not None:
            self.labels.data = made.to_paint
        return True


@dataclass(frozen=True)
class Outputs:
    """How an image is segmented, and the maps that are made beside its labels."""

    mirror: bool = False  # also pass every window mirrored, as the model's training did
    probabilities: bool = False
    uncertainty: bool = False
    disagreement: bool = False


def shown_unit(unit: str) -> str:
    """A unit of a size as it is printed."""
    return unit.replace("^2", "²").replace("^3", "³")


def labels_to_paint(segmentation: Segmentation, source: ImageLayer) -> LayerTuple:
    """The labels as a layer of their own array over the image."""
    return result_layer(replace(segmentation, labels=segmentation.labels.copy()), source)


def maps_of(
    segmentation: Segmentation, uncertainty: np.ndarray | None, source: ImageLayer, outputs: Outputs
) -> list[LayerTuple]:
    """The maps as layers over the image, all from 0 to 1; only the last one is shown at first."""
    maps: list[tuple[str, np.ndarray, str]] = []
    if outputs.probabilities:
        for k, class_name in enumerate(segmentation.class_names[1:], 1):
            maps.append((f"probability of {class_name}", segmentation.probabilities[k], PROBABILITY))
    if uncertainty is not None:
        maps.append(("uncertainty", uncertainty, UNCERTAINTY))
    if segmentation.disagreement is not None:
        maps.append(("disagreement", segmentation.disagreement, DISAGREEMENT))
    place = place_like(source, segmentation.geometry, segmentation.geometry)
    return [
        (
            values,
            {
                "name": f"{segmentation.name} {what}",
                "metadata": {GEOMETRY: segmentation.geometry, MEANING: meaning},
                "contrast_limits": (0.0, 1.0),
                "colormap": "viridis",
                "opacity": 0.6,
                "visible": number == len(maps),
                **place,
            },
            "image",
        )
        for number, (what, values, meaning) in enumerate(maps, 1)
    ]
