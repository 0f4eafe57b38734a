"""Cases drawn for a card: the image with the outlines of its label and of what the model found."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures
from skimage.segmentation import find_boundaries

from napari_prosma.app.cards import Worst, card_of
from napari_prosma.app.runs import labelled_as
from napari_prosma.data.case import Case
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.metrics import Overlap, overlaps_of
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.preparation import filled
from napari_prosma.data.readers import as_channels
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started, result_of
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.segmentation.segment import segment

SIDE = 320
"""Pixels of the longer side of a picture."""
QUALITY = 80
LABEL, FOUND = (255, 176, 0), (100, 220, 255)
"""Orange and light blue: told apart by eyes of every kind, and from gray."""


def judged(
    checkpoint: Checkpoint, cases: Sequence[Case], device: str = "auto"
) -> Generator[Event, None, tuple[Overlap, ...]]:
    """Overlaps of every case, segmented as a user would.

    Raises ``DataError``: a case does not fit the model, or its label is not of the model's classes.
    """
    yield Started(len(cases), "Measuring")
    found: list[Overlap] = []
    for number, case in enumerate(cases, 1):
        _, label, predicted = yield from _segmented(checkpoint, case, device)
        found += overlaps_of(case.name, predicted, label, checkpoint.plan.class_names)
        yield Progress(number, len(cases), case.name)
    return tuple(found)


def with_pictures(
    checkpoint: Checkpoint, worst: Sequence[Worst], cases: Iterable[Case], device: str = "auto"
) -> Generator[Event, None, tuple[Worst, ...]]:
    """The worst cases with their pictures, where they are still among ``cases``."""
    by_name = {case.name: case for case in cases if case.read_label is not None}
    yield Started(len(worst), "Drawing the worst cases")
    drawn = []
    for number, each in enumerate(worst, 1):
        if each.case in by_name:
            image, label, predicted = yield from _segmented(checkpoint, by_name[each.case], device)
            each = each.model_copy(update={"picture": picture(image, label, predicted)})
        drawn.append(each)
        yield Progress(number, len(worst), each.case)
    return tuple(drawn)


def pictured_card(model: Path | str, device: str = "auto") -> Iterator[Event]:
    """The card of a model with pictures of its worst cases; the last event is ``Finished`` with it.

    A notice says where the cases of the run are no longer what or where they were.

    Raises ``CheckpointError``: as ``card_of``.
    """
    card = card_of(model)
    if card.worst and not any(worst.picture for worst in card.worst):
        checkpoint = load_checkpoint(model)
        data = Path(checkpoint.config.get("data") or "")
        try:
            if not data.name or not data.exists():
                raise DataError(
                    f"its cases are no longer in '{data}'" if data.name else "they lay in no folder"
                )
            cases = labelled_as(checkpoint, data)[0].cases
            worst = yield from with_pictures(checkpoint, card.worst, cases, device)
            card = card.model_copy(update={"worst": worst})
        except DataError as error:
            yield Notice(f"The worst cases have no pictures: {error}")
    yield Finished(card)


def picture(image: Any, label: np.ndarray, predicted: np.ndarray) -> str:
    """A JPEG in base64; of a volume the slice where label and prediction differ most."""
    array = np.asarray(image.array)
    while label.ndim > 2:
        across = slice_axis(image.geometry) if label.ndim == 3 else 0
        differ = np.count_nonzero((label != predicted) & (label != IGNORE), axis=_others(label.ndim, across))
        at = int(np.argmax(differ))
        array, label, predicted = (
            array.take(at, across + 1),
            label.take(at, across),
            predicted.take(at, across),
        )
    shown = _gray_or_colour(array)
    scale = SIDE / max(label.shape)
    size = tuple(max(1, round(n * scale)) for n in label.shape)
    drawn = np.array(Pictures.fromarray(shown).resize(size[::-1], Pictures.Resampling.BICUBIC))
    for mask, colour in ((np.where(label == IGNORE, 0, label), LABEL), (predicted, FOUND)):
        large = Pictures.fromarray(mask.astype(np.uint8)).resize(size[::-1], Pictures.Resampling.NEAREST)
        drawn[find_boundaries(np.asarray(large), mode="thick")] = colour
    content = io.BytesIO()
    Pictures.fromarray(drawn).save(content, "JPEG", quality=QUALITY, subsampling=0)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _segmented(
    checkpoint: Checkpoint, case: Case, device: str
) -> Generator[Event, None, tuple[Any, np.ndarray, np.ndarray]]:
    if case.read_label is None:
        raise DataError(f"the case '{case.name}' has no label to be measured by; leave it out")
    image, label = filled(as_channels(case.read_image(), checkpoint.plan.channels)), case.read_label()
    classes = len(checkpoint.plan.class_names)
    if label[label != IGNORE].max(initial=0) >= classes:
        raise DataError(
            f"the label of '{case.name}' holds class {label[label != IGNORE].max()}, but the model knows "
            f"{classes - 1} structures; give labels of its classes"
        )
    events = segment(checkpoint, image, name=case.name, device=device, probabilities=())
    segmented = yield from result_of(events, Notice)
    return image, label, segmented.labels


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(ndim) if other != axis)


def _gray_or_colour(array: np.ndarray) -> np.ndarray:
    """(C, y, x) as 8-bit RGB, the middle 98 % of its values stretched."""
    held = array[:3] if len(array) == 3 else array[:1]
    low, high = np.percentile(held, (1, 99))
    stretched = np.clip((held.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1)
    shown = np.round(255 * stretched).astype(np.uint8)
    return np.moveaxis(np.repeat(shown, 3, axis=0) if len(shown) == 1 else shown, 0, -1)
