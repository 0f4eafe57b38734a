"""The window engine: every element is covered, weights add up, coarser grids fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch.nn.modules.module import register_module_forward_pre_hook

from napari_prosma.events import Notice
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.windows import (
    Blend,
    Slab,
    Tiling,
    gaussian_weight,
    labels_of,
    log_probabilities,
    pad,
    predict,
    probabilities_of,
    sweep,
    tile,
    unwrap,
    windows,
)
from napari_prosma.nn.build import build_model
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet, pad_to_multiple

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
    for starts, cut in windows(padded, tiling, 3):
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


# ---- the sweep ------------------------------------------------------------------------------------------


def swept(model: torch.nn.Module, image: np.ndarray, tiling: Tiling, **options: object) -> np.ndarray:
    """Logits of all rows; ``image`` and what comes out have the axis of the rows first."""
    slabs = [
        (found.start, found.logits.clone())
        for found in sweep(model, lambda start, stop: image[:, start:stop], tiling, **options)  # type: ignore[arg-type]
        if isinstance(found, Slab)
    ]
    rows = slabs[0][0]
    for start, logits in slabs:
        assert start == rows, "a gap"
        rows += logits.shape[1]
    return torch.cat([logits for _, logits in slabs], dim=1).numpy()


def blended(model: torch.nn.Module, image: np.ndarray, tiling: Tiling, channels: int) -> np.ndarray:
    blend = Blend(tiling, channels)
    list(predict(model, image, tiling, 1, blend))
    return blend.result()


CASES = [(2, (50, 37)), (2, (3, 30, 37)), (3, (41, 18, 21)), (3, (2, 22, 18, 17)), (2, (2, 2, 20, 19))]


@pytest.mark.parametrize(("dims", "size"), CASES)
def test_rows_that_come_out_one_after_the_other_are_those_of_all_windows_together(
    dims: int, size: tuple[int, ...], make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    model = make_checkpoint(dims=dims, channels=2, classes=("background", "a", "b")).build()
    image, tiling = noise(2, *size), tile(size, (16,) * dims, model.divisor, 0.6)
    whole = blended(model, image, tiling, 3)
    assert np.array_equal(swept(model, image, tiling), whole)
    span = (size[0] // 3, size[0] // 2 + 1)
    assert np.array_equal(swept(model, image, tiling, span=span), whole[:, span[0] : span[1]])


def test_rows_may_be_taken_along_another_axis(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    model = make_checkpoint(dims=3).build()
    image = noise(1, 18, 41, 21)
    whole = blended(model, image, tile(image.shape[1:], (16, 20, 16), model.divisor), 1)
    turned = tile((41, 18, 21), (20, 16, 16), model.divisor)
    found = swept(model, image.swapaxes(1, 2), turned, axis=1).swapaxes(1, 2)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_sums_are_held_for_the_rows_of_a_window_only() -> None:
    tiling = tile((400, 30, 30), (16, 16, 16), 4)
    blend = Blend(tiling, 2, rows=tiling.window[0])
    assert blend.upto(10**6).shape == (2, 16, 30, 30)


@pytest.mark.parametrize(("dims", "size"), [(2, (13, 16)), (3, (9, 11, 12))])
def test_where_one_window_covers_the_image_the_logits_are_the_networks_own(
    dims: int, size: tuple[int, ...], make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    model = make_checkpoint(dims=dims, classes=("background", "a", "b")).build()
    image = noise(1, *size)
    with torch.no_grad():
        direct = model(torch.from_numpy(image)[None])[0].numpy()
    assert np.array_equal(swept(model, image, tile(size, (16,) * dims, model.divisor)), direct)


@pytest.mark.parametrize("classes", [2, 14])
def test_labels_are_those_of_sums_in_double_precision_but_for_ties(classes: int) -> None:
    rng = np.random.default_rng(0)
    tiling = tile((40, 56, 48), (32, 32, 32), 8, 0.6)
    weight = gaussian_weight(32)
    weight = weight[:, None, None] * weight[:, None] * weight
    blend, rows = Blend(tiling, classes), np.zeros((classes, *tiling.size))
    total = np.zeros(tiling.size)
    base = rng.normal(size=(classes, *tiling.size))
    for start in tiling.starts:
        where = tiling.at(start)
        values = base[(slice(None), *where)] + 0.2 * rng.normal(size=(classes, 32, 32, 32))
        values = values.astype(np.float32)
        blend.add(start, torch.from_numpy(values))
        rows[(slice(None), *where)] += values * weight.numpy()
        total[where] += weight.numpy()
    exact = rows / total
    apart = labels_of(blend.result()) != exact.argmax(axis=0)
    best = np.sort(exact, axis=0)[-2:]
    assert np.all((best[1] - best[0])[apart] < 1e-6)
    assert apart.mean() < 1e-4


def test_windows_of_plain_background_are_not_looked_at_and_the_others_do_not_notice(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    model = make_checkpoint(classes=("background", "a", "b")).build()
    image = noise(1, 48, 40)
    image[:, 14:] = 0
    tiling = tile((48, 40), (16, 16), model.divisor)
    seen = []
    with watched(lambda module, inputs: seen.append(len(inputs[0]))):
        found = swept(model, image, tiling, background=lambda window: not window.any())
    plain = [start for start in tiling.starts if start[0] >= 14]
    assert plain
    assert sum(seen) == len(tiling.starts) - len(plain)
    whole, outside = blended(model, image, tiling, 3), min(start[0] for start in plain)
    assert np.array_equal(found[:, :outside], whole[:, :outside])
    assert np.array_equal(probabilities_of(found)[0, outside:], np.ones((48 - outside, 40)))


# ---- several passes -------------------------------------------------------------------------------------


def test_mirrored_passes_are_answered_by_the_mean_of_their_probabilities(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    for classes in (("background", "a"), ("background", "a", "b")):
        model = make_checkpoint(classes=classes).build()
        image = noise(1, 16, 16)
        tiling = tile((16, 16), (16, 16), model.divisor)
        passes = []
        for axes in ((), (-1,), (-2,), (-1, -2)):
            turned = np.ascontiguousarray(np.flip(image, axes))
            passes.append(np.flip(probabilities_of(swept(model, turned, tiling)), axes))
        found = probabilities_of(swept(model, image, tiling, flips=(-1, -2)))
        np.testing.assert_allclose(found, np.mean(passes, axis=0), atol=1e-5)


def test_the_networks_of_an_ensemble_are_answered_alike_with_and_without_the_sweep(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    for classes in (("background", "a"), ("background", "a", "b")):
        members = [make_checkpoint(classes=classes, seed=seed).build() for seed in (3, 4, 5)]
        model = Ensemble(members).eval()
        image, tiling = noise(1, 32, 24), tile((32, 24), (16, 16), model.divisor)
        found = swept(model, image, tiling)
        np.testing.assert_allclose(found, blended(model, image, tiling, model.spec.out_channels), atol=1e-4)


def test_disagreement_is_nothing_between_equals_and_one_between_opposites(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    def disagreement(members: list[ProSMAUNet]) -> np.ndarray:
        tiling = tile((16, 16), (16, 16), 4)
        events = sweep(
            Ensemble(members).eval(), lambda start, stop: noise(1, 16, 16), tiling, disagreement=True
        )
        (found,) = [
            event.disagreement.clone().numpy()
            for event in events
            if isinstance(event, Slab) and event.disagreement is not None
        ]
        return found

    def surely(logit: float) -> ProSMAUNet:
        model = make_checkpoint().build()
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.fill_(logit)
        return model

    assert disagreement([surely(2.0), surely(2.0)]).max() < 1e-6
    np.testing.assert_allclose(disagreement([surely(40.0), surely(-40.0)]), 1, atol=1e-5)
    half = disagreement([surely(40.0), surely(40.0), surely(40.0), surely(-40.0)])
    np.testing.assert_allclose(half, -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)), atol=1e-5)


def test_log_probabilities_do_not_overflow() -> None:
    logits = torch.tensor([[[1e4]], [[-1e4]]])
    assert torch.isfinite(log_probabilities(logits)).all()
    assert torch.isfinite(log_probabilities(torch.tensor([[[1e4], [-1e4], [0.0]]]))).all()


# ---- memory ---------------------------------------------------------------------------------------------


@contextmanager
def watched(see: Callable[[ProSMAUNet, tuple], None]) -> Iterator[None]:
    """Call ``see`` before every forward pass of a network; what it raises, the pass raises."""

    def hook(module: torch.nn.Module, inputs: tuple) -> None:
        if isinstance(module, ProSMAUNet):
            see(module, inputs)

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_the_batch_is_halved_until_it_fits(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    model = make_checkpoint().build()
    image, tiling = noise(1, 70, 40), tile((70, 40), (16, 16), 4)

    def small(module: ProSMAUNet, inputs: tuple) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("no room")

    with watched(small):
        found = list(sweep(model, lambda start, stop: image[:, start:stop], tiling, batch=8))
    told = [event.message for event in found if isinstance(event, Notice)]
    assert [message.split("with ")[1] for message in told] == [
        "fewer windows at a time (4)",
        "fewer windows at a time (2)",
    ]
    assert sum(event for event in found if isinstance(event, int)) == len(tiling.starts)
    with watched(small):
        logits = swept(model, image, tiling, batch=8)
    np.testing.assert_allclose(logits, swept(model, image, tiling), atol=1e-3)


def test_an_error_that_is_not_about_memory_is_not_hidden(
    make_checkpoint: Callable[..., Checkpoint], noise: Callable
) -> None:
    def broken(module: ProSMAUNet, inputs: tuple) -> None:
        raise RuntimeError("a kernel failed")

    with watched(broken), pytest.raises(RuntimeError, match="a kernel failed"):
        swept(make_checkpoint().build(), noise(1, 16, 16), tile((16, 16), (16, 16), 4), batch=4)
