"""How patches are changed at random: what may move where, which values stay, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.model import augment
from napari_prosma.model.augment import RECIPES, Augmentation, Change, Recipe, recipe_of
from napari_prosma.training.config import TrainConfig

SHAPES = {2: (32, 32), 3: (16, 16, 16)}
TURNED_ONLY = Recipe("", changes=(), moved=1, rotation=45, tilt=45, scale=0, shift=0)


def plan(patch: tuple[int, ...] = (32, 32), channels: int = 1, **changes: object) -> Plan:
    names = ("background", "one", "two", "three")
    return Plan(dims=len(patch), channels=channels, class_names=names, patch=patch, batch=2, **changes)


def generators(seeds: range) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def changed(
    recipe: Recipe, image: np.ndarray, label: np.ndarray | None = None, count: int = 30, **plan_: object
) -> tuple[np.ndarray, np.ndarray]:
    """``image`` (C, *patch) and its label, changed ``count`` times: (count, C, *patch), (count, *patch)."""
    patch = image.shape[1:]
    mask = np.zeros(patch, np.uint8) if label is None else label
    images = torch.from_numpy(np.repeat(image[None].astype(np.float32), count, axis=0))
    labels = torch.from_numpy(np.repeat(mask[None, None], count, axis=0))
    held = images.clone(), labels.clone()
    chosen = plan(patch, len(image), **plan_)
    after = Augmentation(chosen, recipe)(images, labels, generators(range(count)))
    assert torch.equal(images, held[0]), "what goes in stays as it was"
    assert torch.equal(labels, held[1])
    return after[0].numpy(), after[1][:, 0].numpy()


def still(recipe: Recipe) -> Recipe:
    """The recipe without changes of values, and large movements left out: only its flips and turns."""
    return replace(recipe, changes=(), moved=0)


def only(of: object, most: float, **changes: object) -> Recipe:
    """One change of values, always made; nothing moves but left and right."""
    return Recipe("", changes=(Change(of, 1, most),), moved=0, **changes)


# ---- recipes ----------------------------------------------------------------------------------------------


def test_every_modality_has_a_recipe_that_says_why() -> None:
    modalities = set(get_args(TrainConfig.model_fields["modality"].annotation))
    assert modalities == {"auto", *RECIPES}
    assert all(recipe.why.endswith(".") for recipe in RECIPES.values())


def test_the_recipe_follows_the_intensity_rule_unless_it_is_chosen() -> None:
    ct = plan(intensity="ct", clip=(-100, 300), mean=40, std=60)
    assert recipe_of("auto", ct) is RECIPES["ct"]
    assert recipe_of("auto", plan()) is RECIPES["other"]
    assert recipe_of("mr", ct) is RECIPES["mr"]


# ---- movements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("modality", RECIPES)
def test_labels_hold_no_class_that_was_not_there(modality: str, dims: int) -> None:
    label = np.zeros(SHAPES[dims], np.uint8)
    label[(slice(4, 9),) * dims], label[(slice(9, 13),) * dims] = 1, 3
    label[:, 14:] = IGNORE
    image = np.random.default_rng(0).normal(size=(3, *SHAPES[dims]))
    images, labels = changed(RECIPES[modality], image, label, 15)
    assert images.dtype == np.float32
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 3, IGNORE}
    assert sum(not np.array_equal(label, after) for after in labels) > 7


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("modality", RECIPES)
def test_the_label_goes_where_the_image_goes(modality: str, dims: int) -> None:
    away = np.stack(np.meshgrid(*[np.arange(n) - n / 2.5 for n in SHAPES[dims]], indexing="ij"))
    ball = np.linalg.norm(away, axis=0) < SHAPES[dims][0] / 4
    images, labels = changed(replace(RECIPES[modality], changes=()), ball[None], ball.astype(np.uint8))
    for image, label in zip(images, labels, strict=True):
        assert np.count_nonzero((image[0] > 0.5) != (label == 1)) < 0.05 * (dims - 1) ** 2 * np.count_nonzero(
            ball
        )


def sides(recipe: Recipe, shape: tuple[int, ...]) -> set[tuple[int, bool]]:
    """Along which axis a slope from dark to bright runs after the changes, and whether backwards."""
    found = set()
    for axis, length in enumerate(shape):
        slope = np.moveaxis(
            np.broadcast_to(np.linspace(-1, 1, length), (*shape[:axis], *shape[axis + 1 :], length)), -1, axis
        )
        for image in changed(recipe, slope[None], count=30)[0]:
            steps = [np.diff(image[0], axis=a).mean() for a in range(len(shape))]
            along = int(np.argmax(np.abs(steps)))
            found.add((axis, along, bool(steps[along] < 0)))
    return found


@pytest.mark.parametrize("modality", ["ultrasound", "ct", "mr", "other"])
def test_only_left_and_right_are_swapped_where_up_is_not_down(modality: str) -> None:
    recipe = replace(RECIPES[modality], changes=())
    assert sides(recipe, (32, 32)) == {(0, 0, False), (1, 1, False), (1, 1, True)}
    assert sides(recipe, (16, 16, 16)) == {(0, 0, False), (1, 1, False), (2, 2, False), (2, 2, True)}


@pytest.mark.parametrize("modality", ["endoscopy", "histology"])
def test_where_no_direction_is_up_square_patches_come_in_every_orientation(modality: str) -> None:
    recipe = still(RECIPES[modality])
    every_way = {(axis, along, back) for axis in (0, 1) for along in (0, 1) for back in (False, True)}
    assert sides(recipe, (16, 16)) == every_way
    assert sides(recipe, (16, 24)) == {(a, along, back) for a, along, back in every_way if a == along}


@pytest.mark.parametrize("modality", RECIPES)
def test_flips_and_quarter_turns_only_change_places(modality: str) -> None:
    image = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 4, (16, 16)).astype(np.uint8)
    images, labels = changed(still(RECIPES[modality]), image, label, 60)
    seen = set()
    for after, moved in zip(images, labels, strict=True):
        ways = [(k, f) for k in range(4) for f in (False, True)]
        turned = [np.rot90(label[:, ::-1] if f else label, k) for k, f in ways]
        way = next(n for n, candidate in enumerate(turned) if np.array_equal(candidate, moved))
        k, f = ways[way]
        seen.add(way)
        expected = np.rot90(image[..., ::-1] if f else image, k, axes=(1, 2))
        np.testing.assert_allclose(after, expected, atol=1e-4)
    assert len(seen) == (8 if RECIPES[modality].quarter_turns else 2)


def test_a_patch_that_does_not_move_keeps_its_elements_exactly() -> None:
    image = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    images, _ = changed(still(RECIPES["other"]), image)
    assert 5 < sum(np.array_equal(image, after) for after in images) < 25


@pytest.mark.parametrize("spacing", [(2.0, 1.0), (2.0, 1.0, 1.0)])
def test_turning_is_turning_in_space_though_elements_are_longer_than_wide(spacing: tuple[float, ...]) -> None:
    """A ball stays a ball, in a patch that is wider than deep."""
    shape = tuple(round(m / s) for m, s in zip((36, 36, 48)[-len(spacing) :], spacing, strict=True))
    away = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    ball = np.linalg.norm(np.stack(np.meshgrid(*away, indexing="ij")), axis=0) < 14
    _, labels = changed(TURNED_ONLY, ball[None], ball.astype(np.uint8), spacing=spacing, unit="mm")
    assert np.count_nonzero(labels != ball) < 0.25 * np.count_nonzero(ball) * len(labels)


def test_what_comes_from_outside_is_mirrored() -> None:
    image = np.random.default_rng(0).uniform(1, 2, size=(1, 16, 16))
    images, _ = changed(replace(RECIPES["other"], changes=(), moved=1, shift=0.5), image)
    assert images.min() > 0.99


# ---- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("modality", RECIPES)
def test_a_constant_image_stays_finite(modality: str, dims: int) -> None:
    images, _ = changed(RECIPES[modality], np.full((1, *SHAPES[dims]), 0.7), count=40)
    assert np.isfinite(images).all()


@pytest.mark.parametrize("modality", RECIPES)
def test_values_change_but_keep_their_order_of_size(modality: str) -> None:
    image = np.random.default_rng(0).normal(size=(3, 32, 32)).cumsum(axis=1) / 5
    images, _ = changed(replace(RECIPES[modality], moved=0), image, count=60)
    assert sum(not np.isin(after, image.astype(np.float32)).all() for after in images) > 15
    assert np.abs(images).max() < 3 * np.abs(image).max()


def test_ct_stays_within_the_window_whatever_is_done() -> None:
    ct = {"intensity": "ct", "clip": (-100.0, 300.0), "mean": 40.0, "std": 60.0}
    low, high = (-100 - 40) / 60, (300 - 40) / 60
    image = np.random.default_rng(0).uniform(low, high, (1, 32, 32))
    images, _ = changed(RECIPES["ct"], image, count=60, **ct)
    assert images.min() == pytest.approx(low)
    assert images.max() == pytest.approx(high)


def test_ct_without_a_window_stays_within_what_was_there() -> None:
    image = np.random.default_rng(0).uniform(-1, 2, (1, 32, 32))
    images, _ = changed(RECIPES["ct"], image, count=60)
    assert images.min() >= image.astype(np.float32).min()
    assert images.max() <= image.astype(np.float32).max()


def test_ct_is_neither_brightened_nor_darkened() -> None:
    image = np.random.default_rng(0).uniform(-1, 2, (1, 32, 32))
    images, _ = changed(replace(RECIPES["ct"], moved=0), image, count=60)
    assert np.abs(images.mean(axis=(1, 2, 3)) - image.mean()).max() < 0.02


def slope() -> np.ndarray:
    """Darkest at the right, the same at every depth, in two channels."""
    return np.broadcast_to(np.linspace(3, 1, 64), (2, 64, 64)).copy()


def test_a_shadow_is_a_dark_wedge_from_the_top_and_black_stays_black() -> None:
    images, _ = changed(only(augment.shadow, 0.8), slope())
    for after in images[:, 0]:
        after = after if after[0, 0] > after[0, -1] else after[:, ::-1]
        dark = slope()[0] - after
        assert dark.min() > -1e-5
        assert after.min() > 1 - 1e-5
        assert np.count_nonzero(dark[-1] > 0.1) >= np.count_nonzero(dark[0] > 0.1)
    assert sum(dark_somewhere > 0.3 for dark_somewhere in (3 - images[:, 0].max(axis=1)).max(axis=1)) > 15


def test_gain_over_depth_changes_steadily_from_top_to_bottom() -> None:
    for after in changed(only(augment.depth_gain, 0.4), slope())[0][:, 0]:
        bright = after[:, [0, -1]].max(axis=1)
        steps = np.diff(bright)
        assert np.all(steps > -1e-6) or np.all(steps < 1e-6)
        assert abs(bright[-1] - bright[0]) > 1e-3
        assert after.min() == pytest.approx(1, abs=1e-5)


def test_a_bias_field_is_smooth_and_positive() -> None:
    image = slope()
    image[:, 0, 0] = 0  # black
    for after in changed(replace(only(augment.bias_field, 0.4), moved=0), image)[0][:, 0]:
        after = after if after[32, 0] > after[32, -1] else after[:, ::-1]
        field = (after / slope()[0])[1:, 1:]
        assert np.exp(-0.41) < field.min() <= field.max() < np.exp(0.41)
        assert np.abs(np.diff(field, axis=0)).max() < 0.06


def test_speckle_is_stronger_where_it_is_brighter() -> None:
    image = np.ones((1, 64, 64))
    image[:, :32], image[:, 0, 0] = 3, 0
    images, _ = changed(only(augment.speckle, 0.2), image)
    top, bottom = images[:, 0, 1:32].std(axis=(1, 2)), images[:, 0, 32:].std(axis=(1, 2))
    assert np.median(top / bottom) == pytest.approx(3, rel=0.05)


def test_gamma_keeps_mean_and_spread_and_the_order_of_values() -> None:
    image = np.random.default_rng(0).normal(size=(1, 32, 32))
    images, _ = changed(only(augment.gamma, 0.5), image)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), image.mean(), atol=1e-4)
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), image.std(), rtol=1e-4)
    for after in images[:, 0]:
        unflipped = min(after, after[:, ::-1], key=lambda a: abs(a - image[0]).sum())
        assert np.all(np.diff(unflipped.ravel()[np.argsort(image.ravel())]) >= -1e-5)


def test_channels_are_recoloured_apart_but_gain_is_common() -> None:
    image = np.repeat(np.random.default_rng(0).normal(size=(1, 16, 16)), 3, axis=0)
    apart, _ = changed(only(augment.colour, 0.3), image)
    together, _ = changed(only(augment.gain, 0.3), image)
    assert np.abs(apart - apart[:, :1]).max(axis=(1, 2, 3)).min() > 0.01
    assert np.array_equal(together, np.repeat(together[:, :1], 3, axis=1))


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_is_that_of_scipy(dims: int) -> None:
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(0).normal(size=(2, *SHAPES[dims])).astype(np.float32)
    blurred = augment.blur(torch.from_numpy(image), 1.5, np.random.default_rng(3))
    sigmas = np.random.default_rng(3).uniform(0.75, 1.5, dims)
    expected = gaussian_filter(
        image, (0, *sigmas), mode="nearest", radius=(0, *np.ceil(3 * sigmas).astype(int))
    )
    np.testing.assert_allclose(blurred.numpy(), expected, atol=1e-5)


def test_a_change_is_made_as_often_as_its_recipe_says() -> None:
    image = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    recipe = Recipe("", changes=(Change(augment.gain, 0.25, 0.5),), moved=0)
    images, _ = changed(recipe, image, count=300)
    as_it_was = sum(
        np.allclose(np.sort(after.ravel()), np.sort(image.ravel()), atol=1e-4) for after in images
    )
    assert as_it_was == pytest.approx(225, abs=25)


def test_a_patch_depends_on_its_own_generator_alone() -> None:
    images: Tensor = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = (images > 0).byte()
    augmentation = Augmentation(plan(), RECIPES["ultrasound"])
    together = augmentation(images, labels, generators(range(3)))
    alone = augmentation(images[1:2], labels[1:2], generators(range(1, 2)))
    assert torch.equal(together[0][1], alone[0][0])
    assert torch.equal(together[1][1], alone[1][0])
    other = augmentation(images[1:2], labels[1:2], generators(range(7, 8)))
    assert not torch.equal(alone[0], other[0])


@pytest.mark.parametrize(
    "name",
    [
        "left kidney",
        "Kidney_R_right",
        "LEFT",
        "kidney-left",
        "LeftKidney",
        "ventrículo derecho",
        "leftkidney",
        "nyre_venstre",
    ],
)
@pytest.mark.parametrize("modality", ["auto", "ultrasound", "histology"])
def test_nothing_is_mirrored_where_a_class_has_a_side(name: str, modality: str) -> None:
    plan = Plan(dims=2, channels=1, class_names=("background", name), patch=(16, 16), batch=2)
    recipe = recipe_of(modality, plan)
    assert "nothing is mirrored" in recipe.why
    augmentation = Augmentation(plan, replace(recipe, changes=(), moved=1.0))
    for seed in range(40):
        movement = augmentation._movement(np.random.default_rng(seed))
        assert movement is None or np.linalg.det(movement[:, :2]) > 0


def test_l_and_r_are_sides_where_both_occur() -> None:
    def mirrors(*names: str) -> bool:
        plan = Plan(dims=2, channels=1, class_names=("background", *names), patch=(16, 16), batch=2)
        return recipe_of("endoscopy", plan).left_right

    assert not mirrors("hippocampus_L", "hippocampus_R")
    assert not mirrors("kidneyl", "kidneyr")
    assert not mirrors("Lkidney", "Rkidney", "spleen")
    assert not mirrors("lh-cortex", "rh-cortex")
    assert mirrors("grade L", "grade M")
    assert mirrors("vertebra L1", "vertebra L2")
    assert mirrors("liver", "spleen")


@pytest.mark.parametrize(
    "name", ["kidney", "bright spot", "cleft", "upright", "leftover", "brightness", "link"]
)
def test_a_name_that_only_contains_a_side_is_mirrored_as_usual(name: str) -> None:
    plan = Plan(dims=2, channels=1, class_names=("background", name), patch=(16, 16), batch=2)
    assert recipe_of("auto", plan).left_right
