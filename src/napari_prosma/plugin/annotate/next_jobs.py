"""What *Annotate next* does in threads: rank images or slices, open an image with its prediction, save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma.app.label_place import LabelPlace
from napari_prosma.data.case import Case, Image
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.marks import keep_marks
from napari_prosma.data.readers import as_channels
from napari_prosma.events import Event, Finished, Started
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.layers import LayerTuple, image_layer, labels_layer, with_marks
from napari_prosma.plugin.shared.loading import SEGMENTATION, loading

if TYPE_CHECKING:
    from napari_prosma.model.applying import Segmentation
    from napari_prosma.model.checkpoint import Checkpoint

LISTED = 200
"""No more rows than a person goes through."""


@dataclass(frozen=True, eq=False)
class RankingBegun(Event):
    """The model is loaded, and the folder is read where one is ranked."""

    checkpoint: Checkpoint
    data: DataSet | None = None


@dataclass(frozen=True, eq=False)
class ImageOpened(Event):
    """An image and the labels to be drawn on it, as layers; what is predicted follows."""

    name: str
    image: LayerTuple
    labels: LayerTuple


@dataclass(frozen=True, eq=False)
class Predicted(Event):
    """What a model makes of an image: its classes, and how sure it is of them (*spatial) uint8."""

    name: str
    classes: np.ndarray
    sureness: np.ndarray

    @classmethod
    def of(cls, segmentation: Segmentation) -> Predicted:
        from napari_prosma.model.windows import sureness_of

        return cls(segmentation.name, segmentation.labels, sureness_of(segmentation.probabilities))


def ranking_images(model: Path, folder: Path, mirror: bool) -> Iterator[Event]:
    """Rank the images of a folder that have no label."""
    yield from loading(SEGMENTATION)
    from napari_prosma.model.checkpoint import load_checkpoint
    from napari_prosma.segmentation.informative import next_images

    yield Started(0, "Reading the folder")
    data = find_cases(folder, require_labels=False)
    checkpoint = load_checkpoint(model)
    yield RankingBegun(checkpoint, data)
    with leaving_a_core():
        yield from next_images(checkpoint, data.cases, LISTED, mirror)


def ranking_slices(
    model: Path, image: Image, name: str, labelled: np.ndarray, mirror: bool
) -> Iterator[Event]:
    """Rank the slices of a volume but those that are ``labelled``."""
    yield from loading(SEGMENTATION)
    from napari_prosma.model.checkpoint import load_checkpoint
    from napari_prosma.segmentation.informative import VolumeSegmented, next_slices

    checkpoint = load_checkpoint(model)
    yield RankingBegun(checkpoint)
    with leaving_a_core():
        for event in next_slices(checkpoint, image, name, labelled.tolist(), LISTED, mirror):
            if isinstance(event, VolumeSegmented):
                yield Predicted.of(event.found)
            else:
                yield event


def opening(checkpoint: Checkpoint, case: Case, saved: LabelPlace | None) -> Iterator[Event]:
    """Read an image, with the labels that were ``saved``, then ask the model about it."""
    yield Started(0, f"Opening '{case.name}'")
    from napari_prosma.segmentation.segment import segment

    image = case.read_image()
    shape, names = image.array.shape[1:], checkpoint.plan.class_names
    drawn = np.zeros(shape, np.uint8) if saved is None else saved.read()
    labels = labels_layer(drawn, image.geometry, f"{case.name} labels", names)
    if saved is not None:
        labels = with_marks(labels, saved.path)
    yield ImageOpened(case.name, image_layer(image, case.name), labels)
    with leaving_a_core():
        for event in segment(checkpoint, as_channels(image, checkpoint.plan.channels), name=case.name):
            if isinstance(event, Finished):
                yield Predicted.of(event.result)


def saving(
    place: LabelPlace,
    labels: np.ndarray,
    geometry: Geometry,
    class_names: tuple[str, ...],
    marks: dict[str, np.ndarray],
    replaces: bool,
    is_proved: bool,
) -> Iterator[Event]:
    """Write labels where they belong, and look whether the folder finds them unless that ``is_proved``.

    ``marks`` say what of them was accepted, not drawn.
    """
    yield Started(0, f"Saving '{place.path.name}'")
    place.write(labels, geometry, class_names, replaces)
    if not is_proved:
        place.require_found(labels)
    keep_marks(place.path, labels, marks)
    yield Finished(place)
