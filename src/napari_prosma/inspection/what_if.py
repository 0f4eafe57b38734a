"""What if a gate let more or less through: change it, and see the segmentation and all maps follow.

Only the decoder is run again, from the coarsest skip whose change is new down to the finest.

Scaling lambda of one gate up can only shrink the support of its own z (Theorem 1), because its field u stays
as it is. Its output changes what the decoder sends to the finer gates, so their u changes, and their supports
may grow. Only of the deepest gate that is changed can it be said that its support shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from napari_prosma.data.case import Image
from napari_prosma.data.labels import is_foreground
from napari_prosma.data.metrics import case_metrics
from napari_prosma.events import Event, Finished, result_of
from napari_prosma.inspection.gathering import Gathered
from napari_prosma.inspection.record import ChannelMaps, GateRecord, SkipRecord
from napari_prosma.inspection.trace import inspect_gates, level_factors, require_channel, require_levels
from napari_prosma.inspection.window import open_window
from napari_prosma.model.applying import Segmentation
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.windows import labels_of
from napari_prosma.nn.gates import Change, GateTrace, SkipTrace

UNCHANGED = Change()


@dataclass(frozen=True, eq=False)
class Effect:
    """What came of some changes.

    Attributes
    ----------
    record : GateRecord
        Of the window, on the network's grid; its image is the window as the network sees it. Of a whole
        image, on its own grid. Foreground in its measures is the label, or else what the unchanged model
        predicts, whatever the changes.
    difference : (*size) in [0, 1]
        How far the probabilities are from the unchanged model's: half the sum over the classes of |dp|,
        which with one foreground class is |dp|.
    dice : dict or None
        As :func:`dice_against`: ``dice``, the mean over the foreground classes in either, and
        ``dice/<class>``.
    agreement : float
        Dice of the labels against those of the unchanged model; 1 where no structure is in either.
    is_empty : bool
        No structure is found, with the changes or without.
    seconds : float
        It took so long, maps and measures included.
    recomputed_levels : tuple of int
        Coarsest first; the others are as they were.
    """

    record: GateRecord
    difference: np.ndarray
    dice: dict[str, float] | None
    agreement: float
    is_empty: bool
    seconds: float
    recomputed_levels: tuple[int, ...]

    @property
    def moved(self) -> float:
        """Mean of ``difference``."""
        return float(self.difference.mean())


class WhatIf:
    """One window of one image under changes of the gates.

    Parameters
    ----------
    checkpoint : Checkpoint or path
    image : (C, *spatial)
    name : str
    label : (*spatial) class indices, optional
    region : slices per spatial axis, optional
        The window is put around its centre; by default around the middle of the label, or of the image.
    device : str

    Attributes
    ----------
    window : Window
        Where it lies, and what the network sees there.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """

    def __init__(
        self,
        checkpoint: Checkpoint | Path | str,
        image: Image,
        *,
        name: str = "image",
        label: np.ndarray | None = None,
        region: tuple[slice, ...] | None = None,
        device: str = "auto",
    ) -> None:
        self.window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
        self._features: dict[int, torch.Tensor] = {}
        self._applied: dict[int, Change] | None = None
        self._kept: dict[int, SkipTrace] = {}
        self._skips: dict[int, SkipRecord] = {}
        self._before: np.ndarray | None = None
        self.unchanged = self.apply({})

    def apply(self, changes: Mapping[int, Change]) -> Effect:
        """The segmentation and the maps under ``changes``, by level (1 = finest); others are as trained.

        What comes out does not depend on what was applied before, only how long it takes does. Calls must
        not overlap in time.

        Raises
        ------
        ConfigError
            The network has no such skip.
        """
        begun = perf_counter()
        window = self.window
        require_levels(window.checkpoint, changes)
        wanted = {level: change for level, change in changes.items() if change != UNCHANGED}
        top = self._coarsest_new(wanted)
        # Until it is done the kept features are partly old and partly new.
        self._applied = None
        trace = GateTrace()
        with torch.no_grad():
            start = None if top == window.levels[-1] else top + 1
            logits = window.model.decode(window.encoded, trace, wanted, start, self._features)
        probabilities = window.shown(logits)
        if self._before is None:
            self._before = probabilities
        foreground = labels_of(self._before) if window.label is None else window.label
        labels, before = labels_of(probabilities), labels_of(self._before)
        self._kept |= trace.skips
        for level, kept in trace.skips.items():
            self._skips[level] = self._record_of(level, kept, foreground, labels)
        self._applied = wanted
        record = GateRecord(
            name=window.name,
            checkpoint=window.checkpoint,
            gate=window.checkpoint.spec.gate,
            image=window.image,
            skips=dict(sorted(self._skips.items())),
            segmentation=Segmentation(
                window.name,
                labels,
                probabilities,
                window.image.geometry,
                window.checkpoint.plan.class_names,
            ),
            reference="prediction" if window.label is None else "label",
            label=window.label,
        )
        return Effect(
            record=record,
            difference=np.abs(probabilities - self._before).sum(axis=0) / 2,
            dice=dice_against(window.label, labels, window.checkpoint.plan.class_names),
            agreement=window.agreement(labels, before),
            is_empty=not (labels.any() or before.any()),
            seconds=perf_counter() - begun,
            recomputed_levels=tuple(range(top, 0, -1)),
        )

    def skip_channel(self, level: int, channel: int) -> ChannelMaps:
        """One feature channel of a skip before and after its gate, as last applied.

        Raises
        ------
        ConfigError
        """
        require_channel(self.window.checkpoint, level, channel)
        kept, skip = self._kept[level], self._skips[level]

        def shaped(features: torch.Tensor) -> np.ndarray:
            inside = tuple(slice(0, n) for n in self.window.tiling.seen(skip.energy_kept.shape))
            return features[0, channel][inside].float().cpu().reshape(skip.energy_kept.shape).numpy()

        return ChannelMaps(level, channel, shaped(kept.skip), shaped(kept.gated), skip.geometry)

    def _coarsest_new(self, wanted: Mapping[int, Change]) -> int:
        """The coarsest level whose change is not the one applied last; 0 if there is none."""
        levels, applied = self.window.levels, self._applied
        if applied is None:
            return levels[-1]
        return max((n for n in levels if wanted.get(n) != applied.get(n)), default=0)

    def _record_of(
        self, level: int, skip_trace: SkipTrace, foreground: np.ndarray, found: np.ndarray
    ) -> SkipRecord:
        tiling = self.window.tiling
        gathered = Gathered(skip_trace, tiling, level_factors(self.window.model, level, tiling))
        gathered.add(tiling.starts[0], skip_trace)
        predicted = None if self.window.label is None else found
        return gathered.record(level, self.window.image.geometry, foreground, predicted)


def dice_against(
    label: np.ndarray | None, found: np.ndarray, class_names: Sequence[str]
) -> dict[str, float] | None:
    """Dice of labels (*spatial) against a label, ``dice`` and each ``dice/<class>``.

    None without a label or in one without any structure: against such it is 1 or 0, whatever is lost.
    """
    if label is None or not is_foreground(label).any():
        return None
    figures = case_metrics(found, label, class_names)
    return {name: float(value) for name, value in figures.items() if name.startswith("dice")}


def over_whole_image(
    checkpoint: Checkpoint | Path | str,
    unchanged: GateRecord,
    changes: Mapping[int, Change],
    *,
    device: str = "auto",
) -> Iterator[Event]:
    """What ``WhatIf.apply`` tells of a window, of the whole image; ends in ``Finished`` with an ``Effect``.

    Nothing of ``unchanged`` is used again but what it is compared with: every window goes through the whole
    network, and labels and maps are stitched as ever.

    Parameters
    ----------
    checkpoint : Checkpoint or path
    unchanged : GateRecord
        Of the same model and image, without changes.
    changes : by level

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    begun = perf_counter()
    before, label = unchanged.segmentation, unchanged.label
    events = inspect_gates(
        checkpoint,
        unchanged.image,
        name=unchanged.name,
        label=label,
        foreground=before.labels,
        device=device,
        changes=changes,
    )
    record: GateRecord = yield from result_of(events)
    now, classes = record.segmentation, before.class_names
    yield Finished(
        Effect(
            record=record,
            difference=np.abs(now.probabilities - before.probabilities).sum(axis=0) / 2,
            dice=dice_against(label, now.labels, classes),
            agreement=case_metrics(now.labels, before.labels, classes)["dice"],
            is_empty=not (now.labels.any() or before.labels.any()),
            seconds=perf_counter() - begun,
            recomputed_levels=tuple(sorted(record.skips, reverse=True)),
        )
    )
