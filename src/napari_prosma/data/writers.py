"""Results -> files that lie exactly over the image they belong to, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Image
from napari_prosma.data.class_colours import colour_of
from napari_prosma.data.formats import (
    contours,
    dicom_seg,
    itksnap,
    metaimage,
    nifti,
    nrrd,
    ome_zarr,
    pictures,
    tiff,
)
from napari_prosma.data.formats.dicom_results import Source
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

if TYPE_CHECKING:
    from napari_prosma.data.formats.dicom import Series

SUFFIXES = (".png", *tiff.SUFFIXES, ".nii", ".nii.gz", ".nrrd", ".mha", *ome_zarr.SUFFIXES)
SEG, RTSTRUCT = ".seg.dcm", ".rtstruct.dcm"
DICOM_SUFFIXES = (".dcm",)
"""Of objects that only a result of a DICOM series becomes; see :func:`write_dicom`."""
_BY_SUFFIX = (nifti, tiff, nrrd, metaimage, ome_zarr, pictures)
_UNSIGNED = (np.uint8, np.uint16, np.uint32)


def write_labels(
    path: str | Path,
    labels: np.ndarray,
    geometry: Geometry,
    class_names: Sequence[str] = (),
    shown: pictures.Shown = "numbers",
) -> Path:
    """Write class indices (*spatial), whose ``geometry`` is that of the image, as the suffix says.

    NIfTI gets the shape, axis order, affine, codes and units of the image's own file, bit for bit. PNG and
    TIFF hold the indices themselves as gray values (class 1 is the value 1, which looks black), unless a PNG
    is to be ``shown`` white or in colours; TIFF and OME-Zarr hold our axis order. NRRD and MetaImage get the
    frame of the image too; its numbers are the same digit for digit when it came from the same format or, for
    NRRD, from any. The type is the smallest of uint8, uint16 and uint32 that holds the labels. Class names
    are kept by NIfTI (header extension, JSON), NRRD (Slicer segments), MetaImage (comment), OME-Zarr
    (``image-label``), PNG and TIFF (metadata).

    Raises
    ------
    DataError
        When the format cannot hold the result or the file cannot be written; then nothing is left behind.
    """
    path = Path(path)
    _require_shape(path, labels.shape, geometry)
    small = _smallest(path, labels)
    names = tuple(class_names)
    module = _format(path)
    with written_whole(path) as temporary:
        if module is pictures:
            pictures.write_labels(temporary, small, names, shown)
        elif module in (nifti, tiff):
            module.write_labels(temporary, small, geometry, names)
        else:
            module.write(temporary, small, geometry, names)
    return path


def write_dicom(
    path: str | Path,
    result: np.ndarray,
    series: Series | None,
    class_names: Sequence[str] = (),
    meanings: Mapping[str, str] | None = None,
    by_hand: bool = False,
) -> Path:
    """Write a result of a DICOM series as an object of its study, exactly over its slices.

    The object carries the identity of the patient, as the series does; NIfTI does not.

    Parameters
    ----------
    path : ending in ``.rtstruct.dcm`` for contours, else in ``.dcm`` for a SEG
    result : class indices (*spatial), or probabilities (K, *spatial) of all classes
        They become binary or fractional segments.
    series : Series
        Of :attr:`Image.series`; None is told as an error.
    class_names : names, background first
    meanings : class name -> SNOMED CT term or ``CODE^SCHEME^TEXT``, optional
    by_hand : bool
        Whether a person corrected the result.

    Raises
    ------
    ConfigError
        highdicom is not installed, or a meaning is not known.
    DataError
        The image is no DICOM series or is not there any longer, or the file cannot be written; then nothing
        is left behind.
    """
    path = Path(path)
    if series is None:
        raise DataError(
            f"'{path.name}': only an image that was read from DICOM can get a result in DICOM, which refers "
            "to its series; write NIfTI, or open the series itself"
        )
    fractional = result.ndim == len(series.shape) + 1
    if result.shape[-len(series.shape) :] != series.shape:
        raise DataError(
            f"'{path.name}': the result has shape {result.shape} but the series has {series.shape}; give the "
            "series that it was made of"
        )
    if fractional:
        planes = np.stack([series.planes_of(one) for one in result[1:]], axis=-1)
        count = len(result) - 1
    else:
        planes = series.planes_of(_smallest(path, result))
        count = max(len(class_names) - 1, int(result.max(initial=0)), 1)
    names = [*class_names[1:], *(f"label {k}" for k in range(max(1, len(class_names)), count + 1))]
    segments = [
        dicom_seg.Segment(name, colour_of(k), (meanings or {}).get(name, ""))
        for k, name in enumerate(names, 1)
    ]
    is_contours = path.name.lower().endswith(RTSTRUCT)
    if is_contours and fractional:
        raise DataError(f"'{path.name}': contours hold no probabilities; write a DICOM SEG")
    with written_whole(path) as temporary:
        if is_contours:
            contours.write(temporary, planes, Source(series), segments, by_hand)
        else:
            dicom_seg.write(temporary, planes, series, segments, by_hand)
    return path


def write_descriptions(path: str | Path, class_names: Sequence[str]) -> Path:
    """Write names and colours of the classes for ITK-SNAP, which NIfTI does not tell it.

    Raises
    ------
    DataError
        The file cannot be written; then nothing is left behind.
    """
    path = Path(path)
    with written_whole(path) as temporary:
        itksnap.write(temporary, class_names)
    return path


def write_map(path: str | Path, array: np.ndarray, geometry: Geometry) -> Path:
    """Write a map (C, *spatial) or (*spatial), such as probabilities, as float32.

    PNG holds one plane of values from 0 to 1 as 16 bits, 65535 = 1.

    Raises
    ------
    DataError
        As :func:`write_labels`.
    """
    path = Path(path)
    array = array[0] if array.ndim == geometry.ndim + 1 and len(array) == 1 else array
    _require_shape(path, array.shape[-geometry.ndim :], geometry)
    array = array.astype(np.float32, copy=False)
    module = _format(path)
    with written_whole(path) as temporary:
        if module is pictures:
            pictures.write_map(temporary, array)
        elif module in (nifti, tiff):
            module.write_map(temporary, array, geometry)
        else:
            module.write(temporary, array, geometry)
    return path


def write_image(path: str | Path, image: Image) -> Path:
    """Write an image as OME-Zarr, the one format that keeps all of it, bit for bit.

    That is its type, channels, spacing, origin, unit and patient frame.

    Raises
    ------
    DataError
        When the suffix is another one or the file cannot be written; then nothing is left behind.
    """
    path = Path(path)
    if not path.name.lower().endswith(ome_zarr.SUFFIXES):
        raise DataError(f"'{path}': images are kept as OME-Zarr; choose the suffix .ome.zarr")
    # A single channel gets no axis: of a volume with one slice it would be taken for a plane.
    array = image.array[0] if len(image.array) == 1 else image.array
    with written_whole(path) as temporary:
        ome_zarr.write(temporary, array, image.geometry)
    return path


def _format(path: Path) -> ModuleType:
    name = path.name.lower()
    for module in _BY_SUFFIX:
        if name.endswith(module.SUFFIXES):
            return module
    raise DataError(f"'{path}': results are written as {', '.join(SUFFIXES)}; choose one of these suffixes")


def _smallest(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"'{path.name}': labels are {labels.dtype}, not whole numbers; write them as a map")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    fitting = [kind for kind in _UNSIGNED if high <= np.iinfo(kind).max]
    if low < 0 or not fitting:
        raise DataError(f"'{path.name}': labels run from {low} to {high}; class indices start at 0")
    return labels.astype(fitting[0], copy=False)


def _require_shape(path: Path, shape: tuple[int, ...], geometry: Geometry) -> None:
    if len(shape) != geometry.ndim:
        raise DataError(
            f"'{path.name}': the result has shape {shape} but its image has {geometry.ndim} axes; "
            "give the geometry of the image that the result belongs to"
        )
