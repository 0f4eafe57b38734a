"""Layers become images and results become layers without moving in space."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import napari
import nibabel
import numpy as np
import pytest
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from pytestqt.qtbot import QtBot

from napari_prosma.data.case import Image
from napari_prosma.data.readers import label_names, read_image
from napari_prosma.data.writers import write_image, write_labels
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.maps import MapLayer
from napari_prosma.model.applying import Segmentation
from napari_prosma.plugin.contributions.reader import get_reader
from napari_prosma.plugin.contributions.writer import write_image_layer, write_labels_layer
from napari_prosma.plugin.shared.class_name import ClassName
from napari_prosma.plugin.shared.layers import (
    CHANNELS_FIRST,
    add_layer,
    class_indices,
    fitting_image,
    geometry_of,
    image_layer,
    image_of,
    labels_layer,
    map_layer,
    names_of,
    remove_layers,
    result_layer,
    write_layer,
)


def segmentation(labels: np.ndarray, geometry: Geometry) -> Segmentation:
    probabilities = np.stack([labels == 0, labels == 1]).astype(np.float32)
    return Segmentation("scan", labels, probabilities, geometry, ("background", "lesion"))


def test_layers_that_go_together_make_python_search_for_garbage_once(viewer: napari.Viewer):
    layers = [viewer.add_image(np.zeros((4, 4)), name=name) for name in "abcd"]
    searches = []

    def count(phase: str, info: dict[str, Any]) -> None:
        if phase == "start" and info["generation"] == 2:
            searches.append(len(viewer.layers))

    gc.disable()  # none but those that are asked for
    gc.callbacks.append(count)
    try:
        remove_layers(viewer, *layers[:3], None)
        remove_layers(viewer, layers[0])  # gone already
    finally:
        gc.callbacks.remove(count)
        gc.enable()
    assert searches == [1]
    assert list(viewer.layers) == layers[3:]


@pytest.fixture
def oblique(tmp_path: Path) -> Path:
    """A NIfTI volume that lies askew, with axes of different lengths."""
    affine = np.array([[-2.0, 0.1, 0, 11], [0.05, 1.5, 0.2, -7], [0, -0.1, 4, 3], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    nibabel.Nifti1Image(voxels, affine).to_filename(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def opened(path: Path) -> ImageLayer:
    reader = get_reader(str(path))
    assert reader is not None
    (layer,) = (Layer.create(*made) for made in reader(str(path)))
    assert isinstance(layer, ImageLayer)
    return layer


def test_an_opened_volume_has_its_scale_in_millimetres(oblique: Path):
    layer = opened(oblique)
    assert layer.name == "scan"
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    np.testing.assert_allclose(layer.scale, read_image(oblique).geometry.spacing)
    np.testing.assert_array_equal(image_of(layer).array, read_image(oblique).array)


def test_labels_of_an_opened_volume_are_saved_exactly_over_it(oblique: Path, tmp_path: Path):
    layer = opened(oblique)
    labels = (np.asarray(layer.data) > 0).astype(np.uint8)
    result = result_layer(segmentation(labels, geometry_of(layer)), layer)
    data, attributes, _ = Layer.create(*result).as_layer_data_tuple()
    (written,) = write_labels_layer(str(tmp_path / "labels.nii.gz"), data, attributes)
    stored, original = nibabel.load(written), nibabel.load(oblique)
    assert np.array_equal(stored.affine, original.affine)
    assert np.array_equal(np.asarray(stored.dataobj), np.asarray(original.dataobj) > 0)


def test_a_layer_that_was_moved_no_longer_claims_its_files_place(oblique: Path):
    layer = opened(oblique)
    assert geometry_of(layer).source is not None
    layer.scale = (9, 9, 9)
    assert geometry_of(layer) == Geometry((9.0,) * 3, tuple(layer.translate), "mm")


def test_colour_is_three_channels_and_gray_pictures_stored_in_colour_are_one():
    gray = np.random.default_rng(0).integers(0, 255, (8, 9), dtype=np.uint8)
    layer = ImageLayer(np.stack([gray] * 3 + [gray * 0 + 255], axis=-1), rgb=True)
    assert image_of(layer).array.shape == (3, 8, 9)
    np.testing.assert_array_equal(fitting_image(image_of(layer), 1, "x").array, gray[None])


def test_further_channels_are_a_slider_and_come_back_as_channels():
    image = Image(np.random.default_rng(0).normal(size=(4, 5, 6, 7)), Geometry((3, 2, 1), (1, 2, 3), "mm"))
    layer = Layer.create(*image_layer(image, "multi"))
    assert layer.ndim == 4
    assert image_of(layer).geometry == image.geometry
    np.testing.assert_array_equal(image_of(layer).array, image.array)
    with pytest.raises(DataError, match="'multi': found an image with 4 channels where 1"):
        fitting_image(image_of(layer), 1, "multi")


@pytest.mark.parametrize(
    ("units", "scale", "expected"),
    [
        (("mm", "mm"), (0.5, 0.25), Geometry((0.5, 0.25), (1.0, 2.0), "mm")),
        (("um", "um"), (0.5, 0.25), Geometry((0.5, 0.25), (1.0, 2.0), "um")),
        (("cm", "cm"), (0.5, 0.25), Geometry((5.0, 2.5), (10.0, 20.0), "mm")),
        (("pixel", "pixel"), (0.5, 0.25), Geometry((0.5, 0.25), (1.0, 2.0), "pixel")),
    ],
)
def test_units_of_a_layer_become_ours_and_results_go_back(units, scale, expected):
    layer = ImageLayer(np.zeros((4, 6)), scale=scale, translate=(1, 2), units=units)
    geometry = geometry_of(layer)
    assert geometry.unit == expected.unit
    np.testing.assert_allclose(geometry.spacing, expected.spacing)
    np.testing.assert_allclose(geometry.origin, expected.origin)
    result = result_layer(segmentation(np.zeros((4, 6), np.uint8), geometry), layer)
    made = Layer.create(*result)
    np.testing.assert_allclose(made.scale, scale)
    np.testing.assert_allclose(made.translate, (1, 2))
    assert made.units == layer.units


def test_a_result_is_turned_and_sheared_like_its_image():
    layer = ImageLayer(np.zeros((8, 8)), scale=(2, 3), translate=(5, 6), rotate=30, shear=[0.2])
    result = result_layer(segmentation(np.zeros((8, 8), np.uint8), geometry_of(layer)), layer)
    made = Layer.create(*result)
    for corner in ((0, 0), (7, 0), (3, 5)):
        np.testing.assert_allclose(made.data_to_world(corner), layer.data_to_world(corner))


def test_a_result_of_several_channels_is_mirrored_and_moved_like_its_image():
    moved = np.eye(5)
    moved[1:4, 4], moved[2, 3] = (10, 20, 30), 0.5
    layer = ImageLayer(
        np.zeros((2, 6, 5, 4)),
        scale=(1, 2, -3, 1),
        translate=(0, 5, 6, 7),
        affine=moved,
        units=("pixel", "mm", "mm", "mm"),
        metadata={CHANNELS_FIRST: True},
    )
    made = Layer.create(*result_layer(segmentation(np.zeros((6, 5, 4), np.uint8), geometry_of(layer)), layer))
    for corner in ((0, 0, 0), (1, 2, 3), (5, 0, 3)):
        np.testing.assert_allclose(made.data_to_world(corner), layer.data_to_world((0, *corner))[1:])


@pytest.mark.parametrize("place", [{}, {"rotate": 40, "shear": [0.3]}, {"units": ("cm", "cm")}])
def test_a_coarse_map_lies_over_the_elements_it_covers(place):
    layer = ImageLayer(np.zeros((16, 24)), scale=(0.5, 0.25), translate=(10, 20), **place)
    geometry = geometry_of(layer).coarsened((4.0, 4.0), (16, 24))
    drawn = MapLayer("skip 3 psi", np.zeros((4, 6)), geometry, "image", (0.0, 1.0), "viridis", "the mask")
    made = Layer.create(*map_layer(drawn, layer))
    assert made.data.shape == (4, 6)
    for i, j in ((0, 0), (3, 5), (1, 2)):
        covered = [(4 * i + a, 4 * j + b) for a in range(4) for b in range(4)]
        centre = np.mean([layer.data_to_world(at) for at in covered], axis=0)
        np.testing.assert_allclose(made.data_to_world((i, j)), centre)


def test_labels_say_the_class_under_the_cursor():
    labels, attributes, kind = labels_layer(
        np.eye(4, dtype=int), Geometry.pixels(2), "x", ("background", "spleen")
    )
    layer = Layer.create(labels, attributes, kind)
    assert "spleen" in layer.get_status((1, 1))["value"]


def test_drawn_labels_are_numbered_without_gaps_and_keep_known_names():
    drawn = np.array([[0, 3, 7, 0]] * 4)
    label, names = class_indices(drawn, LabelsLayer(drawn))
    assert names == ("background", "label 3", "label 7")
    np.testing.assert_array_equal(label[0], (0, 1, 2, 0))
    named = LabelsLayer(drawn // 3, metadata={"class_names": ("background", "liver", "spleen")})
    assert class_indices(drawn // 3, named)[1] == ("background", "liver", "spleen")


def test_an_image_layer_is_written_as_it_was_read(oblique: Path, tmp_path: Path):
    data, attributes, _ = opened(oblique).as_layer_data_tuple()
    (written,) = write_image_layer(str(tmp_path / "copy.nii.gz"), data, attributes)
    stored, original = nibabel.load(written), nibabel.load(oblique)
    assert np.array_equal(stored.affine, original.affine)
    assert stored.get_data_dtype() == original.get_data_dtype()
    assert np.array_equal(np.asarray(stored.dataobj), np.asarray(original.dataobj))


def test_napari_opens_and_saves_through_the_manifest(viewer, oblique: Path, tmp_path: Path):
    (layer,) = viewer.open(str(oblique), plugin="napari-prosma")
    labels = viewer.add_labels((layer.data > 0).astype(np.uint8), scale=layer.scale, metadata=layer.metadata)
    labels.translate, labels.units = layer.translate, layer.units
    (written,) = viewer.layers.save(
        str(tmp_path / "saved.nii.gz"), selected=True, plugin="napari-prosma"
    ) or [tmp_path / "saved.nii.gz"]
    assert np.array_equal(nibabel.load(written).affine, nibabel.load(oblique).affine)


@pytest.mark.parametrize(("key", "ndim", "unit"), [("ultrasound", 2, "pixel"), ("ct", 3, "millimeter")])
def test_samples_open_with_their_labels(viewer, key: str, ndim: int, unit: str):
    image, label = viewer.open_sample("napari-prosma", key)
    assert image.ndim == label.ndim == ndim
    assert {str(u) for u in image.units} == {unit}
    assert np.asarray(label.data).any()
    np.testing.assert_array_equal(image.scale, label.scale)
    low, high = image.contrast_limits_range
    assert low <= np.min(image.data)
    assert np.max(image.data) <= high


@pytest.mark.parametrize(("lowest", "is_ct"), [(-1000, True), (-800, False)])
def test_a_ct_opens_in_the_soft_tissue_window_which_can_be_widened(
    viewer, tmp_path: Path, lowest: int, is_ct: bool
):
    voxels = np.random.default_rng(0).integers(-500, 1500, (8, 8, 8)).astype(np.int16)
    voxels[:, :, 4] = lowest
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "scan.nii.gz")
    (layer,) = viewer.open(str(tmp_path / "scan.nii.gz"), plugin="napari-prosma")
    assert (tuple(layer.contrast_limits) == (-160, 240)) == is_ct
    assert tuple(layer.contrast_limits_range) == (voxels.min(), voxels.max())
    # The same of an image that lies in files, level by level.
    write_image(tmp_path / "scan.ome.zarr", read_image(tmp_path / "scan.nii.gz"))
    (layer,) = viewer.open(str(tmp_path / "scan.ome.zarr"), plugin="napari-prosma")
    assert (tuple(layer.contrast_limits) == (-160, 240)) == is_ct
    assert layer.contrast_limits_range[1] >= voxels.max()


def test_values_between_whole_numbers_and_pictures_are_no_ct():
    place = Geometry((1.0,) * 3, (0.0,) * 3, "mm")
    halves = np.full((1, 4, 4, 4), -1000.5, np.float32)
    assert "contrast_limits" not in image_layer(Image(halves, place), "mr")[1]
    plane = np.full((1, 4, 4), -1000, np.int16)
    assert "contrast_limits" not in image_layer(Image(plane, Geometry.pixels(2)), "slice")[1]
    assert "contrast_limits" in image_layer(Image(halves - 0.5, place), "ct")[1]


def test_what_is_no_image_has_no_reader(tmp_path: Path):
    assert get_reader(str(tmp_path / "notes.txt")) is None


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd", ".ome.zarr"])
def test_a_class_that_is_named_by_hand_is_so_in_the_file_and_the_others_keep_their_names(
    suffix: str, viewer: napari.Viewer, tmp_path: Path, qtbot: QtBot
):
    drawn = np.zeros((3, 8, 8), np.uint8)
    drawn[1, 2:4, 2:4], drawn[1, 5, 5], drawn[2, 5, 5] = 1, 2, 4
    geometry = Geometry((2.0, 1.0, 1.0), (0.0, 0.0, 0.0), "mm")
    names = ClassName()
    qtbot.addWidget(names)
    for of_file, expected in (
        (("background", "liver", "tumour"), {1: "liver", 2: "metastasis"}),
        ((), {1: "label 1", 2: "metastasis"}),
    ):
        layer = add_layer(viewer, labels_layer(drawn, geometry, "labels", of_file))
        names.follow(layer)
        layer.selected_label = 2
        names.line.setText("metastasis")
        names.line.editingFinished.emit()
        path = write_layer(tmp_path / f"{len(of_file)}{suffix}", layer, drawn)
        written = {value: name for value, name in label_names(path).items() if value in expected}
        assert written == expected
        assert names_of(layer, highest=4) == ("background", *expected.values(), "label 3", "label 4")
    assert names_of(add_layer(viewer, (drawn, {}, "labels")), highest=4) == ()


def test_a_written_label_file_opens_with_the_same_labels(oblique: Path, tmp_path: Path):
    layer = opened(oblique)
    labels = (np.asarray(layer.data) > 0).astype(np.uint8)
    path = write_labels(tmp_path / "l.nii.gz", labels, geometry_of(layer), ("background", "x"))
    np.testing.assert_array_equal(np.asarray(opened(path).data), labels)
