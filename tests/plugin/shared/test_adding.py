"""Layers that are put in without napari's controls have them when they are wanted."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels as LabelsLayer

from napari_prosma.plugin.shared.adding import insert_layer, make_controls


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def layer(viewer) -> LabelsLayer:
    viewer.add_image(np.zeros((8, 8)))
    layer = LabelsLayer(np.zeros((8, 8), np.uint8))
    insert_layer(viewer, layer)
    return layer


def controls(viewer):
    return viewer.window._qt_viewer.controls


def test_controls_are_made_when_the_layer_is_selected(viewer, layer):
    assert layer not in controls(viewer).widgets
    assert viewer.layers.selection.active is viewer.layers[0]
    viewer.layers.selection.active = layer
    assert controls(viewer).currentWidget() is controls(viewer).widgets[layer]
    assert type(controls(viewer).currentWidget()).__name__ == "QtLabelsControls"


def test_controls_can_be_made_before(viewer, layer):
    make_controls(viewer, layer)
    made = controls(viewer).widgets[layer]
    viewer.layers.selection.active = layer
    assert controls(viewer).currentWidget() is made


def test_a_layer_that_was_never_selected_can_be_removed(viewer, layer):
    viewer.layers.remove(layer)
    assert layer not in controls(viewer).widgets
    assert controls(viewer).count() == 2  # of no layer, and of the image


def test_other_layers_have_theirs_at_once(viewer, layer):
    other = viewer.add_labels(np.zeros((8, 8), np.uint8))
    assert other in controls(viewer).widgets


def test_in_3d_late_controls_are_those_of_3d(viewer, layer):
    viewer.dims.ndisplay = 3
    viewer.layers.selection.active = layer
    assert controls(viewer).currentWidget().ndisplay == 3


def test_it_goes_where_it_is_told(viewer, layer):
    below = LabelsLayer(np.zeros((8, 8), np.uint8))
    insert_layer(viewer, below, 1)
    assert viewer.layers.index(below) == 1
