"""What is segmented: an image per file, or per set of files that hold its channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_prosma.data.layouts.image_sets import ImageSet, image_sets, labels_among
from napari_prosma.errors import DataError

Save = Callable[..., Path]


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, (8, 8, 6)).astype(np.int16)


def names(sets: list[ImageSet]) -> dict[str, list[str]]:
    return {one.named.name: [path.name for path in one.files] for one in sets}


def test_numbered_channel_files_are_one_image(save_volume: Save) -> None:
    files = [save_volume(f"t_{n}_000{c}.nii.gz", volume(n)) for n in range(2) for c in (1, 0)]
    assert names(image_sets(files, 2)) == {
        f"t_{n}.nii.gz": [f"t_{n}_0000.nii.gz", f"t_{n}_0001.nii.gz"] for n in range(2)
    }


def test_a_missing_channel_is_named(save_volume: Save) -> None:
    files = [save_volume(f"t_{n}_000{c}.nii.gz", volume(n)) for n, c in ((0, 0), (0, 1), (1, 0))]
    with pytest.raises(DataError, match=r"'t_1' has 1 channel files but the model expects 2"):
        image_sets(files, 2)


def test_channels_named_by_words_are_one_image_and_labels_none(save_volume: Save) -> None:
    label = np.zeros((8, 8, 6), np.uint8)
    label[2:5, 2:5, 2:4] = 1
    files = []
    for n in range(3):
        files += [save_volume(f"B{n}/B{n}_{kind}.nii.gz", volume(n)) for kind in ("t1", "t2")]
        files.append(save_volume(f"B{n}/B{n}_seg.nii.gz", label))
    assert names(image_sets(files, 2)) == {
        f"B{n}.nii.gz": [f"B{n}_t1.nii.gz", f"B{n}_t2.nii.gz"] for n in range(3)
    }


def test_a_file_with_all_channels_is_an_image(save_picture: Save) -> None:
    files = [save_picture(f"{n}_0000.png", np.zeros((8, 9, 3), np.uint8)) for n in range(2)]
    assert names(image_sets(files, 3)) == {"0_0000.png": ["0_0000.png"], "1_0000.png": ["1_0000.png"]}


def test_files_of_one_name_are_called_after_their_folders(save_picture: Save) -> None:
    files = [save_picture(f"p{n}/scan.png", np.zeros((8, 9), np.uint8)) for n in range(2)]
    assert list(names(image_sets(files, 1))) == ["p0_scan.png", "p1_scan.png"]


@pytest.mark.parametrize("name", ["B{n}/B{n}_{kind}.nii.gz", "B{n}_{kind}.nii.gz", "B{n}/{kind}.nii.gz"])
def test_as_many_images_as_channels_are_not_mixed(name: str, save_volume: Save, tmp_path: Path) -> None:
    kinds = ("t1", "t2", "flair")
    files = [save_volume(name.format(n=n, kind=kind), volume(n)) for n in range(3) for kind in kinds]
    if name == "B{n}/{kind}.nii.gz":
        with pytest.raises(DataError, match=r"fit each other in two ways: .*; put the files of each image"):
            image_sets(files, 3)
        label = np.zeros((8, 8, 6), np.uint8)
        label[2:5, 2:5, 2:4] = 1
        for n in range(3):
            save_volume(f"B{n}/seg.nii.gz", label)
    sets = image_sets(files, 3)
    of_image = [{file.relative_to(tmp_path).as_posix()[:2] for file in one.files} for one in sets]
    assert of_image == [{"B0"}, {"B1"}, {"B2"}]


def test_labels_in_a_folder_are_told_from_its_images(save_picture: Save, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    for n in range(3):
        save_picture(f"{n}.png", np.roll(noise, n, 1))
        save_picture(f"{n}_mask.png", np.uint8(255) * (noise[0] > 99 + n) * (np.arange(24)[:, None] > 9))
    save_picture("3.png", noise.T)
    save_picture("new.png", np.uint8(255) * (np.arange(24) > 9) * np.ones((24, 1), np.uint8))  # in no pair
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in labels_among(tmp_path, files)] == ["0_mask.png", "1_mask.png", "2_mask.png"]
    assert labels_among(tmp_path, files[::2][:1]) == []
