"""Patches for training. What is drawn is a function of (seed, step) alone, so a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from napari_prosma.data.case import Case, Geometry
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.preparation import prepare, resample
from napari_prosma.errors import DataError
from napari_prosma.training.augment import Augmentation, Recipe

CPU = torch.device("cpu")
CACHE_BYTES = 4 * 2**30
"""Prepared cases are kept in memory up to this; further ones are read again each time."""
FOREGROUND_SHARE = 0.5
"""Share of the patches that hold an element of a foreground class, where there is one."""
FOREGROUND_KEPT = 2_000
"""Positions remembered per case and class."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """Image (C, *grid) float32 and label (*grid) on the plan's grid.

    ``positions`` holds flat indices of some elements of each class, background first; the background's
    only where the label is sparse, since elsewhere it is everywhere. ``stored_shape`` (*spatial) is the
    label's before it came onto the grid.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    positions: tuple[np.ndarray, ...]
    stored_shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.label.nbytes


@dataclass(frozen=True, eq=False)
class Batch:
    """``images`` (B, C, *patch) float32, ``labels`` (B, 1, *patch) int64, and whose they are."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


class PreparedCases:
    """Cases as the network sees them, by index, kept in memory while there is room."""

    def __init__(self, cases: Sequence[Case], plan: Plan) -> None:
        self.cases = list(cases)
        self._plan = plan
        self._kept: dict[int, PreparedCase] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> PreparedCase:
        if index in self._kept:
            return self._kept[index]
        prepared = self._prepare(self.cases[index])
        if self._bytes + prepared.nbytes <= CACHE_BYTES:
            self._kept[index] = prepared
            self._bytes += prepared.nbytes
        return prepared

    def relabel(self, index: int) -> np.ndarray:
        """Read the label of a case again, and return it as it was read; its image stays as it is.

        Raises
        ------
        DataError
            As its ``read_label``, or the label no longer fits its image or the classes. The old label stays.
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
        held = self._kept.get(index)
        if held is None:  # it is read again whenever it is drawn
            return stored
        if stored.shape != held.stored_shape:
            raise DataError(
                f"the label of case '{case.name}' now has shape {stored.shape} but its image has "
                f"{held.stored_shape}; bring it back to that size"
            )
        label, positions = self._on_grid(stored, held.label.shape)
        self._kept[index] = replace(held, label=label, positions=positions)
        return stored

    def _prepare(self, case: Case) -> PreparedCase:
        assert case.read_label is not None
        image = case.read_image()
        stored = np.asarray(case.read_label())
        prepared = prepare(image, self._plan)
        label, positions = self._on_grid(stored, prepared.array.shape[1:])
        return PreparedCase(case.name, prepared.array, label, prepared.geometry, positions, stored.shape)

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
    seed : int
    augmentation : Augmentation, optional
    foreground_share : float
        See :func:`draw_patch`.
    device : torch.device
        Where batches are changed and given out.
    rank, world : int
        This process's share: which one of how many. Together they draw what one process with a batch of
        ``world * plan.batch`` draws.
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
    ) -> None:
        self._cases, self._indices = cases, np.array(indices)
        self._plan, self._seed = plan, seed
        self._augmentation = augmentation
        self._foreground_share = foreground_share
        self._device, self._rank, self._world = device, rank, world
        self._orders: dict[int, np.ndarray] = {}

    def draw(self, step: int) -> Batch:
        """Batch number ``step`` (from 0) of the run."""
        return self._drawn(step, self._rank)

    def of_all_processes(self, step: int) -> Tensor:
        """Images that all processes together draw in this step."""
        return torch.cat([self._drawn(step, rank).images for rank in range(self._world)])

    def _drawn(self, step: int, rank: int) -> Batch:
        batch, patch = self._plan.batch, self._plan.patch
        images = np.empty((batch, self._plan.channels, *patch), np.float32)
        labels = np.empty((batch, 1, *patch), np.uint8)
        names = []
        first = (step * self._world + rank) * batch
        for row, position in enumerate(range(first, first + batch)):
            case = self._cases[self._index(position)]
            rng = np.random.default_rng([self._seed, 1, position])
            images[row], labels[row, 0] = draw_patch(case, patch, rng, self._foreground_share)
            names.append(case.name)
        # Metal lacks the sampling of volumes.
        place = CPU if self._device.type == "mps" else self._device
        drawn = torch.from_numpy(images).to(place), torch.from_numpy(labels).to(place)
        if self._augmentation is not None:
            generators = [np.random.default_rng([self._seed, 2, n]) for n in range(first, first + batch)]
            drawn = self._augmentation(*drawn, generators)
        return Batch(drawn[0].to(self._device), drawn[1].to(self._device).long(), tuple(names))

    def _index(self, position: int) -> int:
        """Which case the patch number ``position`` of the run is of."""
        lap, place = divmod(position, len(self._indices))
        if lap not in self._orders:
            order = np.random.default_rng([self._seed, 0, lap]).permutation(len(self._indices))
            self._orders = {lap: order}
        return int(self._indices[self._orders[lap][place]])


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
    background, *classes = case.positions
    present = [found for found in classes if found.size]
    shape = case.label.shape
    size = (1,) * (len(shape) - len(patch)) + patch
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
    image, label = case.image[(slice(None), *window)], case.label[tuple(window)]
    if len(shape) > len(patch):
        image, label = image[:, 0], label[0]
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
