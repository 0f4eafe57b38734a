"""A plane of an image while the model learns: which plane, which labels, and when."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import torch

from napari_prosma.data.fingerprint import Plan
from napari_prosma.model.windows import Blend, predict, probabilities_of, tile
from napari_prosma.nn.build import build_model
from napari_prosma.nn.network_kinds import NETWORKS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.preview import (
    MOST_WINDOWS,
    Rhythm,
    by_own_statistics,
    on_plane,
    plane_labels,
    plane_probabilities,
)
from napari_prosma.training.steering import View


def planned(patch: tuple[int, ...]) -> Plan:
    return Plan(
        dims=3 if len(patch) == 3 else 2,
        channels=1,
        axes=3,
        class_names=("background", "lesion"),
        patch=patch,
        batch=2,
    )


def network(dims: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec(dims, 1, 1, (4, 8, 16))).eval()


def value_of(steps: Generator[None, None, np.ndarray | None]) -> tuple[int, np.ndarray | None]:
    """How often a generator yielded, and what it returned."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


def test_a_young_network_is_shown_by_the_statistics_it_learns_by_and_stays_as_it_is() -> None:
    model, image = network(2), torch.randn(2, 1, 16, 16) * 3 + 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        shown = by_own_statistics(model)(image)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert not torch.allclose(shown, model(image), atol=1e-3)
        torch.testing.assert_close(shown, model.train()(image))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_young_network_is_shown_on_an_image_with_one_element_at_the_deepest_level(name: str) -> None:
    model = build_model(ModelSpec(2, 1, 1, (10, 10, 20), network=name))
    side = model.divisor
    with torch.no_grad():
        model.train()(torch.randn(2, 1, side, side))
        assert by_own_statistics(model)(torch.randn(1, 1, side, side)).isfinite().all()


def test_a_network_that_learns_is_shown_as_it_would_be_used_and_stays_as_it_is() -> None:
    image = np.random.default_rng(0).normal(size=(1, 7, 24, 20)).astype(np.float32)
    plan, model, at = planned((24, 20)), network(2), (4, None, None)
    _, used = value_of(plane_probabilities(model, image, plan, at))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, shown = value_of(plane_probabilities(model.train(), image, plan, at))
    assert used is not None
    np.testing.assert_array_equal(shown, used)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_slice_of_a_stack_is_what_segmentation_makes_of_it() -> None:
    image = np.random.default_rng(0).normal(size=(1, 7, 24, 20)).astype(np.float32)
    plan, model = planned((24, 20)), network(2)
    yielded, found = value_of(plane_probabilities(model, image, plan, (4, None, None)))
    assert found is not None
    tiling = tile(image.shape[1:], plan.patch, 4)
    blend = Blend(tiling, 1)
    list(predict(model, image, tiling, 1, blend))
    np.testing.assert_allclose(found, probabilities_of(blend.result())[:, 4], atol=1e-6)
    assert yielded == 1


@pytest.mark.parametrize("at", [(5, None, None), (None, 11, None), (None, None, 3)])
def test_any_plane_of_a_volume_can_be_previewed(at: tuple[int | None, ...]) -> None:
    image = np.random.default_rng(1).normal(size=(1, 16, 24, 20)).astype(np.float32)
    plan, model = planned((16, 24, 20)), network(3)  # one window covers it: the same in one pass
    _, found = value_of(plane_probabilities(model, image, plan, at))
    with torch.no_grad():
        whole = torch.sigmoid(model(torch.from_numpy(image)[None]))[0, 0].numpy()
    plane = whole[tuple(slice(None) if n is None else n for n in at)]
    assert found is not None
    np.testing.assert_allclose(found[1], plane, atol=1e-5)


def test_a_thin_slab_around_the_plane_is_enough() -> None:
    image = np.random.default_rng(2).normal(size=(1, 64, 16, 16)).astype(np.float32)
    plan, model = planned((16, 16, 16)), network(3)
    yielded, found = value_of(plane_probabilities(model, image, plan, (40, None, None)))
    assert yielded == 1
    with torch.no_grad():
        slab = torch.sigmoid(model(torch.from_numpy(image[:, 32:48])[None]))[0, 0, 8].numpy()
    assert found is not None
    np.testing.assert_allclose(found[1], slab, atol=1e-5)


def test_a_plane_that_too_many_windows_cross_is_left_out() -> None:
    image = np.zeros((1, MOST_WINDOWS + 1, 16, 16), np.float32)
    yielded, found = value_of(plane_probabilities(network(2), image, planned((16, 16)), (None, 3, None)))
    assert (yielded, found) == (0, None)


def test_a_plane_lies_at_the_same_place_on_a_coarser_or_finer_grid() -> None:
    assert on_plane((9, None, None), (10, 40, 40), (5, 20, 20)) == (4, None, None)
    assert on_plane((0, None, None), (10, 40, 40), (30, 40, 40)) == (1, None, None)
    assert on_plane((None, 39, None), (10, 40, 40), (10, 40, 40)) == (None, 39, None)


def test_labels_of_a_plane_lie_on_the_images_own_grid() -> None:
    foreground = np.zeros((8, 8), np.float32)
    foreground[2:4, 4:6] = 1
    labels, sureness = plane_labels(np.stack([1 - foreground, foreground]), (5, 16, 16), (3, None, None))
    assert labels.shape == (1, 16, 16)
    assert labels.dtype == np.uint8
    found = np.argwhere(labels[0])
    assert found.min(axis=0) == pytest.approx((4, 8), abs=1)
    assert found.max(axis=0) == pytest.approx((7, 11), abs=1)
    assert sureness.shape == labels.shape
    assert sureness[0, 0, 0] == 255
    assert sureness.min() < 255, "between the two it is less sure"


def test_previews_take_a_fifth_of_the_time_and_follow_the_eye() -> None:
    rhythm, here, there = Rhythm(100.0), View("a", (1, None, None)), View("a", (2, None, None))
    assert not rhythm.is_due(100 + Rhythm.FIRST - 0.1, here)
    assert rhythm.is_due(100 + Rhythm.FIRST, here)
    rhythm.shown(104, 106, here)  # it took two seconds: the next one ten seconds later
    assert not rhythm.is_due(115, here)
    assert rhythm.is_due(116, here)
    assert rhythm.is_due(106.1, there)
    rhythm.shown(107, 107.1, there)
    assert rhythm.is_due(107.1 + Rhythm.EVERY, there)
