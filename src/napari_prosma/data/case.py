"""``Case``: an image with its label, read when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.geometry import Geometry as Geometry  # known from here, too

if TYPE_CHECKING:
    from napari_prosma.data.formats.dicom import Series


@dataclass(frozen=True)
class Header:
    """What a file says of its image before the image is read: channels, spatial ``shape``, ``geometry``."""

    channels: int
    shape: tuple[int, ...]
    geometry: Geometry


@dataclass(frozen=True)
class Image:
    """An image in memory: ``array`` is (C, *spatial), ``geometry`` describes its spatial axes.

    ``notices`` say what was decided while reading, such as a slice missing from a series. ``series`` is the
    DICOM series that it was read from, if any, to which results may refer.
    """

    array: np.ndarray
    geometry: Geometry
    notices: tuple[str, ...] = ()
    series: Series | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != self.geometry.ndim + 1:
            raise ValueError(f"array {self.array.shape} does not fit {self.geometry.ndim} axes and channels")


@dataclass(frozen=True)
class Pyramid:
    """An image that is read where it is looked at.

    Attributes
    ----------
    levels : arrays (C, *spatial)
        Finest first; dask arrays, memory maps or plain arrays.
    factors : per level, per spatial axis
        How many elements of the finest level one element covers.
    geometry : Geometry
        Of the finest level.
    """

    levels: tuple[Any, ...]
    factors: tuple[tuple[float, ...], ...]
    geometry: Geometry
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One image and, where there is one, its label; nothing is read before it is asked for.

    Attributes
    ----------
    name : str
        Unique within a data set; results are named after it.
    read_image : () -> Image
    read_label : () -> (*spatial) integer array, optional
        Class indices, 0 = background.
    files : paths
        What the case is made of, image first; empty for layers.
    group : str, optional
        The folder or class it came from (``benign``, ``malignant``).
    split : "train", "val", "test" or ""
        What it was set apart for, where its data set says so.
    patient : str, optional
        Cases of one patient stay on one side of every split.
    series : optional
        Of DICOM, where ``files`` tell no more than its first file.
    label_notices : () -> sentences, optional
        What was left out or decided when the label was read, where its format gives cause.
    """

    name: str
    read_image: Callable[[], Image]
    read_label: Callable[[], np.ndarray] | None = None
    files: tuple[Path, ...] = field(default=())
    group: str = ""
    split: str = ""
    patient: str = ""
    series: Series | None = None
    label_notices: Callable[[], tuple[str, ...]] | None = None

    @classmethod
    def from_arrays(
        cls, name: str, image: np.ndarray, label: np.ndarray | None = None, geometry: Geometry | None = None
    ) -> Case:
        """Case of arrays in memory; ``image`` is (C, *spatial), ``label`` (*spatial)."""
        held = Image(image, geometry or Geometry.pixels(image.ndim - 1))
        return cls(name, lambda: held, None if label is None else lambda: label)
