"""``inspect_gates``: one pass over an image that keeps what every gate saw, stitched over all windows."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from napari_prosma.data.case import Geometry, Image
from napari_prosma.data.labels import is_foreground
from napari_prosma.data.preparation import prepare_label
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.inspection.measures import Counts, mostly, skip_measures
from napari_prosma.inspection.record import ChannelMaps, GateRecord, SkipRecord
from napari_prosma.nn.gates import Change, GateTrace, SkipTrace
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.segment import (
    finish,
    model_tiling,
    prepare_for,
)
from napari_prosma.segmentation.windows import Blend, Start, Tiling, padded_for, windows
from napari_prosma.training.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.training.device import usable_device

SPARSE_GATES = ("prosma", "spatial", "prosma-exact")
Z_KEPT = 2**24
"""Single channels of z and u are kept where all of a skip's z have no more elements than this (64 MiB)."""
SETTLED_STEPS = 120
"""Steps after which the gates' running averages have caught up with what training sees (momentum 0.1)."""


def inspect_gates(
    checkpoint: Checkpoint | Path | str,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    twin: Checkpoint | Path | str | None = None,
    device: str = "auto",
    changes: Mapping[int, Change] | None = None,
) -> Iterator[Event]:
    """Segment an image and keep what the gates saw; the last event is ``Finished`` with a ``GateRecord``.

    Parameters
    ----------
    checkpoint : Checkpoint or path
    image : (C, *spatial)
    label : (*spatial) class indices, optional
        Foreground for the measures; by default the prediction is.
    twin : Checkpoint or path, optional
        A second model of the same classes, such as one with the ``attention`` gate, shown beside the first.
    device : str
    changes : by level, optional
        What is done to gates of the first model, as in ``WhatIf``, here over the whole image.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    first = one_network(checkpoint)
    second = None if twin is None else one_network(twin)
    require_label(label, image, name)
    require_levels(first, changes or {})
    if second is not None and second.plan.class_names != first.plan.class_names:
        raise DataError(
            f"the second model knows the classes {', '.join(second.plan.class_names)}, the first "
            f"{', '.join(first.plan.class_names)}; compare models trained on the same labels"
        )
    record = yield from _record(first, image, name, label, device, changes)
    if second is not None:
        # Both are measured against the same foreground, whichever it is.
        measured = record.segmentation.labels if label is None else label
        beside = yield from _record(second, image, f"{name}, second model", measured, device)
        record = replace(record, twin=replace(beside, label=label, reference=record.reference))
    yield Finished(record)


def one_network(checkpoint: Checkpoint | Path | str) -> Checkpoint:
    """The checkpoint, read if it is a path.

    Raises
    ------
    CheckpointError
        It cannot be read, is an ensemble, or holds a network of another paper.
    """
    held = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    held.require_one_network("inspected")
    held.require_our_gates()
    return held


def require_label(label: np.ndarray | None, image: Image, name: str) -> None:
    """Refuse a label (*spatial) of another shape than its image.

    Raises
    ------
    DataError
    """
    if label is not None and label.shape != image.array.shape[1:]:
        raise DataError(
            f"the label of '{name}' has shape {label.shape} but the image has {image.array.shape[1:]}; "
            f"choose the label that was drawn on this image"
        )


def require_levels(checkpoint: Checkpoint, changes: Mapping[int, Change]) -> None:
    """Refuse changes of skips that the network does not have.

    Raises
    ------
    ConfigError
    """
    there = range(1, len(checkpoint.spec.widths))
    unknown = sorted(set(changes) - set(there))
    if unknown:
        raise ConfigError(f"the model has the skips {min(there)} to {max(there)}, not {unknown[0]}")


def skip_channel(
    checkpoint: Checkpoint | Path | str,
    image: Image,
    level: int,
    channel: int,
    *,
    name: str = "image",
    device: str = "auto",
    changes: Mapping[int, Change] | None = None,
) -> Iterator[Event]:
    """One feature channel of a skip before and after its gate; ends in ``Finished`` with ``ChannelMaps``.

    Over the whole image, in the windows of ``inspect_gates`` and with its ``changes``.
    ``WhatIf.skip_channel`` has it at once for its window.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    held = one_network(checkpoint)
    require_channel(held, level, channel)
    require_levels(held, changes or {})
    prepared = prepare_for(held.plan, image, name)
    target = usable_device(device)
    model = held.build(target)
    assert isinstance(model, ProSMAUNet)
    tiling = model_tiling(model, held.plan, prepared, image)
    factors = level_factors(model, level, tiling)
    maps = Blend(tiling, 2, factors)
    yield Started(len(tiling.starts), f"Channel {channel} of skip {level} of {name}", str(target))
    padded = padded_for(prepared.array, tiling, model)
    for done, (starts, cut) in enumerate(windows(padded, tiling, 1), start=1):
        trace = GateTrace()
        with torch.no_grad():
            model.decode(model.encode(cut.to(target)), trace, changes)
        kept = trace.skips[level]
        both = torch.stack([kept.skip[0, channel], kept.gated[0, channel]]).float().cpu()
        maps.add(starts[0], both.reshape(2, *(w // f for w, f in zip(tiling.window, factors, strict=True))))
        yield Progress(done, len(tiling.starts), name)
    before, after = maps.result()
    geometry = prepared.geometry.coarsened(tuple(float(f) for f in factors), prepared.array.shape[1:])
    yield Finished(ChannelMaps(level, channel, before, after, geometry))


def require_channel(checkpoint: Checkpoint, level: int, channel: int) -> None:
    """Refuse a channel that the skip does not have.

    Raises
    ------
    ConfigError
    """
    widths = checkpoint.spec.widths[:-1]
    if not 1 <= level <= len(widths):
        raise ConfigError(f"the model has the skips 1 to {len(widths)}, not {level}")
    if not 0 <= channel < widths[level - 1]:
        raise ConfigError(f"skip {level} has the channels 0 to {widths[level - 1] - 1}, not {channel}")


def _record(
    checkpoint: Checkpoint,
    image: Image,
    name: str,
    label: np.ndarray | None,
    device: str,
    changes: Mapping[int, Change] | None = None,
) -> Generator[Event, None, GateRecord]:
    plan = checkpoint.plan
    prepared = prepare_for(plan, image, name)
    target = usable_device(device)
    model = checkpoint.build(target)
    assert isinstance(model, ProSMAUNet)
    tiling = model_tiling(model, plan, prepared, image)
    yield Started(len(tiling.starts), f"Inspecting {name}", str(target))
    yield from map(Notice, image.notices)
    if checkpoint.steps < SETTLED_STEPS and checkpoint.spec.gate in SPARSE_GATES:
        yield Notice(
            f"The model for '{name}' was trained for {checkpoint.steps} steps only: until about "
            f"{SETTLED_STEPS} the averages in its gates lag behind and show more zeros than training saw."
        )
    if checkpoint.spec.gate == "none":
        yield Notice("The model has no gates: every skip passes whole, so there is no mask to show.")
    labels = Blend(tiling, checkpoint.spec.out_channels)
    gathered: dict[int, Gathered] = {}
    padded = padded_for(prepared.array, tiling, model)
    for done, (starts, cut) in enumerate(windows(padded, tiling, 1), start=1):
        trace = GateTrace()
        with torch.no_grad():
            logits = model.decode(model.encode(cut.to(target)), trace, changes).float().cpu()
        labels.add(starts[0], logits[0].reshape(logits.shape[1], *tiling.window))
        for level, kept in trace.skips.items():
            if level not in gathered:
                gathered[level] = Gathered(kept, tiling, level_factors(model, level, tiling))
            gathered[level].add(starts[0], kept)
        yield Progress(done, len(tiling.starts), name)
    segmentation = finish(name, labels.result(), image, plan)
    reference = label if label is not None else segmentation.labels
    on_grid = prepare_label(reference, image.geometry, plan)
    skips = {level: gathered[level].record(level, prepared.geometry, on_grid) for level in sorted(gathered)}
    return GateRecord(
        name=name,
        gate=checkpoint.spec.gate,
        image=image,
        skips=skips,
        segmentation=segmentation,
        reference="prediction" if label is None else "label",
        label=label,
    )


def level_factors(model: ProSMAUNet, level: int, tiling: Tiling) -> tuple[int, ...]:
    """How much coarser the grid of a level is; axes that the network does not see stay as they are."""
    return tuple(1 if axis in tiling.thin else 2 ** (level - 1) for axis in range(len(tiling.size)))


class Gathered:
    """The maps and counts of one skip while the windows go by."""

    def __init__(self, first: SkipTrace, tiling: Tiling, factors: tuple[int, ...]) -> None:
        self._tiling, self._factors = tiling, factors
        self._names = [name for name in ("zero_fraction", "psi", "psi_dense") if _has(first, name)]
        self._maps = Blend(tiling, len(self._names) + 2, factors)
        grid = tuple(p // f for p, f in zip(tiling.padded, factors, strict=True))
        keeps_z = first.z is not None and first.z.shape[1] * math.prod(grid) <= Z_KEPT
        # u beside z: the one says how far the other is from passing.
        self._latent = (
            Blend(tiling, 2 * first.z.shape[1], factors) if keeps_z and first.z is not None else None
        )
        self._empty = None if first.z is None else np.ones(grid, bool)
        self._counts = None if first.field is None or first.z is None else Counts(first.z.shape[1])
        self._channels: list[np.ndarray] = []
        self._threshold = None if first.threshold is None else first.threshold.cpu().numpy()
        self._floor = first.floor

    def add(self, start: Start, kept: SkipTrace) -> None:
        window = tuple(w // f for w, f in zip(self._tiling.window, self._factors, strict=True))

        def shaped(values: torch.Tensor) -> torch.Tensor:
            return values[0].float().cpu().reshape(-1, *window)

        maps = {
            "psi": kept.psi,
            "psi_dense": kept.psi_dense,
            "zero_fraction": None if kept.z is None else (kept.z == 0).float().mean(dim=1, keepdim=True),
        }
        stacked = [shaped(maps[name]) for name in self._names]  # type: ignore[arg-type]
        stacked.append(shaped(kept.gated.float().square().sum(dim=1, keepdim=True)))
        stacked.append(shaped(kept.skip.float().square().sum(dim=1, keepdim=True)))
        self._maps.add(start, torch.cat(stacked))
        if kept.z is not None and self._empty is not None:
            z = shaped(kept.z)
            if self._latent is not None and kept.field is not None:
                self._latent.add(start, torch.cat([z, shaped(kept.field)]))
            self._empty[self._tiling.at(start, self._factors)] &= (z == 0).all(dim=0).numpy()
        if kept.z is not None and kept.field is not None and self._counts is not None:
            inside = self._inside(start)
            self._counts.add(kept.field[inside], kept.z[inside])
        if kept.channel is not None:
            self._channels.append(kept.channel[0].float().cpu().numpy())

    def _inside(self, start: Start) -> tuple[slice, ...]:
        """Slices (B, C, *spatial) of the part of a window that lies over the image, not over its padding."""
        sizes = zip(start, self._tiling.size, self._factors, strict=True)
        reach = self._tiling.seen([-(-n // f) - s // f for s, n, f in sizes])
        return (slice(None), slice(None), *(slice(0, n) for n in reach))

    def record(self, level: int, geometry: Geometry, reference: np.ndarray) -> SkipRecord:
        maps = self._maps.result()
        named = dict(zip(self._names, maps, strict=False))
        kept, whole = maps[-2], maps[-1]
        inside = tuple(slice(0, n) for n in whole.shape)
        channels = np.array(self._channels) if self._channels else None
        counts = self._counts
        z, u = (None, None) if self._latent is None else np.split(self._latent.result(), 2)
        foreground = mostly(is_foreground(reference), self._factors)
        record = SkipRecord(
            level=level,
            geometry=geometry.coarsened(tuple(float(f) for f in self._factors), reference.shape),
            energy_kept=np.divide(kept, whole, out=np.zeros_like(kept), where=whole > 0),
            without_evidence=None if self._empty is None else self._empty[inside],
            z=z,
            u=u,
            channel=None if channels is None else channels.mean(axis=0),
            channel_spread=None if channels is None else channels.std(axis=0),
            threshold=self._threshold,
            field_spread=None if counts is None else counts.spread(),
            channel_zeros=None if counts is None else counts.zero_fraction(),
            field_peak=None if counts is None else counts.peak(),
            floor=self._floor,
            inside=foreground,
            outside=mostly(reference == 0, self._factors) & ~foreground,
            **named,
        )
        return replace(record, measures=skip_measures(record, kept, whole))


def _has(kept: SkipTrace, name: str) -> bool:
    return (kept.z if name == "zero_fraction" else getattr(kept, name)) is not None
