"""A viewer, small data and small models; the user's home is a temporary folder."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import PIL.Image
import pytest
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.plugin.shared.panel import Panel
from napari_prosma.training import tempo

SIDE = 64
CASES = 6
LONGEST = 60_000


@pytest.fixture(scope="session", autouse=True)
def manifests() -> Iterator[None]:
    """What is installed does not change meanwhile: manifests are read once, not for each viewer."""
    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(found))
        yield


@pytest.fixture(scope="session", autouse=True)
def short_epochs() -> Iterator[None]:
    """An epoch of a few images is a few steps; what panels do with a run does not hang on more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempo, "LEAST_STEPS", 5)
        yield


@pytest.fixture(autouse=True)
def survivors_of_viewers(request: pytest.FixtureRequest) -> Iterator[None]:
    """What outlives a viewer, modules above all, is not searched again when the next one drops its layers."""
    yield
    if "make_napari_viewer" in request.fixturenames:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, so that nothing is written to the real one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small ultrasound images with their masks."""
    top = tmp_path_factory.mktemp("data") / "breast"
    for kind in ("images", "masks"):
        (top / kind).mkdir(parents=True)
    for seed in range(CASES):
        case = ultrasound_case(seed, (SIDE, SIDE))
        assert case.read_label is not None
        PIL.Image.fromarray(case.read_image().array[0]).save(top / "images" / f"{seed}.png")
        PIL.Image.fromarray(case.read_label() * np.uint8(255)).save(top / "masks" / f"{seed}.png")
    return top


def trained(folder: Path, run_dir: Path, gate: str) -> Path:
    """Run folder of a model that has seen a few steps."""
    from napari_prosma.training.config import TrainConfig
    from napari_prosma.training.run import train

    data = find_cases(folder)
    config = TrainConfig(run_dir=run_dir, widths="quick", gate=gate, epochs=1, steps_per_epoch=4, batch=2)
    for _ in train(config, data.cases, ("background", "lesion")):
        pass
    return run_dir


@pytest.fixture(scope="session")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a small ProSMA model."""
    return trained(folder, tmp_path_factory.mktemp("runs") / "prosma", "prosma")


@pytest.fixture(scope="session")
def attention_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a small model with the attention gate."""
    return trained(folder, tmp_path_factory.mktemp("runs") / "attention", "attention")


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer]) -> napari.Viewer:
    return make_napari_viewer()


@pytest.fixture
def open_panel(viewer: napari.Viewer) -> Callable[[str], Panel]:
    """Opens a panel as the Plugins menu does."""

    def open_(name: str) -> Panel:
        _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", name)
        return panel

    return open_


@pytest.fixture
def panel(open_panel: Callable[[str], Panel]) -> Any:
    """The Train panel, set to train in seconds; files about another panel have their own."""
    made: Any = open_panel("Train")
    made.settings.fields["widths"].value = "quick"
    made.settings.fields["batch"].value = 2
    made.settings.limit_unit.setCurrentText("epochs")
    made.settings.limit.setValue(1)
    return made


@pytest.fixture
def press(qtbot: QtBot) -> Callable[[QAbstractButton], None]:
    """Clicks a button that can be clicked."""

    def press_(button: QAbstractButton) -> None:
        assert button.isEnabled()
        # A box to tick takes clicks on its mark and its text only, not on the space behind them.
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, button.height() // 2))

    return press_


@pytest.fixture
def finish(qtbot: QtBot) -> Callable[[Panel], None]:
    """Waits until a panel's run is over."""

    def finish_(panel: Panel) -> None:
        qtbot.waitUntil(lambda: not panel.job.is_running, timeout=LONGEST)

    return finish_


@pytest.fixture
def lesion_image() -> np.ndarray:
    """(y, x) uint8, one that no model has seen."""
    return ultrasound_case(77, (SIDE, SIDE)).read_image().array[0]
