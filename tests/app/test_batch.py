"""Batches: which files are images, and where what is made of them goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
from clinic_files import save_stack, save_ultrasound

from napari_prosma.app import batch as batches
from napari_prosma.app.batch import (
    Batch,
    ImageFailed,
    ImageLeftOut,
    ImageSegmented,
    image_files,
    segment_batch,
)
from napari_prosma.data.case import Image
from napari_prosma.events import Event, Finished, Notice
from napari_prosma.model.applying import Segmentation
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.segmentation.files import Wanted


@pytest.fixture(autouse=True)
def finding_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of ``segment``: every element is background."""

    def segment(checkpoint: Checkpoint, image: Image, name: str, **_: object) -> Iterator[Event]:
        shape = image.array.shape[1:]
        probabilities = np.zeros((2, *shape), np.float32)
        probabilities[0] = 1
        labels = np.zeros(shape, np.uint8)
        yield Finished(Segmentation(name, labels, probabilities, image.geometry, ("background", "lesion")))

    monkeypatch.setattr(batches, "segment", segment)


def pages_of_numpy(folder: Path) -> Path:
    np.save(folder / "s.npy", np.zeros((3, 16, 16), np.float32))
    return folder / "s.npy"


def colours_last(folder: Path) -> Path:
    np.save(folder / "s.npy", np.zeros((16, 16, 3), np.float32))
    return folder / "s.npy"


def pages_of_nifti(folder: Path) -> Path:
    image = nibabel.Nifti1Image(np.zeros((16, 16, 3), np.float32), np.eye(4))
    nibabel.save(image, folder / "s.nii.gz")
    return folder / "s.nii.gz"


@pytest.mark.parametrize("save", [pages_of_numpy, colours_last, pages_of_nifti])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(probabilities=True, uncertainty=True)])
def test_labels_of_an_image_whose_pages_are_channels_are_not_replaced_unasked(
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
    save: Callable[[Path], Path],
    wanted: Wanted,
) -> None:
    image, model, out = save(tmp_path), make_checkpoint(channels=3), tmp_path / "out"
    first = list(segment_batch(model, [image], Batch(out, wanted)))
    (labels,) = (event.target for event in first if isinstance(event, ImageSegmented))
    labels.write_bytes(b"corrected by hand")
    again = list(segment_batch(model, [image], Batch(out, wanted)))
    assert any(isinstance(event, ImageFailed) and "there already" in str(event.error) for event in again)
    rest = list(segment_batch(model, [image], Batch(out, wanted, skip_done=True)))
    assert any(isinstance(event, ImageLeftOut) for event in rest)
    assert labels.read_bytes() == b"corrected by hand"


def volume(path: Path, array: np.ndarray | None = None) -> None:
    stored = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32) if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([2.0, 2, 2, 1])), path)


def series(folder: Path) -> None:
    save_stack(folder, np.random.default_rng(0).integers(0, 900, (4, 12, 10)).astype(np.uint16))


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in image_files([folder])]


@pytest.mark.parametrize(
    "images",
    [
        ("p1", "p2.nii.gz", "p3.nii.gz"),
        ("p1", "p2", "p3.nii.gz", "p4/scan.nii.gz"),
        ("p1", "p2/scan.nii.gz"),
        ("study/p1", "study/p2/scan.nii.gz"),
    ],
)
def test_beside_series_in_dicom_other_images_are_segmented_too(
    tmp_path: Path, images: tuple[str, ...]
) -> None:
    for name in images:
        (volume if name.endswith(".nii.gz") else series)(tmp_path / name)
    assert names(tmp_path) == [*images]


def test_stills_in_a_folder_are_separate_images(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    stills = [f"{n}.dcm" for n in range(3)]
    for name in stills:
        save_ultrasound(tmp_path / "us" / name, np.zeros((16, 16), np.uint8))
    assert names(tmp_path / "us") == stills
    events = list(segment_batch(make_checkpoint(), [tmp_path / "us"], Batch(tmp_path / "out", Wanted())))
    assert [event.name for event in events if isinstance(event, ImageSegmented)] == stills


@pytest.mark.parametrize("place", ["labels/{}.nii.gz", "{}_seg.nii.gz"])
def test_labels_beside_series_are_told_and_not_segmented(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, place: str
) -> None:
    mask = np.zeros((10, 12, 4), np.uint8)
    mask[2:5, 2:5, 1:3] = 1
    for name in ("p1", "p2"):
        series(tmp_path / "data" / name)
        volume(tmp_path / "data" / place.format(name), mask)
    assert names(tmp_path / "data") == ["p1", "p2"]
    events = list(segment_batch(make_checkpoint(), [tmp_path / "data"], Batch(tmp_path / "out", Wanted())))
    told = [event.message for event in events if isinstance(event, Notice)]
    assert any(message.startswith("2 file(s) look like labels") for message in told)


def test_a_series_over_nested_folders_stays_one_image(tmp_path: Path) -> None:
    series(tmp_path / "study" / "series")
    assert image_files([tmp_path]) == [tmp_path]
    volume(tmp_path / "study" / "series" / "labels.nii.gz")
    assert image_files([tmp_path]) == [tmp_path]
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "photo.png")
    assert tmp_path / "photo.png" in image_files([tmp_path])
