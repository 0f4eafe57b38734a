"""``Guesses``: what the program wrote into a labels layer, apart from what a hand drew; undone with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Labels as LabelsLayer

from napari_prosma.errors import DataError

Kind = Literal["filled", "accepted", "rejected"]
KEPT: tuple[Kind, ...] = ("filled", "accepted")
"""What is kept with saved labels."""
MARKS = "marks"
"""Key of a layer's metadata: what was kept with the labels that it was opened with, masks by kind."""


@dataclass(eq=False)
class _Step:
    """One undo step: what it was, and napari's own record of it (indices, values before, values after)."""

    kind: Kind
    atom: tuple[Any, ...]
    is_done: bool = True


class Guesses:
    """Of one labels layer; every action is one step of napari's undo, and undone its memory goes too."""

    def __init__(self, layer: LabelsLayer) -> None:
        self._layer = ref(layer)  # the layer keeps this alive, not the other way round
        self._steps: list[_Step] = []
        self._written: list[Any] = []
        for kind in KEPT:
            mask = layer.metadata.get(MARKS, {}).get(kind)
            if mask is not None and mask.shape == layer.data.shape:
                indices = np.nonzero(mask)
                values = layer.data[indices]
                self._steps.append(_Step(kind, (indices, np.zeros_like(values), values)))
        layer.events.paint.connect(self._painted)
        layer.events.set_data.connect(self._look_at_history)

    @property
    def layer(self) -> LabelsLayer:
        layer = self._layer()
        assert layer is not None
        return layer

    def write(self, kind: Kind, indices: tuple[np.ndarray, ...], values: np.ndarray | int) -> int:
        """Write values as one undo step; how many elements changed."""
        self._written.clear()
        self.layer.data_setitem(indices, values)
        for atom in self._written:
            self._steps.append(_Step(kind, atom))
        return sum(len(atom[0][0]) for atom in self._written)

    def reject(self, indices: tuple[np.ndarray, ...]) -> None:
        """Take elements for no structure, as one undo step: what was guessed there is erased."""
        guessed = self.where("accepted")[indices] | self.where("filled")[indices]
        before = np.array(self.layer.data[indices])
        after = np.where(guessed, 0, before).astype(before.dtype)
        atom = (indices, before, after)
        # data_setitem takes no step in which nothing changes, but that the region was rejected is one.
        self.layer._save_history(atom)
        self.layer.data[indices] = after
        self._steps.append(_Step("rejected", atom))
        self.layer.refresh()

    def has(self, kind: Kind) -> bool:
        """Whether anything was written so, undone or not."""
        return any(step.kind == kind for step in self._steps)

    def where(self, kind: Kind, labels: np.ndarray | None = None) -> np.ndarray:
        """Where the layer (*spatial) still holds what was written so; True where a region is rejected.

        ``labels`` are what it held a moment ago, else what it holds.
        """
        self._look_at_history()
        labels = self.layer.data if labels is None else labels
        found = np.zeros(labels.shape, bool)
        for step in self._steps:
            indices, _, values = step.atom
            if step.is_done and all(
                at.max(initial=0) < n for at, n in zip(indices, found.shape, strict=True)
            ):
                found[indices] = (kind == step.kind) & (labels[indices] == values)
        return found

    def _painted(self, event: Any) -> None:
        self._written.extend(atom for atom in event.value if isinstance(atom, tuple))

    def _look_at_history(self, event: object = None) -> None:
        """What lies in one of napari's histories is done or undone; what left both stays as it was."""
        undone = set(self._atoms(self.layer._redo_history))
        done = set(self._atoms(self.layer._undo_history))
        for step in self._steps:
            step.is_done = id(step.atom) in done or (step.is_done and id(step.atom) not in undone)

    @staticmethod
    def _atoms(history: Any) -> Iterator[int]:
        return (id(atom) for item in history for atom in item)


_OF: WeakKeyDictionary[LabelsLayer, Guesses] = WeakKeyDictionary()


def guesses_of(layer: LabelsLayer) -> Guesses:
    """What was written into a layer so far.

    Raises ``DataError``: the layer cannot be written to step by step.
    """
    if layer.multiscale or not isinstance(layer.data, np.ndarray) or not layer.data.flags.writeable:
        raise DataError(
            f"the labels '{layer.name}' lie in a file or in several levels, which cannot be undone step by "
            "step; draw on a new labels layer, which lies in memory"
        )
    if layer not in _OF:
        _OF[layer] = Guesses(layer)
    return _OF[layer]


def marks_of(layer: LabelsLayer, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (*spatial) of what was filled and accepted of ``labels``, which the layer holds or held."""
    # A writer of napari is given the array alone.
    same = (each for each in list(_OF) if each is layer or np.may_share_memory(each.data, layer.data))
    guesses = _OF.get(next(same, layer))
    if guesses is None or labels.shape != layer.data.shape:
        return {}
    found = {kind: guesses.where(kind, labels) for kind in KEPT}
    return {kind: mask for kind, mask in found.items() if mask.any()}


def rejected_in(layer: LabelsLayer) -> np.ndarray | None:
    """Where regions are rejected, (*spatial); None where none is."""
    guesses = _OF.get(layer)
    return None if guesses is None or not guesses.has("rejected") else guesses.where("rejected")
