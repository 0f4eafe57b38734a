"""The networks that ours is compared with are trained, kept, opened, segmented and exported as ours is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.errors import CheckpointError, ConfigError
from napari_prosma.events import EpochEnd, Event, Notice
from napari_prosma.inspection.trace import one_network
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.model.windows import unwrap
from napari_prosma.nn.build import build_model
from napari_prosma.nn.network_kinds import NETWORKS, OURS
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.lines import config_from_options, shell_line
from napari_prosma.training.run import RunResult, train
from napari_prosma.training.transfer import take_over, trained_parts

Run = tuple[Path, list[Event]]
MakeRun = Callable[[str, int], Run]
BASELINES = [(name, dims) for name, known in NETWORKS.items() if name != OURS for dims in known.dims]
EVERY_BASELINE = pytest.mark.parametrize(("name", "dims"), BASELINES)
CLASSES = ("background", "blob")


def blobs(dims: int) -> list[Case]:
    """Four images (1, 16, ..) of a bright blob on noise."""
    cases = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        label = np.zeros((16,) * dims, np.uint8)
        label[tuple(slice(n, n + 7) for n in random.integers(1, 8, dims))] = 1
        image = label + 0.2 * random.normal(size=label.shape)
        cases.append(Case.from_arrays(f"blob {seed}", image[None].astype(np.float32), label))
    return cases


def settings(folder: Path, name: str, dims: int, **changes: object) -> TrainConfig:
    usual = {"epochs": 3, "steps_per_epoch": 4, "batch": 2, "patch": (16,) * dims, "dims": dims}
    machine = {"widths": (6, 8, 10), "device": "cpu", "threads": 1, "augment": False, "learning_rate": 0.01}
    return TrainConfig.of(run_dir=folder, network=name, **{**usual, **machine, **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """``runs(name, dims)``: folder and events of a short run, made when it is asked for first."""
    made: dict[tuple[str, int], Run] = {}

    def run(name: str, dims: int) -> Run:
        if (name, dims) not in made:
            folder = tmp_path_factory.mktemp("run")
            events = list(train(settings(folder, name, dims), blobs(dims), CLASSES))
            made[name, dims] = folder, events
        return made[name, dims]

    return run


@EVERY_BASELINE
def test_it_learns(name: str, dims: int, runs: MakeRun) -> None:
    _, events = runs(name, dims)
    losses = [event.loss for event in events if isinstance(event, EpochEnd)]
    assert losses[-1] < 0.95 * losses[0]
    assert not [event for event in events if isinstance(event, Notice) and "gate" in event.message]
    levels = {level for event in events if isinstance(event, EpochEnd) for level in event.gates}
    assert levels == ({1, 2} if name == "attention-unet" else set())


@EVERY_BASELINE
def test_what_was_kept_segments_as_the_run_did(
    name: str,
    dims: int,
    runs: MakeRun,
    last_of: Callable[[Iterator[Event]], object],
) -> None:
    folder, _ = runs(name, dims)
    kept = load_checkpoint(folder)
    network = unwrap(kept.build())
    assert (kept.spec.network, network.divisor) == (name, kept.spec.divisor)
    case = blobs(dims)[0]
    result = last_of(segment(kept, case.read_image(), device="cpu"))
    image = case.read_image().array
    normal = torch.from_numpy((image - image.mean()) / image.std())[None]
    with torch.no_grad():
        wanted = torch.sigmoid(network(normal))[0, 0].numpy()
    np.testing.assert_allclose(result.probabilities[1], wanted, rtol=0, atol=1e-4)  # type: ignore[attr-defined]


def test_the_one_that_rolls_by_a_size_not_yet_known_leaves_as_onnx(runs: MakeRun, tmp_path: Path) -> None:
    """Compared with PyTorch for whole cells, odd sizes and less than a cell, or not written."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from napari_prosma.export.onnx import export_onnx

    assert export_onnx(runs("rolling-unet", 2)[0], tmp_path / "model.onnx").stat().st_size > 0


@pytest.mark.parametrize("name", ["ukan", "attention-unet"])
def test_a_run_goes_on_bit_for_bit(name: str, runs: MakeRun, tmp_path: Path) -> None:
    config = settings(tmp_path, name, 2)
    events = train(config, blobs(2), CLASSES)
    for event in events:
        if isinstance(event, EpochEnd) and event.epoch == 2:
            events.close()  # type: ignore[attr-defined]
    last = list(train(config, blobs(2), CLASSES, load_checkpoint(tmp_path / "last.safetensors")))[-1]
    assert isinstance(last.result, RunResult)  # type: ignore[attr-defined]
    once, twice = (load_checkpoint(f / "last.safetensors").weights for f in (runs(name, 2)[0], tmp_path))
    assert all(torch.equal(once[key], twice[key]) for key in once)


@EVERY_BASELINE
def test_it_can_be_trained_further_on_other_classes(name: str, dims: int, runs: MakeRun) -> None:
    source = load_checkpoint(runs(name, dims)[0])
    transfer = take_over(unwrap(source.build()), source, CLASSES)  # type: ignore[arg-type]
    assert not transfer.new
    other = settings(Path(), name, dims).model_spec(
        source.plan.model_copy(update={"class_names": (*CLASSES, "ring")})
    )
    network = build_model(other)
    transfer = take_over(network, source, (*CLASSES, "ring"))
    assert len(transfer.new) <= 8  # the head; of MONAI's U-Net the whole last level
    assert len(transfer.taken) > len(transfer.new)
    with pytest.raises(ConfigError, match="only prosma-unet can learn in part"):
        trained_parts(network, "decoder")


def test_it_cannot_be_inspected_as_ours(runs: MakeRun) -> None:
    kept = load_checkpoint(runs("unet", 2)[0])
    with pytest.raises(CheckpointError, match=r"holds the network 'unet', which has none of the gates"):
        one_network(kept)


def test_a_line_of_the_shell_names_the_network() -> None:
    options = {"data": Path("d"), "run_dir": Path("r"), "network": "ukan", "widths": "published"}
    config = config_from_options(options)
    assert config.width_per_level == (16, 32, 128, 160, 256)
    assert config.divisor == 32
    assert "--network ukan --widths published" in shell_line(config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "unet", "gate": "spatial"}, "network 'unet' has no gates"),
        ({"network": "unext", "norm": "instance"}, "leave out norm, or choose prosma-unet"),
        ({"network": "resnet"}, "unknown network 'resnet'; choose one of prosma-unet, unet"),
    ],
)
def test_a_setting_that_a_network_does_not_have_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.of(run_dir="r", **wrong)


def test_a_planar_network_is_refused_for_volumes_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="network 'unext' is 2D; work slice by slice"):
        list(train(settings(tmp_path / "r", "unext", 3), blobs(3), CLASSES))
    assert not (tmp_path / "r").exists() or not list((tmp_path / "r").iterdir())
