"""The sample data in napari's File > Open Sample: one image with its label each."""

from __future__ import annotations

from napari_prosma.plugin.shared.layers import LayerTuple, image_layer, labels_layer, widen_ranges


def ultrasound() -> list[LayerTuple]:
    """The first ultrasound phantom with its lesions."""
    return _first_case("ultrasound")


def ct() -> list[LayerTuple]:
    """The first CT phantom with its spleen."""
    return _first_case("ct")


def _first_case(kind: str) -> list[LayerTuple]:
    from napari_prosma.data.layouts import find_cases
    from napari_prosma.data.phantoms import sample_folder

    widen_ranges()
    data = find_cases(sample_folder() / kind)
    case = data.cases[0]
    assert case.read_label is not None
    image = case.read_image()
    label = labels_layer(case.read_label(), image.geometry, f"{case.name} label", data.class_names)
    return [image_layer(image, case.name), label]
