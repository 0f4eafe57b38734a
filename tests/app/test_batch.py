"""Batches: which files are images, and where what is made of them goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_prosma.app import batch as batches
from napari_prosma.app.batch import Batch, ImageFailed, ImageLeftOut, ImageSegmented, segment_batch
from napari_prosma.data.case import Image
from napari_prosma.events import Event, Finished
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
