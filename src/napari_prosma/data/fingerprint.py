"""A data set's fingerprint, and the ``Plan`` made from it: what is done to every image before the network.

The rules follow nnU-Net's published ones (Isensee et al. 2021) where they exist; ``docs/decisions`` says
where they differ. The plan travels in the checkpoint and is applied the same way in segmentation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_prosma.data.case import Case, Image
from napari_prosma.data.labels import IGNORE, count_classes
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.planes import AXES, slice_axis, thin_axes
from napari_prosma.errors import DataError

PLANAR_SIDE = 256
"""What a 2D network sees is shrunk so that its usual short side is this at most, unless that would lose what
is thin."""
THIN = 2.0
"""Pixels; labels of structures that are thinner on average lose a tenth of their Dice on the way back."""
PLANAR_PATCH_SIDE = 320
"""A 2D patch is no longer than this along either axis."""
MOST_CLASSES = IGNORE
"""Classes with the background; labels are held as bytes."""
BATCH_ELEMENTS = 2**18
"""On the CPU a batch holds about as many pixels or voxels as this; a 3D patch never more."""
BATCH_LIMITS = (2, 16)
"""Least and most patches in a batch."""
COARSE_AXIS = 3.0
"""An axis is coarse if its spacing is more than this times that of the finest (nnU-Net's rule)."""
USUAL_SIZE = 90
"""Percentile of the images' sizes that a segmentation window holds, if it need not be much larger."""
WIDEST_WINDOW = 4
"""A segmentation window has at most so many times the elements of a patch."""
AIR = -500
"""Whole numbers of one channel that begin below this are Hounsfield units."""
SAME_SPACING = 0.05
"""Spacings within this relative distance count as the same."""
HASH_BYTES = 20
"""A content hash is BLAKE2b of this length, 40 hexadecimal digits as git's: fast where nothing helps SHA."""


class Plan(BaseModel):
    """What is done to every image before the network, and in what pieces it goes there.

    Attributes
    ----------
    dims : 2 or 3
        Dimensions of the network; a 2D network goes through a volume slice by slice.
    channels : int
    axes : int
        Spatial axes of the training images; what has more is normalised piece by piece, as they were.
    class_names : tuple of str
        Background first.
    spacing : (n,) or None
        Spacing that images are resampled to, per axis, in ``unit``; None = as they are.
    unit : "mm", "um" or "pixel"
        Of ``spacing``.
    side : int or None
        Elements to which the short side of every 2D image is brought, whatever its size: such a model knows
        nothing of magnification. ``spacing`` is then what a usual training image was shrunk by. None = by
        ``spacing`` alone.
    native : (n,) or None
        Spacing that all training images had, if there was one: an image that does not know its size is taken
        to have it. Where ``spacing`` is the same, an image as close to it is not resampled.
    largest : (3,) or ()
        Sizes that no training volume of a 3D network exceeded, after resampling; () = not known.
    patch : (dims,)
        Training patch, in elements after resampling.
    window : (dims,)
        Segmentation window; by default the patch. A larger one holds a usual case whole.
    batch : int
        Patches per training step.
    intensity : "zscore" or "ct"
        Per image and channel to mean 0 and spread 1; or clipped to ``clip``, then by ``mean`` and ``std``.
    slice_axis : 0, 1 or 2
        Axis of a volume across which a 2D network goes slice by slice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    dims: Literal[2, 3]
    channels: int = Field(ge=1)
    axes: int = Field(default=0, ge=0)
    class_names: tuple[str, ...] = Field(min_length=2)
    spacing: tuple[float, ...] | None = None
    unit: str = Field(default="pixel", pattern="^(mm|um|pixel)$")
    side: int | None = Field(default=None, ge=1)
    native: tuple[float, ...] | None = None
    largest: tuple[int, ...] = ()
    patch: tuple[int, ...]
    window: tuple[int, ...] = ()
    batch: int = Field(ge=1)
    intensity: Literal["zscore", "ct"] = "zscore"
    clip: tuple[float, float] = (0.0, 0.0)
    mean: float = 0.0
    std: float = 1.0
    slice_axis: Literal[0, 1, 2] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Plan:
        if len(self.patch) != self.dims or min(self.patch) < 1:
            raise ValueError(f"patch {self.patch} must have {self.dims} positive sizes")
        if not self.window:
            object.__setattr__(self, "window", self.patch)
        if len(self.window) != self.dims or min(self.window) < 1:
            raise ValueError(f"window {self.window} must have {self.dims} positive sizes")
        if self.spacing is not None and min(self.spacing) <= 0:
            raise ValueError(f"spacing {self.spacing} must be positive")
        if self.intensity == "ct" and not (self.clip[0] < self.clip[1] and self.std > 0):
            raise ValueError(f"the CT rule needs clip limits and a spread, found {self.clip} and {self.std}")
        return self

    def agrees_with(self, other: Plan) -> bool:
        """Whether images are treated alike; how large those of training were does not matter."""
        return self == other.model_copy(update={"largest": self.largest})

    @property
    def out_channels(self) -> int:
        """Logits of the network: one for a single foreground class, else one per class with background."""
        return 1 if len(self.class_names) == 2 else len(self.class_names)

    def of_seen_axes(self, spacing: tuple[float, ...] | None) -> tuple[float, ...] | None:
        """Of a spacing as ``spacing`` that of the axes that the network sees (dims,)."""
        if spacing is None or len(spacing) == self.dims:
            return spacing
        return tuple(s for axis, s in enumerate(spacing) if axis != self.slice_axis)

    def grid_in_words(self) -> str:
        """What images are brought to."""
        if self.side is not None:
            return f"short side {self.side} pixels"
        if self.spacing is None:
            return "spacing as in the file"
        return f"spacing {' x '.join(f'{s:.4g}' for s in self.spacing)} {self.unit}"

    def dims_in_words(self) -> str:
        """Such as ``3D``, or ``2D in slices across x (plane of z and y)``."""
        if self.dims != 2 or self.axes != len(AXES):
            return f"{self.dims}D"
        across = AXES[self.slice_axis]
        plane = " and ".join(axis for axis in AXES if axis != across)
        return f"2D in slices across {across} (plane of {plane})"

    def in_words(self) -> str:
        """One line a person can check."""
        rule = (
            "each image to mean 0 and spread 1"
            if self.intensity == "zscore"
            else f"clipped to [{self.clip[0]:g}, {self.clip[1]:g}], minus {self.mean:g}, by {self.std:g}"
        )
        return (
            f"{self.dims_in_words()}, {self.channels} channel{'s' * (self.channels > 1)}, "
            f"classes {', '.join(self.class_names)}; {self.grid_in_words()}; patch "
            f"{' x '.join(map(str, self.patch))}, {self.batch} per step; intensity: {rule}"
        )


@dataclass(frozen=True)
class CaseFacts:
    """What the fingerprint keeps of one case: shape and spacing, a sample of its foreground, its hashes.

    ``image_hash`` and ``label_hash`` are :func:`content_hash` of the image (C, *spatial) and of the class
    indices (*spatial) as they were read.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    channels: int
    lowest: float
    whole_numbers: bool
    foreground: np.ndarray
    class_counts: np.ndarray
    image_hash: str
    label_hash: str
    notices: tuple[str, ...] = ()
    slice_axis: int = 0
    # per class, in pixels, within the acquired plane; see ``_thickness``
    thickness: tuple[float, ...] = ()

    def short_side(self, across: int) -> int:
        """Elements along the shorter axis of an image, or of a volume's plane ``across`` an axis."""
        thin = thin_axes(len(self.shape), 2, across)
        return min(n for axis, n in enumerate(self.shape) if axis not in thin)


def case_facts(case: Case, image: Image, label: np.ndarray) -> CaseFacts:
    """Facts of one labelled case; at most 10,000 foreground values are kept.

    Raises
    ------
    DataError
        The image is empty or not finite, or its label has another shape or holds no class numbers.
    """
    array = image.array
    if not array.size:
        raise DataError(f"the image of case '{case.name}' is empty: its shape is {array.shape[1:]}")
    if array.shape[1:] != label.shape:
        raise DataError(
            f"the label of case '{case.name}' has shape {label.shape} but its image has {array.shape[1:]}; "
            f"crop or re-export one of them"
        )
    if label.dtype.kind not in "bui" or label.min() < 0:
        raise DataError(
            f"the label of case '{case.name}' holds {label.dtype} from {label.min():g} on; give whole "
            f"numbers, 0 for the background"
        )
    if not np.all(np.isfinite(array)):
        raise DataError(f"the image of case '{case.name}' holds NaN or infinite values; re-export it")
    across = slice_axis(image.geometry)
    values = array[0][(label > 0) & (label != IGNORE)]
    step = max(1, values.size // 10_000)
    return CaseFacts(
        name=case.name,
        shape=tuple(label.shape),
        spacing=image.geometry.spacing,
        unit=image.geometry.unit,
        channels=array.shape[0],
        lowest=float(array.min()),
        whole_numbers=bool(np.issubdtype(array.dtype, np.integer) or np.all(array[0, ::7] % 1 == 0)),
        foreground=np.asarray(values[::step], dtype=np.float32),
        class_counts=count_classes(label),
        image_hash=content_hash(array),
        label_hash=content_hash(label),
        notices=image.notices,
        slice_axis=across,
        thickness=_thickness(label, across),
    )


def _thickness(label: np.ndarray, across: int) -> tuple[float, ...]:
    """Mean thickness of every class in pixels: twice its area over the length of its border.

    Of a volume in its slices ``across`` an axis. A line has its width, a disk .39 of its diameter. What is
    not labelled is no border; a class without one is infinitely thick, one that is not there is NaN.
    """
    if label.ndim not in (2, 3):
        return ()
    areas, borders = np.zeros(IGNORE), np.zeros(IGNORE)
    for plane in label[None] if label.ndim == 2 else np.moveaxis(label, across, 0):
        areas += np.bincount(plane[plane != IGNORE].ravel(), minlength=IGNORE)[:IGNORE]
        for along in (plane, plane.T):
            one, other = along[:-1], along[1:]
            differ = (one != other) & (one != IGNORE) & (other != IGNORE)
            for side in (one, other):
                borders += np.bincount(side[differ], minlength=IGNORE)[:IGNORE]
    classes = int(np.flatnonzero(areas).max(initial=-1)) + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return tuple(float(t) for t in 2 * areas[:classes] / borders[:classes])


class Thinnest(NamedTuple):
    """The foreground class whose structures are the thinnest in a usual image."""

    of_class: int
    thickness: float  # pixels
    side: int  # pixels to which the short side of a usual image may be shrunk without losing them


def thinnest(facts: Sequence[CaseFacts]) -> Thinnest | None:
    """The class that limits how far images may be shrunk; None where no label has a border."""
    found = []
    for index in range(1, max((len(fact.thickness) for fact in facts), default=0)):
        held = [fact for fact in facts if index < len(fact.thickness) and not np.isnan(fact.thickness[index])]
        if held:
            sides = [
                fact.short_side(fact.slice_axis) * min(1.0, THIN / fact.thickness[index]) for fact in held
            ]
            thickness = float(np.median([fact.thickness[index] for fact in held]))
            found.append(Thinnest(index, thickness, math.ceil(np.median(sides))))
    thin = max(found, key=lambda one: one.side, default=None)
    return None if thin is None or np.isinf(thin.thickness) else thin


def least_side(facts: Sequence[CaseFacts]) -> int:
    """Pixels to which the short side of a usual image may be shrunk without losing what is thin."""
    thin = thinnest(facts)
    return 0 if thin is None else thin.side


def planned_dims(facts: Sequence[CaseFacts], divisor: int, across: int) -> int:
    """2 for images and for volumes of fewer than ``divisor`` slices across an axis, else 3."""
    slices = [fact.shape[across] for fact in facts]
    return 2 if len(facts[0].shape) == 2 or np.median(slices) < divisor else 3


def content_hash(array: np.ndarray) -> str:
    """BLAKE2b of an array's type, shape and elements, as 40 hexadecimal digits.

    The same on every machine and however the array lies in memory; one plane is copied at a time at most.
    """
    kind = array.dtype.newbyteorder("<")
    found = hashlib.blake2b(f"{kind.str}{array.shape}".encode(), digest_size=HASH_BYTES)
    for index in np.ndindex(array.shape[:-2]):
        found.update(np.ascontiguousarray(array[index], dtype=kind).data)
    return found.hexdigest()


def hash_of_file(path: Path) -> str:
    """BLAKE2b of a file's bytes, as 40 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=HASH_BYTES)).hexdigest()


def balance_in_words(facts: Sequence[CaseFacts], class_names: Sequence[str]) -> str:
    """Share of every class in what is labelled, and in how many cases each foreground class occurs."""
    counts = np.zeros((len(facts), len(class_names)), dtype=np.int64)
    for row, fact in zip(counts, facts, strict=True):
        row[: len(fact.class_counts)] = fact.class_counts
    shares = counts.sum(axis=0) / max(1, counts.sum())
    cases = np.count_nonzero(counts, axis=0)
    parts = [f"{class_names[0]} {in_percent(shares[0], 1)}"]
    for name, share, number in list(zip(class_names, shares, cases, strict=True))[1:]:
        parts.append(f"{name} {in_percent(share, 1)} (in {number} of {len(facts)} cases)")
    return ", ".join(parts)


def read_facts(cases: Sequence[Case]) -> Iterator[CaseFacts]:
    """Read every case once, in order."""
    for case in cases:
        if case.read_label is None:
            raise DataError(f"case '{case.name}' has no label; training needs one for every case it is given")
        yield case_facts(case, case.read_image(), case.read_label())


def make_plan(
    facts: Sequence[CaseFacts],
    class_names: Sequence[str],
    dims: int | None = None,
    side: int | None = None,
    divisor: int = 16,
    batch_elements: int = BATCH_ELEMENTS,
    spacing: tuple[float, ...] | None = None,
    patch: tuple[int, ...] | None = None,
    batch: int | None = None,
    intensity: Literal["zscore", "ct"] | None = None,
    slice_axis: Literal[0, 1, 2] | None = None,
    same_scale: bool = False,
) -> Plan:
    """Plan for a data set of which ``facts`` are known; what is given is taken, the rest follows the rules.

    Parameters
    ----------
    facts : of every case
    class_names : background first
    dims : 2 or 3, optional
        By default 2 for images, 3 for volumes of at least ``divisor`` slices, else 2 (slice by slice).
    side : int, optional
        Limit of the short side of what a 2D network sees, in pixels; by default ``PLANAR_SIDE``, or more
        where what is thin would be lost. 2D images of which some have no physical size are all planned as if
        none had one.
    divisor : int
        Patch sizes are multiples of this.
    batch_elements : int
        About how many pixels or voxels fit into a training step.
    spacing, patch, batch, intensity, slice_axis : optional
        As in :class:`Plan`; slices are those of the plane in which most volumes were acquired.
    same_scale : bool
        2D images without a physical size have one magnification, as tiles of slides do: all are shrunk alike,
        and not each to the same short side.

    Raises
    ------
    DataError
        As :func:`require_one_kind`, or the cases do not fit what was chosen.
    """
    require_one_kind(facts, class_names)
    axes, channels = len(facts[0].shape), facts[0].channels
    shapes = np.array([f.shape for f in facts], dtype=float)
    spacings = np.array([f.spacing if f.unit != "pixel" else (1.0,) * axes for f in facts])
    across = most_common_slice_axis(facts) if slice_axis is None else slice_axis
    dims = dims or planned_dims(facts, divisor, across)
    if dims > axes:
        raise DataError("2D images cannot train a 3D network; choose dims 2")

    if spacing is not None and len(spacing) != axes:
        raise DataError(f"the images have {axes} axes but the chosen spacing {spacing} has {len(spacing)}")
    if patch is not None and len(patch) != dims:
        raise DataError(f"the network is {dims}D but the chosen patch {patch} has {len(patch)} sizes")
    units = {f.unit for f in facts}
    sizeless = axes == 2 and "pixel" in units and spacing is None and not same_scale
    if sizeless:  # not even those that say how large they are
        units, spacings = {"pixel"}, np.ones_like(spacings)
    seen = [axis for axis in range(axes) if dims == axes or axis != across][-dims:]
    side = side or max(PLANAR_SIDE, least_side(facts))
    native = _one_spacing(spacings) if len(units) == 1 and units != {"pixel"} else None
    target = spacing or _target_spacing(shapes, spacings, seen, side if dims == 2 else None) or native
    short = np.median(shapes.min(axis=1))
    each = None
    if sizeless:
        each = round(short if target is None else short / target[0])
    if target is not None and len(units) > 1:
        raise DataError(
            f"the images measure their size in different units ({', '.join(sorted(units))}), so they "
            f"cannot be brought to one spacing; train on one kind at a time"
        )
    sizes = shapes if target in (None, native) else shapes * spacings / np.array(target)
    sizes = (sizes if each is None else each * shapes / shapes.min(axis=1, keepdims=True))[:, seen]
    window = patch
    if patch is None:
        patch = _patch(np.median(sizes, axis=0), divisor, batch_elements)
        window = _window(np.percentile(sizes, USUAL_SIZE, axis=0), patch, divisor)
    batch = batch or int(np.clip(batch_elements // int(np.prod(patch)), *BATCH_LIMITS))
    asked_for_ct = intensity == "ct"
    if intensity is None:
        is_ct = all(f.lowest <= AIR and f.channels == 1 and f.whole_numbers for f in facts)
        intensity = "ct" if is_ct else "zscore"
    plan = Plan(
        dims=2 if dims == 2 else 3,
        channels=channels,
        axes=axes,
        class_names=tuple(class_names),
        spacing=target,
        unit=units.pop(),
        side=each,
        native=native,
        patch=patch,
        window=window or patch,
        batch=batch,
        slice_axis=across if dims < axes else 0,
    )
    if intensity == "zscore":
        return plan
    values = np.concatenate([f.foreground for f in facts])
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if not low < high and asked_for_ct:
        raise DataError(
            f"the foreground has the single gray value {low:g}, which gives the CT rule no limits; choose "
            f"the intensity zscore"
        )
    if not low < high:
        return plan
    values = values.clip(low, high)
    ct = {"intensity": "ct", "clip": (low, high), "mean": float(values.mean()), "std": float(values.std())}
    return Plan(**{**plan.model_dump(), **ct})


def most_common_slice_axis(facts: Sequence[CaseFacts]) -> Literal[0, 1, 2]:
    """Axis across which most of the volumes were acquired."""
    counts = np.bincount([fact.slice_axis for fact in facts], minlength=len(AXES))
    found: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    return found[int(np.argmax(counts))]


def require_one_kind(facts: Sequence[CaseFacts], class_names: Sequence[str]) -> None:
    """Refuse cases that one network cannot learn from together.

    Raises
    ------
    DataError
        No case, volumes among 2D images, different channels, no foreground, or a class without a name.
    """
    if not facts:
        raise DataError("there is no labelled case to learn from; give at least one image with a label")
    first = facts[0]
    if len(first.shape) not in (2, 3):
        raise DataError(
            f"the image of '{first.name}' has {len(first.shape)} axes {first.shape}, as a time series of "
            f"volumes has, and a network sees 2 or 3; save every frame as an image of its own"
        )
    for other in facts:
        if len(other.shape) != len(first.shape):
            raise DataError(
                f"the data set mixes 2D images and volumes: '{first.name}' has {len(first.shape)} axes, "
                f"'{other.name}' has {len(other.shape)}; train on one kind at a time"
            )
        if other.channels != first.channels:
            raise DataError(
                f"the images have different numbers of channels: '{first.name}' has {first.channels}, "
                f"'{other.name}' has {other.channels}; convert them to one"
            )
    if not any(f.class_counts[1:].sum() for f in facts):
        raise DataError(
            "no label has any foreground: every mask is empty (255 counts as not labelled); check that the "
            "masks belong to these images and that their foreground is not stored as 0"
        )
    most = max(facts, key=lambda f: len(f.class_counts))
    highest = len(most.class_counts) - 1
    if highest >= MOST_CLASSES:
        raise DataError(
            f"the label of '{most.name}' holds class {highest} but {MOST_CLASSES - 1} is the highest there "
            f"can be; if the numbers count objects, give all objects of a kind one number"
        )
    if highest >= len(class_names):
        raise DataError(
            f"the label of '{most.name}' holds class {highest} but only {len(class_names)} classes are "
            f"named: {', '.join(class_names)}; name every class, background first"
        )


def require_fit(facts: Sequence[CaseFacts], plan: Plan) -> None:
    """Refuse cases that a plan made from others does not fit.

    Raises
    ------
    DataError
        As :func:`require_one_kind`, and when the plan has other channels or more axes.
    """
    require_one_kind(facts, plan.class_names)
    first = facts[0]
    if first.channels != plan.channels or len(first.shape) < plan.dims:
        raise DataError(
            f"the plan is for {plan.dims}D images of {plan.channels} channel(s) but '{first.name}' has "
            f"{len(first.shape)} axes and {first.channels} channel(s); give images like those that it was "
            f"made from, or start a new run without the plan"
        )


def _one_spacing(spacings: np.ndarray) -> tuple[float, ...] | None:
    """The median of (n, axes) where all agree with it."""
    usual = np.median(spacings, axis=0)
    is_one = np.all(np.abs(spacings / usual - 1) <= SAME_SPACING)
    return tuple(float(s) for s in usual) if is_one else None


def _target_spacing(
    shapes: np.ndarray, spacings: np.ndarray, seen: Sequence[int], side: int | None
) -> tuple[float, ...] | None:
    """Spacing that suits most cases; along the axes ``seen`` coarse enough that the short side fits.

    None where all have one that suits.
    """
    usual, is_alike = np.median(spacings, axis=0), _one_spacing(spacings) is not None
    target = usual.copy()
    if not is_alike:
        coarse = usual > COARSE_AXIS * usual.min()
        target = np.where(coarse, np.percentile(spacings, 10, axis=0), usual)
    if side is not None:
        zoom = float(np.median((shapes * spacings / target)[:, seen].min(axis=1))) / side
        if zoom > 1 + SAME_SPACING:
            target[list(seen)] *= zoom
            is_alike = False
    return None if is_alike else tuple(float(s) for s in target)


def _patch(size: np.ndarray, divisor: int, most: int) -> tuple[int, ...]:
    """Median size in multiples of ``divisor``, cut down along its longest axis until it fits the limits."""
    patch = np.maximum(np.round(size / divisor), 1).astype(int) * divisor
    if len(patch) == 2:
        patch = np.minimum(patch, PLANAR_PATCH_SIDE // divisor * divisor)
    else:
        while np.prod(patch) > most and patch.max() > divisor:
            patch[np.argmax(patch)] -= divisor
    return tuple(int(n) for n in patch)


def _window(size: np.ndarray, patch: tuple[int, ...], divisor: int) -> tuple[int, ...]:
    """The window that holds an image of ``size`` whole, or the patch where that would be too large."""
    window = np.maximum(np.ceil(size / divisor).astype(int) * divisor, patch)
    return tuple(int(n) for n in window) if np.prod(window) <= WIDEST_WINDOW * np.prod(patch) else patch
