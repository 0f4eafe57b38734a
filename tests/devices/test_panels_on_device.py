"""A session in napari on a device that is not there: train from layers, segment, look into the gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
import torch
from pretended import entered
from pytestqt.qtbot import QtBot

from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.plugin.shared.job import EventWorker

LONG = 120_000


@pytest.fixture
def viewer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    make_napari_viewer: Callable[..., napari.Viewer],
) -> napari.Viewer:
    """A viewer with an image and strokes, of a user with an empty home; what runs is on the device."""
    for home in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(home, str(tmp_path / "home"))
    work = EventWorker.work

    def within(worker: EventWorker) -> Any:
        with entered(device):
            return work(worker)

    monkeypatch.setattr(EventWorker, "work", within)
    viewer = make_napari_viewer()
    image = ultrasound_case(77, (32, 32)).read_image().array[0]
    viewer.add_image(image, name="breast")
    viewer.add_labels((image < 40).astype(np.uint8), name="strokes")
    return viewer


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_session_runs_there(device: torch.device, viewer: napari.Viewer, qtbot: QtBot) -> None:
    def panel(name: str) -> Any:
        return viewer.window.add_plugin_dock_widget("napari-prosma", name)[1]

    def run(panel: Any) -> None:
        panel.start_button.click()
        qtbot.waitUntil(lambda: not panel.job.is_running, timeout=LONG)
        assert not panel.status.is_error, panel.status.plain_text()

    training = panel("Train")
    training.source.from_layers.setChecked(True)
    for name, value in {"widths": "quick", "batch": 1, "precision": "32-true"}.items():
        training.settings.fields[name].value = value
    training.settings.limit_unit.setCurrentText("epochs")
    training.settings.limit.setValue(1)
    run_dir = training.settings.run_field.path
    run(training)
    assert training.status.plain_text().startswith("Finished after 1 epoch")
    assert f"device: {device.type}" in training.outcome.figures.plain_text()
    for name, layer in {"Segment": "breast segmentation", "Inspect gates": "skip 1 psi"}.items():
        opened = panel(name)
        opened.model.set_path(run_dir)
        qtbot.waitUntil(lambda opened=opened: opened.model.facts is not None, timeout=LONG)
        run(opened)
        assert layer in viewer.layers
