"""``Geometry``: where an array lies in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

Affine = tuple[tuple[float, ...], ...]
_SKEWED = 1e-3  # cosine of the angle between two axes


@dataclass(frozen=True)
class SourceFrame:
    """How an array was stored in its file, so that a result is written back exactly over it.

    Attributes
    ----------
    affine : 4 x 4 rows
        Stored voxel index (i, j, k) to patient RAS+ in mm, bit for bit as in the file.
    order : (n,)
        Axis ``n`` of our array is axis ``order[n]`` of the stored one.
    flipped : (n,)
        Whether axis ``n`` of our array runs against the stored one.
    nifti_header : bytes
        The stored NIfTI header, for what ``affine`` cannot say (qform, codes, units); else empty.
    metaimage : 15 numbers
        Spacing, direction and origin as a MetaImage stored them, whose product ``affine`` is; else empty.
    """

    affine: Affine
    order: tuple[int, ...]
    flipped: tuple[bool, ...]
    nifti_header: bytes = field(default=b"", repr=False)
    metaimage: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def canonical(
        cls, affine: np.ndarray, nifti_header: bytes = b"", metaimage: tuple[float, ...] = ()
    ) -> SourceFrame:
        """Frame whose array axes run to the head, to the back and to the patient's left.

        Raises
        ------
        ValueError
            When ``affine`` is singular or not finite.
        """
        from nibabel.orientations import io_orientation

        if not np.all(np.isfinite(affine)) or np.linalg.matrix_rank(affine[:3, :3]) < 3:
            raise ValueError(f"affine {np.asarray(affine).tolist()} is singular")
        world_axis, direction = io_orientation(affine).T
        order = tuple(int(np.flatnonzero(world_axis == axis)[0]) for axis in (2, 1, 0))
        towards = (1, -1, -1)  # RAS+ runs to the head, the front and the right
        flipped = tuple(bool(direction[n] != sign) for n, sign in zip(order, towards, strict=True))
        rows = tuple(tuple(float(value) for value in row) for row in affine)
        return cls(rows, order, flipped, nifti_header, metaimage)

    @property
    def is_turned(self) -> bool:
        """Whether our array is flipped against the stored one, or has its axes in another order."""
        return any(self.flipped) or list(self.order) != sorted(self.order, reverse=True)

    @property
    def is_sheared(self) -> bool:
        """Whether the stored axes are not at right angles, as those of a CT with a tilted gantry."""
        columns = np.asarray(self.affine)[:3, :3]
        columns = columns / np.linalg.norm(columns, axis=0)
        return bool(np.abs(columns.T @ columns - np.eye(3)).max() > _SKEWED)

    def array_affine(self, shape: tuple[int, ...]) -> np.ndarray:
        """Index (z, y, x) of our array of ``shape`` ([t,] z, y, x) to patient RAS+, 4 x 4."""
        shape = shape[-len(self.order) :]
        to_stored = np.zeros((4, 4))
        to_stored[3, 3] = 1
        for axis, (stored, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            to_stored[stored, axis] = -1 if flip else 1
            to_stored[stored, 3] = shape[axis] - 1 if flip else 0
        return np.asarray(self.affine) @ to_stored

    def to_array(self, stored: np.ndarray) -> np.ndarray:
        """View of a stored array (stored axes first, further axes kept behind) in our order."""
        behind = tuple(range(len(self.order), stored.ndim))
        array = np.transpose(stored, self.order + behind)
        return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)]

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_array`."""
        array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)]
        behind = tuple(range(len(self.order), array.ndim))
        return np.transpose(array, tuple(int(n) for n in np.argsort(self.order)) + behind)


@dataclass(frozen=True)
class Geometry:
    """Where an array lies in space, axis by axis in napari's order: (z, y, x) or (y, x).

    Volumes with a patient frame are held with x to the patient's left, y to the back, z to the head
    (as DICOM and radiologists have it), so that a slice shows as on a workstation.

    Attributes
    ----------
    spacing : (n,)
        Distance between neighbouring elements along each axis, in ``unit``, positive.
    origin : (n,)
        Position of element 0 along each axis, in ``unit``.
    unit : "mm", "um" or "pixel"
    axes : (n,) names
    source : SourceFrame, optional
        Present where the file told where the patient lies; of the last three axes.
    frame_seconds : float
        Time between neighbouring frames of a time series; 0 where it is not known. Along the axis ``t``
        itself elements are counted: its spacing is 1.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    unit: str = "pixel"
    axes: tuple[str, ...] = ()
    source: SourceFrame | None = None
    frame_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.axes:
            object.__setattr__(self, "axes", ("t", "z", "y", "x")[-len(self.spacing) :])
        lengths = {len(self.spacing), len(self.origin), len(self.axes)}
        if len(lengths) != 1:
            raise ValueError(f"spacing, origin and axes disagree in length: {self}")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"spacing must be positive and finite, found {self.spacing}")

    @classmethod
    def pixels(cls, ndim: int) -> Geometry:
        """Geometry of an array that says nothing about its size in space."""
        return cls((1.0,) * ndim, (0.0,) * ndim)

    @property
    def ndim(self) -> int:
        return len(self.spacing)

    @classmethod
    def patient(cls, source: SourceFrame, shape: tuple[int, ...], unit: str = "mm") -> Geometry:
        """Geometry of the array of ``shape`` ([t,] z, y, x) that ``source`` describes, in patient LPS."""
        affine = source.array_affine(shape)
        spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
        left, back, head = affine[:3, 3] * (-1, -1, 1) + 0.0  # no negative zero
        time = len(shape) - len(source.order)
        origin = (0.0,) * time + (float(head), float(back), float(left))
        return cls((1.0,) * time + spacing, origin, unit, ("t",) * time + ("z", "y", "x"), source)

    def in_mm(self, shape: tuple[int, ...]) -> np.ndarray:
        """Index of an array of ``shape`` ([t,] z, y, x) with a frame to patient RAS+ in mm, 4 x 4."""
        assert self.source is not None
        scale = 1e-3 if self.unit == "um" else 1.0
        return np.diag((scale, scale, scale, 1.0)) @ self.source.array_affine(shape)

    @property
    def tilt(self) -> float:
        """Largest angle in degrees between an axis of the array and the patient's; 0 without a frame."""
        if self.source is None:
            return 0.0
        columns = np.asarray(self.source.affine)[:3, :3]
        along = np.abs(columns).max(axis=0) / np.linalg.norm(columns, axis=0)
        return float(np.degrees(np.arccos(np.clip(along, -1, 1))).max())

    def described(self) -> dict[str, object]:
        """The geometry in words and plain numbers, for a layer's metadata."""
        facts: dict[str, object] = {"axes": self.axes, "spacing": self.spacing, "unit": self.unit}
        if self.frame_seconds:
            facts["seconds per frame"] = self.frame_seconds
        if self.source is not None:
            facts["directions"] = {"z": "feet to head", "y": "front to back", "x": "right to left"}
            facts["tilt in degrees"] = round(self.tilt, 3)
            facts["stored affine (RAS+)"] = self.source.affine
        return facts

    def still(self) -> Geometry:
        """Geometry of one frame of a time series."""
        return replace(
            self, spacing=self.spacing[1:], origin=self.origin[1:], axes=self.axes[1:], frame_seconds=0.0
        )

    def plane(self, axes: Sequence[int] = (-2, -1)) -> Geometry:
        """Geometry of one slice along two axes, without the patient frame."""
        first, second = axes
        spacing = (self.spacing[first], self.spacing[second])
        origin = (self.origin[first], self.origin[second])
        return Geometry(spacing, origin, self.unit, (self.axes[first], self.axes[second]))

    def coarsened(self, factors: tuple[float, ...], shape: tuple[int, ...]) -> Geometry:
        """Geometry of a grid whose elements cover ``factors`` of ours each, over our array of ``shape``.

        Both begin at the same outer edge: element i covers ours from f*i to f*i + f - 1, so its centre lies
        at f*i + (f - 1) / 2. A patient frame is carried over.
        """
        shift = [(f - 1) / 2 for f in factors]
        origin = tuple(o + d * s for o, d, s in zip(self.origin, shift, self.spacing, strict=True))
        spacing = tuple(f * s for f, s in zip(factors, self.spacing, strict=True))
        source = None
        if self.source is not None:
            to_ours = np.diag((*factors[-3:], 1.0))
            to_ours[:3, 3] = shift[-3:]
            affine = (self.source.array_affine(shape) @ to_ours)[:, [2, 1, 0, 3]]
            rows = tuple(tuple(float(value) for value in row) for row in affine)
            source = SourceFrame(rows, order=(2, 1, 0), flipped=(False, False, False))
        return replace(self, spacing=spacing, origin=origin, source=source)
