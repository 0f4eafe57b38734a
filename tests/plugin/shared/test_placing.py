"""Labels that lie elsewhere than their image are told, or cut to it where that is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.data.case import Image
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.maps import MapLayer
from napari_prosma.model.applying import Segmentation
from napari_prosma.plugin.evaluate.panel import pairs_of_layers
from napari_prosma.plugin.shared.layers import (
    CHANNELS_FIRST,
    axes_of,
    fitting_image,
    image_layer,
    image_of,
    map_layer,
    new_layer,
    result_layer,
)
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.placing import onto_image, steps_between

Press = Callable[[QAbstractButton], None]
SHAPE = (20, 24)
IMAGE = np.random.default_rng(0).random(SHAPE).astype(np.float32)


def drawn(shape: tuple[int, ...] = SHAPE, **place: Any) -> LabelsLayer:
    array = np.zeros(shape, np.uint8)
    array[3:8, 4:10] = 1
    return LabelsLayer(array, name="drawn", **place)


@pytest.mark.parametrize(
    ("image", "labels", "said"),
    [
        ({}, {"translate": (0, 5)}, r"0, 5 elements away"),
        ({}, {"translate": (0.4, 0)}, r"0\.4, 0 elements away"),
        ({}, {"scale": (2, 2)}, r"scaled by 2 x 2"),
        ({}, {"rotate": 90}, r"turned or sheared"),
        ({}, {"shear": (0.3,)}, r"turned or sheared"),
        ({"scale": (-1, 1), "translate": (19, 0)}, {}, r"mirrored"),
        ({}, {"affine": np.array([[1, 0, 7], [0, 1, 0], [0, 0, 1]])}, r"7, 0 elements away"),
        ({"units": ("mm", "mm")}, {"units": ("um", "um")}, r"scaled by 0\.001 x 0\.001"),
    ],
)
def test_labels_that_lie_elsewhere_are_refused_with_how(
    image: dict[str, Any], labels: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        LiveCase(ImageLayer(IMAGE, **image), drawn(**labels), None, tmp_path)


@pytest.mark.parametrize(
    "place",
    [{}, {"scale": (0.3, 0.2), "translate": (5, 6)}, {"rotate": 30, "scale": (2, 1)}, {"scale": (-1, 1)}],
)
def test_labels_in_the_place_of_their_image_are_taken(place: dict[str, Any], tmp_path: Path) -> None:
    case = LiveCase(ImageLayer(IMAGE, **place), drawn(**place), None, tmp_path).open()
    assert case.read_label is not None
    assert int(case.read_label().sum()) == 30


def test_units_that_say_the_same_are_the_same_place() -> None:
    image = ImageLayer(IMAGE, scale=(0.5, 0.5), units=("mm", "mm"))
    assert steps_between(drawn(scale=(500, 500), units=("um", "um")), image) == (0, 0)


def test_labels_over_more_than_the_image_are_cut_to_it(tmp_path: Path) -> None:
    labels = drawn((40, 50), translate=(-2, -1))
    cut = onto_image(np.asarray(labels.data), labels, ImageLayer(IMAGE))
    assert cut.shape == SHAPE
    assert np.argwhere(cut).min(axis=0).tolist() == [1, 3]
    case = LiveCase(ImageLayer(IMAGE), labels, None, tmp_path).open()
    assert case.read_label is not None
    assert int(case.read_label().sum()) == 30


def test_labels_outside_the_image_are_not_lost_without_a_word() -> None:
    labels = drawn((40, 50))
    labels.data[30:33, 30:33] = 1
    with pytest.raises(DataError, match="some labels lie outside the image"):
        onto_image(np.asarray(labels.data), labels, ImageLayer(IMAGE))
    beside = drawn((40, 50), translate=(100, 0))
    with pytest.raises(DataError, match="beside it; select the image alone"):
        onto_image(np.asarray(beside.data), beside, ImageLayer(IMAGE))


def test_a_stack_of_channels_is_asked_for_and_taken(tmp_path: Path) -> None:
    stack = ImageLayer(np.stack([IMAGE, IMAGE, IMAGE]), name="sequences")
    with pytest.raises(DataError, match=r"first axis holds 3 channels"):
        LiveCase(stack, drawn(), None, tmp_path)
    stack.metadata[CHANNELS_FIRST] = True
    case = LiveCase(stack, drawn(), None, tmp_path).open()
    assert case.read_image().array.shape == (3, *SHAPE)


def test_labels_lie_over_pages_only_for_a_model_that_reads_these_as_channels() -> None:
    stack = ImageLayer(np.stack([IMAGE, IMAGE, IMAGE]), name="sequences", scale=(3, 0.5, 0.5))
    labels = drawn(scale=(0.5, 0.5), translate=(0.5, 0))
    assert steps_between(labels, stack) is None
    assert steps_between(labels, stack, 3) == (1, 0)
    assert [axes_of(stack, channels) for channels in (0, 1, 2, 3)] == [3, 3, 3, 2]
    labels.translate = (0.0, 0.0)
    np.testing.assert_array_equal(onto_image(labels.data, labels, stack, 3), labels.data)
    for channels in (0, 1, 2):
        with pytest.raises(DataError, match="has shape"):
            onto_image(labels.data, labels, stack, channels)


def test_a_result_of_a_series_read_as_channels_lies_over_its_volumes() -> None:
    place = Geometry((1.0, 3.0, 1.0, 1.0), (0.0, 5.0, 0.0, 0.0), "mm", ("t", "z", "y", "x"))
    image = Image(np.random.default_rng(0).random((1, 4, 6, 8, 8)), place)
    series = new_layer(image_layer(image, "series"))
    still = fitting_image(image_of(series), 4, "series").geometry
    found = Segmentation("series", np.zeros((6, 8, 8), np.uint8), np.zeros((2, 6, 8, 8)), still, ("a", "b"))
    labels = new_layer(result_layer(found, series))
    assert labels.data.shape == (6, 8, 8)
    np.testing.assert_allclose(labels.scale, (3, 1, 1))
    np.testing.assert_allclose(labels.translate, (5, 0, 0))
    coarse = still.coarsened((1, 2, 2), (6, 8, 8))
    drawn_map = MapLayer("psi", np.zeros((6, 4, 4)), coarse, "image", (0.0, 1.0), "viridis", "psi")
    shown = new_layer(map_layer(drawn_map, series))
    np.testing.assert_allclose(shown.scale, (3, 2, 2))
    np.testing.assert_allclose(shown.translate, (5, 0.5, 0.5))


def test_volumes_over_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 4 axes .*take the frames apart"):
        LiveCase(ImageLayer(np.zeros((2, 3, 4, 5))), LabelsLayer(np.ones((2, 3, 4, 5), int)), None, tmp_path)


def test_labels_in_two_places_are_not_measured_against_each_other() -> None:
    with pytest.raises(DataError, match=r"lies elsewhere than labels layer 'drawn'"):
        pairs_of_layers(drawn(translate=(3, 0)), drawn())
    assert len(pairs_of_layers(drawn(scale=(2, 2)), drawn(scale=(2, 2))).pairs) == 1


def in_layers(viewer: napari.Viewer, **other: Any) -> list[ImageLayer]:
    place: dict[str, Any] = {"scale": (2, 3), "translate": (1, 5), "rotate": 30, "affine": np.diag((2, 1, 1))}
    return [
        viewer.add_image(IMAGE + n, name=name, **{**place, **(other if n else {})})
        for n, name in enumerate(("T1", "FLAIR"))
    ]


@pytest.mark.parametrize("room", ["Train", "Segment"])
def test_layers_that_are_selected_become_the_channels_of_one_image(
    room: str, viewer: napari.Viewer, open_panel: Callable[[str], Any], press: Press, tmp_path: Path
) -> None:
    layers = in_layers(viewer)
    panel = open_panel(room)
    if room == "Train":
        press(panel.source.from_layers)
    button = (panel.source if room == "Train" else panel).join_button
    viewer.layers.selection = set(layers)
    press(button)
    joined = viewer.layers["T1 + FLAIR"]
    if room == "Train":
        assert panel.source.image_layer.layer is joined
    else:
        assert panel.images.ticked() == [joined]
    np.testing.assert_array_equal(image_of(joined).array, [layer.data for layer in layers])
    np.testing.assert_allclose(joined.data_to_world((1, 4, 7))[1:], layers[0].data_to_world((4, 7)))
    labels = drawn(scale=(2, 3), translate=(1, 5), rotate=30, affine=np.diag((2, 1, 1)))
    assert LiveCase(joined, labels, None, tmp_path).open().read_image().array.shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("selected", "other", "said"),
    [
        (2, {"translate": (1, 9)}, "Image layer 'FLAIR' lies elsewhere than image layer 'T1'"),
        (1, {}, "Select the image layers that are channels of one image"),
    ],
)
def test_layers_that_are_no_channels_of_one_image_are_not_joined(
    selected: int,
    other: dict[str, Any],
    said: str,
    viewer: napari.Viewer,
    open_panel: Callable[[str], Any],
    press: Press,
) -> None:
    in_layers(viewer, **other)
    panel = open_panel("Train")
    press(panel.source.from_layers)
    viewer.layers.selection = {*list(viewer.layers)[:selected]}
    press(panel.source.join_button)
    assert said in panel.source.summary.plain_text()
    assert len(viewer.layers) == 2
