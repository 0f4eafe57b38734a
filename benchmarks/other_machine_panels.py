"""A session in napari with another machine, by the buttons of the panels, and a picture of each step.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/other_machine_panels.py --out pictures

A scheduler and two workers stand in for the machine, behind a tunnel that can be cut (``other_machine.py``).
Test the address; train from layers; correct a label; stop; resume; cut the connection and mend it; kill the
worker; leave the run and come back to it; finish; segment; inspect. Prints the seconds of each step, and ends
with an error where a panel says nothing new for five minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from other_machine import Tunnel, cluster, kill_worker, wait_for_workers
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_prosma.data.phantoms import ultrasound_case

LONG = 300.0
SIDE = 48


class Session:
    """A viewer whose steps are waited for, timed and photographed."""

    def __init__(self, out: Path) -> None:
        import napari  # which looks for its folders when it is imported

        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1366, 768)
        self._out, self._number = out, 0
        out.mkdir(parents=True, exist_ok=True)

    def panel(self, name: str) -> Any:
        return self.viewer.window.add_plugin_dock_widget("napari-prosma", name, tabify=True)[1]

    def step(self, name: str, panel: Any, holds: Callable[[], bool]) -> None:
        """Wait until something holds that the last click was to bring about."""
        began = changed = time.monotonic()
        said = ""
        while not holds():
            QApplication.processEvents()
            time.sleep(0.01)
            if said != (said := panel.status.plain_text()):
                changed = time.monotonic()
            if time.monotonic() - changed > LONG or panel.status.is_error:
                self.picture(f"{name}-failed")
                raise SystemExit(f"{name}: {panel.status.plain_text()}")
        print(f"{name:12} {time.monotonic() - began:6.1f} s  {panel.status.plain_text()}", flush=True)
        self.picture(name)

    def picture(self, name: str) -> None:
        for _ in range(20):
            QApplication.processEvents()
            time.sleep(0.01)
        self._number += 1
        self.viewer.window.screenshot(
            str(self._out / f"{self._number:02}-{name}.png"), flash=False, canvas_only=False
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HOME"] = os.environ["USERPROFILE"] = scratch
        os.environ["NAPARI_CONFIG"] = f"{scratch}/napari.yaml"
        with cluster(Path(scratch) / "cache") as (address, start_worker), Tunnel(address) as tunnel:
            start_worker("--resources", "GPU=1")
            start_worker()
            wait_for_workers(address, 2)
            session = Session(given.out)
            run_dir = trained(session, address, tunnel)
            for name, layer in {"Segment": "breast segmentation", "Inspect gates": "skip 1 psi"}.items():
                looked(session, name, layer, run_dir, tunnel.address)
            session.viewer.close()


def trained(session: Session, address: str, tunnel: Tunnel) -> Path:
    """All that a training goes through; its folder."""
    image = ultrasound_case(7, (SIDE, SIDE)).read_image().array[0]
    session.viewer.add_image(image, name="breast")
    labels = session.viewer.add_labels((image < 40).astype(np.uint8), name="strokes")
    panel = session.panel("Train")
    panel.source.from_layers.setChecked(True)
    for name, value in {"widths": "quick", "batch": 1}.items():
        panel.settings.fields[name].value = value
    panel.settings.limit_unit.setCurrentText("epochs")
    panel.settings.limit.setValue(2000)
    panel.run_on.field.setEditText(tunnel.address)
    panel.scroll_area.ensureWidgetVisible(panel.run_on)
    panel.run_on.test_button.click()
    session.step("address", panel, lambda: "with a GPU" in panel.run_on.message.plain_text())
    run_dir: Path = panel.settings.run_field.path

    def log() -> str:
        return panel.outcome.log.toPlainText()

    panel.start_button.click()
    session.step("training", panel, lambda: panel.outcome.epochs > 1 and "First preview" in log())
    labels.data[:8] = 1
    labels.events.paint(value=[])
    session.step("correction", panel, lambda: "have changed and are learned from now on" in log())
    panel.stop_button.click()
    session.step("stop", panel, lambda: not panel.job.is_running)
    stopped = panel.outcome.epochs
    panel.resume(run_dir)
    session.step("resume", panel, lambda: panel.outcome.epochs > stopped)
    tunnel.cut()
    session.step("cut", panel, lambda: "The connection to" in log())
    tunnel.mend()
    session.step("mended", panel, lambda: "again" in log())
    kill_worker(address)
    session.step("killed", panel, lambda: "was lost; the run resumes on another one" in log())
    reached = panel.outcome.epochs
    session.step("replaced", panel, lambda: panel.outcome.epochs > reached)
    leave(panel)
    session.step("left", panel, lambda: "Train (napari-prosma)" not in session.viewer.window.dock_widgets)
    panel = session.panel("Train")
    panel.resume(run_dir)
    session.step("back", panel, lambda: panel.outcome.epochs > reached + 1)
    panel.finish_button.click()
    session.step("finished", panel, lambda: not panel.job.is_running)
    return run_dir


def looked(session: Session, name: str, layer: str, run_dir: Path, address: str) -> None:
    """Segment or inspect the image there."""
    panel = session.panel(name)
    panel.model.set_path(run_dir)
    panel.run_on.field.setEditText(address)
    session.step(f"{name}-model", panel, lambda: panel.model.facts is not None)
    panel.scroll_area.ensureWidgetVisible(panel.run_on)
    panel.start_button.click()
    session.step(name, panel, lambda: not panel.job.is_running)
    if layer not in session.viewer.layers:
        raise SystemExit(f"{name}: no layer '{layer}'")


def leave(panel: Any) -> None:
    """Close the panel by its button, and answer that the run is to go on."""
    from napari_prosma.plugin.train.leaving import LEAVE

    def answer() -> None:
        for box in QApplication.topLevelWidgets():
            if isinstance(box, QMessageBox) and box.isVisible():
                next(button for button in box.buttons() if button.text() == LEAVE).click()
                timer.stop()

    timer = QTimer()
    timer.timeout.connect(answer)
    timer.start(50)
    panel.parentWidget().titleBarWidget().close_button.click()


if __name__ == "__main__":
    main()
