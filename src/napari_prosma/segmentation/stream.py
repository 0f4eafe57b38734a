"""Labels on an image's grid, some rows at a time: the logits need not exist as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import normalise
from napari_prosma.events import Notice
from napari_prosma.model.windows import (
    Slab,
    Start,
    Tiling,
    labels_of,
    log_probabilities,
    sweep,
    tile,
)
from napari_prosma.nn.build import Network
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.segmentation.prepared import Prepared, axis_first, needed_rows, resample_rows

RESULT_PIECE = 2**18
"""Elements that become labels at once; few enough to stay in the processor's cache."""


class Background:
    """Which windows are not worth looking at; counts them.

    With the CT rule those in which no element lies above the plan's lower clip limit, such as the air around
    a patient; else those of one constant value per channel.
    """

    def __init__(self, plan: Plan) -> None:
        self._lowest = None
        self.rule = "one constant value"
        if plan.intensity == "ct":
            lowest = np.full((1,) * (plan.dims + 1), plan.clip[0], np.float32)
            self._lowest = float(normalise(lowest, plan).item())
            self.rule = f"nothing above {plan.clip[0]:g}, the plan's lower limit"
        self.skipped = 0

    def __call__(self, window: Tensor) -> bool:
        """Whether ``window`` (C, *window) of the prepared image is plain background."""
        spatial = tuple(range(1, window.ndim))
        highest = window.amax(spatial)
        lowest = window.amin(spatial) if self._lowest is None else highest.new_full((), self._lowest)
        plain = bool((highest <= lowest).all())
        self.skipped += plain
        return plain

    def notice(self, total: int) -> Notice:
        """What was left out, in words."""
        return Notice(
            f"{self.skipped} of {total} windows are plain background ({self.rule}) and were skipped; "
            f"their labels are 0."
        )


@dataclass(frozen=True, eq=False)
class Labelled:
    """Finished rows of an image."""

    start: int  # the first row
    labels: np.ndarray  # (rows, *rest) uint8
    probabilities: np.ndarray  # (len(classes), rows, *rest) float32: of the classes that were asked for
    disagreement: np.ndarray | None = None  # (rows, *rest) float32


def label_rows(
    model: Network | Ensemble,
    prepared: Prepared,
    tiling: Tiling,
    *,
    batch: int = 1,
    flips: Sequence[int] = (),
    disagreement: bool = False,
    background: Background | None = None,
    classes: Sequence[int] = (),
    span: tuple[int, int] | None = None,
    deepest: Callable[[Start, Tensor], None] | None = None,
) -> Iterator[Labelled | Notice | int]:
    """Labels of the image's rows (of those in ``span``), in order, with what :func:`sweep` yields else.

    On the image's own grid a label is the class with the highest logit. Where the plan has another grid,
    probabilities are brought back to the image's, and a label is the most probable class there.

    On the CPU windows pass one by one: at the sizes that a plan makes, several at once are no faster but
    round differently (1e-7 of a logit), and so the labels are the same for any ``batch``.
    """
    if next(model.parameters()).device.type == "cpu":
        batch = 1
    size, shape = prepared.size, prepared.shape
    rows = span or (0, shape[0])
    wanted = needed_rows(size[0], shape[0], *rows)
    slabs = sweep(
        model,
        prepared.rows,
        tiling,
        axis=prepared.network_axis,
        batch=batch,
        flips=flips,
        disagreement=disagreement,
        background=background,
        span=wanted,
        deepest=deepest,
    )
    back = None if size == shape else _Back(size, shape, rows, classes)
    for found in slabs:
        if not isinstance(found, Slab):
            yield found
            continue
        for piece in _pieces_of(found):
            if back is None:
                yield _labelled(piece, classes)
            else:
                yield from back.add(piece)


def window_tiling(prepared: Prepared, window: Sequence[int], divisor: int, overlap: float) -> Tiling:
    """Windows over the prepared image, whose axis of rows comes first."""
    if len(window) == len(prepared.size):
        window = axis_first(window, prepared.axis)
    return tile(prepared.size, window, divisor, overlap)


def _pieces_of(slab: Slab) -> Iterator[Slab]:
    step = max(1, RESULT_PIECE // math.prod(slab.logits.shape[2:]))
    for begin in range(0, slab.logits.shape[1], step):
        here = slice(begin, begin + step)
        beside = None if slab.disagreement is None else slab.disagreement[here]
        yield Slab(slab.start + begin, slab.logits[:, here], beside)


def _labelled(slab: Slab, classes: Sequence[int]) -> Labelled:
    """Labels and probabilities on the grid of the logits."""
    logits = slab.logits
    scores = logits.cpu().numpy()
    labels = (scores[0] > 0).astype(np.uint8) if len(scores) == 1 else labels_of(scores)
    probabilities = np.empty((0, *labels.shape), np.float32)
    if classes:
        probabilities = log_probabilities(logits[None])[0, list(classes)].exp().cpu().numpy()
    beside = None if slab.disagreement is None else slab.disagreement.cpu().numpy()
    return Labelled(slab.start, labels, probabilities, beside)


class _Back:
    """From the plan's grid to the image's: holds as many rows of probabilities as the next rows depend on."""

    def __init__(
        self, size: Sequence[int], shape: Sequence[int], rows: tuple[int, int], classes: Sequence[int]
    ) -> None:
        self._size, self.image_shape, self._classes = size, shape, tuple(classes)
        self._next, self._stop = rows
        self._first = self._needed(*rows)[0]
        self._held: np.ndarray | None = None
        self._step = max(1, RESULT_PIECE // math.prod(shape[1:]))

    def add(self, slab: Slab) -> Iterator[Labelled]:
        """The rows of the image that can be finished now."""
        new = _maps(slab)
        self._held = new if self._held is None else np.concatenate([self._held, new], axis=1)
        there = self._first + self._held.shape[1]
        while self._next < self._stop:
            stop = min(self._next + self._step, self._stop)
            while stop > self._next and self._needed(self._next, stop)[1] > there:
                stop -= 1
            if stop == self._next:
                keep = min(self._needed(stop, stop + 1)[0], there)
                self._held, self._first = self._held[:, keep - self._first :].copy(), keep
                return
            yield self._finished(slab, (self._next, stop))
            self._next = stop

    def _needed(self, start: int, stop: int) -> tuple[int, int]:
        return needed_rows(self._size[0], self.image_shape[0], start, stop)

    def _finished(self, slab: Slab, rows: tuple[int, int]) -> Labelled:
        """One class after the other, so that memory does not grow with their number."""
        assert self._held is not None
        first, last = self._needed(*rows)
        held = self._held[:, first - self._first : last - self._first]
        maps = (resample_rows(values, first, self._size, self.image_shape, rows) for values in held)
        shape = (rows[1] - rows[0], *self.image_shape[1:])
        labels = np.zeros(shape, np.uint8)
        probabilities = np.empty((len(self._classes), *shape), np.float32)
        if len(slab.logits) == 1:
            foreground = next(maps)
            np.greater(foreground, 0.5, out=labels.view(bool))
            for place, k in enumerate(self._classes):
                probabilities[place] = foreground if k == 1 else 1 - foreground
        else:
            best = np.full(shape, -1, np.float32)
            for k in range(len(slab.logits)):
                probability = next(maps)
                labels[probability > best] = k
                np.maximum(best, probability, out=best)
                if k in self._classes:
                    probabilities[self._classes.index(k)] = probability
        return Labelled(rows[0], labels, probabilities, next(maps, None))


def _maps(slab: Slab) -> np.ndarray:
    """What is brought back to the image: foreground or class probabilities, and the disagreement."""
    logits = slab.logits
    maps = [torch.sigmoid(logits) if len(logits) == 1 else torch.softmax(logits, dim=0)]
    if slab.disagreement is not None:
        maps.append(slab.disagreement[None])
    return torch.cat(maps).cpu().numpy()
