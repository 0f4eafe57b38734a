"""Patches for training. What is drawn is a function of (seed, step) alone, so a run can go on anywhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from shutil import disk_usage
from typing import IO

import numpy as np
import torch
from torch import Tensor

from napari_prosma.data.atomic import nearest
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.planes import slice_axis, thin_axes
from napari_prosma.data.preparation import cut_axis, prepare, resample
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.model.augment import Augmentation, Recipe

CPU = torch.device("cpu")
CACHE_BYTES = 4 * 10**9
"""Prepared cases are kept in memory up to this, further ones on disk."""
LEFT_FREE = 2 * 10**9
"""Bytes that these leave free there: the run writes its checkpoints to the same disk."""
FOREGROUND_SHARE = 0.5
"""Share of the patches that hold an element of a foreground class, where there is one."""
FOREGROUND_KEPT = 2_000
"""Positions remembered per case and class."""
ALIGNED = 64
"""Arrays begin at multiples of so many bytes in a file."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """Image (C, *grid) float32 and label (*grid) on the plan's grid.

    ``positions`` holds flat indices of some elements of each class, background first; the background's
    only where the label is sparse, since elsewhere it is everywhere. ``stored_shape`` (*spatial) is the
    label's before it came onto the grid. A network of pictures goes through a volume ``across`` this axis;
    it was ``acquired`` across that one.
    The label of an image without one is ``IGNORE`` everywhere, a single number in memory.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    positions: tuple[np.ndarray, ...]
    stored_shape: tuple[int, ...]
    across: int = 0
    acquired: int = 0

    @property
    def is_bare(self) -> bool:
        """Whether its label is a single number."""
        return not any(self.label.strides)

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + (0 if self.is_bare else self.label.nbytes)


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches with their labels, and where each is from."""

    images: Tensor  # (B, C, *patch) float32
    labels: Tensor  # (B, 1, *patch) int64
    names: tuple[str, ...]  # of the cases
    cases: tuple[int, ...] = ()  # indices of the cases in ``PreparedCases``
    # First element of the patch along each axis of its case's grid, before the patch was changed.
    corners: tuple[tuple[int, ...], ...] = ()
    numbers: tuple[int, ...] = ()  # the how-manieth patch of the run it is, over all processes

    def in_parts(self, parts: int) -> Iterator[tuple[Batch, float]]:
        """The batch cut into ``parts``, each with its share of the patches."""
        for rows in np.array_split(np.arange(len(self.names)), min(parts, len(self.names))):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            cut = {field.name: getattr(self, field.name)[part] for field in fields(self)}
            yield Batch(**cut), len(rows) / len(self.names)


@dataclass(frozen=True, eq=False)
class Views:
    """The same patches of unlabelled images twice, (B, C, *patch): moved, and moved and recoloured."""

    weak: Tensor
    strong: Tensor


@dataclass(frozen=True, eq=False)
class _Stored:
    """A case whose image and label lie in a file."""

    case: PreparedCase  # whose arrays have their sizes and no memory
    file: IO[bytes]  # not buffered
    image_at: int
    label_at: int | None  # None where the label is a single number

    def mapped(self) -> PreparedCase:
        """The case, read where it is looked at; what is changed in it stays in memory."""
        case = replace(self.case, image=self._map(self.case.image, self.image_at))
        if self.label_at is None:
            return case
        return replace(case, label=self._map(self.case.label, self.label_at))

    def relabelled(self, label: np.ndarray, positions: tuple[np.ndarray, ...]) -> _Stored:
        """With another label of the same size, which is written over the old one."""
        assert self.label_at is not None
        _write(self.file, self.label_at, label)
        return replace(self, case=replace(self.case, positions=positions))

    def _map(self, like: np.ndarray, offset: int) -> np.ndarray:
        return np.memmap(self.file, like.dtype, "c", offset, like.shape)


class _Room:
    """Where prepared cases are kept: bytes in memory that are taken by now, and a file for those beyond.

    The file has no name, or one that the system removes: it is gone with the process, however that ends.
    """

    def __init__(self, beside: Path | None) -> None:
        self.taken = 0
        self._folder = Path(tempfile.gettempdir()) if beside is None else nearest(beside)
        self._is_full = False

    @cached_property
    def _file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(buffering=0, dir=self._folder)

    def close(self) -> None:
        """Give memory and disk back."""
        self.taken = 0
        if file := self.__dict__.pop("_file", None):
            file.close()

    def store(self, case: PreparedCase) -> _Stored | None:
        """Write a case behind the others; None where the disk has no room, from then on for every case."""
        if self._is_full:
            return None
        try:
            self._is_full = disk_usage(self._folder).free < LEFT_FREE + case.nbytes
            return None if self._is_full else self._store(case)
        except OSError:
            self._is_full = True
            return None

    def _store(self, case: PreparedCase) -> _Stored:
        end = self._file.seek(0, os.SEEK_END)
        image_at = -(-end // ALIGNED) * ALIGNED
        label_at = None if case.is_bare else image_at + case.image.nbytes
        _write(self._file, image_at, case.image)
        if label_at is not None:
            _write(self._file, label_at, case.label)
        empty = replace(case, image=_sized(case.image), label=_sized(case.label))
        stored = _Stored(empty, self._file, image_at, label_at)
        stored.mapped()  # not every file system can
        return stored


def _write(file: IO[bytes], offset: int, array: np.ndarray) -> None:
    file.seek(offset)
    left = np.ascontiguousarray(array).data.cast("B")
    while left:
        left = left[file.write(left) :]


def _sized(array: np.ndarray) -> np.ndarray:
    """Of the same type and size, a single number in memory."""
    return np.broadcast_to(array.flat[0], array.shape)


class PreparedCases:
    """Cases as the network sees them, by index, kept in memory while there is room, then on disk.

    Where the disk is full, too, a case is read again each time.

    Parameters
    ----------
    cases : their Case each
    beside : PreparedCases, optional
        Others that are kept in the same room.
    folder : Path, optional
        On whose disk cases are kept, whether it is there yet or not; by default in the system's folder for
        temporary files.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        plan: Plan,
        beside: PreparedCases | None = None,
        folder: Path | None = None,
    ) -> None:
        self.cases = list(cases)
        self._plan = plan
        self._kept: dict[int, PreparedCase] = {}
        self._stored: dict[int, _Stored] = {}
        self._room: _Room = _Room(folder) if beside is None else beside._room

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> PreparedCase:
        if index in self._kept:
            return self._kept[index]
        if index in self._stored:
            return self._stored[index].mapped()
        prepared = self._prepare(self.cases[index])
        if self._room.taken + prepared.nbytes <= CACHE_BYTES:
            self._kept[index] = prepared
            self._room.taken += prepared.nbytes
        else:
            stored = self._room.store(prepared)
            if stored is not None:
                self._stored[index] = stored
        return prepared

    def close(self) -> None:
        """Forget all that was prepared."""
        self._kept.clear()
        self._stored.clear()
        self._room.close()

    def relabel(self, index: int) -> np.ndarray:
        """Read the label of a case again, and return it as it was read; its image stays as it is.

        Raises ``DataError``: as its ``read_label``, or the label no longer fits its image or the classes. The
        old label stays.
        """
        case = self.cases[index]
        assert case.read_label is not None
        stored = np.asarray(case.read_label())
        highest = int(stored.max(where=stored != IGNORE, initial=0))
        if highest >= len(self._plan.class_names):
            raise DataError(
                f"the label of case '{case.name}' now holds class {highest}, but the run learns "
                f"{', '.join(self._plan.class_names)}; take it out, or start a new run"
            )
        kept = self._stored.get(index)
        held = self._kept.get(index) if kept is None else kept.case
        if held is None:  # it is read again whenever it is drawn
            return stored
        if stored.shape != held.stored_shape:
            raise DataError(
                f"the label of case '{case.name}' now has shape {stored.shape} but its image has "
                f"{held.stored_shape}; bring it back to that size"
            )
        label, positions = self._on_grid(stored, held.label.shape)
        if kept is None:
            self._kept[index] = replace(held, label=label, positions=positions)
            return stored
        try:
            self._stored[index] = kept.relabelled(label, positions)
        except OSError:
            del self._stored[index]
        return stored

    def _prepare(self, case: Case) -> PreparedCase:
        image = case.read_image()
        shape = image.array.shape[1:]
        stored = None if case.read_label is None else np.asarray(case.read_label())
        prepared = prepare(image, self._plan)
        size = prepared.array.shape[1:]
        if stored is None:
            label = np.broadcast_to(np.uint8(IGNORE), size)
            positions = (np.empty(0, int),) * len(self._plan.class_names)
        else:
            (label, positions), shape = self._on_grid(stored, size), stored.shape
        planes = cut_axis(self._plan, image.geometry), slice_axis(image.geometry)
        return PreparedCase(case.name, prepared.array, label, prepared.geometry, positions, shape, *planes)

    def _on_grid(
        self, stored: np.ndarray, size: tuple[int, ...]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Label of ``size`` with its ``positions``."""
        label = stored.astype(np.uint8)
        if label.shape != size:
            label = resample(label, size, order=0)
        sparse = bool((label == IGNORE).any())
        positions = []
        for k in range(len(self._plan.class_names)):
            found = np.flatnonzero(label == k) if k or sparse else np.empty(0, int)
            positions.append(found[:: max(1, found.size // FOREGROUND_KEPT)])
        return label, tuple(positions)


class Batches:
    """The endless stream of training patches: every case once before any comes again.

    Parameters
    ----------
    cases : PreparedCases
    indices : of the cases to train on
    plan : Plan
        ``batch`` patches are drawn per step and process.
    augmentation : Augmentation, optional
    foreground_share : float
        See :func:`draw_patch`.
    device : torch.device
        Where batches are changed and given out.
    rank, world : int
        This process's share: which one of how many. Together they draw what one process with a batch of
        ``world * plan.batch`` draws.
    stream : int
        Streams of other numbers draw independently of each other.
    """

    def __init__(
        self,
        cases: PreparedCases,
        indices: Sequence[int],
        plan: Plan,
        seed: int,
        augmentation: Augmentation | None,
        foreground_share: float = FOREGROUND_SHARE,
        device: torch.device = CPU,
        rank: int = 0,
        world: int = 1,
        stream: int = 0,
    ) -> None:
        self._cases, self._indices = cases, tuple(indices)
        self._plan, self._seed = plan, seed
        self._order, self._place, self._change = range(3 * stream, 3 * stream + 3)
        self._augmentation = augmentation
        self._foreground_share = foreground_share
        self._device, self._rank, self._world = device, rank, world
        self._orders: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}

    def draw(self, step: int, among: Sequence[int] | None = None) -> Batch:
        """Batch number ``step`` (from 0) of the run, from the cases ``among`` where not from all."""
        return self.numbered(self._numbers(step, self._rank), among)

    def of_all_processes(self, step: int) -> Tensor:
        """Images that all processes together draw in this step."""
        ranks = range(self._world)
        return torch.cat([self.numbered(self._numbers(step, rank)).images for rank in ranks])

    def numbered(self, numbers: Sequence[int], among: Sequence[int] | None = None) -> Batch:
        """The patches of these numbers, counted over the whole run and all processes."""
        indices, patch = self._indices if among is None else tuple(sorted(among)), self._plan.patch
        images = np.empty((len(numbers), self._plan.channels, *patch), np.float32)
        labels = np.empty((len(numbers), 1, *patch), np.uint8)
        chosen = tuple(self._index(number, indices) for number in numbers)
        names, corners = [], []
        for row, (number, index) in enumerate(zip(numbers, chosen, strict=True)):
            case = self._cases[index]
            rng = np.random.default_rng([self._seed, self._place, number])
            window = draw_window(case, patch, rng, self._foreground_share)
            images[row], labels[row, 0] = cut_patch(case, window, patch)
            names.append(case.name)
            corners.append(tuple(part.start for part in window))
        # Metal lacks the sampling of volumes.
        place = CPU if self._device.type == "mps" else self._device
        drawn = torch.from_numpy(images).to(place), torch.from_numpy(labels).to(place)
        if self._augmentation is not None:
            generators = [np.random.default_rng([self._seed, self._change, n]) for n in numbers]
            drawn = self._augmentation(*drawn, generators)
        return Batch(
            drawn[0].to(self._device),
            drawn[1].to(self._device).long(),
            tuple(names),
            chosen,
            tuple(corners),
            tuple(numbers),
        )

    def _numbers(self, step: int, rank: int) -> range:
        first = (step * self._world + rank) * self._plan.batch
        return range(first, first + self._plan.batch)

    def _index(self, number: int, indices: tuple[int, ...]) -> int:
        """Which of the cases ``indices`` the patch of this number is of."""
        lap, place = divmod(number, len(indices))
        if (lap, indices) not in self._orders:
            order = np.random.default_rng([self._seed, self._order, lap]).permutation(len(indices))
            self._orders = {(lap, indices): order}
        return indices[self._orders[lap, indices][place]]


class UnlabelledBatches:
    """Patches of images without labels: one beside each labelled patch, by its number alone.

    Parameters
    ----------
    cases : PreparedCases
        All of them are drawn from.
    recipe : Recipe, optional
        Its movements make the weak view, its changes of the values the strong one of it.
    device : torch.device
    """

    STREAM = 1

    def __init__(
        self, cases: PreparedCases, plan: Plan, seed: int, recipe: Recipe | None, device: torch.device = CPU
    ) -> None:
        self._seed = seed
        moved = None if recipe is None else Augmentation(plan, replace(recipe, changes=()))
        self._moved = Batches(cases, range(len(cases)), plan, seed, moved, device=device, stream=self.STREAM)
        self._recoloured = None
        if recipe is not None:
            still = {"left_right": False, "up_down": False, "quarter_turns": False, "moved": 0.0}
            self._recoloured = Augmentation(plan, replace(recipe, **still))  # type: ignore[arg-type]

    def beside(self, batch: Batch) -> Views:
        """As many patches as ``batch`` has; equal geometry in both views."""
        weak = self._moved.numbered(batch.numbers)
        if self._recoloured is None:
            return Views(weak.images, weak.images)
        keys = ([self._seed, 3 * self.STREAM + 3, number] for number in batch.numbers)
        strong, _ = self._recoloured(weak.images, weak.labels, [np.random.default_rng(key) for key in keys])
        return Views(weak.images, strong)


def draw_patch(
    case: PreparedCase,
    patch: tuple[int, ...],
    rng: np.random.Generator,
    foreground_share: float = FOREGROUND_SHARE,
) -> tuple[np.ndarray, np.ndarray]:
    """Random patch (C, *patch) with its label, of a slice where the patch has fewer axes than the case.

    A share of them holds an element of a foreground class, each class alike; the others lie anywhere, or
    hold an element of the background where the label is sparse. An image smaller than the patch is mirrored
    to the right and bottom.
    """
    return cut_patch(case, draw_window(case, patch, rng, foreground_share), patch)


def draw_window(
    case: PreparedCase,
    patch: tuple[int, ...],
    rng: np.random.Generator,
    foreground_share: float = FOREGROUND_SHARE,
) -> tuple[slice, ...]:
    """Where a random patch lies on the grid of its case; see :func:`draw_patch`."""
    background, *classes = case.positions
    present = [found for found in classes if found.size]
    shape = case.label.shape
    size = window_size(case, patch)
    centre = found = None
    if present and (rng.random() < foreground_share):
        found = present[rng.integers(len(present))]
    elif background.size:
        found = background
    if found is not None:
        centre = np.unravel_index(found[rng.integers(found.size)], shape)
    window = []
    for axis, (n, m) in enumerate(zip(shape, size, strict=True)):
        last = max(0, n - m)
        if centre is None:
            start = int(rng.integers(last + 1))
        else:
            low, high = max(0, int(centre[axis]) - m + 1), min(last, int(centre[axis]))
            start = int(rng.integers(min(low, last), max(high, min(low, last)) + 1))
        window.append(slice(start, start + m))
    return tuple(window)


def window_size(case: PreparedCase, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Size of a window on the grid of a case: one element across its slices where a patch is a picture."""
    thin = thin_axes(case.label.ndim, len(patch), case.across)
    left = iter(patch)
    return tuple(1 if axis in thin else next(left) for axis in range(case.label.ndim))


def cut_patch(
    case: PreparedCase, window: tuple[slice, ...], patch: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Patch (C, *patch) of ``window``, with its label; mirrored where the case ends."""
    image, label = case.image[(slice(None), *window)], case.label[window]
    if case.label.ndim > len(patch):
        image, label = image.take(0, 1 + case.across), label.take(0, case.across)
    missing = [(0, m - n) for n, m in zip(label.shape, patch, strict=True)]
    if any(m for _, m in missing):
        image = np.pad(image, [(0, 0), *missing], mode="symmetric")
        label = np.pad(label, missing, mode="symmetric")
    return image, label


def example_patches(
    cases: PreparedCases, index: int, plan: Plan, recipe: Recipe, seed: int = 0, count: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of a case as it is, then changed as the recipe changes it in training.

    Parameters
    ----------
    cases, index : of which case
    count : int
        Patches with the first one.

    Returns
    -------
    images : (count, C, *patch) float32
        One and the same patch, with foreground where the case has any; only the first is unchanged.
    labels : (count, *patch) uint8
    """
    image, label = draw_patch(cases[index], plan.patch, np.random.default_rng([seed, 1]), foreground_share=1)
    images = torch.from_numpy(np.repeat(image[None], count, axis=0))
    labels = torch.from_numpy(np.repeat(label[None, None], count, axis=0))
    generators = [np.random.default_rng([seed, 2, n]) for n in range(1, count)]
    images[1:], labels[1:] = Augmentation(plan, recipe)(images[1:], labels[1:], generators)
    return images.numpy(), labels[:, 0].numpy()
