"""Labels of further images go where the labels of a folder are, under names by which they are found."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest

from napari_prosma.app.label_place import LabelPlace, label_place
from napari_prosma.data.layouts import find_cases
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

BINARY = ("background", "lesion")
RNG = np.random.default_rng(0)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        PIL.Image.fromarray(RNG.integers(0, 255, (12, 10), np.uint8)).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(RNG.normal(size=(6, 7, 4)), np.eye(4)), path)


def label(path: Path, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        stored = np.zeros((12, 10), np.uint8)
        stored[3:6, 3:6] = value
        PIL.Image.fromarray(stored).save(path)
    else:
        stored = np.zeros((6, 7, 4), np.uint8)
        stored[2:4, 2:4, 1:3] = value
        nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), path)


def bare_place(folder: Path, name: str, class_names: tuple[str, ...] = BINARY) -> LabelPlace:
    data = find_cases(folder, require_labels=False)
    return label_place(data, next(case for case in data.cases if case.name == name), class_names)


@pytest.mark.parametrize(
    ("images", "labels", "bare", "wanted", "value"),
    [
        (
            ("images/1.png", "images/2.png"),
            ("masks/1.png", "masks/2.png"),
            "images/9.png",
            "masks/9.png",
            255,
        ),
        (
            ("a (1).png", "a (2).png"),
            ("a (1)_mask.png", "a (2)_mask.png"),
            "b (3).png",
            "b (3)_mask.png",
            255,
        ),
        (
            ("imagesTr/p_001_0000.nii.gz", "imagesTr/p_002_0000.nii.gz"),
            ("labelsTr/p_001.nii.gz", "labelsTr/p_002.nii.gz"),
            "imagesTr/p_007_0000.nii.gz",
            "labelsTr/p_007.nii.gz",
            1,
        ),
        (
            ("p1/scan.nii.gz", "p2/scan.nii.gz"),
            ("p1/seg.nii.gz", "p2/seg.nii.gz"),
            "p3/scan.nii.gz",
            "p3/seg.nii.gz",
            1,
        ),
        (("i/1.png", "i/2.png"), ("masks/1.png", "masks/2.png"), "i/9.png", "masks/9.png", 40),
        ((), (), "x.png", "x_mask.png", 255),
        ((), (), "x.nii.gz", "x_mask.nii.gz", 1),
    ],
)
def test_a_label_is_named_and_stored_as_the_others_and_found_as_that_of_its_image(
    images: tuple[str, ...], labels: tuple[str, ...], bare: str, wanted: str, value: int, tmp_path: Path
) -> None:
    for path in (*images, bare):
        image(tmp_path / path)
    for path in labels:
        label(tmp_path / path, value)
    data = find_cases(tmp_path, require_labels=False)
    case = next(case for case in data.cases if case.files[0] == tmp_path / bare)
    place = label_place(data, case, BINARY)
    assert (place.path, place.values) == (tmp_path / wanted, (0, value))
    read = case.read_image()
    drawn = np.zeros(read.array.shape[1:], np.uint8)
    drawn[1:3, 2:5] = 1
    place.write(drawn, read.geometry, BINARY)
    place.require_found(drawn)
    np.testing.assert_array_equal(place.read(), drawn)
    assert place.path.is_file()
    with pytest.raises(DataError, match="is there already"):
        place.write(drawn, read.geometry, BINARY)
    place.write(drawn * 0, read.geometry, BINARY, replaces=True)
    with pytest.raises(DataError, match="would not be taken for the label"):
        place.require_found(drawn)
    assert not place.path.exists()


def test_classes_go_by_name_and_others_are_refused(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        image(tmp_path / "images" / f"{name}.png")
    for name in ("1", "2"):
        label(tmp_path / "masks" / f"{name}.png", int(name))
    data = find_cases(tmp_path, require_labels=False, labels={0: "background", 1: "cyst", 2: "node"})
    case = next(case for case in data.cases if case.read_label is None)
    assert label_place(data, case, ("background", "node", "cyst")).values == (0, 2, 1)
    for others in (("background", "node", "duct"), BINARY):
        with pytest.raises(DataError, match="labels of this folder are cyst, node"):
            label_place(data, case, others)
    place = label_place(data, case, data.class_names)
    with pytest.raises(DataError, match=r"value 7 .* is none of 0 = background, 1 = cyst"):
        place.write(np.full((12, 10), 7, np.uint8), Geometry.pixels(2), data.class_names)


def test_what_names_do_not_tell_is_refused_in_words(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        image(tmp_path / f"{name}.png")
    for name in ("1_mask", "1_mask_1", "2_mask", "2_mask_1"):
        label(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="several files; save the layer by File"):
        bare_place(tmp_path, "3")
    (tmp_path / "cases.csv").write_text("image,label\n1.png,1_mask.png\n2.png,2_mask.png\n3.png,\n")
    data = find_cases(tmp_path / "cases.csv", require_labels=False)
    with pytest.raises(DataError, match="a table or a DICOM object says"):
        label_place(data, data.cases[2], BINARY)
