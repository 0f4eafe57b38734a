"""Files larger than memory, runs that were stopped, and clusters: the labels are always the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dask.array
import nibabel
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from torch.nn.modules.module import register_module_forward_pre_hook

from napari_prosma.data.case import Image
from napari_prosma.data.formats import nifti, ome_zarr
from napari_prosma.data.readers import read_image, read_label, read_pyramid
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation import unfinished
from napari_prosma.segmentation.scale_out import require_seen, segment_to
from napari_prosma.segmentation.segment import segment
from napari_prosma.segmentation.unfinished import Output

Make = Callable[..., Checkpoint]
SHAPE = (90, 11, 14)
CLASSES = ("background", "a", "b")


@pytest.fixture(autouse=True)
def thin_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written ten rows at a time, so that small images have several layers."""
    monkeypatch.setattr(unfinished, "LAYER", 10)


@pytest.fixture
def model(make_checkpoint: Make) -> Checkpoint:
    return make_checkpoint(dims=3, classes=CLASSES, patch=(16, 16, 16))


@pytest.fixture
def volume(noise: Callable) -> Image:
    return Image(noise(1, *SHAPE), Geometry((2.0, 1.0, 1.0), (5.0, 6.0, 7.0), "mm"))


@pytest.fixture
def stored(tmp_path: Path, volume: Image) -> Path:
    path = tmp_path / "scan.ome.zarr"
    ome_zarr.write(path, volume.array[0], volume.geometry)
    return path


def labels_in_memory(model: Checkpoint, image: Image) -> np.ndarray:
    last = list(segment(model, image))[-1]
    assert isinstance(last, Finished)
    return last.result.labels


def windows_of(events: list[Event]) -> int:
    return [event.total for event in events if isinstance(event, Started)][-1]


def stopped(run: Iterator[Event], windows: int) -> list[Event]:
    """Events of a run that is stopped after so many windows."""
    events = []
    with closing(run):  # type: ignore[type-var]
        for event in run:
            events.append(event)
            if isinstance(event, Progress) and event.done >= windows:
                return events
    raise AssertionError("the run ended before")


def left_beside(target: Path) -> list[str]:
    return [
        path.name for path in target.parent.iterdir() if "unfinished" in path.name or "writing" in path.name
    ]


# ---- the same labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ome.zarr", ".npy", ".nii"])
@pytest.mark.parametrize("spacing", [None, (1.4, 0.7, 1.0)])
def test_a_file_gets_the_labels_that_the_image_in_memory_gets(
    suffix: str, spacing: tuple | None, make_checkpoint: Make, volume: Image, stored: Path
) -> None:
    model = make_checkpoint(dims=3, classes=CLASSES, patch=(16, 16, 16), spacing=spacing)
    target = stored.with_name(f"labels{suffix}")
    *_, last = segment_to(model, stored, target)
    assert last == Finished(target)
    labels, geometry = read_label(target)
    assert np.array_equal(labels, labels_in_memory(model, volume))
    assert len(np.unique(labels)) == 3
    if suffix == ".ome.zarr":
        assert geometry == volume.geometry
    assert left_beside(target) == []


def test_a_stack_goes_through_a_2d_model(make_checkpoint: Make, volume: Image, stored: Path) -> None:
    model = make_checkpoint(patch=(16, 16))
    *_, last = segment_to(model, stored, stored.with_name("labels.npy"))
    assert np.array_equal(np.load(last.result), labels_in_memory(model, volume))  # type: ignore[attr-defined]


def test_labels_lie_over_a_volume_however_its_file_stores_it(model: Checkpoint, tmp_path: Path) -> None:
    affine = np.array([[0, -2.9, 0.3, 10.5], [0.8, 0, 0.02, -7], [0.01, 0.3, -2.2, 31], [0, 0, 0, 1]])
    frame = SourceFrame.canonical(affine)
    array = np.random.default_rng(0).normal(size=(1, 34, 11, 14)).astype(np.float32)
    image = Image(array, Geometry.patient(frame, array.shape[1:]))
    nifti.write_image(tmp_path / "ct.nii", image)
    list(segment_to(model, tmp_path / "ct.nii", tmp_path / "labels.nii"))
    labels, geometry = read_label(tmp_path / "labels.nii")
    held = read_image(tmp_path / "ct.nii")
    assert np.array_equal(labels, labels_in_memory(model, held))
    assert geometry.source is not None
    assert held.geometry.source is not None
    assert geometry.source.affine == held.geometry.source.affine


def test_the_levels_of_a_zarr_are_every_second_element_of_the_finer_ones(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (3, 520, 300), dtype=np.uint8)
    for shape in (labels.shape, labels.shape[1:]):
        held = labels if len(shape) == 3 else labels[0]
        output = Output(tmp_path / f"{len(shape)}.zarr", shape, Geometry.pixels(len(shape)), CLASSES)
        output.create()
        write = output.opened()
        for start in range(0, shape[0], output.layer):
            write(start, held[start : start + output.layer])
        output.finish()
        levels = read_pyramid(output.target).levels
        assert len(levels) == 3
        for n, level in enumerate(levels):
            assert np.array_equal(level.compute()[0], held[..., :: 2**n, :: 2**n])


# ---- stopped and gone on with ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zarr", ".npy"])
def test_a_stopped_run_goes_on_at_the_last_finished_rows(
    suffix: str, model: Checkpoint, volume: Image, stored: Path
) -> None:
    target = stored.with_name(f"labels{suffix}")
    events = stopped(segment_to(model, stored, target), 6)
    assert not target.exists()
    kept = json.loads(target.with_name(f".unfinished-{target.name}.json").read_text())["done"]
    assert kept[0][0] == 0 < kept[0][1] < SHAPE[0]
    again = list(segment_to(model, stored, target))
    assert any(f"{kept[0][1]} of {SHAPE[0]} rows" in e.message for e in again if isinstance(e, Notice))
    assert windows_of(again) < windows_of(events)
    labels, _ = read_label(target)
    assert np.array_equal(labels, labels_in_memory(model, volume))
    assert left_beside(target) == []


def test_what_another_model_image_or_setting_has_left_is_not_gone_on_with(
    model: Checkpoint, volume: Image, stored: Path, make_checkpoint: Make
) -> None:
    target = stored.with_name("labels.npy")
    other = Image(volume.array + (np.arange(SHAPE[0]) == 80)[:, None, None], volume.geometry)
    another = make_checkpoint(dims=3, classes=CLASSES, patch=(16, 16, 16), seed=8)
    moved = Image(volume.array, Geometry((2.0, 1.5, 1.5), (5.0, 6.0, 0.0), "mm"))
    changes = (
        {"checkpoint": another},
        {"image": other},
        {"image": moved},
        {"overlap": 0.25},
        {"mirror": True},
    )
    for changed in changes:
        total = windows_of(stopped(segment_to(model, stored, target), 6))
        settings = {"checkpoint": model, "image": stored, "target": target, **changed}
        events = stopped(segment_to(**settings), 1)  # type: ignore[arg-type]
        assert not [event for event in events if isinstance(event, Notice)]
        assert "overlap" in changed or windows_of(events) == total


def test_a_run_begins_anew_where_a_header_was_corrected_meanwhile(model: Checkpoint, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(14, 11, 90)).astype(np.float32)
    scan, target = tmp_path / "ct.nii", tmp_path / "labels.nii"
    image = nibabel.Nifti1Image(array, np.eye(4))
    nibabel.save(image, scan)
    stopped(segment_to(model, scan, target), 6)
    image.header.set_sform(np.eye(4), code="talairach")  # which no affine tells
    nibabel.save(image, scan)
    events = stopped(segment_to(model, scan, target), 6)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.2, 1.2, 3, 1])), scan)
    events += list(segment_to(model, scan, target))
    assert not any(event.message.startswith("Resuming") for event in events if isinstance(event, Notice))
    assert nibabel.load(target).header.get_zooms() == pytest.approx((1.2, 1.2, 3))
    assert np.array_equal(read_label(target)[0], labels_in_memory(model, read_image(scan)))


def test_a_damaged_note_of_progress_means_a_new_run(model: Checkpoint, volume: Image, stored: Path) -> None:
    target = stored.with_name("labels.npy")
    stopped(segment_to(model, stored, target), 6)
    target.with_name(".unfinished-labels.npy.json").write_text('{"format": 1, "key": ')
    list(segment_to(model, stored, target))
    assert np.array_equal(np.load(target), labels_in_memory(model, volume))


def test_a_killed_run_goes_on_too(model: Checkpoint, volume: Image, stored: Path) -> None:
    save_checkpoint(stored.with_name("model.safetensors"), model)
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from napari_prosma.segmentation import scale_out, unfinished\n"
        "unfinished.LAYER = 10\n"
        "for event in scale_out.segment_to(*sys.argv[1:]): print(event, flush=True)"
    )
    target = stored.with_name("labels.zarr")
    paths = [stored.with_name("model.safetensors"), stored, target]
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, paths)], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("Progress(done=6"):
                run.kill()
    assert run.returncode != 0
    assert not target.exists()
    again = list(segment_to(paths[0], stored, target))
    assert any("rows are done" in event.message for event in again if isinstance(event, Notice))
    assert np.array_equal(read_label(target)[0], labels_in_memory(model, volume))


def test_a_run_in_smaller_windows_goes_on_in_these(model: Checkpoint, stored: Path) -> None:
    target = stored.with_name("labels.npy")

    def small(module: torch.nn.Module, inputs: tuple) -> None:
        if isinstance(module, ProSMAUNet) and inputs[0].shape[2] > 8:
            raise torch.OutOfMemoryError("no room")

    handle = register_module_forward_pre_hook(small)
    try:
        events = list(segment_to(model, stored, target))
        expected = np.load(target)
        stopped(segment_to(model, stored, target), 12)
    finally:
        handle.remove()
    assert "windows of 8 x 16 x 16" in next(e.message for e in events if isinstance(e, Notice))
    again = list(segment_to(model, stored, target))
    assert next(e.message for e in again if isinstance(e, Notice)).startswith("Resuming")
    assert np.array_equal(np.load(target), expected)


# ---- over a cluster -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    local = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    with local, Client(local) as client:
        yield client
    # Clients of the workers that close later leave themselves as Dask's default.
    dask.config.set(scheduler=None)


def test_where_no_scheduler_answers_it_is_told_and_dask_works_on(
    model: Checkpoint, stored: Path, tmp_path: Path
) -> None:
    target = tmp_path / "labels.zarr"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(ConfigError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"),
    ):
        list(segment_to(model, stored, target, scheduler="tcp://127.0.0.1:9"))
    assert not target.exists()
    assert int(dask.array.ones(3).sum().compute()) == 3


@pytest.mark.parametrize("spacing", [None, (1.4, 0.7, 1.0)])
def test_two_workers_give_the_labels_of_one_process(
    spacing: tuple | None, make_checkpoint: Make, volume: Image, stored: Path, cluster: Client
) -> None:
    model = make_checkpoint(dims=3, classes=CLASSES, patch=(16, 16, 16), spacing=spacing)
    target = stored.with_name("labels.zarr")
    events = list(segment_to(model, stored, target, scheduler=cluster))
    assert events[-1] == Finished(target)
    last_started = max(n for n, event in enumerate(events) if isinstance(event, Started))
    done = [event.done for event in events[last_started:] if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == windows_of(events)
    assert np.array_equal(read_label(target)[0], labels_in_memory(model, volume))
    assert left_beside(target) == []


def test_what_a_cluster_began_one_process_ends(
    model: Checkpoint, volume: Image, stored: Path, cluster: Client
) -> None:
    target = stored.with_name("labels.zarr")
    stopped(segment_to(model, stored, target, scheduler=cluster), 1)
    again = list(segment_to(model, stored, target))
    assert any("rows are done" in event.message for event in again if isinstance(event, Notice))
    assert np.array_equal(read_label(target)[0], labels_in_memory(model, volume))


def test_workers_that_stand_in_another_folder_find_relative_paths(
    model: Checkpoint, volume: Image, stored: Path, cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stored.parent)
    events = segment_to(model, stored.name, "elsewhere.zarr", scheduler=cluster)
    while not isinstance(next(events), Started):
        pass
    monkeypatch.chdir(Path(stored.anchor))  # where the workers of this process are from now on
    finished = list(events)[-1]
    assert isinstance(finished, Finished)
    assert finished.result == Path("elsewhere.zarr")
    assert np.array_equal(read_label(stored.with_name("elsewhere.zarr"))[0], labels_in_memory(model, volume))


def test_a_cluster_needs_a_file_and_a_scheduler_that_answers(
    model: Checkpoint, volume: Image, stored: Path
) -> None:
    target = stored.with_name("labels.zarr")
    with pytest.raises(ConfigError, match="a cluster needs the image as a file"):
        list(segment_to(model, volume, target, scheduler="local"))
    with pytest.raises(ConfigError, match=r"'nowhere://1' .*start one there with dask scheduler"):
        list(segment_to(model, stored, target, scheduler="nowhere://1"))


def test_a_path_that_a_worker_does_not_see_is_told(cluster: Client, stored: Path) -> None:
    require_seen(cluster, stored)
    with pytest.raises(ConfigError, match=r"worker at '.*' does not see '.*gone'; share the folder"):
        require_seen(cluster, stored, stored / "gone")


def test_a_cluster_without_workers_is_told(model: Checkpoint, stored: Path) -> None:
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", protocol="tcp://", dashboard_address=None) as local,
        pytest.raises(ConfigError, match="has no worker; start one on the machine that is to compute"),
    ):
        list(segment_to(model, stored, stored.with_name("labels.zarr"), scheduler=local.scheduler_address))


# ---- what cannot be done leaves nothing -----------------------------------------------------------------


def test_an_image_that_does_not_fit_leaves_no_file(model: Checkpoint, volume: Image, tmp_path: Path) -> None:
    volume.array[0, 80, 3, 3] = np.nan
    target = tmp_path / "labels.npy"
    with pytest.raises(DataError, match=r"'labels\.npy' cannot be segmented: .* 1 NaN or infinite"):
        list(segment_to(model, volume, target))
    with pytest.raises(ConfigError, match=r"'.*labels\.nii\.gz' cannot be written in parts; choose one of"):
        next(segment_to(model, volume, tmp_path / "labels.nii.gz"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told(model: Checkpoint, volume: Image, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .* choose another folder"):
        list(segment_to(model, volume, tmp_path / "file" / "labels.npy"))


def test_what_stands_at_the_target_stays_until_the_new_labels_are_whole(
    model: Checkpoint, volume: Image, tmp_path: Path
) -> None:
    target = tmp_path / "labels.npy"
    np.save(target, np.ones(3))
    stopped(segment_to(model, volume, target), 6)
    assert np.load(target).tolist() == [1, 1, 1]
    list(segment_to(replace(model, path=None), volume, target))
    assert np.load(target).shape == SHAPE
