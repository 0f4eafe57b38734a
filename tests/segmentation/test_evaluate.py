"""Measures of predictions: by hand on small masks, and against MONAI's own on random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from napari_prosma.data.case import Case
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.layouts import case_from_files
from napari_prosma.errors import DataError
from napari_prosma.events import Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.segmentation.evaluate import CaseMeasures, Evaluation, evaluate, measure
from napari_prosma.segmentation.measures import MEASURES
from napari_prosma.segmentation.pairs import Pair, Pairs

MM = Geometry((2.0, 1.0), (0.0, 0.0), "mm")
NAMES = ("background", "lesion")


def pair(
    predicted: np.ndarray,
    truth: np.ndarray,
    geometry: Geometry = MM,
    other: Geometry | None = None,
    name: str = "case",
) -> Pair:
    """Pair of label arrays; ``other`` is the prediction's geometry where it differs."""
    held = [
        Case.from_arrays(what, labels[None], labels, where)
        for what, labels, where in (("predicted", predicted, other or geometry), ("truth", truth, geometry))
    ]
    return Pair(name, *held)


def square(top: int, left: int, size: int = 3, shape: tuple[int, ...] = (7, 8)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[top : top + size, left : left + size] = 1
    return mask


def figures(*values: float) -> dict[str, float]:
    return dict(zip(MEASURES, values, strict=True))


def lesion(found: CaseMeasures) -> dict[str, float]:
    return found.classes["lesion"]


def test_a_square_one_column_off_by_hand() -> None:
    """6 of 9 pixels agree; of the 8 at each border 4 coincide with the other's and 4 lie 1 mm away."""
    predicted, truth = square(2, 3), square(2, 2)
    found = lesion(measure(pair(predicted, truth), NAMES))
    assert found == figures(2 * 6 / 18, 6 / 12, 1, 1)
    assert lesion(measure(pair(predicted, truth), NAMES, tolerance_mm=0.9))["surface_dice"] == 4 / 8


def test_distances_follow_the_spacing_of_each_axis() -> None:
    """2 rows of 2 mm and 3 columns of 1 mm apart: 5 mm."""
    found = measure(pair(square(4, 5, 1), square(2, 2, 1)), NAMES)
    assert lesion(found) == figures(0, 0, 0, 5)
    assert found.unit == "mm"


def test_micrometres_are_brought_to_mm_and_a_file_without_a_size_takes_the_others() -> None:
    um = Geometry((2000.0, 1000.0), (0.0, 0.0), "um")
    for truth, predicted in ((um, MM), (MM, um), (Geometry.pixels(2), um), (MM, Geometry.pixels(2))):
        found = measure(pair(square(4, 5, 1), square(2, 2, 1), truth, predicted), NAMES)
        assert (lesion(found)["hd95"], found.unit) == (5, "mm")
    pixels = measure(pair(square(2, 5, 1), square(2, 2, 1), Geometry.pixels(2)), NAMES)
    assert (lesion(pixels)["hd95"], pixels.unit) == (3, "pixel")


def test_nothing_predicted_where_nothing_is_true_is_perfect() -> None:
    empty = np.zeros((4, 5), np.uint8)
    assert lesion(measure(pair(empty, empty), NAMES)) == figures(1, 1, 1, 0)


@pytest.mark.parametrize("missed", [True, False])
def test_a_class_in_one_of_the_two_only_is_infinitely_far(missed: bool) -> None:
    there, empty = square(1, 1), np.zeros((7, 8), np.uint8)
    found = pair(empty, there) if missed else pair(there, empty)
    assert lesion(measure(found, NAMES)) == figures(0, 0, 0, math.inf)


def test_a_mask_at_the_edge_of_the_image_has_a_surface_there() -> None:
    """The row at the edge and the one beside it: 1 row of 2 mm apart."""
    full, rest = np.ones((5, 4), np.uint8), np.ones((5, 4), np.uint8)
    rest[0] = 0
    assert lesion(measure(pair(full, rest), NAMES))["hd95"] == 2


def test_a_volume_of_one_slice_is_measured_as_its_image() -> None:
    predicted, truth = square(2, 4), square(2, 2)
    flat = lesion(measure(pair(predicted, truth), NAMES))
    slab = Geometry((5.0, *MM.spacing), (0.0, 0.0, 0.0), "mm")
    found = lesion(measure(pair(predicted[None], truth[None], slab), NAMES))
    assert found == flat
    assert flat["surface_dice"] < 1


def test_a_tolerance_wider_than_the_image_is_told() -> None:
    um = Geometry((0.5, 0.5), (0.0, 0.0), "um")
    pairs = Pairs((pair(square(4, 5, 1), square(2, 2, 1), um),), NAMES)
    *told, last = evaluate(pairs)
    assert isinstance(last, Finished)
    assert last.result.cases[0].classes["lesion"]["surface_dice"] == 1
    assert any("the tolerance of 1 is larger than the whole image in 1 of 1 cases" in str(e) for e in told)
    assert not any("whole image" in str(e) for e in evaluate(pairs, 0.001))
    # Neither time nor the thickness of a single slice is a length of the image.
    for axes in (("t", "y", "x"), ("z", "y", "x")):
        thick = Geometry((5.0, 0.5e-3, 0.5e-3), (0.0, 0.0, 0.0), "mm", axes)
        assert measure(pair(square(4, 5, 1)[None], square(2, 2, 1)[None], thick), NAMES).extent == 0.004


def test_each_class_is_measured_against_its_own() -> None:
    truth = square(1, 1) + 2 * square(1, 5)
    predicted = square(1, 1) + 2 * square(1, 4)
    found = measure(pair(predicted, truth), ("background", "a", "b", "c"))
    assert found.classes["a"] == figures(1, 1, 1, 0)
    assert found.classes["b"] == figures(2 * 6 / 18, 0.5, 1, 1)
    assert found.classes["c"] == figures(1, 1, 1, 0)
    assert found.held_by == {"a": 2, "b": 2, "c": 0}
    assert found.dice == pytest.approx((1 + 2 / 3 + 1) / 3)


@pytest.mark.parametrize("shape", [(30, 33), (14, 18, 16)])
def test_the_measures_are_monais(shape: tuple[int, ...]) -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou
    from monai.metrics.surface_dice import compute_surface_dice

    spacing = (3.0, 0.8, 1.3)[-len(shape) :]
    geometry = Geometry(spacing, (0.0,) * len(shape), "mm")
    rng = np.random.default_rng(1)
    for _ in range(4):
        field = ndimage.gaussian_filter(rng.normal(size=shape), 2)
        other = field + 0.5 * ndimage.gaussian_filter(rng.normal(size=shape), 2)
        predicted, truth = ((f > f.std() / 2).astype(np.uint8) for f in (other, field))
        found = lesion(measure(pair(predicted, truth, geometry), NAMES, tolerance_mm=1.5))
        theirs = [torch.from_numpy(np.stack([1 - mask, mask])[None]).float() for mask in (predicted, truth)]
        wanted = {
            "dice": float(compute_dice(*theirs, include_background=False)),
            "iou": float(compute_iou(*theirs, include_background=False)),
            "surface_dice": float(compute_surface_dice(*theirs, class_thresholds=[1.5], spacing=spacing)),
            "hd95": float(compute_hausdorff_distance(*theirs, percentile=95, spacing=spacing)),
        }
        assert found == pytest.approx(wanted, rel=1e-5)
        assert 0 < found["surface_dice"] < 1


def test_what_nobody_labelled_counts_for_nothing_and_has_no_surface() -> None:
    truth, predicted = square(2, 2), square(2, 3)
    truth[:, 5:] = IGNORE  # where the prediction is wrong on one side
    found = lesion(measure(pair(predicted, truth), NAMES))
    assert (found["dice"], found["iou"]) == (2 * 6 / (9 + 6), 6 / 9)
    assert math.isnan(found["surface_dice"])
    assert math.isnan(found["hd95"])
    with pytest.raises(DataError, match="nothing is labelled in the reference of 'case'"):
        measure(pair(predicted, np.full_like(truth, IGNORE)), NAMES)


def test_a_time_series_is_compared_moment_by_moment() -> None:
    """The moment that was missed has 8 true border pixels at no distance; the other 8 + 8 agree."""
    clip = Geometry((0.04, 2.0, 1.0), (0.0,) * 3, "mm", ("t", "y", "x"))
    truth = np.stack([square(2, 2), square(2, 2)])
    predicted = np.stack([square(2, 2), np.zeros((7, 8), np.uint8)])
    found = lesion(measure(pair(predicted, truth, clip), NAMES))
    assert found["surface_dice"] == pytest.approx(16 / 24)
    assert found["hd95"] == math.inf
    # Were time an axis like the others, the missed moment would be 0.04 mm away.
    late = np.stack([np.zeros((7, 8), np.uint8), square(2, 2)])
    assert lesion(measure(pair(predicted, late, clip), NAMES)) == figures(0, 0, 0, math.inf)


def test_grids_that_differ_are_refused_and_both_are_named() -> None:
    here, moved = (Geometry.patient(SourceFrame.canonical(affine(x)), (4, 5, 6)) for x in (0, 0.4))
    volume = np.ones((4, 5, 6), np.uint8)
    assert lesion(measure(pair(volume, volume, here, here), NAMES))["dice"] == 1
    with pytest.raises(DataError, match=r"'predicted' and the reference 'truth' lie 0.4 mm apart"):
        measure(pair(volume, volume, here, moved), NAMES)
    coarse = Geometry((2.0, 1.3), (0.0, 0.0), "mm")
    with pytest.raises(DataError, match=r"2\.1 mm apart \(spacing 2 x 1\.3 and 2 x 1\)"):
        measure(pair(square(1, 1), square(1, 1), MM, coarse), NAMES)
    with pytest.raises(DataError, match=r"different shapes, \(6, 8\) and \(7, 8\)"):
        measure(pair(square(1, 1)[1:], square(1, 1)), NAMES)


def test_files_of_which_one_is_turned_and_the_other_lies_nowhere_are_refused(tmp_path: Path) -> None:
    volume = np.zeros((4, 5, 6), np.uint8)
    volume[1:3, 1:3, 1:4] = 1
    tifffile.imwrite(tmp_path / "truth.tif", volume, photometric="minisblack")
    truth = case_from_files(tmp_path / "truth.tif", tmp_path / "truth.tif")
    for axes, is_turned in ((np.eye(4), True), (affine(0), False)):
        nibabel.Nifti1Image(volume.T, axes).to_filename(tmp_path / "found.nii.gz")
        pair_of_files = Pair(
            "a", case_from_files(tmp_path / "found.nii.gz", tmp_path / "found.nii.gz"), truth
        )
        if is_turned:
            with pytest.raises(DataError, match=r"'truth\.tif' may be mirrored: only one says where it lies"):
                measure(pair_of_files, NAMES)
        else:
            assert lesion(measure(pair_of_files, NAMES))["dice"] == 1


def affine(x: float) -> np.ndarray:
    found = np.diag((-1.0, -1.0, 3.0, 1.0))
    found[0, 3] = x
    return found


def run(pairs: Sequence[Pair], notices: tuple[str, ...] = ()) -> tuple[list[object], Evaluation]:
    *events, last = evaluate(Pairs(tuple(pairs), NAMES, notices))
    assert isinstance(last, Finished)
    return events, last.result


def test_the_worst_case_comes_first() -> None:
    truth = square(2, 2)
    shifts = {"good": 2, "bad": 4, "middling": 3, "also middling": 3}
    events, found = run([pair(square(2, left), truth, name=name) for name, left in shifts.items()], ("say",))
    assert [case.pair.name for case in found.cases] == ["bad", "also middling", "middling", "good"]
    assert found.class_names == ("lesion",)
    assert isinstance(events[0], Started)
    assert events[1] == Notice("say")
    assert [(e.done, e.total) for e in events if isinstance(e, Progress)] == [(n, 4) for n in range(1, 5)]


def test_a_pair_that_cannot_be_measured_does_not_end_the_batch() -> None:
    good, bad = pair(square(2, 2), square(2, 2), name="good"), pair(np.ones((2, 2)), square(2, 2), name="bad")
    events, found = run([bad, good])
    assert [case.pair.name for case in found.cases] == ["good"]
    assert list(found.failed) == ["bad"]
    assert "different shapes" in found.failed["bad"]
    assert [e.message for e in events if isinstance(e, Notice)] == [f"bad is left out: {found.failed['bad']}"]
    with pytest.raises(DataError, match=r"none of the 1 pairs can be measured; the first: .*shapes"):
        run([bad])


def test_it_is_said_where_distances_count_in_pixels() -> None:
    events, _ = run([pair(square(2, 2), square(2, 2)), pair(square(2, 2), square(2, 2), Geometry.pixels(2))])
    (said,) = [e.message for e in events if isinstance(e, Notice)]
    assert said.startswith("1 of 2 cases do not say how large their pixels are")
