"""Training patches: what is drawn, from where, and how augmentation changes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.training.augment import Augmentation
from napari_prosma.training.batches import Batch, Batches, PreparedCase, PreparedCases, draw_patch


def plan(dims: int = 2, patch: tuple[int, ...] = (16, 16), batch: int = 2, classes: int = 2) -> Plan:
    names = ("background", "one", "two", "three")[:classes]
    return Plan(dims=dims, channels=1, class_names=names, patch=patch, batch=batch)


def numbered(
    shape: tuple[int, ...], label: np.ndarray | None = None, plan_: Plan | None = None
) -> PreparedCase:
    """A case whose image says where each element lies: its flat index, up to the normalisation."""
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    mask = np.zeros(shape, np.uint8) if label is None else label
    return PreparedCases([Case.from_arrays("case", image, mask)], plan_ or plan(len(shape)))[0]


def places(patch: np.ndarray, case: PreparedCase) -> np.ndarray:
    """Flat index of each element of a patch, read off its values."""
    order = np.argsort(case.image, axis=None)
    values = case.image.ravel()[order]
    return order[np.searchsorted(values, patch.ravel())].reshape(patch.shape)


def speck(shape: tuple[int, ...], *at: int) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[at] = 1
    return label


# ---- patches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "patch"), [((40, 50), (16, 16)), ((20, 24, 28), (8, 16, 8)), ((6, 40, 50), (16, 16))]
)
def test_label_is_cut_where_the_image_is(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    label = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    case = numbered(shape, label, plan(len(patch), patch))
    rng = np.random.default_rng(1)
    for _ in range(20):
        image, cut = draw_patch(case, patch, rng)
        assert image.shape == (1, *patch)
        assert np.array_equal(cut, label.ravel()[places(image[0], case)])


def test_half_of_the_patches_hold_foreground_however_small_it_is() -> None:
    case = numbered((200, 200), speck((200, 200), 150, 3))
    rng = np.random.default_rng(0)
    share = np.mean([draw_patch(case, (16, 16), rng)[1].any() for _ in range(400)])
    assert 0.42 < share < 0.6


def test_foreground_may_lie_anywhere_in_its_patch() -> None:
    case = numbered((64, 64), speck((64, 64), 30, 30))
    rng = np.random.default_rng(0)
    found = [np.argwhere(draw_patch(case, (8, 8), rng)[1]) for _ in range(2000)]
    rows = Counter(int(at[0][0]) for at in found if len(at))
    assert set(rows) == set(range(8))
    assert max(rows.values()) < 2 * min(rows.values())


def test_rare_classes_are_drawn_as_often_as_common_ones() -> None:
    label = np.zeros((128, 128), np.uint8)
    label[:40] = 1
    label[100, 100] = 2
    case = numbered(label.shape, label, plan(classes=3))
    rng = np.random.default_rng(0)
    share = np.mean([(draw_patch(case, (8, 8), rng)[1] == 2).any() for _ in range(400)])
    assert 0.17 < share < 0.34


def test_an_image_smaller_than_the_patch_is_mirrored_to_the_right_and_bottom() -> None:
    label = np.random.default_rng(0).integers(0, 2, (5, 20)).astype(np.uint8)
    case = numbered(label.shape, label)
    image, cut = draw_patch(case, (16, 16), np.random.default_rng(0))
    rows = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 4]
    assert np.array_equal(image[0], image[0][rows])
    assert np.array_equal(cut, cut[rows])
    assert np.array_equal(cut, label.ravel()[places(image[0], case)])


def test_slices_of_a_volume_without_foreground_are_drawn_too() -> None:
    case = numbered((10, 16, 16), speck((10, 16, 16), 4, 8, 8), plan(2))
    rng = np.random.default_rng(0)
    seen = {int(places(draw_patch(case, (16, 16), rng)[0][0], case)[0, 0]) // 256 for _ in range(200)}
    assert seen == set(range(10))


# ---- the stream -----------------------------------------------------------------------------------------


def stream(count: int, batch: int, seed: int = 0, augment: bool = False) -> Batches:
    cases = [
        Case.from_arrays(str(n), np.random.default_rng(n).normal(size=(1, 20, 20)), speck((20, 20), 5, n))
        for n in range(count)
    ]
    chosen = plan(batch=batch)
    augmentation = Augmentation(chosen) if augment else None
    return Batches(PreparedCases(cases, chosen), range(count), chosen, seed, augmentation)


@pytest.mark.parametrize(("count", "batch"), [(7, 2), (3, 4), (5, 5), (1, 3)])
def test_every_case_comes_once_before_any_comes_again(count: int, batch: int) -> None:
    batches = stream(count, batch)
    names = [name for step in range(2 * count) for name in batches.draw(step).names]
    for lap in range(len(names) // count):
        assert sorted(names[lap * count : (lap + 1) * count]) == sorted(map(str, range(count)))


def test_laps_have_different_orders() -> None:
    batches = stream(8, 8)
    assert len({batches.draw(step).names for step in range(6)}) > 1


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    forwards, backwards = stream(5, 2, augment=True), stream(5, 2, augment=True)
    first = [forwards.draw(step) for step in range(4)]
    second = [backwards.draw(step) for step in (3, 2, 1, 0)][::-1]
    for one, other in zip(first, second, strict=True):
        assert one.names == other.names
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(stream(5, 2, seed=1).draw(0).images, stream(5, 2).draw(0).images)


def test_a_batch_has_the_types_that_the_network_and_the_loss_take() -> None:
    batch: Batch = stream(3, 2, augment=True).draw(0)
    assert batch.images.shape == batch.labels.shape == (2, 1, 16, 16)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert batch.images.is_contiguous()


def test_cases_are_prepared_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def case(name: str) -> Case:
        held = Case.from_arrays(name, np.ones((1, 16, 16), np.float32), np.eye(16, dtype=np.uint8))
        return Case(name, lambda: (read.append(name), held.read_image())[1], held.read_label)

    cases = PreparedCases([case("a"), case("b")], plan())
    assert cases[0] is cases[0]
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", cases[0].nbytes + 1)
    assert np.array_equal(cases[1].image, cases[1].image)
    assert read == ["a", "b", "b"]


# ---- augmentation ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def augmentations() -> Callable[[int], Augmentation]:
    held = {dims: Augmentation(plan(dims, (32,) * dims if dims == 2 else (16,) * dims)) for dims in (2, 3)}
    return held.__getitem__


@pytest.fixture
def picture() -> tuple[np.ndarray, np.ndarray]:
    """A slope from top (dark) to bottom (bright) with a square of class 3 at its left."""
    image = np.repeat(np.linspace(-1, 1, 32, dtype=np.float32)[:, None], 32, axis=1)[None]
    label = np.zeros((32, 32), np.uint8)
    label[10:22, 3:13] = 3
    return image, label


def test_the_same_seed_changes_a_patch_the_same_way(augmentations: Callable, picture: tuple) -> None:
    augment = augmentations(2)
    first, again, other = augment(*picture, 5), augment(*picture, 5), augment(*picture, 6)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_what_goes_in_stays_as_it_was(augmentations: Callable, picture: tuple) -> None:
    image, label = picture[0].copy(), picture[1].copy()
    for seed in range(5):
        augmentations(2)(*picture, seed)
    assert np.array_equal(image, picture[0])
    assert np.array_equal(label, picture[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_labels_hold_no_class_that_was_not_there(dims: int, augmentations: Callable) -> None:
    shape = (32, 32) if dims == 2 else (16, 16, 16)
    rng = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    label[(slice(4, 9),) * dims], label[(slice(9, 13),) * dims] = 1, 3
    changed = 0
    for seed in range(15):
        image, after = augmentations(dims)(rng.normal(size=(1, *shape)).astype(np.float32), label, seed)
        assert image.shape == (1, *shape)
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert after.dtype == np.uint8
        assert set(np.unique(after)) <= {0, 1, 3}
        changed += not np.array_equal(after, label)
    assert changed > 7


def test_depth_keeps_its_direction_and_left_and_right_are_swapped(
    augmentations: Callable, picture: tuple
) -> None:
    sides = set()
    for seed in range(40):
        image, label = augmentations(2)(*picture, seed)
        assert image[0, :8].mean() < image[0, -8:].mean(), "top and bottom were swapped"
        columns = np.argwhere(label)[:, 1]
        if len(columns):
            sides.add(bool(columns.mean() < 16))
    assert sides == {True, False}


def test_in_volumes_only_left_and_right_are_swapped(augmentations: Callable) -> None:
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 16, dtype=np.float32)] * 3, indexing="ij")
    swapped = set()
    for seed in range(30):
        for axis, slope in enumerate((z, y, x)):
            image, _ = augmentations(3)(slope[None], np.zeros((16, 16, 16), np.uint8), seed)
            ends = np.moveaxis(image[0], axis, 0)
            if ends[:4].mean() > ends[-4:].mean():
                swapped.add(axis)
    assert swapped == {2}


def test_label_follows_the_image(augmentations: Callable) -> None:
    """The label is the thresholded image, and stays so under every movement."""
    disc = np.hypot(*np.mgrid[-16:16, -16:16]) < 8
    for seed in range(20):
        image, label = augmentations(2)(disc[None].astype(np.float32) * 4 - 2, disc.astype(np.uint8), seed)
        overlap = np.count_nonzero((image[0] > (image.max() + image.min()) / 2) & (label == 1))
        assert overlap > 0.9 * np.count_nonzero(label)
