"""Gates changed without training: what follows, what stays, and what is computed again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Image
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Finished, Notice
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.inspection.one_image import sentence_of, try_means
from napari_prosma.inspection.record import ChannelMaps, GateRecord, SkipRecord
from napari_prosma.inspection.trace import inspect_gates, skip_channel
from napari_prosma.inspection.what_if import Effect, WhatIf, over_whole_image
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.gates import Change

Make = Callable[..., Checkpoint]
MAPS = ("zero_fraction", "without_evidence", "z", "u", "psi", "psi_dense", "energy_kept", "inside")


def pixels(array: np.ndarray) -> Image:
    return Image(array, Geometry.pixels(array.ndim - 1))


def inspected(checkpoint: Checkpoint, image: Image, **options: object) -> GateRecord:
    last = list(inspect_gates(checkpoint, image, **options))[-1]  # type: ignore[arg-type]
    assert isinstance(last, Finished)
    assert isinstance(last.result, GateRecord)
    return last.result


def assert_same(found: SkipRecord, expected: SkipRecord) -> None:
    for name in MAPS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.measures == expected.measures
    assert found.geometry == expected.geometry


def support(skip: SkipRecord) -> np.ndarray:
    assert skip.z is not None
    return skip.z != 0


# ---- the unchanged model --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (27, 30)])
def test_without_changes_it_is_the_inspection(
    size: tuple[int, ...], make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, *size))
    label = np.zeros(size, np.uint8)
    label[5:15, 8:20] = 1
    effect, record = (
        WhatIf(checkpoint, image, label=label).apply({}),
        inspected(checkpoint, image, label=label),
    )
    assert effect.record.skips.keys() == record.skips.keys()
    for level, skip in record.skips.items():
        assert_same(effect.record.skips[level], skip)
    np.testing.assert_array_equal(effect.record.segmentation.labels, record.segmentation.labels)
    assert not effect.difference.any()
    assert effect.agreement == 1
    assert effect.dice is not None
    both = (record.segmentation.labels == 1) & (label == 1)
    total = (record.segmentation.labels == 1).sum() + label.sum()
    assert effect.dice == {"dice": pytest.approx(2 * both.sum() / total), "dice/lesion": effect.dice["dice"]}


# ---- changes --------------------------------------------------------------------------------------------


def test_support_of_the_changed_gate_only_shrinks_as_lambda_rises(
    make_checkpoint: Make, noise: Callable
) -> None:
    """Theorem 1; level 2 is the deepest gate of this network, level 1 is changed alone."""
    tried = WhatIf(make_checkpoint(), pixels(noise(1, 32, 32)))
    for level in (1, 2):
        before = None
        for scale in (0, 0.5, 1, 1.5, 2, 3, 4, 1e6):
            now = support(tried.apply({level: Change(scale)}).record.skips[level])
            if before is not None:
                assert not (now & ~before).any()
                assert now.sum() < before.sum()
            before = now
        assert before is not None
        assert not before.any()


def test_a_finer_skip_may_gain_support_when_a_deeper_lambda_rises(
    make_checkpoint: Make, noise: Callable
) -> None:
    """So the theorem is claimed of the deepest changed gate alone."""
    tried = WhatIf(make_checkpoint(), pixels(noise(1, 32, 32)))
    usual = support(tried.apply({}).record.skips[1])
    assert (support(tried.apply({2: Change(3.0)}).record.skips[1]) & ~usual).any()


def test_only_levels_from_the_coarsest_new_change_down_are_computed_again(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 30, 32))
    tried = WhatIf(checkpoint, image)
    steps: list[tuple[dict[int, Change], tuple[int, ...]]] = [
        ({}, ()),
        ({1: Change(2.0)}, (1,)),
        ({1: Change(2.0), 2: Change(0.5)}, (2, 1)),
        ({1: Change(psi=1.0), 2: Change(0.5)}, (1,)),
        ({1: Change(), 2: Change(0.5)}, (1,)),
        ({}, (2, 1)),
    ]
    for changes, expected in steps:
        effect, whole = tried.apply(changes), inspected(checkpoint, image, changes=changes)
        assert effect.recomputed_levels == expected
        np.testing.assert_array_equal(
            effect.record.segmentation.probabilities, whole.segmentation.probabilities
        )
        for level in (1, 2):
            for name in MAPS[:-1]:
                found, direct = effect.record.skips[level], whole.skips[level]
                np.testing.assert_array_equal(getattr(found, name), getattr(direct, name), err_msg=name)


def test_every_part_can_be_set_to_one_and_a_skip_be_cut(make_checkpoint: Make, noise: Callable) -> None:
    tried = WhatIf(make_checkpoint(), pixels(noise(1, 32, 32)))
    usual = tried.apply({}).record.skips[2]
    no_mask = tried.apply({2: Change(psi=1.0)})
    skip = no_mask.record.skips[2]
    assert skip.psi is not None
    assert (skip.psi == 1).all()
    np.testing.assert_array_equal(skip.z, usual.z)
    assert no_mask.difference.any()
    skip = tried.apply({2: Change(c=1.0)}).record.skips[2]
    assert skip.channel is not None
    assert (skip.channel == 1).all()
    np.testing.assert_array_equal(skip.psi, usual.psi)
    both = tried.apply({2: Change(psi=1.0, c=1.0)}).record.skips[2]
    assert both.measures["retained_energy"] == pytest.approx(1)
    cut = tried.apply({2: Change(skip=(0.0,))}).record.skips[2]
    assert not cut.energy_kept.any()
    np.testing.assert_array_equal(cut.psi, usual.psi)


def test_a_lambda_that_empties_every_gate_is_shown(make_checkpoint: Make, noise: Callable) -> None:
    effect = WhatIf(make_checkpoint(), pixels(noise(1, 32, 32))).apply({1: Change(1e9), 2: Change(1e9)})
    for skip in effect.record.skips.values():
        assert skip.measures["z_zero_fraction"] == 1
        assert skip.measures["dead_channel_fraction"] == 1
        np.testing.assert_allclose(skip.psi, skip.floor, rtol=1e-6)


def test_difference_is_half_the_sum_over_the_classes(make_checkpoint: Make, noise: Callable) -> None:
    tried = WhatIf(make_checkpoint(classes=("background", "a", "b")), pixels(noise(1, 32, 32)))
    before = tried.apply({}).record.segmentation.probabilities
    effect = tried.apply({2: Change(skip=(0.0,))})
    after = effect.record.segmentation.probabilities
    expected = sum(abs(after[k] - before[k]) for k in range(3)) / 2
    np.testing.assert_allclose(effect.difference, expected, atol=1e-7)
    assert 0 < effect.difference.max() <= 1


def test_foreground_stays_the_unchanged_prediction_where_there_is_no_label(
    make_checkpoint: Make, noise: Callable
) -> None:
    tried = WhatIf(make_checkpoint(), pixels(noise(1, 32, 32)))
    usual, cut = tried.apply({}), tried.apply({2: Change(skip=(0.0,)), 1: Change(0.0)})
    assert cut.dice is None
    assert cut.agreement < 1
    assert not np.array_equal(usual.record.segmentation.labels, cut.record.segmentation.labels)
    np.testing.assert_array_equal(cut.record.skips[1].inside, usual.record.skips[1].inside)


# ---- where the window lies ------------------------------------------------------------------------------


def test_a_window_lies_around_the_region_at_its_true_place(make_checkpoint: Make, noise: Callable) -> None:
    image = Image(noise(1, 100, 90), Geometry((0.5, 0.25), (10.0, 20.0), "mm"))
    checkpoint = make_checkpoint()
    effect = WhatIf(checkpoint, image, region=(slice(60, 76), slice(0, 12))).apply({})
    geometry = effect.record.image.geometry
    assert effect.record.segmentation.labels.shape == (32, 32)
    assert geometry.origin == (10.0 + 0.5 * 52, 20.0)
    assert geometry.spacing == (0.5, 0.25)
    seen = inspected(checkpoint, image)
    for level, skip in effect.record.skips.items():
        f = 2 ** (level - 1)
        whole = seen.skips[level].geometry
        assert skip.geometry.spacing == whole.spacing
        assert skip.geometry.origin[0] == pytest.approx(whole.origin[0] + 52 / f * whole.spacing[0])


@pytest.mark.parametrize(("label_at", "start"), [((90, 80), (68, 60)), ((0, 40), (0, 24)), (None, (34, 29))])
def test_without_a_region_the_window_lies_around_the_label(
    label_at: tuple[int, int] | None, start: tuple[int, int], make_checkpoint: Make, noise: Callable
) -> None:
    """Else around the middle of the image; starts are multiples of the divisor, and the last may be cut."""
    label = np.zeros((100, 90), np.uint8)
    if label_at is not None:
        label[label_at] = 1
    tried = WhatIf(make_checkpoint(), pixels(noise(1, 100, 90)), label=label)
    found = tried.window.image.geometry.origin
    assert all(abs(at - wanted) <= 2 for at, wanted in zip(found, start, strict=True))
    assert all(at % 4 == 0 for at in found)
    assert tried.window.label is not None
    assert tried.window.label.any() == (label_at is not None)


def test_a_volume_keeps_its_patient_frame_and_a_stack_is_one_slice(
    make_checkpoint: Make, noise: Callable
) -> None:
    source = SourceFrame.canonical(np.diag((-0.5, -0.5, 2.0, 1.0)))
    volume = Image(noise(1, 24, 40, 40), Geometry.patient(source, (24, 40, 40)))
    region = (slice(20, 24), slice(0, 40), slice(30, 40))
    effect = WhatIf(make_checkpoint(dims=3, patch=(16, 16, 16)), volume, region=region).apply({})
    geometry = effect.record.image.geometry
    assert geometry.source is not None
    assert effect.record.segmentation.labels.shape == (16, 16, 16)
    at_origin = geometry.source.array_affine((16, 16, 16)) @ (0, 0, 0, 1)
    in_whole = source.array_affine((24, 40, 40)) @ (8, 12, 24, 1)
    np.testing.assert_allclose(at_origin, in_whole)
    stack = WhatIf(make_checkpoint(), volume, region=region).apply({})
    assert stack.record.segmentation.labels.shape == (1, 32, 32)
    assert stack.record.image.geometry.origin[0] == volume.geometry.origin[0] + 22 * 2.0
    assert stack.record.skips[2].geometry.spacing == (2.0, 1.0, 1.0)


# ---- channels -------------------------------------------------------------------------------------------


def test_a_channel_before_and_after_its_gate_differs_by_c_and_psi(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 27, 30))
    tried = WhatIf(checkpoint, image)
    skip = tried.apply({}).record.skips[2]
    maps = tried.skip_channel(2, 5)
    assert skip.channel is not None
    np.testing.assert_allclose(maps.after, maps.before * skip.channel[5] * skip.psi, atol=1e-6)
    assert maps.before.any()
    assert maps.geometry == skip.geometry
    last = list(skip_channel(checkpoint, image, 2, 5))[-1]
    assert isinstance(last, Finished)
    assert isinstance(last.result, ChannelMaps)
    np.testing.assert_allclose(last.result.before, maps.before, atol=1e-6)
    np.testing.assert_allclose(last.result.after, maps.after, atol=1e-6)
    assert last.result.geometry == maps.geometry
    tried.apply({2: Change(skip=(0.0,))})
    assert not tried.skip_channel(2, 5).after.any()


# ---- bad input ------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(make_checkpoint: Make, noise: Callable) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    tried = WhatIf(checkpoint, image)
    with pytest.raises(ConfigError, match="skips 1 to 2, not 3"):
        tried.apply({3: Change()})
    with pytest.raises(ConfigError, match="channels 0 to 7, not 8"):
        tried.skip_channel(1, 8)
    with pytest.raises(ConfigError, match="skips 1 to 2, not 0"):
        list(skip_channel(checkpoint, image, 0, 0))
    with pytest.raises(ValueError, match="scaled by 0 or more"):
        Change(-1.0)
    with pytest.raises(DataError, match="shape"):
        WhatIf(checkpoint, image, label=np.zeros((32, 31), np.uint8))


def test_a_model_without_gates_has_skips_that_can_be_cut(make_checkpoint: Make, noise: Callable) -> None:
    checkpoint, image = make_checkpoint("none"), pixels(noise(1, 32, 32))
    tried = WhatIf(checkpoint, image)
    assert not tried.apply({1: Change(2.0, psi=1.0, c=1.0)}).difference.any()
    assert tried.apply({1: Change(skip=(0.0,))}).difference.any()
    notices = [event for event in inspect_gates(checkpoint, image) if isinstance(event, Notice)]
    assert any("no gates" in notice.message for notice in notices)


def test_after_a_failure_everything_is_computed_again(make_checkpoint: Make, noise: Callable) -> None:
    tried = WhatIf(make_checkpoint(), pixels(noise(1, 32, 32)))
    usual = tried.apply({}).record.segmentation.probabilities
    model = tried.window.model
    head, model.head = model.head, torch.nn.Conv2d(9, 1, 1)
    with pytest.raises(RuntimeError):
        tried.apply({2: Change(3.0)})
    model.head = head
    effect = tried.apply({})
    assert effect.recomputed_levels == (2, 1)
    np.testing.assert_array_equal(effect.record.segmentation.probabilities, usual)


# ---- the whole image ------------------------------------------------------------------------------------

CHANGES = {1: Change(threshold=2.5), 2: Change(psi=1.0)}


def over_all(checkpoint: Checkpoint, image: Image, changes: dict[int, Change], **options: object) -> Effect:
    unchanged = inspected(checkpoint, image, **options)
    last = list(over_whole_image(checkpoint, unchanged, changes))[-1]
    assert isinstance(last, Finished)
    assert isinstance(last.result, Effect)
    return last.result


@pytest.mark.parametrize("labelled", [True, False])
def test_of_an_image_in_one_window_the_whole_is_the_window(
    labelled: bool, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    label = np.zeros((32, 32), np.uint8)
    label[5:15, 8:20] = 1
    given = label if labelled else None
    window = WhatIf(checkpoint, image, label=given)
    assert window.window.covers_image
    effect, here = over_all(checkpoint, image, CHANGES, label=given), window.apply(CHANGES)
    assert here.moved > 0
    np.testing.assert_allclose(effect.difference, here.difference, atol=1e-6)
    assert effect.dice == (None if given is None else pytest.approx(here.dice))
    assert effect.agreement == pytest.approx(here.agreement)
    assert (effect.record.reference, effect.record.label is given) == (here.record.reference, True)
    for level, skip in effect.record.skips.items():
        assert_same(skip, here.record.skips[level])


def test_a_larger_image_is_changed_in_every_window(make_checkpoint: Make, noise: Callable) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 60, 44))
    assert not WhatIf(checkpoint, image).window.covers_image
    effect = over_all(checkpoint, image, CHANGES)
    assert effect.record.skips[1].psi is not None
    assert effect.record.skips[1].psi.shape == effect.difference.shape == (60, 44)
    assert all((effect.difference > 0).any(axis=axis).all() for axis in (0, 1))
    nothing = over_all(checkpoint, image, {1: Change()})
    assert (nothing.moved, nothing.agreement) == (0, 1)


def test_a_channel_of_the_whole_image_follows_the_changes(make_checkpoint: Make, noise: Callable) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    window = WhatIf(checkpoint, image)
    window.apply(CHANGES)
    expected = window.skip_channel(1, 2)
    last = list(skip_channel(checkpoint, image, 1, 2, changes=CHANGES))[-1]
    assert isinstance(last, Finished)
    np.testing.assert_array_equal(last.result.before, expected.before)
    np.testing.assert_allclose(last.result.after, expected.after, atol=1e-6)


def test_that_nothing_is_found_either_way_is_told_apart_from_no_change(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    assert not WhatIf(checkpoint, image).apply({1: Change(skip=(0.0,))}).is_empty
    checkpoint.weights["head.bias"] -= 1e3
    blind = WhatIf(checkpoint, image).apply({1: Change(skip=(0.0,))})
    assert blind.is_empty
    assert blind.agreement == 1
    assert over_all(checkpoint, image, CHANGES).is_empty


def test_against_an_empty_label_nothing_is_worth_anything(make_checkpoint: Make, noise: Callable) -> None:
    """Dice is 1 or 0 there, whatever becomes of what was found."""
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    label = np.zeros((32, 32), np.uint8)
    for structure in (False, True):
        label[8:20, 8:20] = structure
        record = inspected(checkpoint, image, label=label)
        assert record.segmentation.labels.any()
        what_if = WhatIf(checkpoint, image, label=label)
        for effect in (what_if.apply(CHANGES), over_all(checkpoint, image, CHANGES, label=label)):
            assert (effect.dice is not None) == structure
        *_, last = try_means(what_if, record)
        assert isinstance(last, Finished)
        tried = last.result[1]["selection"]
        assert (tried.worth is not None) == structure
        said = sentence_of(record, last.result, 1)
        assert ("Dice changes from" in said) == structure
        assert ("the overlap (Dice) with the unchanged prediction is" in said) != structure
