"""How live napari stays while it trains and segments: the longest gaps of Qt's event loop.

Opens napari under the display there is, trains on the ultrasound sample and segments a volume with the model,
by the buttons of the panels, prints a table and writes it as JSON:

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/liveness.py --seconds 120 --out liveness.json

A timer asks for a call every few milliseconds; a stall is how much later than asked it came. What napari
draws, what the panel draws and what keeps Python's lock in the training thread all show. The busiest turn is
the processor time of the main thread alone, which other programs hardly change. One phase per state of the
panel is told apart. ``--stops 50`` starts and stops so often, at all moments; labels are painted on an open
image, also while it trains, and the time from Start to the first preview of it is taken; last ``--slices`` of
512 x 512 are segmented one by one. Goals for training and segmentation on two cores: no stall of 100 ms, the
99th percentile below 20 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import napari
import numpy as np
import psutil
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication
from start import wait_until_calm

from napari_prosma.data.phantoms import sample_folder, ultrasound_case
from napari_prosma.plugin.segment.segmenting import LayerSegmented
from napari_prosma.plugin.train.live_preview import LIVE

INTERVAL_MS = 5
LONG = 0.1
STROKE_MS = 500
"""So often a dab is painted while it trains."""
BETWEEN = "between"
"""What the script itself does to the viewer."""
SIDE = 512
"""Of a slice to segment."""
PACKAGES = ("napari-prosma", "napari", "PyQt6", "torch", "numpy")


class Probe(QObject):
    """Gaps between the calls of a timer, by phase, and what the main thread itself computed in them."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "idle"
        self.stalls: dict[str, list[tuple[float, float]]] = {}
        self.busy: dict[str, list[float]] = {}
        self._began = self._last = time.perf_counter()
        self._worked = time.thread_time()
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(INTERVAL_MS)

    def enter(self, phase: str) -> None:
        print(f"{self._last - self._began:6.0f} s  {phase}", flush=True)
        self.phase = phase

    def _tick(self) -> None:
        now = time.perf_counter()
        stall = max(0.0, now - self._last - INTERVAL_MS / 1000)
        self.stalls.setdefault(self.phase, []).append((self._last - self._began, stall))
        worked = time.thread_time()
        self.busy.setdefault(self.phase, []).append(worked - self._worked)
        self._last, self._worked = now, worked


def wait(until: Callable[[], bool], seconds: float) -> None:
    """Run the event loop until something holds, or for that long."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.001)


def summary(stalls: list[tuple[float, float]], busy: list[float]) -> dict[str, float]:
    values = np.array([stall for _, stall in stalls])
    return {
        "seconds": stalls[-1][0] - stalls[0][0],
        "ticks": len(values),
        "max_ms": 1000 * float(values.max()),
        "p99_ms": 1000 * float(np.percentile(values, 99)),
        "median_ms": 1000 * float(np.median(values)),
        "busiest_ms": 1000 * max(busy),
        "over_100_ms": int((values > LONG).sum()),
        "over_250_ms": int((values > 2.5 * LONG).sum()),
    }


def measure(seconds: float, widths: str, stops: int, slices: int) -> dict[str, object]:
    wait_until_calm()
    viewer = napari.Viewer()
    probe = Probe()
    wait(lambda: False, 3)
    probe.enter("opening, loading")
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Train")
    wait(lambda: panel.preparing.is_running, 5)
    wait(lambda: not panel.preparing.is_running, 60)
    settings = panel.settings
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        probe.enter("reading a folder")
        panel.source.folder.set_path(sample_folder() / "ultrasound")
        wait(lambda: panel.source.data_set is not None and not panel.source.scan.is_running, 120)
        settings.fields["widths"].value = widths
        settings.limit_unit.setCurrentText("minutes")
        settings.limit.setValue(max(1, round(seconds / 60) + 1))
        probe.enter("first epoch")
        settings.run_field.show_path(root / "run")
        panel.start_button.click()
        wait(lambda: panel.outcome.history, 300)
        probe.enter("training")
        wait(lambda: not panel.job.is_running, seconds)
        epochs = len(panel.outcome.history)
        probe.enter("stopping")
        waits = [stop(panel)]
        said = panel.status.plain_text().replace(str(root), "...")
        for n in range(1, stops):
            settings.run_field.show_path(root / f"run{n}")
            panel.start_button.click()
            # At any moment of reading, training, previewing and validating.
            wait(lambda: False, 0.5 + 5 * n / stops)
            waits.append(stop(panel))
        first_preview = paint_and_train(viewer, panel, root / "painted", probe)
        segmented = segment(viewer, root / "run", slices, probe) if slices else None
        probe.enter("after")
        wait(lambda: False, 1)
    phases = {phase: summary(stalls, probe.busy[phase]) for phase, stalls in probe.stalls.items()}
    worst = sorted(((s, at, p) for p, ticks in probe.stalls.items() for at, s in ticks), reverse=True)[:10]
    viewer.close()
    return {
        "widths": widths,
        "epochs": epochs,
        "stops": len(waits),
        "longest_stop_seconds": max(waits),
        "median_stop_seconds": float(np.median(waits)),
        "first_preview_seconds": first_preview,
        "segmented": segmented,
        "said": said,
        "phases": phases,
        "longest": [{"ms": 1000 * s, "at": at, "phase": phase} for s, at, phase in worst],
    }


def stop(panel: Any) -> float:
    """Press Stop; seconds until the run has ended and the panel can be used again."""
    pressed = time.monotonic()
    panel.stop_button.click()
    wait(lambda: not panel.job.is_running, 60)
    return time.monotonic() - pressed


def paint_and_train(viewer: napari.Viewer, panel: Any, run_dir: Path, probe: Probe) -> float:
    """Paint on an image that is open, press Start; seconds until its slice shows what the model says."""
    probe.enter(BETWEEN)
    case = ultrasound_case(1, (256, 256))
    viewer.add_image(case.read_image().array[0], name="painted on")
    assert case.read_label is not None
    labels = viewer.add_labels(np.zeros((256, 256), np.uint8), name="strokes")
    panel.source.from_layers.click()
    labels.data_setitem(np.nonzero(case.read_label()), 1)
    wait(lambda: False, 3)
    panel.settings.run_field.show_path(run_dir)
    probe.enter("pressing Start")
    pressed = time.monotonic()
    panel.start_button.click()
    wait(lambda: False, 0.5)
    probe.enter("drawing")
    stroke = QTimer()
    places = iter(np.random.default_rng(0).integers(8, 248, (10_000, 2)).tolist())
    stroke.timeout.connect(lambda: labels.paint(next(places), 1))
    stroke.start(STROKE_MS)
    wait(lambda: LIVE in viewer.layers, 120)
    taken = time.monotonic() - pressed
    wait(lambda: False, 20)
    stroke.stop()
    probe.enter(BETWEEN)
    stop(panel)
    return taken


def segment(viewer: napari.Viewer, model: Path, slices: int, probe: Probe) -> dict[str, object]:
    """Segment a volume slice by slice from the Segment panel, and show the result."""
    probe.enter(BETWEEN)
    picture = ultrasound_case(1, (SIDE, SIDE)).read_image().array[0]
    viewer.layers.clear()
    volume = viewer.add_image(np.stack([np.roll(picture, n, 0) for n in range(slices)]), name="volume")
    wait(lambda: False, 1)
    probe.enter("opening Segment")
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Segment")
    panel.model.set_path(model)
    wait(lambda: False, 2)
    wait(lambda: not panel.preparing.is_running and not panel.model.is_reading, 60)
    # Making layers of a result is napari's work in the main thread: told apart.
    panel.job.happened.connect(lambda event: isinstance(event, LayerSegmented) and probe.enter("its result"))
    began = time.monotonic()
    probe.enter("segmenting")
    panel.start_button.click()
    wait(lambda: not panel.job.is_running, 600)
    taken = time.monotonic() - began
    wait(lambda: False, 2)
    said = panel.status.plain_text()
    panel.close_down()
    return {"shape": list(volume.data.shape), "seconds": taken, "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="how long to train")
    parser.add_argument("--stops", type=int, default=1, help="how often to start and stop")
    parser.add_argument("--slices", type=int, default=40, help="how many to segment; 0 = none")
    parser.add_argument("--widths", default="tiny", help="size of the network")
    parser.add_argument("--out", type=Path, default=Path("liveness.json"), help="where the JSON goes")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": shlex.join(["benchmarks/liveness.py", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load before": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    result |= measure(options.seconds, options.widths, options.stops, options.slices)
    result["load after"] = psutil.getloadavg()[0]
    phases: dict[str, dict[str, float]] = result["phases"]
    columns = ["seconds", "max_ms", "p99_ms", "median_ms", "busiest_ms", "over_100_ms", "over_250_ms"]
    print(f"{'phase':18}" + "".join(f"{name:>13}" for name in columns))
    for phase, figures in phases.items():
        print(f"{phase:18}" + "".join(f"{figures[name]:13.1f}" for name in columns))
    print(f"epochs {result['epochs']}; {result['said']}")
    print(
        f"longest of {result['stops']} stops {result['longest_stop_seconds']:.2f} s; first preview of a "
        f"painted image after {result['first_preview_seconds']:.1f} s"
    )
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
