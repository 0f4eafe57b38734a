"""Whether two models may be held against each other, and whether an image is what a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PureWindowsPath
from typing import Any

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.data.labels import LabelRule, highest_class
from napari_prosma.data.preparation import grid_size, seen_axes, size_in_words
from napari_prosma.errors import DataError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.model.checkpoint import Checkpoint

_MAY_DIFFER = {
    *("gate", "gate_options", "gated_levels", "run_dir", "device", "precision", "threads", "compile"),
    *("tensorboard", "minutes", "epochs", "steps_per_epoch", "plan", "data", "labels"),
    *("spacing", "patch", "batch", "intensity", "dims", "widths", "entry", "fold"),
}
"""Settings that say nothing by themselves: a plan's values, network, split and steps are compared as such."""
_NETWORK = ("network", "widths", "entry")
_NEVER_NEGATIVE = ("ultrasound", "endoscopy")
_COLOURED = 0.1
"""Channels that differ by more than this share of the values' range are colours, not gray kept as JPEG."""
_FLAT = 8
"""An image is flat along an axis if the patches of training were more than so many times as long."""
_NEAR = 0.9
"""As many steps, but for what an epoch more or less makes."""


def not_an_ablation(first: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    """What differs between two models besides the gate, in words; empty for an ablation.

    Of the data, a model knows the names of the cases and of their folder, wherever that lies now.
    """
    found = []
    if first.split != other.split:
        found.append("split")
    both = [each.config["data"] for each in (first, other) if each.config.get("data")]
    folders = [PureWindowsPath(str(path)).name for path in both]  # takes / and \\
    if len({*folders}) > 1:
        found.append(f"data folder ('{folders[1]}' instead of '{folders[0]}')")
    if not first.plan.agrees_with(other.plan):
        found.append("plan")
    if any(getattr(first.spec, part) != getattr(other.spec, part) for part in _NETWORK):
        found.append("network")
    if not _near(first.steps, other.steps) and not _set_to_the_same(first, other):
        found.append(f"steps ({other.steps} instead of {first.steps})")
    found += [name.replace("_", " ") for name in _settings_that_differ(first.config, other.config)]
    return tuple(found)


def ablation_in_words(name: str, first: Checkpoint, other_name: str, other: Checkpoint) -> str:
    """In what the other model differs besides its gate, a sentence; empty for an ablation of the first.

    Of two trainings of one length, the best models may be of different epochs, which is said.
    """
    apart = not_an_ablation(first, other)
    if apart:
        return f"{other_name} is no gate ablation of {name}: they differ in {', '.join(apart)}."
    if _near(first.steps, other.steps):
        return ""
    return f"{other_name} was kept after {other.steps} of {_set_to(first)} steps, {name} after {first.steps}."


def as_learned(
    checkpoint: Checkpoint, label: np.ndarray, read_by: Callable[[LabelRule], np.ndarray]
) -> tuple[np.ndarray, str]:
    """A label with more classes than the model, such as one that numbers its objects, as training read them.

    Parameters
    ----------
    label : (*spatial) class indices
    read_by : LabelRule -> (*spatial) class indices
        Reads the label again; raises ``DataError`` where a value has no class.

    Returns
    -------
    Class indices, and what to say of them: as they were given, and nothing, where they fit the model or its
    own labels were stored otherwise.
    """
    rule = checkpoint.label_rule
    if rule is None or highest_class(label) < len(checkpoint.plan.class_names):
        return label, ""
    if rule.kind == "above":  # by brightness, small numbers of objects would all be background
        return label, ""
    try:
        read = read_by(rule)
    except DataError:  # stored otherwise: what was given is refused with the names of the classes
        return label, ""
    return read, f"The label is read as those that the model learned from: {rule.in_words()}."


def is_another_training(first: Checkpoint, other: Checkpoint) -> bool:
    """The same gate on the same grid, trained with another seed: how alike two masks can be.

    ``apart_besides_seed`` says whether it was on the same data.
    """
    return (
        first.spec == other.spec
        and first.plan.agrees_with(other.plan)
        and first.config.get("seed") != other.config.get("seed")
    )


def apart_besides_seed(first: Checkpoint, other: Checkpoint) -> str:
    """What two trainings differ in besides their seed, in words; empty where nothing else is known to differ.

    Which cases were learned from comes first: a seed splits the cases anew, too.
    """
    parts = [part for part in not_an_ablation(first, other) if part not in ("split", "seed")]
    own, theirs = (set(each.split.get("training", ())) for each in (first, other))
    if own != theirs:
        both = "unknown for one"
        if own and theirs:
            both = f"{len(own & theirs)} in common, of {len(own)} and {len(theirs)}"
        parts.insert(0, f"training cases ({both})")
    return ", ".join(parts)


def _near(steps: int, others: int) -> bool:
    return min(steps, others) >= _NEAR * max(steps, others)


def _set_to_the_same(first: Checkpoint, other: Checkpoint) -> bool:
    """Whether two trainings were set to as many steps, whichever of their epochs was kept."""
    lengths = [_set_to(each) for each in (first, other)]
    return all(lengths) and _near(*lengths)


def _set_to(checkpoint: Checkpoint) -> int:
    """How many steps a training was to make; 0 where that is not told, as where the time limited it.

    Nor is it for one that started from a model, whose steps are counted with its own.
    """
    config = checkpoint.config
    epochs = config.get("epochs") or UNLIMITED_EPOCHS
    if config.get("minutes") or config.get("start_from") or epochs >= UNLIMITED_EPOCHS:
        return 0
    return int(epochs * (config.get("steps_per_epoch") or checkpoint.place.get("steps") or 0))


def _settings_that_differ(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = [name for name in first if name in other and name not in _MAY_DIFFER]
    return [name for name in names if first[name] != other[name]]


def unlike_training(checkpoint: Checkpoint, image: Image) -> tuple[str, ...]:
    """What shows that an image is not of the kind a model was trained on, a sentence each.

    Number of axes, unit, size and range of the values: what a plan tells. A model knows no more of them.
    """
    plan, found = checkpoint.plan, []
    axes, unit = image.geometry.ndim, image.geometry.unit
    if plan.axes and axes != plan.axes:
        found.append(
            f"The model was trained on images with {plan.axes} axes, this one has {axes}: what its gates "
            "show here says little about what they learned."
        )
    knows_none = plan.side is not None or (plan.native is not None and unit == "pixel")
    if (plan.unit == "pixel") != (unit == "pixel") and plan.spacing is not None and not knows_none:
        here = "none" if unit == "pixel" else unit
        there = "none" if plan.unit == "pixel" else plan.unit
        found.append(
            f"The model was trained on images with the unit {there}, this one has {here}: it may be of "
            "another kind."
        )
    if plan.intensity == "ct" and float(np.min(image.array)) >= 0:
        found.append(
            "The model was trained on CT in Hounsfield units, but no value of this image is negative: it "
            "may have other units."
        )
    modality = checkpoint.config.get("modality")
    if modality in _NEVER_NEGATIVE and (lowest := float(np.min(image.array))) < 0:
        found.append(
            f"The model was trained on {modality}, whose values are not negative, but this image has values "
            f"down to {lowest:g}: it may be of another kind."
        )
    size = grid_size(image.array.shape[1:], image.geometry, plan)
    for axis, trained in zip(seen_axes(image.geometry, plan), plan.patch, strict=True):
        if _FLAT * size[axis] < trained:
            found.append(
                f"Along {image.geometry.axes[axis]} the image has {size[axis]} "
                f"position{'s' * (size[axis] != 1)} for the network, whose patches had {trained}: what its "
                "gates show says little."
            )
    return (*found, *(f"{said}." for said in size_in_words(image.array.shape[1:], image.geometry, plan)))


def noting_gray(fitting: Image, given: Image) -> Image:
    """The image as it fits a model, with a notice where its colours became gray."""
    if len(given.array) != 3 or len(fitting.array) != 1:
        return fitting
    apart = np.ptp(given.array, axis=0).max(initial=0)
    if not apart > _COLOURED * np.ptp(given.array):
        return fitting
    said = "The image has colours; the model was trained on gray images, so it is read as gray."
    return replace(fitting, notices=(*fitting.notices, said))
