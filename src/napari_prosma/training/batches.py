"""Patches for training. What is drawn is a function of (seed, step) alone, so a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_prosma.data.case import Case, Geometry
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.preparation import prepare, prepare_label
from napari_prosma.training.augment import Augmentation

CACHE_BYTES = 4 * 2**30
"""Prepared cases are kept in memory up to this; further ones are read again each time."""
FOREGROUND_SHARE = 0.5
"""Share of the patches that are centred on an element of a foreground class, where there is one."""
FOREGROUND_KEPT = 2_000
"""Positions remembered per case and class."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """Image (C, *grid) float32 and label (*grid) on the plan's grid.

    ``positions`` holds flat indices of some elements of each class, background first; the background's
    only where the label is sparse, since elsewhere it is everywhere.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    geometry: Geometry
    positions: tuple[np.ndarray, ...]

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

    def _prepare(self, case: Case) -> PreparedCase:
        assert case.read_label is not None
        image = case.read_image()
        label = prepare_label(np.asarray(case.read_label(), np.uint8), image.geometry, self._plan)
        prepared = prepare(image, self._plan)
        positions = []
        sparse = bool((label == IGNORE).any())
        for k in range(len(self._plan.class_names)):
            found = np.flatnonzero(label == k) if k or sparse else np.empty(0, int)
            positions.append(found[:: max(1, found.size // FOREGROUND_KEPT)])
        return PreparedCase(case.name, prepared.array, label, prepared.geometry, tuple(positions))


class Batches:
    """The endless stream of training patches: every case once before any comes again."""

    def __init__(
        self,
        cases: PreparedCases,
        indices: Sequence[int],
        plan: Plan,
        seed: int,
        augmentation: Augmentation | None,
    ) -> None:
        self._cases, self._indices = cases, np.array(indices)
        self._plan, self._seed = plan, seed
        self._augmentation = augmentation

    def draw(self, step: int) -> Batch:
        """Batch number ``step`` (from 0) of the run."""
        images, labels, names = [], [], []
        for position in range(step * self._plan.batch, (step + 1) * self._plan.batch):
            lap, place = divmod(position, len(self._indices))
            order = np.random.default_rng([self._seed, 0, lap]).permutation(len(self._indices))
            case = self._cases[int(self._indices[order[place]])]
            rng = np.random.default_rng([self._seed, 1, position])
            image, label = draw_patch(case, self._plan.patch, rng)
            if self._augmentation is not None:
                image, label = self._augmentation(image, label, int(rng.integers(2**31)))
            images.append(np.ascontiguousarray(image))
            labels.append(np.ascontiguousarray(label[None]))
            names.append(case.name)
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(labels)).long(),
            tuple(names),
        )


def draw_patch(
    case: PreparedCase, patch: tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random patch (C, *patch) with its label, of a slice where the patch has fewer axes than the case.

    Half of them hold an element of a foreground class, each class alike; the others lie anywhere, or hold an
    element of the background where the label is sparse. An image smaller than the patch is mirrored to the
    right and bottom.
    """
    background, *classes = case.positions
    present = [found for found in classes if found.size]
    shape = case.label.shape
    size = (1,) * (len(shape) - len(patch)) + patch
    centre = found = None
    if present and (rng.random() < FOREGROUND_SHARE):
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
