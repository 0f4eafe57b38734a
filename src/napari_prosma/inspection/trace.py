"""``inspect_gates``: one pass over an image that keeps what every gate saw, stitched over all windows."""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch

from napari_prosma.data.case import Image
from napari_prosma.data.labels import highest_class
from napari_prosma.data.preparation import cut_axis, prepare_label, seen_axes
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.inspection.gathering import Gathered
from napari_prosma.inspection.kinship import ablation_in_words, unlike_training
from napari_prosma.inspection.record import OF_THE_FIRST, ChannelMaps, GateRecord
from napari_prosma.model.applying import finish, model_tiling, prepare_for
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.model.device import usable_device
from napari_prosma.model.windows import Blend, Tiling, padded_for, windows
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import Change, GateTrace
from napari_prosma.nn.unet import ProSMAUNet

SETTLED_STEPS = 120
"""Steps after which the gates' running averages have caught up with what training sees (momentum 0.1)."""


def inspect_gates(
    checkpoint: Checkpoint | Path | str,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    second: Checkpoint | Path | str | None = None,
    device: str = "auto",
    changes: Mapping[int, Change] | None = None,
    foreground: np.ndarray | None = None,
) -> Iterator[Event]:
    """Segment an image and keep what the gates saw; the last event is ``Finished`` with a ``GateRecord``.

    Parameters
    ----------
    checkpoint : Checkpoint or path
    image : (C, *spatial)
    label : (*spatial) class indices, optional
        Foreground for the measures; by default the prediction is.
    second : Checkpoint or path, optional
        A second model of the same classes, such as one with the ``attention`` gate, shown beside the first.
    device : str
    changes : by level, optional
        What is done to gates of the first model, as in ``WhatIf``, here over the whole image.
    foreground : (*spatial) class indices, optional
        What is measured against where there is no label, such as another model's prediction.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    both = {"first": checkpoint} | ({} if second is None else {"second": second})
    models = same_classes(both)
    first, second = models["first"], models.get("second")
    require_label(label, image, name, first.plan.class_names)
    require_levels(first, changes or {})
    record = yield from _record(first, image, name, label, device, changes, foreground)
    if second is not None and (words := ablation_in_words("the model", first, "The second model", second)):
        yield Notice(words)
    if second is not None:
        # Both are measured against the same foreground, whichever it is.
        seen = record.segmentation.labels if foreground is None else foreground
        beside = yield from _record(second, image, f"{name}, second model", label, device, None, seen)
        reference = beside.reference if label is not None else OF_THE_FIRST
        record = replace(record, second=replace(beside, reference=reference))
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


_BUILT: WeakKeyDictionary[Checkpoint, tuple[object, list[torch.Tensor], ProSMAUNet]] = WeakKeyDictionary()


def network_of(checkpoint: Checkpoint, device: torch.device) -> ProSMAUNet:
    """The network of a checkpoint in evaluation mode, to be read only.

    It is built once for as long as the checkpoint is there and its weights stay as they are: the maps and
    tests of a single image look into it some ten times.
    """
    # The tensors themselves, as the id of one that is gone may be that of the next.
    weights = [*checkpoint.weights.values()]
    stamp = (device, [0 if weight.is_inference() else weight._version for weight in weights])
    held = _BUILT.get(checkpoint)
    if held is None or held[0] != stamp or not all(map(operator.is_, held[1], weights)):
        model = checkpoint.build(device)
        assert isinstance(model, ProSMAUNet)
        held = _BUILT[checkpoint] = stamp, weights, model
    return held[2]


def same_classes(checkpoints: Mapping[str, Checkpoint | Path | str]) -> dict[str, Checkpoint]:
    """The models, read where they are paths.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        One cannot be read or is an ensemble; there is none; they know different classes.
    """
    if not checkpoints:
        raise ConfigError("choose at least one model")
    models = {name: one_network(checkpoint) for name, checkpoint in checkpoints.items()}
    first, known = next((name, model.plan.class_names) for name, model in models.items())
    for name, model in models.items():
        if model.plan.class_names != known:
            raise DataError(
                f"model '{name}' knows the classes {', '.join(model.plan.class_names)}, '{first}' "
                f"{', '.join(known)}; compare models trained on the same labels"
            )
    return models


def require_label(label: np.ndarray | None, image: Image, name: str, class_names: Sequence[str]) -> None:
    """Refuse a label (*spatial) of another shape than its image, or of classes beyond those of a model.

    Raises
    ------
    DataError
    """
    if label is None:
        return
    if label.shape != image.array.shape[1:]:
        raise DataError(
            f"the label of '{name}' has shape {label.shape} but the image has {image.array.shape[1:]}; "
            f"choose the label that was drawn on this image"
        )
    if highest_class(label) >= len(class_names):
        raise DataError(
            f"the label of '{name}' has classes up to {highest_class(label)}, but the model knows only "
            f"{', '.join(class_names)}; choose a label with the classes of the model"
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
    model = network_of(held, target)
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
    foreground: np.ndarray | None = None,
) -> Generator[Event, None, GateRecord]:
    plan = checkpoint.plan
    prepared = prepare_for(plan, image, name)
    target = usable_device(device)
    model = network_of(checkpoint, target)
    tiling = model_tiling(model, plan, prepared, image)
    yield Started(len(tiling.starts), f"Inspecting {name}", str(target))
    yield from map(Notice, (*image.notices, *cautions(checkpoint, image)))
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
    own = segmentation.labels if foreground is None else foreground
    on_grid = prepare_label(own if label is None else label, image.geometry, plan)
    predicted = None if label is None else prepare_label(segmentation.labels, image.geometry, plan)
    skips = {
        level: gathered[level].record(level, prepared.geometry, on_grid, predicted)
        for level in sorted(gathered)
    }
    return GateRecord(
        name=name,
        checkpoint=checkpoint,
        gate=checkpoint.spec.gate,
        image=image,
        skips=skips,
        segmentation=segmentation,
        reference="prediction" if label is None else "label",
        label=label,
    )


def cautions(checkpoint: Checkpoint, image: Image | None = None) -> tuple[str, ...]:
    """What has to be known of a model, and of an image, before gates are read: in shell, panel and report."""
    kind, found = GATES[checkpoint.spec.gate], []
    if checkpoint.steps < SETTLED_STEPS and kind.thresholds and not checkpoint.place.get("settled"):
        found.append(
            f"The model was trained for only {checkpoint.steps} steps: up to about {SETTLED_STEPS}, the "
            "running statistics in its gates lag behind, and the maps show more zeros than there were in "
            "training."
        )
    if not kind.parts:
        found.append("The model has no gates: every skip passes whole, so there is no mask to show.")
    if image is None:
        return tuple(found)
    return (*found, *_plane(checkpoint, image), *unlike_training(checkpoint, image))


def _plane(checkpoint: Checkpoint, image: Image) -> Iterator[str]:
    """In which plane a network of pictures goes through a volume, where that is not the usual one."""
    geometry = image.geometry
    across = cut_axis(checkpoint.plan, geometry)
    if across and image.array.shape[1 + across] > 1:
        plane = " and ".join(geometry.axes[axis] for axis in seen_axes(geometry, checkpoint.plan))
        yield (
            f"The network sees slices across {geometry.axes[across]} one by one: look at the maps in the "
            f"plane of {plane}."
        )


def level_factors(model: ProSMAUNet, level: int, tiling: Tiling) -> tuple[int, ...]:
    """How much coarser the grid of a level is; axes that the network does not see stay as they are."""
    factor = model.spec.factor(level)
    return tuple(1 if axis in tiling.thin else factor for axis in range(len(tiling.size)))
