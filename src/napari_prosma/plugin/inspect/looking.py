"""The run behind the Inspect panel: maps of the whole image, then what selecting is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer

from napari_prosma.data.case import Image
from napari_prosma.data.class_names import as_ours
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.planes import slice_axis
from napari_prosma.events import Event, Finished, Started, result_of
from napari_prosma.inspection.one_image import Tried, try_means
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.layers import (
    finest,
    fitting_image,
    geometry_of,
    image_of,
    label_rule,
)
from napari_prosma.plugin.shared.placing import onto_image

if TYPE_CHECKING:
    from napari_prosma.inspection.record import GateRecord
    from napari_prosma.inspection.what_if import WhatIf
    from napari_prosma.model.checkpoint import Checkpoint

Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class InspectionResult:
    """All that the panel shows of one image, and what it needs to go on."""

    record: GateRecord  # of the whole image
    checkpoint: Checkpoint
    image: Image  # with the channels that the model expects
    label: np.ndarray | None  # (*spatial) class indices
    what_if: WhatIf  # the window that changes are tried on
    tried: dict[int, dict[str, Tried]]  # by level, then "selection" (none where there is no psi) and "skip"
    source: ImageLayer  # that the image came from
    region: Region | None  # what was on screen, where the window is put; None with a label
    taken_for: str = ""  # how the label was read, or which of its classes go by other names in the model
    of: str = ""  # hash of weights, image, label and region: another inspection of all of them has the same

    def models(self, beside: Mapping[str, Path]) -> dict[str, Checkpoint | Path]:
        """This model, named after its gate, and others, none of which takes its name."""
        own = self.record.gate
        others = {f"{name}, other run" if name == own else name: path for name, path in beside.items()}
        return {own: self.checkpoint, **others}


@dataclass(frozen=True, eq=False)
class DrawnLabel:
    """What is drawn on an image: on its grid, as it was when the run began."""

    stored: np.ndarray  # (*spatial)
    rule: LabelRule  # as the layer tells
    name: str
    slice_axis: int

    def read_by(self, rule: LabelRule) -> np.ndarray:
        """Class indices (*spatial); raises ``DataError`` where a value has no class."""
        return rule.apply(self.stored, self.name, self.slice_axis)


def drawn_label(layer: LabelsLayer, image: ImageLayer, channels: int) -> DrawnLabel:
    """What a labels layer holds, on the grid of an image, as a model that expects so many channels reads it.

    Raises ``DataError``: it does not lie on the image.
    """
    stored = onto_image(np.array(finest(layer)), layer, image, channels)
    return DrawnLabel(stored, label_rule(stored, layer), layer.name, slice_axis(geometry_of(layer)))


def looking(
    path: Path,
    layer: ImageLayer,
    drawn: DrawnLabel | None,
    region: Region | None,
    scheduler: str | None = None,
) -> Iterator[Event]:
    """Events of an inspection; the last one is ``Finished`` with an ``InspectionResult``.

    ``scheduler`` says where the gates of the whole image are computed, if not on this computer.

    Raises ``CheckpointError``, ``ConfigError``, ``DataError``.
    """
    yield Started(0, "Loading the model")
    from napari_prosma import inspect_gates
    from napari_prosma.app.elsewhere import called
    from napari_prosma.inspection.citing import content_of, hash_of
    from napari_prosma.inspection.kinship import as_learned, noting_gray
    from napari_prosma.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    given = image_of(layer)
    image = noting_gray(fitting_image(given, checkpoint.plan.channels, layer.name), given)
    if region is not None:
        region = region[-image.geometry.ndim :]  # pages may have been read as channels
    label, said = None, ""
    if drawn is not None:
        label, said = as_learned(checkpoint, drawn.read_by(drawn.rule), drawn.read_by)
        if not said:
            label, said = as_ours(label, drawn.rule.class_names, checkpoint.plan.class_names, "the model")
    with leaving_a_core():
        events = called(scheduler, inspect_gates)(checkpoint, image, name=layer.name, label=label)
        record: GateRecord = yield from result_of(events)
        what_if = opened(checkpoint, image, layer.name, label, region)
        tried = yield from result_of(try_means(what_if, record))
        of = f"{content_of(checkpoint)} {hash_of(image.array)} {region}"
        of += "" if label is None else f" {hash_of(label)}"
    yield Finished(
        InspectionResult(record, checkpoint, image, label, what_if, tried, layer, region, said, of)
    )


def opened(
    checkpoint: Checkpoint, image: Image, name: str, label: np.ndarray | None, region: Region | None
) -> WhatIf:
    """A window of the image, encoded; for a thread."""
    from napari_prosma.inspection.what_if import WhatIf

    return WhatIf(checkpoint, image, name=name, label=label, region=region)
