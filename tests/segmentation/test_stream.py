"""Images prepared and labels finished some rows at a time are those of the whole, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import dask.array
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import prepare, resample
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import require_fit
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.windows import Blend, labels_of, predict, probabilities_of, tile
from napari_prosma.segmentation import prepared as preparing
from napari_prosma.segmentation import stream
from napari_prosma.segmentation.prepared import Prepared, needed_rows, resample_rows
from napari_prosma.segmentation.segment import segment
from napari_prosma.segmentation.stream import Background


def plan(dims: int = 3, channels: int = 1, **values: object) -> Plan:
    names = ("background", "lesion")
    return Plan(
        dims=dims, channels=channels, class_names=names, patch=(16,) * dims, batch=1, unit="mm", **values
    )


def geometry(array: np.ndarray) -> Geometry:
    return Geometry((1.0,) * (array.ndim - 1), (0.0,) * (array.ndim - 1), "mm")


def surveyed(prepared: Prepared, hashed: bool = False) -> list[Event]:
    return list(prepared.survey("scan", hashed))


# ---- resampling -----------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 9)),
    st.tuples(st.integers(1, 60), st.integers(1, 14)),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_some_rows_resampled_are_those_of_the_whole(
    size: tuple[int, int], target: tuple[int, int], data: st.DataObject
) -> None:
    whole = np.random.default_rng(0).normal(size=size).astype(np.float32)
    everything = resample_rows(whole, 0, size, target, (0, target[0]))
    np.testing.assert_allclose(everything, resample(whole, target), atol=1e-5)
    start = data.draw(st.integers(0, target[0] - 1))
    stop = data.draw(st.integers(start + 1, target[0]))
    first, last = needed_rows(size[0], target[0], start, stop)
    assert 0 <= first < last <= size[0]
    part = resample_rows(whole[first:last], first, size, target, (start, stop))
    assert np.array_equal(part, everything[start:stop])


def test_what_is_constant_stays_so_to_the_last_bit() -> None:
    constant = np.full((7, 9), 0.1, np.float32)
    assert np.unique(resample_rows(constant, 0, (7, 9), (16, 5), (0, 16))).tolist() == [np.float32(0.1)]


# ---- the prepared image ---------------------------------------------------------------------------------

PREPARED = [
    (plan(), (1, 30, 12, 14)),
    (plan(channels=2, spacing=(1.5, 0.7, 1.0)), (2, 30, 12, 14)),
    (plan(dims=2, channels=2, axes=2), (2, 5, 12, 14)),
    (plan(dims=2, axes=2, spacing=(2.0, 1.4)), (1, 5, 30, 14)),
    (plan(dims=2), (1, 40, 14)),
    (plan(axes=3), (1, 3, 10, 12, 14)),
    (
        plan(intensity="ct", clip=(-100.0, 200.0), mean=20.0, std=60.0, spacing=(0.8, 1.0, 1.0)),
        (1, 30, 12, 9),
    ),
]


@pytest.mark.parametrize(("how", "shape"), PREPARED)
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_are_those_of_the_whole_image_prepared(how: Plan, shape: tuple[int, ...], axis: int) -> None:
    array = (np.random.default_rng(0).normal(size=shape) * 80 + 30).astype(np.int16)
    image = Image(array, geometry(array))
    expected = np.moveaxis(prepare(image, how).array, 1 + axis, 1)
    prepared = Prepared(array, image.geometry, how, axis)
    surveyed(prepared)
    assert prepared.size == expected.shape[1:]
    n = prepared.size[0]
    for start, stop in [(0, n), (0, n // 2), (n // 3, n), (n - 1, n), (0, 1), (n // 4, n // 2 + 1)]:
        np.testing.assert_allclose(prepared.rows(start, stop), expected[:, start:stop], atol=1e-5)


def test_rows_do_not_depend_on_which_are_asked_for_before() -> None:
    array = np.random.default_rng(0).normal(size=(1, 60, 12, 14)).astype(np.float32)
    prepared = Prepared(array, geometry(array), plan(spacing=(0.7, 1.3, 1.0)), axis=0)
    surveyed(prepared)
    n = prepared.size[0]
    whole = prepared.rows(0, n).copy()
    for start in (0, 8, 20, 21, 60, 4):
        assert np.array_equal(prepared.rows(start, start + 16), whole[:, start : start + 16])


@pytest.mark.parametrize("piece", [2**7, 2**12])
def test_statistics_do_not_depend_on_the_parts_they_are_taken_from(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "PIECE", piece)
    array = (np.random.default_rng(0).normal(size=(2, 11, 13, 9)) * 3 + 1000).astype(np.float32)
    lazy = dask.array.from_array(array, chunks=(1, 4, 5, 9))
    for held in (array, lazy):
        prepared = Prepared(held, geometry(array), plan(channels=2), axis=0)
        events = surveyed(prepared)
        assert isinstance(events[0], Started)
        assert [event.done for event in events[1:] if isinstance(event, Progress)][-1] == events[0].total
        assert prepared.statistics is not None
        np.testing.assert_allclose(prepared.statistics.mean[:, 0, 0, 0], array.mean((1, 2, 3), np.float64))
        np.testing.assert_allclose(prepared.statistics.spread[:, 0, 0, 0], array.std((1, 2, 3), np.float64))


def test_the_hash_is_of_the_values_and_their_type() -> None:
    def digest(array: np.ndarray) -> str:
        prepared = Prepared(array, geometry(array), plan())
        surveyed(prepared, hashed=True)
        return prepared.digest

    array = np.arange(4 * 4 * 4, dtype=np.int16).reshape(1, 4, 4, 4)
    other = array.copy()
    other[0, 3, 3, 3] += 1
    assert digest(array) == digest(array.copy())
    assert len({digest(array), digest(other), digest(array.astype(np.int32))}) == 3


def test_no_more_of_an_image_is_read_than_the_rows_that_are_asked_for() -> None:
    class Watched:
        """An array that says how many rows were read of it at once."""

        def __init__(self, array: np.ndarray) -> None:
            self._array, self.shape, self.dtype = array, array.shape, array.dtype
            self.most = self.read = 0

        def __getitem__(self, key: tuple) -> np.ndarray:
            part = self._array[key]
            self.most, self.read = max(self.most, part.shape[1]), self.read + part.shape[1]
            return part

    array = np.random.default_rng(0).normal(size=(1, 200, 8, 8)).astype(np.float32)
    held = Watched(array)
    ct = plan(intensity="ct", clip=(-1.0, 1.0), mean=0.0, std=1.0)
    prepared = Prepared(held, geometry(array), ct, axis=0)
    for start in range(0, 185, 8):
        prepared.rows(start, start + 16)
    assert held.most == 16
    assert held.read == 200, "rows that two windows share were read twice"


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_are_read_in_parts_of_whole_chunks_that_take_little_memory(
    axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chunked:
        """An array in chunks of eight that says what was read of it at once."""

        def __init__(self, array: np.ndarray) -> None:
            self._array, self.shape, self.dtype = array, array.shape, array.dtype
            self.chunks = ((1,), (8, 8, 8), (8, 8, 8), (8,))
            self.read: list[tuple[int, ...]] = []

        def __getitem__(self, key: tuple) -> np.ndarray:
            part = self._array[key]
            self.read.append(part.shape[1:])
            return part

    array = np.random.default_rng(0).normal(size=(1, 24, 24, 8)).astype(np.float32)
    held, ct = Chunked(array), plan(intensity="ct", clip=(-1.0, 1.0))
    expected = Prepared(array, geometry(array), ct, axis).rows(0, 16)
    monkeypatch.setattr(preparing, "PIECE", 4 * 16 * 8 * 8)
    assert np.array_equal(Prepared(held, geometry(array), ct, axis).rows(0, 16), expected)
    assert held.read == [(16, 8, 8) if axis == 0 else (8, 16, 8)] * 3


# ---- what does not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [100.0, 0.01, 1000.0])
def test_a_spacing_far_from_the_models_is_refused(factor: float) -> None:
    spacing = (1.0, 0.8 * factor, 0.8)
    found = Geometry(spacing, (0.0,) * 3, "mm")
    with pytest.raises(DataError, match=r"expects 0\.8 mm along y but the image has .* mm, \d+ times off"):
        require_fit(plan(spacing=(1.0, 0.8, 0.8)), (1, 64, 64, 64), np.dtype(np.uint8), found)


def test_a_spacing_far_from_the_models_is_refused_however_few_voxels_there_are() -> None:
    found = Geometry((1.0, 80.0, 0.8), (0.0,) * 3, "mm")
    with pytest.raises(DataError, match=r"along y but the image has 80 mm, 100 times off"):
        require_fit(plan(spacing=(1.0, 0.8, 0.8)), (1, 8, 8, 8), np.dtype(np.uint8), found)


def test_thick_slices_and_other_units_are_no_mistake() -> None:
    model = plan(spacing=(1.0, 0.8, 0.8))
    require_fit(model, (1, 20, 64, 64), np.dtype(np.uint8), Geometry((10.0, 0.4, 0.4), (0.0,) * 3, "mm"))
    require_fit(model, (1, 64, 64, 64), np.dtype(np.uint8), Geometry((1e3, 800.0, 800.0), (0.0,) * 3, "um"))


def test_a_damaged_part_is_told() -> None:
    def broken(block: np.ndarray) -> np.ndarray:
        raise RuntimeError("error during blosc decompression: -1")

    lazy = dask.array.zeros((1, 8, 8, 8), chunks=4).map_blocks(broken, dtype=np.float64)
    with pytest.raises(DataError, match=r"cannot be read .*blosc"):
        surveyed(Prepared(lazy, geometry(lazy), plan()))


# ---- plain background -----------------------------------------------------------------------------------


def test_plain_background_is_what_the_plan_cannot_see() -> None:
    array = np.full((1, 32, 32, 32), -1000, np.int16)
    array[0, :2] = 40
    ct = plan(intensity="ct", clip=(-160.0, 240.0), mean=10.0, std=80.0)
    prepared = Prepared(array, geometry(array), ct)
    surveyed(prepared)
    rows = torch.from_numpy(prepared.rows(0, 32))
    background = Background(ct)
    assert [background(rows[:, start : start + 8]) for start in (0, 8, 24)] == [False, True, True]
    assert background.skipped == 2
    assert "2 of 9 windows are plain background (nothing above -160" in background.notice(9).message
    array[0, 31, 31, 31] = -159
    prepared = Prepared(array, geometry(array), ct)
    assert not background(torch.from_numpy(prepared.rows(24, 32)))


def test_without_limits_only_one_value_throughout_is_plain() -> None:
    background = Background(plan(channels=2))
    window = torch.zeros(2, 4, 4, 4)
    window[1] = 3
    assert background(window)
    window[1, 0, 0, 0] = 2
    assert not background(window)


# ---- labels on the image's grid -------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [("background", "a"), ("background", "a", "b")])
@pytest.mark.parametrize("spacing", [(0.7, 1.3, 1.0), (2.1, 0.6, 0.8)])
def test_labels_are_the_most_probable_class_on_the_images_grid(
    classes: tuple[str, ...],
    spacing: tuple[float, ...],
    make_checkpoint: Callable[..., Checkpoint],
    noise: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Probabilities are resampled, then compared; here of the whole, there of some rows at a time."""
    monkeypatch.setattr(stream, "RESULT_PIECE", 3 * 14 * 17)
    checkpoint = make_checkpoint(dims=3, classes=classes, spacing=spacing, patch=(16,) * 3)
    array = noise(1, 40, 14, 17)
    image = Image(array, geometry(array))
    seen, model = prepare(image, checkpoint.plan).array, checkpoint.build()
    tiling = tile(seen.shape[1:], (16,) * 3, model.divisor)
    blend = Blend(tiling, checkpoint.spec.out_channels)
    list(predict(model, seen, tiling, 1, blend))
    whole = np.stack([resample(p, array.shape[1:]) for p in probabilities_of(blend.result())])
    found = list(segment(checkpoint, image))[-1].result  # type: ignore[attr-defined]
    np.testing.assert_allclose(found.probabilities, whole, atol=2e-5)
    apart = found.labels != labels_of(whole)
    best = np.sort(whole, axis=0)
    assert np.all((best[-1] - best[-2])[apart] < 1e-4)
    few = list(segment(checkpoint, image, probabilities=(1,)))[-1].result  # type: ignore[attr-defined]
    assert np.array_equal(few.labels, found.labels)
    assert np.array_equal(few.probabilities, found.probabilities[1:2])
    assert few.kept == (1,)


def test_a_time_series_is_segmented_point_by_point(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    checkpoint = make_checkpoint(dims=3, patch=(16,) * 3)
    checkpoint = replace(checkpoint, plan=checkpoint.plan.model_copy(update={"axes": 3}))
    series = noise(1, 3, 12, 17, 15)
    together = list(segment(checkpoint, Image(series, geometry(series))))[-1].result  # type: ignore[attr-defined]
    for t in range(3):
        alone = list(segment(checkpoint, Image(series[:, t], geometry(series[:, t]))))[-1].result  # type: ignore[attr-defined]
        np.testing.assert_allclose(together.probabilities[:, t], alone.probabilities, atol=1e-5)
