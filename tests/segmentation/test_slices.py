"""A network of pictures goes through volumes across any axis, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from napari_prosma.data.case import Case, Image
from napari_prosma.errors import DataError
from napari_prosma.events import Event
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.inspection.what_if import WhatIf
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.segmentation.scale_out import segment_to
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.batches import PreparedCases, draw_patch
from napari_prosma.training.preview import plane_probabilities
from napari_prosma.training.validation import gate_state, validate

SIZE = (5, 44, 40)
Make = Callable[..., Checkpoint]
Last = Callable[[Iterator[Event]], object]


def both(make: Make, noise: Callable, axis: int) -> tuple[tuple[Checkpoint, Image], tuple[Checkpoint, Image]]:
    """A model and a volume whose slices come first, and the same where they lie across ``axis``."""
    upright = make()
    plan = upright.plan.model_copy(update={"axes": 3})
    array = noise(1, *SIZE)
    spacing = np.array([4.0, 0.5, 0.5])
    first = Image(array, Geometry(tuple(spacing), (0.0,) * 3, "mm"))
    there = Image(
        np.moveaxis(array, 1, 1 + axis), Geometry(tuple(np.insert(spacing[1:], axis, 4.0)), (0.0,) * 3, "mm")
    )
    turned = replace(upright, plan=plan.model_copy(update={"slice_axis": axis}))
    return (replace(upright, plan=plan), first), (turned, there)


@pytest.mark.parametrize("axis", [1, 2])
def test_the_same_is_segmented_in_any_plane(
    make_checkpoint: Make, noise: Callable, last_of: Last, axis: int
) -> None:
    one, other = (last_of(segment(*each)) for each in both(make_checkpoint, noise, axis))
    assert np.array_equal(np.moveaxis(other.labels, axis, 0), one.labels)
    np.testing.assert_allclose(np.moveaxis(other.probabilities, 1 + axis, 1), one.probabilities, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_model_of_pictures_takes_the_acquired_plane(
    make_checkpoint: Make, noise: Callable, last_of: Last, axis: int
) -> None:
    (model, first), (_, there) = both(make_checkpoint, noise, axis)
    of_pictures = replace(model, plan=model.plan.model_copy(update={"axes": 2}))
    one, other = (last_of(segment(of_pictures, image)) for image in (first, there))
    np.testing.assert_allclose(np.moveaxis(other.probabilities, 1 + axis, 1), one.probabilities, atol=1e-5)


def test_gates_are_inspected_in_the_plane_of_the_slices(
    make_checkpoint: Make, noise: Callable, last_of: Last
) -> None:
    one, other = (last_of(inspect_gates(*each)) for each in both(make_checkpoint, noise, 2))
    for level, skip in one.skips.items():
        turned = other.skips[level]
        np.testing.assert_allclose(np.moveaxis(turned.psi, 2, 0), skip.psi, atol=1e-5)
        assert turned.geometry.spacing == (*skip.geometry.spacing[1:], skip.geometry.spacing[0])


def test_what_if_has_a_window_in_the_plane_of_the_slices(make_checkpoint: Make, noise: Callable) -> None:
    (one, first), (other, there) = both(make_checkpoint, noise, 2)
    found = WhatIf(one, first).unchanged.record.segmentation.probabilities
    turned = WhatIf(other, there).unchanged.record.segmentation.probabilities
    np.testing.assert_allclose(np.moveaxis(turned, 3, 1), found, atol=1e-5)


def test_patches_validation_and_previews_lie_in_the_plane_of_the_slices(
    make_checkpoint: Make, noise: Callable
) -> None:
    (one, first), (other, there) = both(make_checkpoint, noise, 2)
    label = np.zeros(SIZE, np.uint8)
    label[2, 10:30, 5:35] = 1
    cases = [
        PreparedCases([Case.from_arrays("a", image.array, truth, image.geometry)], model.plan)
        for model, image, truth in ((one, first, label), (other, there, np.moveaxis(label, 0, 2)))
    ]
    image, patch = draw_patch(cases[1][0], (32, 32), np.random.default_rng(0), foreground_share=1)
    assert image.shape == (1, 32, 32)
    assert patch.any()
    networks = [model.build("cpu") for model in (one, other)]
    answers = [
        [*validate(network, held, [0], model.plan)][-1][1]
        for network, held, model in zip(networks, cases, (one, other), strict=True)
    ]
    assert np.array_equal(np.moveaxis(answers[1], 2, 0), answers[0])
    assert gate_state(networks[1], cases[1][0], other.plan)
    preview = plane_probabilities(networks[1], cases[1][0].image, other.plan, (None, None, 2), across=2)
    shown = last_value(preview)
    assert shown is not None
    assert shown.shape == (2, *SIZE[1:])


def last_value(steps: object) -> np.ndarray | None:
    while True:
        try:
            next(steps)  # type: ignore[call-overload]
        except StopIteration as end:
            return end.value


def test_rows_across_the_slices_are_refused_in_words(
    make_checkpoint: Make, noise: Callable, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    _, (model, image) = both(make_checkpoint, noise, 2)
    with pytest.raises(DataError, match=r"slices across x, but rows are written across z.*without --stream"):
        list(segment_to(model, image, tmp_path / "a.ome.zarr", name="a"))
