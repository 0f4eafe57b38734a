"""A slice is a slice of the plane in which a volume was acquired."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_prosma.data.fingerprint import Plan, make_plan, read_facts
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.planes import slice_axis, thin_axes
from napari_prosma.data.preparation import cut_axis, grid_size, normalise
from napari_prosma.geometry import Geometry, SourceFrame

SAGITTAL = np.array([[0, 0, 4.0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])
"""Stored (rows, columns, slices): 0.5 mm in the plane, slices from right to left every 4 mm."""


def sagittal_set(folder: Path, slices: int = 6, labelled: tuple[int, ...] = (1, 4)) -> Path:
    for n in range(3):
        image = np.random.default_rng(n).normal(100, 20, (48, 48, slices)).astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[5:30, 10:30, list(labelled)] = 1
        for kind, array in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            nibabel.Nifti1Image(array, SAGITTAL).to_filename(folder / kind / f"{n}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((5.0, 1, 1), 0),
        ((1.0, 3, 1), 1),
        ((0.5, 0.5, 4), 2),
        ((1.0, 1, 1), 0),
        ((0.8, 0.8, 0.82), 0),
        ((1.0, 2, 2), 0),
    ],
)
def test_it_is_the_axis_of_the_largest_spacing(spacing: tuple[float, ...], axis: int) -> None:
    assert slice_axis(Geometry(spacing, (0.0,) * 3, "mm")) == axis


def test_time_is_no_slice_and_a_picture_has_none() -> None:
    assert slice_axis(Geometry((0.1, 1.0, 2.0), (0.0,) * 3, "mm", ("t", "y", "x"))) == 0
    assert slice_axis(Geometry((1.0, 5.0), (0.0,) * 2, "mm")) == 0


def test_where_no_spacing_tells_the_header_does(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((6, 7, 8), np.int16), np.eye(4))
    image.header.set_dim_info(slice=0)
    image.to_filename(tmp_path / "a.nii")
    from napari_prosma.data.readers import read_header

    assert slice_axis(read_header(tmp_path / "a.nii").geometry) == 2  # stored i runs from left to right


def test_a_series_without_a_header_lies_along_its_last_stored_axis() -> None:
    affine = np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    geometry = Geometry.patient(SourceFrame.canonical(affine), (5, 6, 7))
    assert slice_axis(geometry) == 2


def test_a_plan_of_slices_takes_the_acquired_plane_and_says_so(tmp_path: Path) -> None:
    facts = list(read_facts(find_cases(sagittal_set(tmp_path)).cases))
    plan = make_plan(facts, ["background", "x"])
    assert (plan.dims, plan.slice_axis, plan.patch) == (2, 2, (48, 48))
    assert "2D in slices across x (plane of z and y)" in plan.in_words()
    chosen = make_plan(facts, ["background", "x"], dims=2, slice_axis=0)
    assert chosen.patch == (48, 16)
    assert "across z" in chosen.in_words()


def test_only_labelled_slices_of_the_acquired_plane_are_learned_from(tmp_path: Path) -> None:
    rule = find_cases(sagittal_set(tmp_path)).labels.sparse("slices")
    label = find_cases(tmp_path, labels=rule).cases[0].read_label()  # type: ignore[misc]
    assert float((label == IGNORE).mean()) == pytest.approx(4 / 6)
    assert not (label == IGNORE).all(axis=(0, 1)).all()
    assert [bool((label[..., n] == IGNORE).all()) for n in range(6)].count(True) == 4


def test_a_stack_is_normalised_and_resampled_in_the_plane_of_its_slices() -> None:
    pictures = Plan(dims=2, channels=1, axes=2, class_names=("a", "b"), patch=(16, 16), batch=1)
    stack = Geometry((0.5, 0.5, 4.0), (0.0,) * 3, "mm")
    across = cut_axis(pictures, stack)
    array = np.random.default_rng(0).normal(size=(1, 8, 9, 5)).astype(np.float32) * (1 + np.arange(5))
    assert across == 2
    assert normalise(array, pictures, across).std(axis=(1, 2)) == pytest.approx(np.ones((1, 5)), abs=1e-5)
    halved = pictures.model_copy(update={"spacing": (1.0, 1.0), "unit": "mm"})
    assert grid_size((8, 9, 5), stack, halved) == (4, 4, 5)


@pytest.mark.parametrize(
    ("axes", "dims", "across", "thin"),
    [(3, 2, 0, (0,)), (3, 2, 2, (2,)), (3, 3, 1, ()), (2, 2, 0, ()), (4, 2, 0, (0, 1))],
)
def test_axes_that_a_network_does_not_see(axes: int, dims: int, across: int, thin: tuple[int, ...]) -> None:
    assert thin_axes(axes, dims, across) == thin
