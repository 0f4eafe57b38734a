"""The plane in which a volume was acquired: its slices are what people look at, label and learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from napari_prosma.geometry import Geometry

AXES = ("z", "y", "x")
"""Names of the axes of a volume."""
AXIS_OF: dict[str, Literal[0, 1, 2]] = {"z": 0, "y": 1, "x": 2}
_THICKER = 1.05
"""A slice is thicker than the elements within it are wide by more than this factor."""


def slice_axis(geometry: Geometry) -> int:
    """Axis (0, 1 or 2) across which a volume was acquired slice by slice; 0 where nothing tells.

    The axis of the largest spacing; where no spacing is the largest, the one that the file's header tells.
    """
    if geometry.ndim != len(AXES) or geometry.axes[0] == "t":
        return 0
    thickest = _thickest(geometry.spacing)
    told = _told(geometry) if thickest is None else thickest
    return told or 0


def slice_in_words(axes: Sequence[str], at: Sequence[int | slice], size: Sequence[int] = ()) -> str:
    """Which slice of an image, counted as napari does, such as ``frame 3, slice y 12``; empty for a picture.

    ``at`` has a number along every axis that is cut, and ``size`` says how many there are, for the range.
    """
    said = []
    for axis, (name, number) in enumerate(zip(axes, at, strict=True)):
        if not isinstance(number, slice):
            what = {"t": "frame", "z": "slice"}.get(name, f"slice {name}")
            said.append(f"{what} {number}" + (f" (0 to {size[axis] - 1})" if size else ""))
    return ", ".join(said)


def _thickest(spacing: Sequence[float]) -> int | None:
    largest = max(range(len(spacing)), key=lambda axis: spacing[axis])
    others = max(s for axis, s in enumerate(spacing) if axis != largest)
    return largest if spacing[largest] > _THICKER * others else None


def _told(geometry: Geometry) -> int | None:
    """The axis that a NIfTI header calls that of the slices, or along which a series was stacked."""
    source = geometry.source
    if source is None:
        return None
    stored: int | None = len(AXES) - 1
    if source.nifti_header:
        import nibabel

        raw = source.nifti_header
        kind = nibabel.Nifti1Header if len(raw) == nibabel.Nifti1Header.sizeof_hdr else nibabel.Nifti2Header
        stored = kind(raw, check=False).get_dim_info()[2]
    return None if stored is None else source.order.index(stored)


def thin_axes(axes: int, dims: int, across: int = 0) -> tuple[int, ...]:
    """Those of the ``axes`` of an array that a network of ``dims`` dimensions does not see.

    ``across`` tells which one of a volume a network of pictures goes along.
    """
    return (across,) if axes == dims + 1 else tuple(range(axes - dims))
