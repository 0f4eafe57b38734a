"""What touches a device, on one that is not there: it runs, and gives the numbers of the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric.plugins.precision.amp import MixedPrecision
from pretended import Elsewhere, pretended
from torch.nn.modules.module import register_module_forward_pre_hook

from napari_prosma.app.doubts import doubt_map, find_doubts
from napari_prosma.data.case import Case, Image
from napari_prosma.data.phantoms import CT_CLASSES, ULTRASOUND_CLASSES, ct_case, ultrasound_case
from napari_prosma.events import EpochEnd, Event, Finished, LivePreview, Notice
from napari_prosma.export.onnx import export_onnx
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.compare import compare
from napari_prosma.inspection.data_set import inspect_cases
from napari_prosma.inspection.data_set_trials import run_trials
from napari_prosma.inspection.faithfulness import (
    deletion_curve,
    leave_one_out,
    noise_test,
    sanity_check,
    threshold_sweep,
)
from napari_prosma.inspection.trace import inspect_gates, skip_channel
from napari_prosma.inspection.what_if import WhatIf, over_whole_image
from napari_prosma.model.checkpoint import LAST, Checkpoint, ensemble_of, load_checkpoint
from napari_prosma.model.tuning import tune, works_of
from napari_prosma.nn.fast.forward import reference
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import Change
from napari_prosma.nn.network_kinds import NETWORKS, OURS
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.informative import next_images, next_slices
from napari_prosma.segmentation.scale_out import segment_to
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.folds import cross_validate
from napari_prosma.training.learner import SCALER
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering, View

Settings = Callable[..., TrainConfig]
Make = Callable[..., Checkpoint]
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
"""The device computes gates as they are written, the processor the fast way: other roundings."""


@pytest.fixture
def on(settings: Settings, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A short run on a device; autocast is not to be seen on a pretended one."""

    def make(device: str, name: str = "", **changes: object) -> TrainConfig:
        there = {"device": device, "precision": "32-true", "epochs": 1, "batch": 2, "widths": (4, 8, 16)}
        return settings(tmp_path / (name or device), **{**there, **changes})

    return make


@pytest.fixture
def pictures() -> list[Case]:
    """Four phantoms (1, 32, 32)."""
    return [ultrasound_case(seed, (32, 32)) for seed in range(4)]


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, EpochEnd)]


def result(events: object) -> object:
    *_, last = events  # type: ignore[misc]
    assert isinstance(last, Finished)
    return last.result


def pixels(array: np.ndarray) -> Image:
    return Image(array, Geometry.pixels(array.ndim - 1))


# ---- training ---------------------------------------------------------------------------------------------


def trained_both(
    on: Settings, where: torch.device, cases: list[Case], **changes: object
) -> tuple[list[Event], list[Event]]:
    """The events of a run there, and of the same run on the processor."""
    there = list(train(on(where.type, **changes), cases, ULTRASOUND_CLASSES))
    with reference():
        here = list(train(on("cpu", **changes), cases, ULTRASOUND_CLASSES))
    return there, here


@pytest.mark.parametrize(
    ("gate", "device"),
    [*((gate, "cuda") for gate in GATES), ("prosma", "mps"), ("none", "mps")],
    indirect=["device"],
)
def test_gates_learn_there_what_it_learns_here(
    gate: str, device: torch.device, on: Settings, pictures: list[Case]
) -> None:
    there, here = trained_both(on, device, pictures, gate=gate)
    np.testing.assert_allclose(losses(there), losses(here), **CLOSE)


@pytest.mark.parametrize(
    ("network", "device"),
    [*((network, "cuda") for network in sorted(NETWORKS.keys() - {OURS})), ("unet", "mps")],
    indirect=["device"],
)
def test_networks_learn_there_what_it_learns_here(
    network: str, device: torch.device, on: Settings, pictures: list[Case]
) -> None:
    there, here = trained_both(on, device, pictures, network=network)
    np.testing.assert_allclose(losses(there), losses(here), **CLOSE)


@pytest.mark.parametrize("device", ["mps"], indirect=True)
def test_volumes_are_learned_there_as_here(device: torch.device, on: Settings) -> None:
    """Augmented, which on Metal takes a detour."""
    volumes = [ct_case(seed, (8, 24, 24), (25.0, 14.0, 14.0)) for seed in range(3)]
    changes = {"dims": 3, "patch": (8, 16, 16), "steps_per_epoch": 1, "modality": "ct"}
    there, here = (list(train(on(kind, **changes), volumes, CT_CLASSES)) for kind in (device.type, "cpu"))
    np.testing.assert_allclose(losses(there), losses(here), **CLOSE)


WAYS_OF_LEARNING = {
    "entry": {"entry": 2},
    "average": {"average": 0.9},
    "instance": {"norm": "instance"},
    "dim": {"objective": "dim"},
    "dale": {"objective": "dale", "epochs": 2, "objective_options": {"warm_up_epochs": 1, "every": 1}},
}


@pytest.mark.parametrize(
    ("way", "device"),
    [*((way, "cuda") for way in WAYS_OF_LEARNING), ("dim", "mps"), ("dale", "mps")],
    indirect=["device"],
)
def test_every_way_of_learning_gives_there_what_it_gives_here(
    way: str, device: torch.device, on: Settings, pictures: list[Case]
) -> None:
    there, here = trained_both(on, device, pictures, **WAYS_OF_LEARNING[way])
    np.testing.assert_allclose(losses(there), losses(here), **CLOSE)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_stopped_run_goes_on_there(device: torch.device, on: Settings, pictures: list[Case]) -> None:
    whole = losses(list(train(on(device.type, "whole", epochs=2), pictures)))
    config = on(device.type, "stopped", epochs=2)
    run = train(config, pictures)
    next(event for event in run if isinstance(event, EpochEnd))
    run.close()
    again = losses(list(train(config, pictures, (), load_checkpoint(config.run_dir / LAST))))
    assert again[-1] == pytest.approx(whole[-1], rel=1e-5)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_stopped_run_in_float16_goes_on_with_its_scale(
    device: torch.device, on: Settings, pictures: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale falls where a step overflows and rises after many that do not: it is part of the place."""
    # Autocast, which is not to be seen there, would make weights half as well.
    monkeypatch.setattr(MixedPrecision, "convert_input", lambda precision, data: data)
    config = on(device.type, epochs=2, steps_per_epoch=1, precision="16-mixed")
    run = train(config, pictures)
    next(event for event in run if isinstance(event, EpochEnd))
    run.close()
    stopped = load_checkpoint(config.run_dir / LAST)
    assert stopped.place[SCALER]["_growth_tracker"] == stopped.place["step"]
    stopped.place[SCALER]["scale"] /= 2
    list(train(config, pictures, (), stopped))
    ended = load_checkpoint(config.run_dir / LAST).place
    assert ended[SCALER]["scale"] == stopped.place[SCALER]["scale"]
    assert ended[SCALER]["_growth_tracker"] == ended["step"] == 2 * stopped.place["step"]


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_folds_and_fine_tuning_run_there(device: torch.device, on: Settings, pictures: list[Case]) -> None:
    events = list(cross_validate(on(device.type, "folds"), pictures, folds=2))
    assert isinstance(events[-1], Finished)
    begun = on(device.type, "begun")
    list(train(begun, pictures))
    taught = on(device.type, "taught", start_from=begun.run_dir, trains="decoder")
    assert isinstance(list(train(taught, pictures))[-1], Finished)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_images_without_labels_are_learned_from_there(
    device: torch.device, on: Settings, pictures: list[Case]
) -> None:
    bare = [replace(ultrasound_case(seed, (32, 32)), read_label=None) for seed in (8, 9)]
    assert losses(list(train(on(device.type, objective="dim"), pictures, unlabelled=bare)))


def test_a_plane_is_previewed_there(device: torch.device, on: Settings, pictures: list[Case]) -> None:
    steering = Steering()
    steering.look_at(View(pictures[0].name, (None, None)))
    events = list(train(on(device.type), pictures, steering=steering))
    live = [event for event in events if isinstance(event, LivePreview)]
    assert live
    assert all(isinstance(event.labels, np.ndarray) for event in live)


def test_a_corrected_label_is_learned_there(device: torch.device, on: Settings, pictures: list[Case]) -> None:
    steering = Steering()
    run = train(on(device.type, epochs=2), pictures, steering=steering)
    next(event for event in run if isinstance(event, EpochEnd))
    steering.relabel(pictures[0].name)
    said = [event.message for event in run if isinstance(event, Notice)]
    assert any("have changed and are learned from now on" in message for message in said)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_the_largest_batch_is_found_there(device: torch.device, on: Settings, pictures: list[Case]) -> None:
    told = list(train(on(device.type, batch=None, steps_per_epoch=1), pictures))
    assert any(isinstance(event, Notice) and "fit into the GPU's memory" in event.message for event in told)
    assert isinstance(told[-1], Finished)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_memory_that_runs_out_there_halves_the_batch(
    device: torch.device, on: Settings, pictures: list[Case], only_room_for: Callable[[int], None]
) -> None:
    only_room_for(1)
    events = list(train(on(device.type, epochs=1), pictures))
    assert any(isinstance(event, Notice) and "Memory ran out" in event.message for event in events)
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_the_weights_that_are_written_lie_on_the_processor(
    device: torch.device, on: Settings, pictures: list[Case]
) -> None:
    config = on(device.type)
    list(train(config, pictures))
    weights = load_checkpoint(config.run_dir).weights
    assert not any(isinstance(tensor, Elsewhere) for tensor in weights.values())


# ---- segmenting and inspecting ----------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "ways", [{}, {"mirror": True, "disagreement": True, "batch": 3}], ids=["plain", "mirrored"]
)
def test_labels_and_probabilities_are_those_of_the_processor(
    dims: int, ways: dict[str, object], device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = (
        make_checkpoint(dims=dims, patch=(16,) * dims),
        pixels(noise(1, *{2: (40, 50), 3: (16, 20, 12)}[dims])),
    )
    there = result(segment(checkpoint, image, device=device.type, **ways))
    with reference():
        here = result(segment(checkpoint, image, device="cpu", **ways))
    np.testing.assert_allclose(there.probabilities, here.probabilities, **CLOSE)
    assert (there.labels != here.labels).mean() < 1e-3


def test_windows_are_halved_there_when_memory_runs_out(
    device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 40, 36))

    def small(module: torch.nn.Module, inputs: tuple) -> None:
        if isinstance(module, ProSMAUNet) and inputs[0].numel() > 16 * 16:
            raise torch.OutOfMemoryError("no room")

    handle = register_module_forward_pre_hook(small)
    try:
        events = list(segment(checkpoint, image, device=device.type, batch=2))
    finally:
        handle.remove()
    assert any(isinstance(event, Notice) and "16 x 16" in event.message for event in events)
    assert isinstance(events[-1], Finished)


def test_several_models_answer_as_one_there(
    device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    both = ensemble_of([make_checkpoint(seed=1), make_checkpoint(seed=2)], {})
    image = pixels(noise(1, 40, 36))
    there = result(segment(both, image, device=device.type))
    with reference():
        here = result(segment(both, image, device="cpu"))
    np.testing.assert_allclose(there.probabilities, here.probabilities, **CLOSE)


@pytest.mark.parametrize("gate", ["prosma", "prosma-exact", "attention"])
def test_gates_show_there_what_they_show_here(
    gate: str, device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(gate), pixels(noise(1, 40, 36))
    there = result(inspect_gates(checkpoint, image, device=device.type))
    with reference():
        here = result(inspect_gates(checkpoint, image, device="cpu"))
    for level, skip in there.skips.items():
        np.testing.assert_allclose(skip.psi, here.skips[level].psi, **CLOSE)
        if skip.z is not None:
            assert ((skip.z == 0) != (here.skips[level].z == 0)).mean() < 1e-3


def test_every_trial_of_the_gates_runs_there(
    device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    label = np.zeros((32, 32), np.uint8)
    label[8:20, 8:20] = 1
    about = {"label": label, "device": device.type}
    with reference():
        here = result(leave_one_out(checkpoint, image, label=label, device="cpu"))
    there = result(leave_one_out(checkpoint, image, **about))
    assert [row["dice"] for row in there.rows] == pytest.approx([row["dice"] for row in here.rows], abs=1e-3)
    for trial in (deletion_curve, threshold_sweep):
        assert result(trial(checkpoint, image, **about)).rows
    assert result(sanity_check(checkpoint, image, seeds=(0,), **about)).rows
    assert result(noise_test({"m": checkpoint}, image, strengths=(0.1,), **about)).rows


def test_models_and_data_sets_are_inspected_and_tested_there(
    device: torch.device, make_checkpoint: Make, pictures: list[Case], tmp_path: Path
) -> None:
    models = {"prosma": make_checkpoint(), "attention": make_checkpoint("attention")}
    image = pictures[0].read_image()
    with reference():
        here = result(compare(models, image, device="cpu"))
    there = result(compare(models, image, device=device.type))
    for model in models:
        np.testing.assert_allclose(there.psi(model, 1), here.psi(model, 1), **CLOSE)
    about = {"name": "prosma", "device": device.type}
    inspected = result(inspect_cases(models["prosma"], pictures[:2], tmp_path, **about))
    assert not inspected.failed
    assert result(run_trials(models["prosma"], pictures[:1], tmp_path, **about)).rows


def test_a_change_of_the_gates_is_computed_there(
    device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 32, 32))
    changes = {1: Change(psi=1.0), 2: Change(threshold=2.0)}
    there = WhatIf(checkpoint, image, device=device.type).apply(changes)
    with reference():
        here = WhatIf(checkpoint, image, device="cpu").apply(changes)
    np.testing.assert_allclose(there.difference, here.difference, **CLOSE)


def test_the_whole_image_and_a_channel_are_computed_there(
    device: torch.device, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), pixels(noise(1, 40, 36))
    changes = {1: Change(psi=1.0)}

    def effect(device: str) -> np.ndarray:
        record = result(inspect_gates(checkpoint, image, device=device))
        return result(over_whole_image(checkpoint, record, changes, device=device)).difference

    there, channel = effect(device.type), result(skip_channel(checkpoint, image, 1, 0, device=device.type))
    with reference():
        here, channel_here = effect("cpu"), result(skip_channel(checkpoint, image, 1, 0, device="cpu"))
    np.testing.assert_allclose(there, here, **CLOSE)
    np.testing.assert_allclose(channel.after, channel_here.after, **CLOSE)


def test_rows_are_streamed_there(
    device: torch.device, make_checkpoint: Make, noise: Callable, tmp_path: Path
) -> None:
    checkpoint, stack = make_checkpoint(patch=(16, 16)), noise(6, 20, 24)
    np.save(tmp_path / "stack.npy", stack)
    *_, last = segment_to(checkpoint, tmp_path / "stack.npy", tmp_path / "found.npy", device=device.type)
    with reference():
        here = result(segment(checkpoint, pixels(stack[None]), device="cpu"))
    assert (np.load(last.result) != here.labels).mean() < 1e-3


def test_doubts_are_found_there(
    device: torch.device, make_checkpoint: Make, pictures: list[Case], tmp_path: Path
) -> None:
    assert doubt_map(make_checkpoint(), pictures[0], device.type).shape == (32, 32)
    assert len(result(find_doubts(make_checkpoint(), pictures[:2], tmp_path, device.type))) == 2


def test_images_are_ranked_there(device: torch.device, make_checkpoint: Make, pictures: list[Case]) -> None:
    bare = [replace(case, read_label=None) for case in pictures[:2]]
    there = result(next_images(make_checkpoint(), bare, device=device.type))
    with reference():
        here = result(next_images(make_checkpoint(), bare, device="cpu"))
    assert [each.name for each in there] == [each.name for each in here]
    assert [each.candidate.score for each in there] == pytest.approx(
        [each.candidate.score for each in here], rel=1e-3
    )


def test_slices_are_ranked_there(device: torch.device, make_checkpoint: Make, noise: Callable) -> None:
    volume = pixels(noise(1, 16, 16, 16))
    found = result(next_slices(make_checkpoint(dims=3), volume, "volume", device=device.type))
    assert found


def test_what_was_learned_there_becomes_onnx(on: Settings, pictures: list[Case], tmp_path: Path) -> None:
    """Only learned there: torch's exporter traces with devices of its own."""
    with pretended("cuda"):
        list(train(on("cuda"), pictures))
    assert export_onnx(on("cuda").run_dir, tmp_path / "model.onnx").is_file()


def test_ways_to_compute_are_measured_there(device: torch.device, make_checkpoint: Make) -> None:
    events = list(tune(works_of(make_checkpoint(), device.type)))
    assert isinstance(events[-1], Finished)
