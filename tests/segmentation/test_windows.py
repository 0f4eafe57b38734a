"""The window engine: every element is covered, weights add up, coarser grids fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric

from napari_prosma.nn.build import build_model
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet, pad_to_multiple
from napari_prosma.segmentation.windows import (
    Blend,
    gaussian_weight,
    labels_of,
    pad,
    predict,
    probabilities_of,
    tile,
    unwrap,
    windows,
)
from napari_prosma.training.checkpoint import Checkpoint

sizes = st.integers(1, 90)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int, float]:
    """Size of an array, a window for its last axes, a divisor and an overlap."""
    size = tuple(draw(st.lists(sizes, min_size=2, max_size=3)))
    thin = draw(st.integers(0, len(size) - 2))
    window = tuple(draw(st.integers(1, 70)) for _ in size[thin:])
    return size, window, draw(st.sampled_from([1, 4, 16])), draw(st.floats(0, 0.9))


@given(tilings())
@settings(deadline=None)
def test_windows_cover_every_element_and_start_on_every_coarser_grid(drawn: tuple) -> None:
    size, window, divisor, overlap = drawn
    tiling = tile(size, window, divisor, overlap)
    thin = len(size) - len(window)
    for axis, (n, padded, w) in enumerate(zip(tiling.size, tiling.padded, tiling.window, strict=True)):
        starts = sorted({start[axis] for start in tiling.starts})
        step = 1 if axis < thin else divisor
        assert n <= padded < n + step
        assert (w == 1) if axis < thin else (w % divisor == 0)
        assert all(start % step == 0 for start in starts)
        assert starts[0] == 0
        assert starts[-1] + w == padded
        assert all(b - a <= w for a, b in itertools.pairwise(starts)), "a gap"
    assert len(tiling.starts) == len(set(tiling.starts))
    product = np.prod([len({start[axis] for start in tiling.starts}) for axis in range(len(size))])
    assert len(tiling.starts) == product


@given(st.integers(1, 400), st.integers(1, 8).map(lambda k: 16 * k), st.floats(0, 0.8))
@settings(deadline=None)
def test_neighbours_overlap_by_what_was_asked_or_more(size: int, window: int, overlap: float) -> None:
    tiling = tile((size,), (window,), 16, overlap)
    starts, w = [start[0] for start in tiling.starts], tiling.window[0]
    for a, b in itertools.pairwise(starts):
        assert b - a <= max(16, w * (1 - overlap))


def test_a_small_image_has_one_window_no_longer_than_itself_padded() -> None:
    tiling = tile((20, 33), (64, 64), 16)
    assert (tiling.window, tiling.starts) == ((32, 48), ((0, 0),))


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2.0])
def test_an_overlap_that_makes_no_sense_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        tile((20, 20), (16, 16), 4, overlap)


@given(tilings(), st.floats(-5, 5, width=32))
@settings(deadline=None, max_examples=40)
def test_the_blend_of_a_constant_is_that_constant_on_every_grid(drawn: tuple, value: float) -> None:
    size, window, divisor, overlap = drawn
    tiling = tile(size, window, divisor, overlap)
    thin = len(size) - len(window)
    for factor in {1, min(2, divisor), divisor}:
        factors = (1,) * thin + (factor,) * len(window)
        blend = Blend(tiling, 2, factors)
        for start in tiling.starts:
            blend.add(
                start, torch.full((2, *(w // f for w, f in zip(tiling.window, factors, strict=True))), value)
            )
        result = blend.result()
        assert result.shape == (2, *(-(-n // f) for n, f in zip(size, factors, strict=True)))
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)


def test_the_blend_puts_values_where_they_came_from() -> None:
    image = np.random.default_rng(0).normal(size=(1, 5, 37, 50)).astype(np.float32)
    tiling = tile(image.shape[1:], (16, 16), 4)
    blend = Blend(tiling, 1)
    padded = pad(torch.from_numpy(image), 2, 4)
    for starts, cut in windows(padded, tiling, 2, 3):
        for start, values in zip(starts, cut, strict=True):
            blend.add(start, values.reshape(1, *tiling.window))
    np.testing.assert_allclose(blend.result(), image, atol=1e-5)


def test_weights_fall_from_the_middle_and_never_vanish() -> None:
    weight = gaussian_weight(32)
    assert torch.equal(weight, weight.flip(0))
    assert torch.all(weight[:16].diff() >= 0)
    assert float(weight.min()) >= 0.00099 * float(weight.max()) > 0


def test_padding_is_that_of_the_network() -> None:
    image = torch.randn(2, 3, 13, 22)
    assert torch.equal(pad(image, 2, 16)[:, 1], pad_to_multiple(image[:, 1][None], 16)[0])
    volume = torch.randn(1, 13, 22, 5)
    assert torch.equal(pad(volume, 3, 8), pad_to_multiple(volume[None], 8)[0])


@pytest.mark.parametrize(("dims", "size"), [(2, (29, 31)), (2, (32, 17)), (3, (13, 15, 9))])
def test_one_window_is_one_pass_of_the_network(
    dims: int, size: tuple[int, ...], make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    model = make_checkpoint(dims=dims, classes=("background", "a", "b")).build()
    image = noise(1, *size)
    tiling = tile(size, (32,) * dims, model.divisor)
    blend = Blend(tiling, 3)
    assert sum(predict(model, image, tiling, 1, blend)) == 1
    with torch.no_grad():
        direct = model(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(blend.result(), direct.numpy(), atol=1e-6)


def test_windows_far_from_a_change_do_not_see_it(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    """What a window reports depends on the window alone."""
    model: ProSMAUNet = make_checkpoint(gate="prosma").build()
    image, tiling = noise(1, 32, 128), tile((32, 128), (32, 32), 4)

    def logits(array: np.ndarray) -> np.ndarray:
        blend = Blend(tiling, 1)
        list(predict(model, array, tiling, 2, blend))
        return blend.result()

    changed = image.copy()
    changed[..., 100:] += 3
    before, after = logits(image), logits(changed)
    np.testing.assert_allclose(after[..., :64], before[..., :64], atol=1e-5)
    assert not np.allclose(after[..., 100:], before[..., 100:], atol=1e-2)


def test_one_logit_becomes_two_probabilities_and_more_a_softmax() -> None:
    binary = probabilities_of(np.array([[0.0, 100.0, -100.0]], np.float32))
    np.testing.assert_allclose(binary, [[0.5, 0, 1], [0.5, 1, 0]], atol=1e-6)
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    probabilities = probabilities_of(logits)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-6)
    assert np.array_equal(labels_of(probabilities), logits.argmax(axis=0))


def test_a_tie_goes_to_the_lower_class() -> None:
    assert labels_of(np.array([[0.5, 0.2, 0.4], [0.5, 0.4, 0.2], [0.0, 0.4, 0.4]])).tolist() == [0, 1, 0]


def test_a_network_is_found_inside_what_trains_and_compiles_it() -> None:
    network = build_model(ModelSpec(2, 1, 1, (2, 4, 8)))
    several = Ensemble([network, network])
    compiled = torch.compile(network)
    fabric = Fabric(accelerator="cpu", devices=1)
    for model in (network, compiled, fabric.setup_module(network), fabric.setup_module(compiled)):
        assert unwrap(model) is network
    assert unwrap(several) is several
