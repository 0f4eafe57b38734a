"""A corrected label goes back into the files it came from, and nothing else changes in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ct_case
from napari_prosma.data.readers import read_label
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.errors import DataError
from napari_prosma.plugin.label_file import LabelFile, open_label

SIDE = 12


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


def stored(path: Path) -> np.ndarray:
    return read_label(path)[0]


def square(value: int, low: int, high: int, kind: type = np.uint8) -> np.ndarray:
    array = np.zeros((SIDE, SIDE), kind)
    array[low:high, low:high] = value
    return array


def opened(folder: Path, masks: dict[str, np.ndarray], rule: LabelRule | None = None) -> LabelFile:
    """A case of one image ``a`` with these masks beside it."""
    save(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE), folder / "a.png")
    for name, mask in masks.items():
        save(mask, folder / name)
    return open_label(find_cases(folder, labels=rule), "a")


def test_a_mask_keeps_the_number_that_it_is_stored_with(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    assert set(np.unique(label.shown)) == {0, 1}
    corrected = label.shown.copy()
    corrected[8, 8], corrected[2, 2] = 1, 0
    again = label.save(corrected, tmp_path / "kept")
    there = stored(tmp_path / "d" / "a_mask.png")
    assert there[8, 8] == 255
    assert there[2, 2] == 0
    assert set(np.unique(there)) == {0, 255}
    np.testing.assert_array_equal(stored(tmp_path / "kept" / "a_mask.png"), square(255, 2, 6))
    np.testing.assert_array_equal(again.shown, find_cases(tmp_path / "d").cases[0].read_label())  # type: ignore[misc]


def test_the_file_as_it_was_first_is_kept(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    first = label.save(1 - label.shown, tmp_path / "kept")
    first.save(np.zeros_like(label.shown), tmp_path / "kept")
    assert not stored(tmp_path / "d" / "a_mask.png").any()
    np.testing.assert_array_equal(stored(tmp_path / "kept" / "a_mask.png"), square(255, 2, 6))


def test_of_several_masks_each_holds_what_is_left_of_it(tmp_path: Path):
    masks = {"a_mask.png": square(255, 0, 4), "a_mask_1.png": square(255, 6, 10)}
    label = opened(tmp_path / "d", masks)
    corrected = label.shown.copy()
    corrected[6, 6], corrected[11, 11] = 0, 1
    label.save(corrected, tmp_path / "kept")
    first, second = (stored(tmp_path / "d" / name) for name in masks)
    assert first[11, 11] == 255
    assert first.sum() == 255 * 17
    assert second[6, 6] == 0
    assert second.sum() == 255 * 15
    np.testing.assert_array_equal(find_cases(tmp_path / "d").cases[0].read_label(), corrected)  # type: ignore[misc]


def test_numbered_objects_keep_their_numbers(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(7, 2, 6)}, LabelRule.instances())
    corrected = label.shown.copy()
    corrected[9, 9] = 1
    label.save(corrected, tmp_path / "kept")
    there = stored(tmp_path / "d" / "a_mask.png")
    assert (there[3, 3], there[9, 9]) == (7, 8)


def test_scribbles_are_corrected_by_their_own_numbers(tmp_path: Path):
    drawn = square(1, 0, 3) + square(2, 6, 9)
    rule = LabelRule.of_values((1, 2)).sparse("scribbles")
    label = opened(tmp_path / "d", {"a_mask.png": drawn}, rule)
    np.testing.assert_array_equal(label.shown, drawn)
    corrected = drawn.copy()
    corrected[0, 0], corrected[11, 11] = 0, 1
    label.save(corrected, tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "d" / "a_mask.png"), corrected)
    with pytest.raises(DataError, match="hold the value 9"):
        label.save(corrected + np.uint8(7) * (corrected == 2), tmp_path / "kept")


def test_a_volume_lies_where_it_lay(tmp_path: Path):
    case = ct_case(0, (6, 16, 16))
    assert case.read_label is not None
    image, classes = case.read_image(), case.read_label()
    write_map(tmp_path / "d" / "images" / "a.nii.gz", image.array, image.geometry)
    path = tmp_path / "d" / "masks" / "a.nii.gz"
    write_labels(path, classes, image.geometry)
    _, before = read_label(path)
    label = open_label(find_cases(tmp_path / "d"), "a")
    corrected = label.shown.copy()
    corrected[2, :3] = 1
    label.save(corrected, tmp_path / "kept")
    there, after = read_label(path)
    assert after == before
    np.testing.assert_array_equal(there, corrected)


def test_what_another_program_changed_is_not_written_over(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    save(square(255, 1, 3), tmp_path / "d" / "a_mask.png")
    with pytest.raises(DataError, match="changed by somebody else since it was opened"):
        label.save(1 - label.shown, tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "d" / "a_mask.png"), square(255, 1, 3))


def test_a_value_without_a_class_and_a_format_that_loses_values_are_refused(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    with pytest.raises(DataError, match=r"the value 3 .* no class; the classes are 0 = background, 1 = "):
        label.save(label.shown * 3, tmp_path / "kept")
    blurred = opened(tmp_path / "e", {"a_mask.jpg": square(255, 0, 8)})
    before = (tmp_path / "e" / "a_mask.jpg").read_bytes()
    with pytest.raises(DataError, match=r"not written as \.jpg"):
        blurred.save(1 - blurred.shown, tmp_path / "kept")
    assert (tmp_path / "e" / "a_mask.jpg").read_bytes() == before
