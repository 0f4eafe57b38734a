"""Image layers of the viewer are segmented one after the other; what is wrong with one ends no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from napari.layers import Image as ImageLayer

from napari_prosma.data.case import Image
from napari_prosma.errors import DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.plugin.segment.results import Outputs, UsedModel
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.layers import fitting_image, image_of, spatial_shape

if TYPE_CHECKING:
    from napari_prosma.model.applying import Segmentation
    from napari_prosma.model.checkpoint import Checkpoint

MOST_KEPT, SHARE_KEPT = 2**30, 0.25
"""Bytes, and share of the memory that is free, of probabilities of one image that are kept though nobody
asked for them, so that a threshold can follow the hand."""


@dataclass(frozen=True, eq=False)
class LayerStarted(Event):
    """The turn of a layer, the ``number``-th from 1."""

    layer: ImageLayer
    number: int


@dataclass(frozen=True, eq=False)
class LayerSegmented(Event):
    """A layer is done.

    ``counts`` are the elements of each class.
    """

    layer: ImageLayer
    found: Segmentation
    counts: tuple[int, ...]
    uncertainty: np.ndarray | None
    outputs: Outputs
    model: UsedModel


@dataclass(frozen=True, eq=False)
class LayerFailed(Event):
    """A layer cannot be segmented."""

    layer: ImageLayer
    reason: str


def segment_layers(
    path: Path,
    layers: Sequence[ImageLayer],
    outputs: Outputs,
    is_open: Callable[[ImageLayer], bool],
    scheduler: str | None = None,
) -> Iterator[Event]:
    """Segment each layer with the model at ``path``; what was done stays done if the rest is not.

    Parameters
    ----------
    is_open : layer -> bool
        A layer that the user closes meanwhile is left out.
    scheduler : str, optional
        Where they are segmented, if not on this computer.

    Raises
    ------
    ProsmaError
        The model cannot be used, or none of the layers could be segmented.
    """
    yield Started(0, "Loading the model")
    from napari_prosma.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    if outputs.mirror or (outputs.disagreement and checkpoint.members == 1):
        from napari_prosma.segmentation.segment import mirrored_in_words

        yield Notice(mirrored_in_words(checkpoint))
    failures: list[str] = []
    with leaving_a_core():
        for number, layer in enumerate(layers, 1):
            yield LayerStarted(layer, number)
            try:
                yield from _segment_layer(checkpoint, path, layer, outputs, is_open, scheduler)
            except ProsmaError as error:
                failures.append(str(error))
                yield LayerFailed(layer, str(error))
    if len(failures) == len(layers):
        raise DataError("\n".join(failures))
    yield Finished(None)


def _segment_layer(
    checkpoint: Checkpoint,
    path: Path,
    layer: ImageLayer,
    outputs: Outputs,
    is_open: Callable[[ImageLayer], bool],
    scheduler: str | None,
) -> Iterator[Event]:
    from napari_prosma.app.elsewhere import called
    from napari_prosma.segmentation.confidence import entropy
    from napari_prosma.segmentation.segment import segment

    _require_open(layer, is_open)
    plan = checkpoint.plan
    data = Path(checkpoint.config["data"]) if checkpoint.config.get("data") else None
    model = UsedModel(path, plan.dims, plan.channels, data)
    size = 4 * len(plan.class_names) * math.prod(spatial_shape(layer))
    most = min(MOST_KEPT, SHARE_KEPT * psutil.virtual_memory().available)
    every = outputs.probabilities or outputs.uncertainty or size <= most
    events = called(scheduler, segment)(
        checkpoint,
        fitting_image(_read(layer), plan.channels, layer.name),
        name=layer.name,
        mirror=outputs.mirror or (outputs.disagreement and checkpoint.members == 1),
        disagreement=outputs.disagreement,
        probabilities=None if every else (),
    )
    for event in events:
        _require_open(layer, is_open)
        if not isinstance(event, Finished):
            yield event
            continue
        found = event.result
        counts = tuple(int(np.count_nonzero(found.labels == k)) for k in range(len(plan.class_names)))
        unsure = entropy(found.probabilities) if outputs.uncertainty else None
        yield LayerSegmented(layer, found, counts, unsure, outputs, model)


def _read(layer: ImageLayer) -> Image:
    """The image of a layer, whose array may still lie in a file."""
    try:
        return image_of(layer)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"'{layer.name}' cannot be read ({error}); open it again") from error


def _require_open(layer: ImageLayer, is_open: Callable[[ImageLayer], bool]) -> None:
    if not is_open(layer):
        raise DataError(f"'{layer.name}' was closed before it was segmented, so it has no result")
