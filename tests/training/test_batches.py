"""Training patches: what is drawn, from where, and that it is the same wherever and whenever it is drawn."""

from __future__ import annotations

import errno
import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.errors import DataError
from napari_prosma.model.augment import RECIPES, Augmentation
from napari_prosma.training.batches import (
    LEFT_FREE,
    Batch,
    Batches,
    PreparedCase,
    PreparedCases,
    draw_patch,
    example_patches,
)


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


@pytest.mark.parametrize("wanted", [0.0, 0.9])
def test_the_share_of_patches_with_foreground_can_be_chosen(wanted: float) -> None:
    case = numbered((200, 200), speck((200, 200), 150, 3))
    rng = np.random.default_rng(0)
    share = np.mean([draw_patch(case, (16, 16), rng, wanted)[1].any() for _ in range(400)])
    assert share == pytest.approx(wanted, abs=0.05)


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


def stream(
    count: int, batch: int, seed: int = 0, augment: bool = False, rank: int = 0, world: int = 1
) -> Batches:
    cases = [
        Case.from_arrays(str(n), np.random.default_rng(n).normal(size=(1, 20, 20)), speck((20, 20), 5, n))
        for n in range(count)
    ]
    chosen = plan(batch=batch)
    augmentation = Augmentation(chosen, RECIPES["ultrasound"]) if augment else None
    prepared = PreparedCases(cases, chosen)
    return Batches(prepared, range(count), chosen, seed, augmentation, rank=rank, world=world)


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


def counted(read: list[str]) -> list[Case]:
    """Two cases that write down when they are read."""

    def case(name: str, shift: int) -> Case:
        array = shift + np.arange(17 * 16, dtype=np.float32).reshape(1, 17, 16)
        held = Case.from_arrays(name, array, np.eye(17, 16, shift, dtype=np.uint8))
        return Case(name, lambda: (read.append(name), held.read_image())[1], held.read_label)

    return [case("a", 0), case("b", 3)]


@pytest.mark.parametrize("there", [True, False], ids=["folder", "no folder yet"])
def test_cases_are_prepared_once_in_memory_or_on_disk(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    folder = tmp_path if there else tmp_path / "run" / "later"
    cases = PreparedCases(counted(read), plan(), folder=folder)
    whole = [cases[0], cases[1]]
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", 0)
    stored = PreparedCases(counted(read), plan(), folder=folder)
    for index, held in enumerate(whole):
        for _ in range(2):
            found = stored[index]
            assert np.array_equal(found.image, held.image)
            assert np.array_equal(found.label, held.label)
            assert found.image.flags.writeable
            assert [a.tolist() for a in found.positions] == [a.tolist() for a in held.positions]
            assert found.nbytes == held.nbytes
    assert cases[0] is whole[0]
    assert read == ["a", "b", "a", "b"]
    found.image[:] = 7
    assert np.array_equal(stored[1].image, whole[1].image)
    draws = [
        Batches(held, range(2), plan(patch=(16, 16), batch=2), 0, None).draw(3) for held in (cases, stored)
    ]
    assert torch.equal(draws[0].images, draws[1].images)
    assert torch.equal(draws[0].labels, draws[1].labels)


def test_where_the_disk_is_full_cases_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, "no space left on device")
            return super().write(bytes(data)[:500])

    read: list[str] = []
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    cases = PreparedCases(counted(read), plan())
    assert np.array_equal(cases[1].image, cases[1].image)
    assert read == ["b", "b"]


def test_the_disk_keeps_room_for_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", 0)
    cases = PreparedCases(counted(read), plan(), folder=tmp_path)
    needed = LEFT_FREE + cases[0].nbytes
    frees = iter([needed, needed - 1])
    disk = "napari_prosma.training.batches.disk_usage"
    monkeypatch.setattr(disk, lambda _: SimpleNamespace(free=next(frees)))
    cases = PreparedCases(counted(read), plan(), folder=tmp_path)
    read.clear()
    for _ in range(3):
        assert cases[0].image.size + cases[1].image.size
    assert read == ["a", "b", "b", "b"]


def test_what_was_prepared_is_given_back_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", 0)
    cases = PreparedCases(counted(read), plan(), folder=tmp_path)
    process = psutil.Process()
    before = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    assert cases[0].image.size
    cases.close()
    after = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    assert after <= before
    assert cases[0].image.size
    assert read == ["a", "a"]


@pytest.mark.parametrize("modality", RECIPES)
def test_processes_draw_together_what_one_draws_alone(modality: str) -> None:
    rng = np.random.default_rng(0)
    cases = [
        Case.from_arrays(str(n), rng.normal(size=(3, 40, 40)), rng.integers(0, 2, (40, 40))) for n in range(3)
    ]

    def batches(batch: int, rank: int, world: int) -> Batches:
        chosen = plan(patch=(32, 32), batch=batch).model_copy(update={"channels": 3})
        augmentation = Augmentation(chosen, RECIPES[modality])
        prepared = PreparedCases(cases, chosen)
        return Batches(prepared, range(3), chosen, 7, augmentation, rank=rank, world=world)

    for step in range(4):
        whole = batches(4, 0, 1).draw(step)
        shares = [batches(2, rank, 2).draw(step) for rank in range(2)]
        assert whole.names == shares[0].names + shares[1].names
        assert torch.equal(whole.images, torch.cat([share.images for share in shares]))
        assert torch.equal(whole.labels, torch.cat([share.labels for share in shares]))
        assert torch.equal(whole.images, batches(2, 1, 2).of_all_processes(step))


# ---- labels that change ----------------------------------------------------------------------------------


class Painted:
    """A case whose label is what was painted last, and which counts how often its image is read."""

    def __init__(self, shape: tuple[int, ...] = (20, 24), image_shape: tuple[int, ...] = (20, 24)) -> None:
        self.label: np.ndarray | Exception = np.zeros(shape, np.uint8)
        self.images_read = 0
        held = Case.from_arrays("a", np.zeros((1, *image_shape), np.float32)).read_image

        def read_image() -> object:
            self.images_read += 1
            return held()

        self.case = Case("a", read_image, self.read_label)

    def read_label(self) -> np.ndarray:
        if isinstance(self.label, Exception):
            raise self.label
        return self.label


def test_a_label_that_was_painted_on_is_learned_from() -> None:
    painted = Painted()
    prepared = PreparedCases([painted.case], plan(patch=(8, 8)))
    batches = Batches(prepared, [0], plan(patch=(8, 8)), 0, None, foreground_share=1)
    assert not batches.draw(0).labels.any()
    painted.label[15, 20] = 1
    assert not batches.draw(0).labels.any(), "painting must not reach into the run before it is told"
    assert np.array_equal(prepared.relabel(0), painted.label)
    assert batches.draw(0).labels.flatten(1).any(dim=1).all()
    assert painted.images_read == 1


def test_a_new_label_comes_onto_the_grid_as_the_first_one_did() -> None:
    chosen = plan(patch=(8, 8)).model_copy(update={"spacing": (2.0, 2.0)})
    painted = Painted()
    prepared = PreparedCases([painted.case], chosen)
    assert prepared[0].label.shape == (10, 12)
    painted.label[10:, 12:] = 1
    prepared.relabel(0)
    expected = PreparedCases([painted.case], chosen)[0]
    assert np.array_equal(prepared[0].label, expected.label)
    assert all(map(np.array_equal, prepared[0].positions, expected.positions))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (DataError("value 3 is new"), "value 3 is new"),
        (np.full((20, 24), 2), "holds class 2"),
        (np.ones((20, 25), np.uint8), r"shape \(20, 25\)"),
    ],
)
def test_a_bad_new_label_is_refused_and_the_old_one_stays(bad: object, message: str) -> None:
    painted = Painted()
    painted.label[3, 3] = 1
    prepared = PreparedCases([painted.case], plan(patch=(8, 8)))
    before = prepared[0]
    painted.label = bad
    with pytest.raises(DataError, match=message):
        prepared.relabel(0)
    assert prepared[0] is before


def test_what_is_unlabelled_is_no_class_of_a_new_label() -> None:
    painted = Painted()
    prepared = PreparedCases([painted.case], plan(patch=(8, 8)))
    painted.label = np.full((20, 24), IGNORE)
    prepared.relabel(0)
    painted.label = np.where(np.eye(20, 24) > 0, 1, IGNORE)
    prepared.relabel(0)
    assert prepared[0].positions[1].size == 20


@pytest.mark.parametrize("is_drawn", [False, True])
def test_a_case_on_disk_gets_its_new_label_too(is_drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", 0)
    painted = Painted()
    prepared = PreparedCases([painted.case], plan(patch=(8, 8)))
    image = prepared[0].image if is_drawn else None
    painted.label = np.ones((20, 24), np.uint8)
    assert prepared.relabel(0).all()
    assert prepared[0].label.all()
    assert prepared[0].positions[1].size == 20 * 24
    if image is not None:
        assert np.array_equal(prepared[0].image, image)


# ---- examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "patch"), [((40, 40), (16, 16)), ((20, 24, 28), (8, 16, 8))])
def test_examples_are_one_patch_as_it_is_and_then_changed(shape: tuple, patch: tuple) -> None:
    label = speck(shape, *(n // 2 for n in shape))
    rng = np.random.default_rng(0)
    chosen = plan(len(patch), patch)
    cases = PreparedCases([Case.from_arrays("a", rng.normal(size=(1, *shape)), label)], chosen)
    images, labels = example_patches(cases, 0, chosen, RECIPES["other"], seed=4, count=5)
    assert images.shape == (5, 1, *patch)
    assert images.dtype == np.float32
    assert labels.shape == (5, *patch)
    assert labels[0].sum() == 1
    assert np.isin(images[0], cases[0].image).all()
    assert not any(np.array_equal(images[0], image) for image in images[1:])
    again, _ = example_patches(cases, 0, chosen, RECIPES["other"], seed=4, count=3)
    assert np.array_equal(images[:3], again)


# ---- images without labels -------------------------------------------------------------------------------


def test_the_label_of_a_bare_image_takes_no_memory() -> None:
    case = PreparedCases([Case.from_arrays("bare", np.zeros((1, 40, 40), np.float32))], plan())[0]
    assert not any(case.label.strides)
    assert case.nbytes == case.image.nbytes
    assert [found.size for found in case.positions] == [0, 0]
    assert draw_patch(case, (64, 64), np.random.default_rng(0))[1].tolist() == [[IGNORE] * 64] * 64


def test_bare_images_are_kept_in_the_room_that_the_labelled_ones_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labelled = Case.from_arrays("a", np.ones((1, 16, 16), np.float32), np.eye(16, dtype=np.uint8))
    bare = [Case.from_arrays(str(n), np.ones((1, 16, 16), np.float32)) for n in range(2)]
    cases = PreparedCases([labelled], plan())
    beside = PreparedCases(bare, plan(), cases)
    room = cases[0].nbytes + beside[0].nbytes
    monkeypatch.setattr("napari_prosma.training.batches.CACHE_BYTES", room)
    assert cases[0] is cases[0]
    assert beside[0] is beside[0]
    assert not isinstance(beside[1].image, np.memmap)
    assert isinstance(beside[1].image, np.memmap)
    assert not any(beside[1].label.strides)
    assert np.array_equal(beside[1].image, beside[0].image)
