"""Image files are segmented one after the other into a folder; what is wrong with one ends no other."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from napari_prosma.app.elsewhere import called
from napari_prosma.app.models import ImageKind, KnownModel, known_model
from napari_prosma.data.atomic import require_new, require_writable
from napari_prosma.data.formats import dicom, ome_zarr
from napari_prosma.data.layouts.dicom_studies import holds_images, series_folders
from napari_prosma.data.layouts.found import (
    fields_of,
    images_in,
    is_hidden,
    is_series,
    volumes_within,
)
from napari_prosma.data.layouts.image_sets import labels_among
from napari_prosma.data.readers import can_read
from napari_prosma.data.texts import read_rows
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, result_of
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.segmentation.batch import Planned, Record, RegionTable, plan_batch
from napari_prosma.segmentation.files import RegionsMeasured, Wanted, Written, read_fitting, segment_file
from napari_prosma.segmentation.scale_out import LOCAL, segment_to
from napari_prosma.segmentation.segment import segment


@dataclass(frozen=True)
class Batch:
    """How the images of a batch are treated."""

    folder: Path  # of what is written
    wanted: Wanted
    stream: bool = False  # write labels row by row, for images larger than memory
    # Address of the Dask scheduler on whose workers it is done: row by row on all of them with ``stream``,
    # which see the files, else on one, to which images are sent. ``local`` are the cores of this machine, row
    # by row.
    scheduler: str | None = None
    # overwrite, skip_done: replace what is there; leave out what has labels.
    overwrite: bool = False
    skip_done: bool = False

    def __post_init__(self) -> None:
        wanted = self.wanted
        others = (
            wanted.probabilities,
            wanted.uncertainty,
            wanted.regions,
            wanted.descriptions,
            wanted.cleanings,
        )
        if self.in_parts and (any(others) or wanted.format != "auto"):
            raise ConfigError(
                "what is written row by row is labels alone, as OME-Zarr; leave out --stream and "
                "--scheduler local, or --probabilities, --uncertainty, --regions, --clean, --descriptions "
                "and --format"
            )
        wanted.require_possible()

    @property
    def in_parts(self) -> bool:
        """Whether labels are written row by row."""
        return self.stream or self.scheduler == LOCAL


@dataclass(frozen=True, eq=False)
class ImageSegmented(Event):
    """An image has its labels at ``target``; ``row`` holds the sizes of its classes, where all are known."""

    name: str
    target: Path
    row: dict[str, str | float] | None


@dataclass(frozen=True, eq=False)
class UnusualImage(Event):
    """An image is not what the model learned from; it is segmented all the same."""

    name: str
    warning: str


@dataclass(frozen=True, eq=False)
class ImageLeftOut(Event):
    """An image had labels already."""

    name: str


@dataclass(frozen=True, eq=False)
class ImageFailed(Event):
    """An image cannot be segmented."""

    name: str
    error: ProsmaError


def segment_batch(checkpoint: Checkpoint, images: Sequence[Path], batch: Batch) -> Iterator[Event]:
    """Segment images, or all of folders and tables; the last event is ``Finished`` with the table of regions.

    Every image ends in ``ImageSegmented``, ``ImageLeftOut`` or ``ImageFailed``. A process may be killed at
    any time: what has labels by then has everything else that is wanted of it.

    Raises ``ProsmaError``: nothing can be segmented: no image, two that would be written as one, a table that
    is not ours.
    """
    require_writable(batch.folder)
    from_folder = any(path.is_dir() for path in images)
    files, labels = _images_and_labels(images)
    if labels:
        yield Notice(
            f"{len(labels)} file(s) look like labels of others and are not segmented, such as "
            f"'{labels[0].name}'; give the file itself to segment it"
        )
    planned = plan_batch(
        files,
        checkpoint.plan.channels,
        batch.folder,
        batch.wanted,
        batch.in_parts,
        from_folder,
    )
    record = Record(batch.folder)
    known = None if checkpoint.path is None else known_model(checkpoint.path)
    regions = RegionTable(batch.folder) if batch.wanted.regions else None
    segment_one = _in_parts if batch.in_parts else partial(_at_once, known)
    for each in planned:
        try:
            if batch.skip_done and not batch.overwrite and each.files and each.files[0].exists():
                record.require_of(each)
                yield ImageLeftOut(each.image.name)
                continue
            if not batch.overwrite:
                require_new(each.files, "choose another --out, --skip-done, or --overwrite it")
            written = yield from segment_one(checkpoint, each, batch, regions)
            record.add(each)
            yield written
        except ProsmaError as error:
            yield ImageFailed(each.image.name, error)
    yield Finished(None if regions is None else regions.path)


def _at_once(
    known: KnownModel | None,
    checkpoint: Checkpoint,
    planned: Planned,
    batch: Batch,
    regions: RegionTable | None,
) -> Generator[Event, None, ImageSegmented]:
    path = planned.image
    image = read_fitting(planned.sources, checkpoint)
    if not planned.files:  # what stands there was not looked at
        raise DataError(f"'{path}' could not be read at first, but can now; segment it again")
    if known is not None and (warning := known.warning(ImageKind.of(image))):
        yield UnusualImage(path.name, warning)
    segmenting = called(batch.scheduler, segment)
    for event in segment_file(checkpoint, path, image, planned.files, batch.wanted, segmenting):
        match event:
            case RegionsMeasured():
                assert regions is not None
                regions.add(path.name, event.rows)
            case Finished():
                written: Written = event.result
            case _:
                yield event
    return ImageSegmented(path.name, written.files[0], written.row)


def _in_parts(
    checkpoint: Checkpoint, planned: Planned, batch: Batch, regions: RegionTable | None
) -> Generator[Event, None, ImageSegmented]:
    path, target = planned.image, planned.files[0]
    if len(planned.sources) > 1:
        raise DataError(
            f"'{path}' has its channels in {len(planned.sources)} files, which cannot be read row by row; "
            f"leave out --stream, or join them to one file"
        )
    wanted = batch.wanted
    run = segment_to(
        checkpoint,
        planned.sources[0],
        target,
        device=wanted.device,
        mirror=wanted.mirror,
        scheduler=batch.scheduler,
    )
    yield from result_of(run)
    return ImageSegmented(path.name, target, None)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The image files of files, folders of images, and tables with a column ``image``.

    A folder that holds images in folders only, such as one per patient, gives all of these, and so does one
    with series in DICOM and other images; of a folder with labels only the images.

    Raises ``DataError``: a folder holds no image.
    """
    return _images_and_labels(paths)[0]


def _images_and_labels(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The same, and the labels in folders, which are left out."""
    files: list[Path] = []
    labels: list[Path] = []
    for path in paths:
        if path.suffix.lower() == ".csv":
            files += [path.parent / row["image"] for row in read_rows(path, ("image",)) if row["image"]]
            continue
        mixed, labelling = _beside_series(path) if path.is_dir() else ([], [])
        labels += labelling
        several = mixed or (series_folders(path) if path.is_dir() else [])
        if mixed or len(several) > 1:
            files += several
            continue
        inside = [path]
        if path.is_dir() and not can_read(path):  # one that can be read is an image: OME-Zarr, a series
            beside = sorted(p for p in path.iterdir() if not is_hidden(p.name) and can_read(p))
            inside = beside or images_in(path)
        if not inside:
            raise DataError(f"folder '{path}' holds no image that can be read; give image files")
        if len(inside) > 1:
            labelling = labels_among(path, inside)
            labels += sorted(labelling)
            inside = [one for one in inside if one not in labelling]
        files += [image for one in inside for image in fields_of(one)]
    return files, labels


def _beside_series(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images under a folder in which series in DICOM and other images lie, and the labels among them.

    No images where series lie alone, or with their labels. Stills are other images; volumes in the folder of
    a series are none, since labels are often saved there.
    """
    if not can_read(folder) or is_series(folder) or ome_zarr.is_ome_zarr(folder):
        return [], []
    every = images_in(folder)
    series = {path for path in every if path.is_dir() and dicom.holds_series(path)}
    within = {volume for path in series for volume in volumes_within(path)}
    others = {*every} - series - within
    if not others or len(every) == 1:
        return [], []
    labels = {*labels_among(folder, every)}
    empty = {path for path in series if not holds_images(path)}
    images = [] if others <= labels else [path for path in every if path not in labels | empty]
    return images, sorted(labels)
