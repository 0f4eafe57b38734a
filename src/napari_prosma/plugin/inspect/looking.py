"""The run behind the Inspect panel: maps of the whole image, then what selecting is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image as ImageLayer

from napari_prosma.data.case import Image
from napari_prosma.data.class_names import as_ours
from napari_prosma.events import Event, Finished, Started, result_of
from napari_prosma.inspection.one_image import Tried, try_means
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.layers import fitting_image, image_of

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
    taken_for: str = ""  # which classes of the label go by other names in the model

    def models(self, beside: Mapping[str, Path]) -> dict[str, Checkpoint | Path]:
        """This model, named after its gate, and others, none of which takes its name."""
        own = self.record.gate
        others = {f"{name}, other run" if name == own else name: path for name, path in beside.items()}
        return {own: self.checkpoint, **others}


def looking(
    path: Path,
    layer: ImageLayer,
    label: np.ndarray | None,
    names: tuple[str, ...],
    region: Region | None,
    scheduler: str | None = None,
) -> Iterator[Event]:
    """Events of an inspection; the last one is ``Finished`` with an ``InspectionResult``.

    ``names`` are those of the classes of ``label``, background first. ``scheduler`` says where the gates of
    the whole image are computed, if not on this computer.

    Raises ``CheckpointError``, ``ConfigError``, ``DataError``.
    """
    yield Started(0, "Loading the model")
    from napari_prosma import inspect_gates
    from napari_prosma.app.elsewhere import called
    from napari_prosma.inspection.kinship import noting_gray
    from napari_prosma.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    given = image_of(layer)
    image = noting_gray(fitting_image(given, checkpoint.plan.channels, layer.name), given)
    said = ""
    if label is not None:
        label, said = as_ours(label, names, checkpoint.plan.class_names, "the model")
    with leaving_a_core():
        events = called(scheduler, inspect_gates)(checkpoint, image, name=layer.name, label=label)
        record: GateRecord = yield from result_of(events)
        what_if = opened(checkpoint, image, layer.name, label, region)
        tried = yield from result_of(try_means(what_if, record))
    yield Finished(InspectionResult(record, checkpoint, image, label, what_if, tried, layer, region, said))


def opened(
    checkpoint: Checkpoint, image: Image, name: str, label: np.ndarray | None, region: Region | None
) -> WhatIf:
    """A window of the image, encoded; for a thread."""
    from napari_prosma.inspection.what_if import WhatIf

    return WhatIf(checkpoint, image, name=name, label=label, region=region)
