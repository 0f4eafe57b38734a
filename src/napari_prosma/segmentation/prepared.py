"""``Prepared``: what the network sees of an image, some rows at a time.

The same arithmetic as ``data.preparation``, and an element comes out the same whichever rows it is computed
with; the prepared image need not exist as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from napari_prosma.data.fingerprint import HASH_BYTES, Plan
from napari_prosma.data.preparation import cut_axis, grid_size, normalise, size_in_words
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import require_fit
from napari_prosma.model.windows import (
    move_up,
)

PIECE = 2**25
"""Bytes of an image, as float32, that are read and prepared at once."""
TRUNCATE = 4.0
"""Reach of SciPy's Gaussian filter, in standard deviations."""


# ---- resampling some rows ---------------------------------------------------------------------------------


def needed_rows(size: int, target: int, start: int, stop: int) -> tuple[int, int]:
    """Rows of an axis of ``size`` that rows ``start`` to ``stop`` of it resampled to ``target`` depend on."""
    if size == target:
        return start, stop
    reach = int(TRUNCATE * _sigma(size, target) + 0.5)
    low, high = (math.floor((n + 0.5) * size / target - 0.5) for n in (start, stop - 1))
    return max(0, low - reach), min(size, high + 2 + reach)


def resample_rows(
    block: np.ndarray,
    first: int,
    size: Sequence[int],
    target: Sequence[int],
    rows: tuple[int, int],
    axis: int = 0,
) -> np.ndarray:
    """Rows of ``preparation.resample(whole, target)`` from the rows of ``whole`` that they depend on.

    Parameters
    ----------
    block : (*spatial) float32
        Rows from ``first`` on of an array of ``size``, along ``axis``; whole along all others.
    rows : (start, stop)
        Rows along ``axis`` that are wanted.
    """
    for n, (held, wanted) in enumerate(zip(size, target, strict=True)):
        if wanted < held:
            block = ndimage.gaussian_filter1d(
                block, _sigma(held, wanted), axis=n, mode="nearest", truncate=TRUNCATE
            )
    for n, (held, wanted) in enumerate(zip(size, target, strict=True)):
        if wanted != held:
            start, stop = rows if n == axis else (0, wanted)
            block = _interpolated(block, n, held, wanted, np.arange(start, stop), first if n == axis else 0)
    return block


def _sigma(size: int, target: int) -> float:
    return max(0.0, (size / target - 1) / 2)


def _interpolated(
    block: np.ndarray, axis: int, size: int, target: int, wanted: np.ndarray, first: int
) -> np.ndarray:
    """Elements ``wanted`` of an axis, linear between those of ``block``, which begins at ``first``."""
    place = (wanted + 0.5) * (size / target) - 0.5
    below = np.floor(place)
    low = np.clip(below, 0, size - 1).astype(np.intp) - first
    high = np.clip(below + 1, 0, size - 1).astype(np.intp) - first
    share = (place - below).astype(np.float32).reshape(-1, *[1] * (block.ndim - 1 - axis))
    lower = np.take(block, low, axis)
    between = np.take(block, high, axis)
    between -= lower  # so that what is constant stays so to the last digit
    between *= share
    between += lower
    return between


# ---- the prepared image -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and spread (C, *lead, 1, ...) that an image is normalised by, where the plan has no fixed ones."""

    mean: np.ndarray
    spread: np.ndarray


class Prepared:
    """What ``preparation.prepare`` makes of an image, read when asked for.

    Parameters
    ----------
    array : (C, *spatial)
        A NumPy array, a memory map or a dask array.
    axis : int
        Spatial axis along which rows are asked for; they come with that axis first.
    statistics : Statistics, optional
        Those of a survey that was made before.

    Attributes
    ----------
    shape, size : tuple of int
        Of the image and of the plan's grid over it, with ``axis`` first.
    network_axis : int
        The axis of the network that ``axis`` is; 0 where the network does not see it.
    digest : str
        Hash of the image, after a survey with ``hashed``.

    Raises
    ------
    DataError
        As :func:`require_fit`.
    """

    def __init__(
        self,
        array: Any,
        geometry: Geometry,
        plan: Plan,
        axis: int | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        require_fit(plan, array.shape, array.dtype, geometry)
        self._array, self._plan = array, plan
        self.image_shape = tuple(array.shape[1:])
        self._size = grid_size(self.image_shape, geometry, plan)
        whole = plan.dims == geometry.ndim  # else the axes that the network does not see come first
        self._across = cut_axis(plan, geometry)
        if axis is None:
            axis = int(np.argmax(self._size[:-1])) if whole else self._across
        self.axis = axis
        self.network_axis = axis if whole else 0
        self.shape, self.size = (axis_first(sizes, axis) for sizes in (self.image_shape, self._size))
        self.notices = size_in_words(self.image_shape, geometry, plan)
        if array.dtype == np.float16:
            self.notices += ("The image holds 16-bit floats, three digits; they are computed as 32-bit.",)
        self.statistics = statistics
        self.digest = ""
        self._buffer = np.empty((array.shape[0], 0, *self.size[1:]), np.float32)
        self._held = (0, 0)

    def survey(self, name: str, hashed: bool = False) -> Iterator[Event]:
        """Look at the whole image once, for what no slab can know: statistics, and whether it is usable.

        Raises ``DataError``: values that are not finite, the same value everywhere, or a damaged file.
        """
        boxes = list(self._boxes())
        moments = (
            None
            if self._plan.intensity == "ct"
            else _Moments(self._array.shape[0], self._size, self._plan, self._across)
        )
        resampled = moments is not None and self._size != self.image_shape
        grid_rows = list(self._pieces(0, self.size[0])) if resampled else []
        total, done = len(boxes) + len(grid_rows), 0
        found = hashlib.blake2b(
            f"{self._array.dtype.str}{self._array.shape}".encode(), digest_size=HASH_BYTES
        )
        extremes = []
        if total > 1:
            yield Started(total, f"Reading {name}")
        for box in boxes:
            block = self._read(box)
            if hashed:
                found.update(np.ascontiguousarray(block).data)
            _require_finite(block)
            spatial = tuple(range(1, block.ndim))
            extremes += [block.min(axis=spatial), block.max(axis=spatial)]
            if moments is not None and not resampled:
                moments.add(block.astype(np.float32, copy=False), box)
            done += 1
            if total > 1:
                yield Progress(done, total, name)
        if np.array_equal(np.min(extremes, axis=0), np.max(extremes, axis=0)):
            value = ", ".join(f"{float(v):g}" for v in extremes[0])
            raise DataError(
                f"the image holds the single value {value} everywhere, so there is nothing to see in it; "
                f"export it again"
            )
        for start, stop in grid_rows:
            assert moments is not None
            part = [slice(0, n) for n in self._size]
            part[self.axis] = slice(start, stop)
            moments.add(np.moveaxis(self._on_grid(start, stop), 1, 1 + self.axis), tuple(part))
            done += 1
            yield Progress(done, total, name)
        self.digest = found.hexdigest() if hashed else ""
        self.statistics = None if moments is None else moments.statistics()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows (C, stop - start, *rest) float32 of the prepared image; valid until the next call.

        Rows that were given before are not read again.
        """
        first, last = self._held
        kept = last - start if first <= start < last else 0
        if self._buffer.shape[1] < stop - start:
            larger = np.empty((len(self._buffer), stop - start, *self.size[1:]), np.float32)
            larger[:, :kept] = self._buffer[:, start - first : start - first + kept]
            self._buffer = larger
        elif kept and start > first:
            move_up(self._buffer[:, : last - first], start - first)
        for begin, end in self._pieces(start + kept, stop):
            there = self._buffer[:, begin - start : end - start]
            if self.size == self.shape:
                self._read_rows(begin, end, there)
            else:
                there[:] = self._on_grid(begin, end)
            for row in range(begin, end):
                there[:, row - begin] = self._normalised(there[:, row - begin], row)
        self._held = (start, max(stop, start + kept))
        return self._buffer[:, : stop - start]

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Rows to be prepared at once. Without resampling that is all of them: chunks are read whole."""
        most = stop - start
        if self.size != self.shape:
            larger = max(math.prod(self.size[1:]), math.prod(self.shape) / self.size[0])
            most = max(1, int(PIECE / (4 * self._array.shape[0] * larger)))
        for begin in range(start, stop, max(1, most)):
            yield begin, min(begin + most, stop)

    def _read_rows(self, start: int, stop: int, there: np.ndarray) -> None:
        """Rows as they are stored, into ``there`` (C, stop - start, *rest).

        Part by part: an array in chunks takes twice the memory of what is read from it at once.
        """
        beside = 1 if self.axis == 0 else 0
        number = self.image_shape[beside]
        chunk = getattr(self._array, "chunks", ((1,),) * (1 + len(self.image_shape)))[1 + beside][0]
        line = max(1, 4 * there.size // number)
        step = max(chunk, PIECE // line // chunk * chunk)
        for first in range(0, number, step):
            box = [slice(0, n) for n in self.image_shape]
            box[self.axis], box[beside] = slice(start, stop), slice(first, first + step)
            there[:, :, first : first + step] = np.moveaxis(self._read(tuple(box)), 1 + self.axis, 1)

    def _on_grid(self, start: int, stop: int) -> np.ndarray:
        """Rows (C, stop - start, *rest) of the resampled image."""
        axis = self.axis
        first, last = needed_rows(self.shape[0], self.size[0], start, stop)
        box = [slice(0, n) for n in self.image_shape]
        box[axis] = slice(first, last)
        block, rows = self._read(tuple(box)).astype(np.float32, copy=False), (start, stop)
        block = np.stack([resample_rows(c, first, self.image_shape, self._size, rows, axis) for c in block])
        return np.moveaxis(block, 1 + axis, 1)

    def _normalised(self, values: np.ndarray, row: int) -> np.ndarray:
        """One row (C, *rest), as ``preparation.normalise`` does it with the whole image."""
        values = values.astype(np.float32, copy=False)
        if self.statistics is None:
            return normalise(values, self._plan)
        both = (np.moveaxis(a, 1 + self.axis, 1) for a in (self.statistics.mean, self.statistics.spread))
        mean, spread = (a[:, row if a.shape[1] > 1 else 0] for a in both)
        return (values - mean) / spread

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        """A part (C, *box) of the image as it is stored."""
        try:
            return np.asarray(self._array[(slice(None), *box)])
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"a part of the image cannot be read ({error}); copy the file again") from error

    def _boxes(self) -> Iterator[tuple[slice, ...]]:
        """The image in parts of about ``PIECE`` bytes, of whole chunks where it has some."""
        chunks = [c[0] for c in getattr(self._array, "chunks", ())[1:]] or [1] * len(self.image_shape)
        left, steps = PIECE // (4 * self._array.shape[0]), list(self.image_shape)
        for axis in range(min(2, len(steps))):
            beside = math.prod(steps) // steps[axis]
            steps[axis] = min(steps[axis], max(chunks[axis], left // beside // chunks[axis] * chunks[axis]))
        first, second = (range(0, n, step) for n, step in zip(self.image_shape[:2], steps[:2], strict=True))
        rest = [slice(0, n) for n in self.image_shape[2:]]
        for a in first:
            for b in second:
                yield slice(a, a + steps[0]), slice(b, b + steps[1]), *rest


class _Moments:
    """Mean and spread of an image from its parts (Chan, Golub and LeVeque 1979), per channel and group.

    A group is what is normalised together: the last ``plan.axes`` axes, or the slices across ``across``.
    """

    def __init__(self, channels: int, size: Sequence[int], plan: Plan, across: int = 0) -> None:
        self._lead = len(size) - min(plan.axes or len(size), len(size))
        self._groups = (across,) if self._lead <= 1 else tuple(range(self._lead))
        kept = [n if axis in self._groups else 1 for axis, n in enumerate(size)]
        self._count, self._mean, self._squares = (np.zeros((channels, *kept)) for _ in range(3))

    def add(self, block: np.ndarray, box: tuple[slice, ...]) -> None:
        """Add ``block`` (C, *box)."""
        axes = tuple(1 + axis for axis in range(block.ndim - 1) if axis not in self._groups)
        here = (
            slice(None),
            *(s if axis in self._groups else slice(None) for axis, s in enumerate(box)),
        )
        number = math.prod(block.shape[axis] for axis in axes)
        mean = block.mean(axis=axes, keepdims=True, dtype=np.float64)
        squares = block.var(axis=axes, keepdims=True, dtype=np.float64) * number
        count, apart = self._count[here], mean - self._mean[here]
        self._squares[here] += squares + apart**2 * count * number / (count + number)
        self._mean[here] += apart * number / (count + number)
        self._count[here] += number

    def statistics(self) -> Statistics:
        count, mean, squares = self._count, self._mean, self._squares
        if self._lead == 0:
            along = 1 + self._groups[0]
            total = count.sum(axis=along, keepdims=True)
            whole = (mean * count).sum(axis=along, keepdims=True) / total
            squares = (squares + count * (mean - whole) ** 2).sum(axis=along, keepdims=True)
            count, mean = total, whole
        spread = np.sqrt(squares / count)
        return Statistics(mean, np.where(spread > 0, spread, 1))


def _require_finite(block: np.ndarray) -> None:
    if block.dtype.kind == "f" and not (finite := np.isfinite(block)).all():
        wrong = block.size - np.count_nonzero(finite)
        every = "nothing but" if wrong == block.size else f"{wrong:,}"
        raise DataError(f"the image holds {every} NaN or infinite values; re-export it")


def axis_first(sizes: Sequence[int], axis: int) -> tuple[int, ...]:
    return (sizes[axis], *sizes[:axis], *sizes[axis + 1 :])
