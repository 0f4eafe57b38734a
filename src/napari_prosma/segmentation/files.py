"""One image file becomes files: its labels, and whatever else was asked for, each over the image itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.data.formats import dicom_seg
from napari_prosma.data.formats.dicom_results import Source
from napari_prosma.data.layouts import case_from_files
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.names import fitting_name
from napari_prosma.data.preparation import filled
from napari_prosma.data.readers import as_channels, read_image, stem
from napari_prosma.data.writers import RTSTRUCT, SEG, write_descriptions, write_dicom, write_labels, write_map
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, result_of
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import Segmentation, named
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.segmentation.cleaning import Cleaning, cleaned
from napari_prosma.segmentation.confidence import entropy
from napari_prosma.segmentation.regions import element_size, region_rows, regions
from napari_prosma.segmentation.segment import segment

FORMATS = {
    "auto": "",
    "nifti": ".nii.gz",
    "nrrd": ".seg.nrrd",
    "tiff": ".tif",
    "seg": SEG,
    "rtstruct": RTSTRUCT,
}
"""Ending of the labels by the name of their format."""
DICOM_FORMATS = ("seg", "rtstruct")


@dataclass(frozen=True)
class Wanted:
    """How images are segmented, and what is written of each beside its labels."""

    # probabilities, uncertainty, regions: maps of every class; the entropy (0 = sure, 1 = as unsure as can
    # be); a table of connected regions.
    probabilities: bool = False
    uncertainty: bool = False
    regions: bool = False
    cleanings: Mapping[int, Cleaning] | None = None  # class index -> Cleaning
    mirror: bool = False  # mean of mirrored passes
    device: str = "auto"
    format: str = "auto"  # key of ``FORMATS``: of the labels; "auto" is what fits the image
    # class name -> SNOMED CT term or ``CODE^SCHEME^TEXT``: for DICOM SEG.
    meanings: Mapping[str, str] | None = None
    descriptions: bool = False  # names and colours of the classes for ITK-SNAP, in a text beside the labels

    @property
    def is_dicom(self) -> bool:
        """Whether the labels become an object with the patient's identity."""
        return self.format in DICOM_FORMATS

    def require_possible(self) -> None:
        """Refuse, before the first image, what can be written of none.

        Raises ``ConfigError``: a format or a meaning is not known, or a package is missing.
        """
        if self.format not in FORMATS:
            raise ConfigError(
                f"labels are not written as '{self.format}'; choose one of {', '.join(FORMATS)}"
            )
        if self.format == "seg":
            dicom_seg.require_highdicom()
        for meaning in (self.meanings or {}).values():
            dicom_seg.coded(meaning)


@dataclass(frozen=True)
class Written:
    """What came of one image: its files, labels first, and a row on it."""

    files: tuple[Path, ...]
    row: dict[str, str | float]


@dataclass(frozen=True, eq=False)
class RegionsMeasured(Event):
    """The regions of an image, a row each; its labels are written when the next event is asked for."""

    rows: Sequence[dict[str, str | float]]


def labels_path(path: Path, image: Image, folder: Path) -> Path:
    """Where the labels of an image file go, for scripts: the first of :func:`outputs`."""
    return outputs(path, image.geometry, folder, Wanted())[0]


def outputs(path: Path, geometry: Geometry, folder: Path, wanted: Wanted) -> tuple[Path, ...]:
    """The files that are written of an image file: its labels, then the maps that are wanted."""
    if geometry.ndim > 2 and geometry.source is not None:
        labels = maps = ".nii.gz"
    elif path.suffix.lower() in (".tif", ".tiff") or geometry.ndim > 2:
        labels = maps = ".tif"
    else:
        labels, maps = ".png", ".tif"
    labels = FORMATS[wanted.format] or labels
    endings = [f"_labels{labels}"]
    endings += [f"_probabilities{SEG if wanted.format == 'seg' else maps}"] * wanted.probabilities
    endings += [f"_uncertainty{maps}"] * wanted.uncertainty
    endings += ["_labels.txt"] * wanted.descriptions
    return tuple(folder / fitting_name(stem(path), ending) for ending in endings)


def read_fitting(files: Path | Sequence[Path], checkpoint: Checkpoint) -> Image:
    """The image of a file or of the files of its channels; colour becomes gray, and gray is repeated."""
    files = [files] if isinstance(files, Path) else list(files)
    image = read_image(files[0]) if len(files) == 1 else case_from_files(files).read_image()
    with named(files[0].name):
        return filled(as_channels(image, checkpoint.plan.channels))


def segment_file(
    checkpoint: Checkpoint,
    path: Path,
    image: Image,
    files: Sequence[Path],
    wanted: Wanted,
    segmenting: Callable[..., Iterator[Event]] = segment,
) -> Iterator[Event]:
    """Segment an image and write what is wanted of it into the ``files`` that :func:`outputs` gave.

    Regions are told as :class:`RegionsMeasured`; the last event is ``Finished`` with :class:`Written`.
    ``segmenting`` is ``segment``, perhaps on another machine.

    Raises
    ------
    As :func:`segment`, and DataError when a file cannot be written; then nothing half-written is left.
    """
    if wanted.is_dicom and image.series is None:
        raise DataError(
            f"'{path}' is no DICOM image, which an object in DICOM would refer to; choose another --format"
        )
    if wanted.format in ("nifti", "nrrd") and _is_slice_of_patient(image):
        raise DataError(
            f"'{path}' is a single slice, which keeps its place in the patient only in DICOM, not in "
            f"{FORMATS[wanted.format]}; choose --format seg, or auto for a picture without a place"
        )
    events = segmenting(checkpoint, image, name=path.name, device=wanted.device, mirror=wanted.mirror)
    found: Segmentation = yield from result_of(events)
    if wanted.cleanings:
        labels = cleaned(found.probabilities, found.geometry, wanted.cleanings)
        yield Notice(
            f"{path.name}: cleaning changed {in_percent(np.mean(labels != found.labels), 2)} of the image"
        )
        found = replace(found, labels=labels)
    if wanted.regions:
        pieces = regions(found.labels, found.geometry, found.class_names, image.array, found.probabilities)
        yield RegionsMeasured(region_rows(pieces, found.geometry, path.name))
    if _is_unfit_for_itk(image.geometry) and any(one.name.endswith(".nii.gz") for one in files):
        yield Notice(
            f"{path.name}: the axes of the image are not at right angles, as after a tilt of the gantry; "
            "programs built on ITK, such as 3D Slicer, cannot open its NIfTI files: choose --format nrrd or "
            "seg for labels"
        )
    maps = iter(files[1:])
    if wanted.probabilities and wanted.format == "seg":
        write_dicom(next(maps), found.probabilities, image.series, found.class_names, wanted.meanings)
    elif wanted.probabilities:
        write_map(next(maps), found.probabilities, found.geometry)
    if wanted.uncertainty:
        write_map(next(maps), entropy(found.probabilities), found.geometry)
    if wanted.descriptions:
        write_descriptions(next(maps), found.class_names)
    if wanted.is_dicom:  # the labels come last: an image that has them is done
        write_dicom(files[0], found.labels, image.series, found.class_names, wanted.meanings)
    else:
        write_labels(files[0], found.labels, found.geometry, found.class_names)
    sizes = class_sizes(path.name, found.labels, found.geometry, found.class_names)
    yield Finished(Written(tuple(files), sizes))


def _is_unfit_for_itk(geometry: Geometry) -> bool:
    """Whether a NIfTI over an image has a shear of its own; over a NIfTI it keeps the header of that."""
    source = geometry.source
    return source is not None and source.is_sheared and not source.nifti_header


def _is_slice_of_patient(image: Image) -> bool:
    """Whether an image is one slice in DICOM whose header says where it lies, which its geometry does not."""
    series = image.series
    return series is not None and image.geometry.source is None and Source(series).lies_in_patient


def class_sizes(
    image: str, labels: np.ndarray, geometry: Geometry, class_names: Sequence[str]
) -> dict[str, str | float]:
    """Size of every class; of a time series the mean over its frames, and in how many frames it occurs."""
    size, unit = element_size(geometry)
    row: dict[str, str | float] = {"image": image}
    time = geometry.axes.index("t") if "t" in geometry.axes else None
    for k, name in enumerate(class_names[1:], 1):
        if time is None:
            row[f"{name} ({unit})"] = float(size * np.count_nonzero(labels == k))
            continue
        others = tuple(n for n in range(labels.ndim) if n != time)
        per_frame = np.count_nonzero(labels == k, axis=others)
        row[f"{name} ({unit} per frame)"] = float(size * per_frame.mean())
        row[f"frames with {name}"] = float(np.count_nonzero(per_frame))
    return row


def meanings_from_text(texts: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Meanings by class name of texts such as ``lesion=Mass``.

    Raises ``ConfigError``: a class that the model does not know.
    """
    found = {}
    for text in texts:
        name, equals, meaning = text.partition("=")
        if not equals or not meaning.strip() or name not in class_names[1:]:
            raise ConfigError(
                f"'{text}' is not understood; write CLASS=MEANING with one of the classes "
                f"{', '.join(class_names[1:])}, such as {class_names[-1]}=Mass"
            )
        found[name] = meaning.strip()
    return found
