"""From an image to labels on its own grid, in 2D, 3D and slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from napari_prosma.data.case import Image
from napari_prosma.data.preparation import prepare
from napari_prosma.data.readers import read_image
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import CheckpointError, ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import Segmentation
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.segment import segment

Make = Callable[..., Checkpoint]


@pytest.fixture
def run(last_of: Callable[[Iterator[Event]], object]) -> Callable[..., Segmentation]:
    """``run(checkpoint, array or Image, ...)``: the result."""

    def pull(checkpoint: Checkpoint, image: np.ndarray | Image, **options: object) -> Segmentation:
        held = image if isinstance(image, Image) else Image(image, Geometry.pixels(image.ndim - 1))
        result = last_of(segment(checkpoint, held, **options))  # type: ignore[arg-type]
        assert isinstance(result, Segmentation)
        return result

    return pull


def save_volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


OBLIQUE_AND_FLIPPED = np.array(
    [[0, -2.9, 0.3, 10.5], [0.8, 0, 0.02, -7], [0.01, 0.3, -2.2, 31], [0, 0, 0, 1]]
)


# ---- shapes, events, agreement --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (2, (32, 32)),
        (2, (45, 71)),
        (2, (5, 7)),
        (3, (33, 34, 35)),
        (3, (3, 40, 6)),
        (2, (4, 33, 40)),
        (3, (2, 9, 33, 20)),
    ],
)
def test_a_result_lies_on_the_grid_of_its_image(
    dims: int, shape: tuple[int, ...], make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint = make_checkpoint(dims=dims, classes=("background", "a", "b"))
    found = run(checkpoint, noise(1, *shape), name="scan")
    assert found.labels.shape == shape
    assert found.labels.dtype == np.uint8
    assert found.probabilities.shape == (3, *shape)
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(found.labels, found.probabilities.argmax(axis=0))
    assert (found.name, found.class_names) == ("scan", ("background", "a", "b"))
    if min(shape) > 8:
        assert len(np.unique(found.labels)) > 1


def test_progress_counts_the_windows(make_checkpoint: Make, noise: Callable) -> None:
    image = Image(noise(1, 70, 40), Geometry.pixels(2))
    started, *steps, finished = segment(make_checkpoint(), image)
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert [step.done for step in steps if isinstance(step, Progress)] == list(range(1, started.total + 1))
    assert started.total == 8


@pytest.mark.parametrize(("dims", "shape"), [(2, (70, 90)), (3, (40, 44, 36)), (2, (5, 33, 20))])
def test_the_result_does_not_depend_on_the_batch(
    dims: int, shape: tuple[int, ...], make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint, image = make_checkpoint(dims=dims, classes=("background", "a", "b")), noise(1, *shape)
    one, eight = run(checkpoint, image, batch=1), run(checkpoint, image, batch=8)
    assert np.array_equal(one.labels, eight.labels)
    assert np.array_equal(one.probabilities, eight.probabilities)


def test_a_small_image_is_one_pass_of_the_network(
    make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint, array = make_checkpoint(), noise(1, 27, 30)
    seen = prepare(Image(array, Geometry.pixels(2)), checkpoint.plan).array
    with torch.no_grad():
        direct = torch.sigmoid(checkpoint.build()(torch.from_numpy(seen)[None]))[0, 0].numpy()
    np.testing.assert_allclose(run(checkpoint, array).probabilities[1], direct, atol=1e-6)


def test_a_stack_is_segmented_slice_by_slice(make_checkpoint: Make, run: Callable) -> None:
    """Slices of equal brightness, since a volume is normalised as a whole."""
    checkpoint = make_checkpoint(channels=2)
    rng = np.random.default_rng(0)
    slices = [
        rng.permuted(np.linspace(-1, 1, 45 * 40)).reshape(1, 45, 40).repeat(2, axis=0) for _ in range(3)
    ]
    stack = np.stack(slices, axis=1).astype(np.float32)
    whole = run(checkpoint, stack)
    for z in range(3):
        alone = run(checkpoint, stack[:, z])
        np.testing.assert_allclose(whole.probabilities[:, z], alone.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("modality", "axes"), [("ultrasound", ((), (-1,))), ("endoscopy", ((), (-1,), (-2,), (-2, -1)))]
)
def test_mirrored_passes_go_along_the_axes_that_training_mirrored(
    modality: str, axes: tuple, make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint, array = replace(make_checkpoint(), config={"modality": modality}), noise(1, 28, 32)
    passes = [np.flip(run(checkpoint, np.flip(array, turned)).probabilities, turned) for turned in axes]
    found = run(checkpoint, array, mirror=True, disagreement=True)
    np.testing.assert_allclose(found.probabilities, np.mean(passes, axis=0), atol=1e-5)
    assert found.disagreement.shape == (28, 32)
    assert 0 < found.disagreement.max() <= 1


@pytest.mark.parametrize(
    ("classes", "config"),
    [(("background", "left kidney"), {}), (("background", "kidney"), {"augment": False})],
)
def test_nothing_is_passed_mirrored_that_training_never_mirrored(
    classes: tuple[str, ...], config: dict, make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint = make_checkpoint(classes=classes)
    checkpoint, array = replace(checkpoint, config=checkpoint.config | config), noise(1, 28, 32)
    assert np.array_equal(
        run(checkpoint, array, mirror=True).probabilities, run(checkpoint, array).probabilities
    )
    told = [
        e.message
        for e in segment(checkpoint, Image(array, Geometry.pixels(2)), mirror=True)
        if isinstance(e, Notice)
    ]
    assert any("No mirrored passes: " in message for message in told)


def test_only_the_probabilities_that_are_asked_for_are_made(
    make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint, array = make_checkpoint(classes=("background", "a", "b")), noise(1, 40, 30)
    whole = run(checkpoint, array)
    for classes in ((), (2,), (2, 0)):
        found = run(checkpoint, array, probabilities=classes)
        assert np.array_equal(found.labels, whole.labels)
        assert np.array_equal(found.probabilities, whole.probabilities[list(classes)])
        assert found.kept == classes


def test_a_checkpoint_may_be_given_by_its_path(trained: tuple[Path, list[Event]], ultrasound: list) -> None:
    image = ultrasound[0].read_image()
    for where in (trained[0], str(trained[0] / "last.safetensors")):
        assert isinstance(list(segment(where, image))[-1], Finished)


def test_closing_a_segmentation_midway_is_clean_and_the_next_one_is_whole(
    make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint, image = make_checkpoint(), noise(1, 70, 70)
    before = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    whole = run(checkpoint, image)
    events = segment(checkpoint, Image(image, Geometry.pixels(2)))
    list(islice(events, 3))
    events.close()  # type: ignore[attr-defined]
    assert np.array_equal(run(checkpoint, image).labels, whole.labels)
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in before.items())


def test_when_memory_runs_out_smaller_windows_are_taken_and_told(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), Image(noise(1, 50, 45), Geometry.pixels(2))

    def small(module: torch.nn.Module, inputs: tuple) -> None:
        if isinstance(module, ProSMAUNet) and inputs[0].numel() > 16 * 16:
            raise torch.OutOfMemoryError("no room")

    handle = register_module_forward_pre_hook(small)
    try:
        events = list(segment(checkpoint, image))
    finally:
        handle.remove()
    told = [event.message for event in events if isinstance(event, Notice)]
    assert ["16 x 32" in told[0], "16 x 16" in told[1], len(told)] == [True, True, 2]
    plan = checkpoint.plan.model_copy(update={"window": (16, 16)})
    smaller = list(segment(replace(checkpoint, plan=plan), image))[-1]
    assert isinstance(events[-1], Finished)
    assert isinstance(smaller, Finished)
    assert np.array_equal(events[-1].result.labels, smaller.result.labels)


def test_when_no_window_is_small_enough_that_is_said(make_checkpoint: Make, noise: Callable) -> None:
    def never(module: torch.nn.Module, inputs: tuple) -> None:
        raise MemoryError

    checkpoint, image = make_checkpoint(), Image(noise(1, 20, 20), Geometry.pixels(2))
    handle = register_module_forward_pre_hook(never)
    try:
        with pytest.raises(ProsmaError, match="memory runs out even with windows of 4 x 4"):
            list(segment(checkpoint, image))
    finally:
        handle.remove()


# ---- geometry -------------------------------------------------------------------------------------------


def test_labels_of_a_volume_are_saved_with_the_affine_of_the_image_bit_for_bit(
    make_checkpoint: Make, run: Callable, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(0).normal(size=(20, 9, 14)).astype(np.float32)
    image = read_image(save_volume(tmp_path / "ct.nii.gz", voxels, OBLIQUE_AND_FLIPPED))
    found = run(make_checkpoint(dims=3), image)
    assert found.geometry == image.geometry
    stored = nibabel.load(write_labels(tmp_path / "labels.nii.gz", found.labels, found.geometry))
    original = nibabel.load(tmp_path / "ct.nii.gz")
    assert stored.shape == voxels.shape
    assert np.array_equal(stored.affine, original.affine)


def test_labels_follow_the_voxels_however_a_file_stores_them(
    make_checkpoint: Make, run: Callable, tmp_path: Path
) -> None:
    """The same patient stored with its axes flipped gives the same labels in the same places."""
    voxels = np.random.default_rng(0).normal(size=(16, 16, 16)).cumsum(axis=0).astype(np.float32)
    flipped = np.diag((-1.0, 1, -1, 1))
    flipped[[0, 2], 3] = 15
    checkpoint = make_checkpoint(dims=3)
    results = []
    for name, stored, affine in (("a", voxels, np.eye(4)), ("b", voxels[::-1, :, ::-1], flipped)):
        path = save_volume(tmp_path / f"{name}.nii", np.ascontiguousarray(stored), affine)
        results.append(run(checkpoint, read_image(path)))
    np.testing.assert_allclose(results[0].probabilities, results[1].probabilities, atol=1e-6)
    assert results[0].geometry.origin == results[1].geometry.origin


@pytest.mark.parametrize("zoom", [0.5, 1.6, 3.0])
def test_an_image_is_resampled_for_the_network_and_its_labels_back(
    zoom: float, make_checkpoint: Make, noise: Callable, run: Callable
) -> None:
    checkpoint = make_checkpoint(spacing=(zoom, zoom))
    image = Image(noise(1, 50, 63), Geometry((1.0, 1.0), (4.0, 5.0), "mm"))
    events = list(segment(checkpoint, image))
    grid = prepare(image, checkpoint.plan).array.shape[1:]
    assert grid == (round(50 / zoom), round(63 / zoom))
    assert isinstance(events[-1], Finished)
    found = events[-1].result
    assert found.labels.shape == (50, 63)
    assert found.geometry == image.geometry
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)


# ---- bad input ------------------------------------------------------------------------------------------


def with_nan(shape: tuple[int, ...]) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array.flat[7] = np.nan
    return array


@pytest.mark.parametrize(
    ("checkpoint", "array", "words"),
    [
        ({}, np.zeros((3, 32, 32)), r"expects 1 channel\(s\) but the image has 3"),
        ({"dims": 3}, np.zeros((1, 32, 32)), "model is 3D but the image has 2 axes"),
        (
            {"spacing": (2.0, 1.0, 1.0)},
            np.zeros((1, 32, 32)),
            "does not say how large its pixels are",
        ),
        ({}, with_nan((1, 32, 32)), "NaN or infinite"),
        ({}, np.full((1, 32, 32), np.nan), "nothing but NaN or infinite"),
        ({}, np.full((1, 32, 32), 0.1), "single value 0.1 everywhere"),
        ({}, np.zeros((1, 32, 32), np.complex64), "expects real numbers but the image holds complex64"),
        ({}, np.zeros((1, 0, 32)), "is empty"),
        ({}, np.zeros((1, 0, 32, 32)), "is empty"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_by_name(
    checkpoint: dict, array: np.ndarray, words: str, make_checkpoint: Make
) -> None:
    events = segment(
        make_checkpoint(**checkpoint), Image(array, Geometry.pixels(array.ndim - 1)), name="scan 3"
    )
    with pytest.raises(DataError, match=f"'scan 3' cannot be segmented: .*{words}"):
        next(events)


def test_a_missing_checkpoint_or_device_is_refused(
    make_checkpoint: Make, noise: Callable, tmp_path: Path
) -> None:
    image = Image(noise(1, 32, 32), Geometry.pixels(2))
    with pytest.raises(CheckpointError, match="does not exist"):
        next(segment(tmp_path / "none.safetensors", image))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' is not available"):
            next(segment(make_checkpoint(), image, device="cuda"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", ">i2", "float64", "bool"])
def test_images_of_every_type_are_taken(dtype: str, make_checkpoint: Make, run: Callable) -> None:
    array = np.random.default_rng(0).integers(0, 200, (1, 40, 40))
    array = array > 100 if dtype == "bool" else array.astype(dtype)
    as_float = run(make_checkpoint(), array.astype(np.float32))
    assert np.array_equal(run(make_checkpoint(), array).labels, as_float.labels)


def test_sixteen_bit_floats_are_taken_and_told(make_checkpoint: Make, noise: Callable, run: Callable) -> None:
    half = noise(1, 32, 40).astype(np.float16)
    events = list(segment(make_checkpoint(), Image(half, Geometry.pixels(2))))
    assert any("16-bit floats" in event.message for event in events if isinstance(event, Notice))
    assert np.array_equal(events[-1].result.labels, run(make_checkpoint(), half.astype(np.float32)).labels)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": 1.0}, "overlap must lie"),
        ({"batch": 0}, "batch must be"),
        ({"probabilities": (2,)}, "classes 0 to 1"),
        ({"disagreement": True}, "nothing to disagree"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: dict, words: str, make_checkpoint: Make, noise: Callable
) -> None:
    with pytest.raises(ConfigError, match=words):
        next(segment(make_checkpoint(), Image(noise(1, 32, 32), Geometry.pixels(2)), **options))


def test_what_the_reader_noticed_is_told(make_checkpoint: Make, noise: Callable) -> None:
    image = Image(noise(1, 32, 32), Geometry.pixels(2), notices=("two frames disagree",))
    events = list(segment(make_checkpoint(), image))
    assert Notice("two frames disagree") in events
