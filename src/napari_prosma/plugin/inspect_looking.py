"""The run behind the Inspect panel: maps of the whole image, then what becomes of it without each skip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image as ImageLayer

from napari_prosma.data.case import Geometry, Image
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.plugin.job import spare_threads
from napari_prosma.plugin.layers import fitting_image, image_of

if TYPE_CHECKING:
    from napari_prosma.inspection.record import GateRecord
    from napari_prosma.inspection.what_if import WhatIf
    from napari_prosma.training.checkpoint import Checkpoint

Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Cut:
    """The window without one skip.

    Attributes
    ----------
    difference : (*window) in [0, 1]
        How far the probabilities moved.
    geometry : Geometry
        Of the window.
    agreement : float
        Dice of the result with and without it.
    is_empty : bool
        No structure is found in the window, with it or without.
    dice, dice_before : float, optional
        Against the label, without and with it.
    """

    difference: np.ndarray
    geometry: Geometry
    agreement: float
    is_empty: bool
    dice: float | None
    dice_before: float | None

    @property
    def moved(self) -> float:
        """Mean of ``difference``."""
        return float(self.difference.mean())


@dataclass(frozen=True, eq=False)
class Looked:
    """All that the panel shows of one image, and what it needs to go on.

    Attributes
    ----------
    record : GateRecord
        Of the whole image.
    checkpoint : Checkpoint
    image : Image
        With the channels that the model expects.
    label : (*spatial) class indices, optional
    what_if : WhatIf
        The window that changes are tried on.
    cuts : by level
    """

    record: GateRecord
    checkpoint: Checkpoint
    image: Image
    label: np.ndarray | None
    what_if: WhatIf
    cuts: dict[int, Cut]


def looking(
    path: Path, layer: ImageLayer, label: np.ndarray | None, region: Region | None
) -> Iterator[Event]:
    """Events of an inspection; the last one is ``Finished`` with a ``Looked``.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    yield Started(0, "Loading the model")
    from napari_prosma import inspect_gates
    from napari_prosma.training.checkpoint import load_checkpoint
    from napari_prosma.training.device import cpu_threads

    checkpoint = load_checkpoint(path)
    image = fitting_image(image_of(layer), checkpoint.plan.channels, layer.name)
    with cpu_threads(spare_threads()):
        for event in inspect_gates(checkpoint, image, name=layer.name, label=label):
            if not isinstance(event, Finished):
                yield event
                continue
            record: GateRecord = event.result
        yield Started(len(record.skips), "Trying it without each skip")
        what_if = opened(checkpoint, image, layer.name, label, region)
        cuts = {}
        for done, (level, cut) in enumerate(_cuts(what_if, tuple(record.skips)), start=1):
            cuts[level] = cut
            yield Progress(done, len(record.skips), f"without skip {level}")
    yield Finished(Looked(record, checkpoint, image, label, what_if, cuts))


def opened(
    checkpoint: Checkpoint, image: Image, name: str, label: np.ndarray | None, region: Region | None
) -> WhatIf:
    """A window of the image, encoded; for a thread."""
    from napari_prosma.inspection.what_if import WhatIf

    return WhatIf(checkpoint, image, name=name, label=label, region=region)


def _cuts(what_if: WhatIf, levels: tuple[int, ...]) -> Iterator[tuple[int, Cut]]:
    from napari_prosma.nn.gates import Change

    before = what_if.unchanged.dice
    for level in levels:
        effect = what_if.apply({level: Change(whole=False)})
        yield (
            level,
            Cut(
                effect.difference,
                effect.record.image.geometry,
                effect.agreement,
                effect.is_empty,
                (effect.dice or {}).get("dice"),
                (before or {}).get("dice"),
            ),
        )
    what_if.apply({})
