"""What a plan does to an image: resampling in place, intensities by rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import (
    grid_size,
    normalise,
    prepare,
    prepare_label,
    resample,
    size_in_words,
)
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame


def plan(dims: int = 2, channels: int = 1, **changes: object) -> Plan:
    fixed = {"class_names": ("background", "lesion"), "patch": (16,) * dims, "batch": 2, "unit": "mm"}
    return Plan(dims=dims, channels=channels, **{**fixed, **changes})  # type: ignore[arg-type]


def image(array: np.ndarray, spacing: tuple[float, ...] | None = None) -> Image:
    n = array.ndim - 1
    return Image(array, Geometry(spacing or (1.0,) * n, (5.0,) * n, "mm"))


# ---- intensity ------------------------------------------------------------------------------------------


def test_every_channel_gets_mean_0_and_spread_1() -> None:
    array = np.random.default_rng(0).normal([[[3]], [[-100]]], [[[2]], [[30]]], (2, 40, 50))
    seen = prepare(image(array), plan(channels=2)).array
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=(1, 2)), 1, atol=1e-5)


def test_gain_and_offset_of_a_scanner_do_not_matter() -> None:
    array = np.random.default_rng(0).integers(0, 200, (1, 30, 30)).astype(np.uint8)
    np.testing.assert_allclose(
        prepare(image(array), plan()).array, prepare(image(array * 40.0 - 900), plan()).array, atol=1e-4
    )


@pytest.mark.parametrize("value", [0, 0.1, -1000, 65535, 3e7])
def test_a_constant_image_becomes_0(value: float) -> None:
    assert not prepare(image(np.full((1, 33, 35), value, np.float32)), plan()).array.any()


def test_a_large_offset_costs_no_precision() -> None:
    array = np.random.default_rng(0).normal(size=(1, 200, 200)) + 3e5
    seen = prepare(image(array), plan()).array
    np.testing.assert_allclose((seen.mean(), seen.std()), (0, 1), atol=1e-3)


def test_hounsfield_units_are_clipped_then_scaled_by_the_data_sets_figures() -> None:
    ct = plan(intensity="ct", clip=(-100.0, 200.0), mean=50.0, std=25.0)
    array = np.array([[[-1000, -100, 50, 75, 200, 3000]]], np.int16)
    assert normalise(array.astype(np.float32), ct).ravel().tolist() == [-6, -6, 0, 1, 6, 6]


def test_the_image_of_the_user_is_not_changed() -> None:
    array = np.random.default_rng(0).normal(size=(1, 30, 30)).astype(np.float32)
    before = array.copy()
    prepare(image(array), plan(spacing=(2.0, 2.0)))
    assert np.array_equal(array, before)


# ---- resampling -----------------------------------------------------------------------------------------


def test_without_a_spacing_the_grid_is_the_images_own() -> None:
    held = image(np.random.default_rng(0).normal(size=(1, 13, 17)), (0.3, 2.0))
    seen = prepare(held, plan())
    assert seen.array.shape == (1, 13, 17)
    assert seen.geometry == held.geometry


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
)
@settings(deadline=None, max_examples=60)
def test_resampling_keeps_the_outer_edges_in_place(
    size: tuple[int, int], spacing: tuple[float, float], target: tuple[float, float]
) -> None:
    held = image(np.random.default_rng(0).normal(size=(1, *size)), spacing)
    seen = prepare(held, plan(spacing=target))
    for axis in range(2):
        before = held.geometry.origin[axis] - spacing[axis] / 2
        after = seen.geometry.origin[axis] - seen.geometry.spacing[axis] / 2
        assert after == pytest.approx(before)
        extent = seen.array.shape[axis + 1] * seen.geometry.spacing[axis]
        assert extent == pytest.approx(size[axis] * spacing[axis])
        assert seen.array.shape[axis + 1] == max(1, round(size[axis] * spacing[axis] / target[axis]))


@pytest.mark.parametrize("target", [0.5, 0.8, 2.0, 3.7])
def test_what_lies_at_a_place_still_lies_there(target: float) -> None:
    """A slope in mm has the same value at the same mm, whatever the grid."""
    y, x = np.meshgrid(np.arange(60) * 1.5, np.arange(50) * 1.0, indexing="ij")
    held = Image((2 * y - 3 * x)[None], Geometry((1.5, 1.0), (0.0, 0.0), "mm"))
    size = grid_size((60, 50), held.geometry, plan(spacing=(target, target)))
    coarse = resample(held.array[0], size)
    geometry = prepare(held, plan(spacing=(target, target))).geometry
    at = [o + np.arange(n) * s for o, n, s in zip(geometry.origin, size, geometry.spacing, strict=True)]
    expected = 2 * at[0][:, None] - 3 * at[1][None]
    inside = (slice(4, -4),) * 2
    np.testing.assert_allclose(coarse[inside], expected[inside], atol=0.3)


def test_a_volume_keeps_its_place_in_the_patient_when_resampled() -> None:
    affine = np.array([[0, -2.9, 0.3, 10.5], [0.8, 0, 0.02, -7], [0.01, 0.3, -2.2, 31], [0, 0, 0, 1]])
    shape = (9, 14, 20)
    frame = SourceFrame.canonical(affine)
    held = Image(np.zeros((1, *shape), np.float32), Geometry.patient(frame, shape))
    seen = prepare(held, plan(3, spacing=(4.0, 1.5, 2.0)))
    grid = seen.array.shape[1:]
    assert seen.geometry.source is not None
    to_patient = seen.geometry.source.array_affine(grid)
    for corner in np.ndindex(2, 2, 2):
        before = np.append(np.array(corner) * shape - 0.5, 1)
        after = np.append(np.array(corner) * grid - 0.5, 1)
        np.testing.assert_allclose(to_patient @ after, frame.array_affine(shape) @ before, atol=1e-9)


def test_shrinking_smooths_first() -> None:
    """Waves finer than the new grid fade instead of becoming longer waves."""
    waves = np.tile(np.sin(2 * np.pi * np.arange(80) / 5), (80, 1))
    assert np.abs(resample(waves, (20, 20))[2:-2, 2:-2]).max() < 0.2
    unsmoothed = ndimage.zoom(waves, 0.25, order=1, mode="nearest", grid_mode=True)
    assert np.abs(unsmoothed).max() > 0.6


def test_there_and_back_a_smooth_image_is_nearly_the_same() -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(48, 60)), 5)
    smooth /= smooth.std()
    back = resample(resample(smooth, (31, 41)), (48, 60))
    assert np.abs(back - smooth)[4:-4, 4:-4].max() < 0.25


@pytest.mark.parametrize("target", [0.6, 1.7])
def test_labels_are_resampled_on_the_same_grid_and_hold_no_new_class(target: float) -> None:
    label = np.zeros((30, 40), np.uint8)
    label[6:24, 4:20] = 3
    label[8:20, 20:34] = 7
    held = image(label[None].astype(float))
    chosen = plan(spacing=(target, target))
    after = prepare_label(label, held.geometry, chosen)
    assert after.shape == prepare(held, chosen).array.shape[1:]
    assert after.dtype == np.uint8
    assert set(np.unique(after)) == {0, 3, 7}
    for k in (3, 7):
        assert np.count_nonzero(after == k) * target**2 == pytest.approx(
            np.count_nonzero(label == k), rel=0.2
        )


def test_a_plan_for_planes_resamples_a_stack_within_its_planes() -> None:
    stack = image(np.random.default_rng(0).normal(size=(1, 5, 20, 30)), (7.0, 1.0, 1.0))
    seen = prepare(stack, plan(spacing=(2.0, 2.0)))
    assert seen.array.shape == (1, 5, 10, 15)
    assert seen.geometry.spacing == (7.0, 2.0, 2.0)


def test_no_axis_vanishes() -> None:
    assert prepare(image(np.zeros((1, 2, 40)), (0.1, 1.0)), plan(spacing=(9.0, 9.0))).array.shape == (1, 1, 4)


# ---- units ----------------------------------------------------------------------------------------------


def test_a_plan_in_pixels_takes_every_image_by_its_pixels() -> None:
    shrunk = plan(spacing=(2.0, 2.0), unit="pixel")
    for geometry in (Geometry.pixels(2), Geometry((0.1, 0.1), (0.0, 0.0), "mm")):
        assert grid_size((40, 60), geometry, shrunk) == (20, 30)


@pytest.mark.parametrize("short", [10, 20, 33, 400])
def test_a_plan_of_a_short_side_brings_images_of_any_size_to_it(short: int) -> None:
    chosen = plan(spacing=(2.0, 2.0), unit="pixel", side=20)
    for geometry in (Geometry.pixels(2), Geometry((0.1, 0.1), (0.0, 0.0), "mm")):
        assert grid_size((short, 3 * short), geometry, chosen) == (20, 60)
        assert grid_size((2 * short, short), geometry, chosen) == (40, 20)
    stack = Geometry((1.0, 1.0, 4.0), (0.0, 0.0, 0.0), "mm")
    assert grid_size((2 * short, short, 7), stack, chosen.model_copy(update={"axes": 2})) == (40, 20, 7)


def test_an_image_of_another_spacing_than_all_of_training_is_brought_to_it() -> None:
    chosen = plan(dims=3, spacing=(2.0, 1.0, 1.0), native=(2.0, 1.0, 1.0))
    origin = (0.0, 0.0, 0.0)
    assert grid_size((10, 40, 40), Geometry((1.0, 0.5, 0.5), origin, "mm"), chosen) == (5, 20, 20)
    assert grid_size((10, 41, 40), Geometry((2.04, 0.98, 1.0), origin, "mm"), chosen) == (10, 41, 40)
    unknown = Geometry.pixels(3)
    assert grid_size((10, 40, 40), unknown, chosen) == (10, 40, 40)
    (said,) = size_in_words((10, 40, 40), unknown, chosen)
    assert said.endswith("spacing of the training images is assumed: 2 x 1 x 1 mm")
    shrunk = chosen.model_copy(update={"spacing": (4.0, 2.0, 2.0)})
    assert grid_size((10, 40, 40), unknown, shrunk) == (5, 20, 20)


def test_slices_and_times_that_a_2d_network_goes_through_stay_as_many() -> None:
    chosen = plan(spacing=(5.0, 1.0, 1.0), native=(5.0, 1.0, 1.0), axes=3)
    for first in (1.25, 5.0, 160.0):
        geometry = Geometry((first, 0.5, 0.5), (0.0, 0.0, 0.0), "mm")
        assert grid_size((40, 200, 220), geometry, chosen) == (40, 100, 110)


def test_a_picture_for_a_model_of_slices_has_the_spacing_within_these() -> None:
    chosen = plan(spacing=(0.5, 4.0, 1.0), axes=3, slice_axis=1)
    assert grid_size((20, 30), Geometry((1.0, 1.0), (0.0, 0.0), "mm"), chosen) == (40, 30)


def test_an_image_of_quite_another_size_is_told() -> None:
    chosen = plan(spacing=(2.0, 2.0), unit="pixel", side=20)
    assert size_in_words((40, 90), Geometry.pixels(2), chosen) == ()
    (said,) = size_in_words((300, 120), Geometry.pixels(2), chosen)
    assert said.startswith("The short side of the image is 120 pixels, and was about 40 in training")
    assert size_in_words((300, 120), Geometry.pixels(2), plan(spacing=(2.0, 2.0), unit="pixel")) == ()


def test_a_volume_much_larger_than_any_of_training_is_told() -> None:
    chosen = plan(3, spacing=(2.0, 1.0, 1.0), largest=(10, 20, 20))
    head = Geometry((1.0, 1.0, 1.0), (0.0,) * 3, "mm")
    assert size_in_words((40, 20, 40), head, chosen) == ()
    (said,) = size_in_words((40, 20, 41), head, chosen)
    assert "is 40 x 20 x 41 mm large, and no training image was larger than 20 x 20 x 20 mm" in said
    assert size_in_words((40, 20, 41), head, plan(3, spacing=(2.0, 1.0, 1.0))) == ()
    (bare,) = size_in_words((40, 40, 41), Geometry.pixels(3), plan(3, unit="pixel", largest=(10, 20, 20)))
    assert "is 40 x 40 x 41 voxels large" in bare


def test_a_plan_in_millimetres_converts_micrometres_and_refuses_bare_pixels() -> None:
    chosen = plan(spacing=(0.5, 0.5))
    assert grid_size((40, 60), Geometry((100.0, 100.0), (0.0, 0.0), "um"), chosen) == (8, 12)
    with pytest.raises(DataError, match="does not say how large its pixels are"):
        grid_size((40, 60), Geometry.pixels(2), chosen)


def test_a_stack_for_a_model_of_2d_images_is_normalised_slice_by_slice() -> None:
    stack = np.random.default_rng(0).normal(100, 20, (1, 3, 20, 24)).astype(np.float32)
    stack[:, 1] *= 0.1
    flat = plan(axes=2)
    seen = prepare(image(stack), flat).array
    for z in range(3):
        np.testing.assert_allclose(seen[:, z], prepare(image(stack[:, z]), flat).array, atol=1e-5)
    volumes = prepare(image(stack), plan(axes=3)).array
    assert abs(float(volumes[:, 1].mean())) > 0.5
