"""Small models and data sets that many tests share, made once."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.phantoms import ULTRASOUND_CLASSES, ultrasound_case
from napari_prosma.events import Event, Finished
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GateOptions
from napari_prosma.nn.gates import AttentionMask, ProximalMask
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training import learner as learner_module
from napari_prosma.training import statistics
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.preview import Rhythm
from napari_prosma.training.run import train

os.environ["PROSMA_CACHE"] = ""  # no number may hang on what is faster on this machine
os.environ["NAPARI_CONFIG"] = ""  # napari's settings of who runs the tests are neither read nor written
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where Triton is imported, also by others
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"  # it may lock up a process in Python 3.11

WIDTHS = (8, 16, 32)
"""Three levels: a divisor of 4, and gates on skips 1 and 2."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are not spelled out: packed ones hold the time, and every process must find the same tests."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take a moment come last, so that no process is left alone with a long one."""
    items.sort(key=lambda item: item.path.parent.name in ("data", "nn"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The same numbers on every machine, and no quarrel over cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def power() -> Iterator[None]:
    """Nothing written here has to outlive a loss of power, so that no test waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses what is no open file, too
        yield


@pytest.fixture(scope="session", autouse=True)
def norms_settle_soon() -> Iterator[None]:
    """The norms of a small network settle on few patches; more take longer than its few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "PATCHES", (4, 8))
        yield


@pytest.fixture(scope="module", autouse=True)
def survivors() -> None:
    """What outlives the tests before is not searched again whenever a viewer is collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """The scripts of benchmarks find each other as they do when one of them is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield


@pytest.fixture(scope="session")
def local_scheduler() -> Callable[[], AbstractContextManager[str]]:
    """``with local_scheduler() as address``: a Dask scheduler with one worker, in this process."""

    @contextmanager
    def start() -> Iterator[str]:
        import dask
        from distributed import LocalCluster

        before = dask.config.get("scheduler", None)
        with LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=None,
        ) as local:
            yield local.scheduler_address
        dask.config.set(scheduler=before)

    return start


@pytest.fixture(scope="session")
def ultrasound() -> list[Case]:
    """Six phantoms (1, 48, 48) with lesions."""
    return [ultrasound_case(seed, (48, 48)) for seed in range(6)]


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainConfig]:
    """``settings(run_dir, ...)``: a run of two epochs of two steps on three levels, unless told otherwise."""

    def make(run_dir: Path, **changes: object) -> TrainConfig:
        quick = {"widths": WIDTHS, "epochs": 2, "steps_per_epoch": 2, "device": "cpu", "threads": 1}
        return TrainConfig.of(run_dir=run_dir, **{**quick, **changes})

    return make


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, settings: Callable[..., TrainConfig], ultrasound: list[Case]
) -> tuple[Path, list[Event]]:
    """Folder and events of one small run on the ultrasound phantoms, however long it takes."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rhythm, "is_due", lambda *_: False)  # previews at the ends of epochs, none by the clock
        return run_dir, list(train(settings(run_dir), ultrasound, ULTRASOUND_CLASSES))


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    """``make_checkpoint(gate, dims, ...)``: random weights, with norms and thresholds that fit noise.

    Its gates are neither all open nor all at their floor, so that every map says something.
    """

    def make(
        gate: str = "prosma",
        dims: int = 2,
        channels: int = 1,
        classes: tuple[str, ...] = ("background", "lesion"),
        patch: tuple[int, ...] = (),
        spacing: tuple[float, ...] | None = None,
        threshold: float = 0.7,
        seed: int = 3,
        epoch: int = 1,
    ) -> Checkpoint:
        plan = Plan(
            dims=dims,
            channels=channels,
            class_names=classes,
            spacing=spacing,
            unit="mm",
            patch=patch or (32,) * dims,
            batch=2,
        )
        spec = ModelSpec(dims, channels, plan.out_channels, WIDTHS, gate, GateOptions(threshold=threshold))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_model(spec)
            _settle(network, torch.randn(2, channels, *(32,) * dims if dims == 2 else (16,) * dims))
        return Checkpoint(spec, plan, network.state_dict(), config={}, epoch=epoch)

    return make


def _settle(network: nn.Module, batch: torch.Tensor) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 1.0
        if isinstance(module, ProximalMask | AttentionMask):
            for weight in module.project.parameters() if hasattr(module, "project") else ():
                nn.init.normal_(weight, std=0.5)
    network.train()
    with torch.no_grad():
        network(batch)
        # The head decides by its bias alone otherwise: put it in the middle of what it sees.
        logits = network(batch)
        head = network.get_submodule("head")
        assert isinstance(head.bias, torch.Tensor)
        head.bias -= logits.movedim(1, -1).flatten(0, -2).median(dim=0).values
    network.eval()


@pytest.fixture
def only_room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``only_room_for(patches)``: a run has memory for no more of them at a time."""
    make = learner_module.build_model

    def limit(patches: int) -> None:
        def limited(spec: ModelSpec) -> nn.Module:
            network = make(spec)

            def refuse(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
                if module.training and len(inputs[0]) > patches:
                    raise torch.OutOfMemoryError("out of memory")

            network.register_forward_pre_hook(refuse)
            return network

        monkeypatch.setattr(learner_module, "build_model", limited)

    return limit


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """``noise(shape)``: float32 with structure, the same each time."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=shape).cumsum(axis=-1).astype(np.float32)

    return make


@pytest.fixture
def last_of() -> Callable[[Iterator[Event]], object]:
    """The result of a run's last event."""

    def pull(events: Iterator[Event]) -> object:
        last = list(events)[-1]
        assert isinstance(last, Finished)
        return last.result

    return pull
