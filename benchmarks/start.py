"""How long users wait for the program to be there: import, command line, plugin discovery, opening a panel.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/start.py --out start.json

Every figure is the median over fresh processes, beside the wall clock in processor time, which hardly depends
on what else the machine does. What the interpreter alone takes to start is told and not
subtracted. A panel is timed in a napari that is open, from the menu entry until it is painted for the first
time; ``modules`` says whether it had waited for ``torch`` or ``monai`` by then. Then it loads what its runs
need: until when (``ready``, from the menu entry), and the longest stall of the window meanwhile. In the same
session an image and labels are opened, and another panel is timed. A model of an earlier run is there to be
offered. Goals: ``prosma --help`` 0.3 s, a panel 0.5 s, discovery imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

SECOND = {"Train": "Segment", "Segment": "Inspect gates", "Inspect gates": "Evaluate", "Evaluate": "Train"}
"""Panels, and which one is opened after each in the same session."""
HEAVY = ("torch", "monai", "matplotlib", "napari", "lightning_fabric", "scipy", "skimage", "nibabel")
PACKAGES = ("napari-prosma", "napari", "PyQt6", "torch", "numpy", "typer", "rich")

BUSY, LONGEST_WAIT = 20.0, 60.0
"""Per cent of the processor that others use; above it a measurement waits, for so many seconds at most."""

LOADED = f"""
import json, sys
def loaded():
    ours = sorted(name for name in sys.modules if name.split(".")[0] == "napari_prosma")
    return {{"ours": ours, "heavy": [name for name in {HEAVY!r} if name in sys.modules]}}
"""
IMPORT = LOADED + "import napari_prosma\nprint(json.dumps(loaded()))"
DISCOVERY = (
    LOADED
    + """
from time import perf_counter, process_time
from npe2 import PluginManager
begun, work = perf_counter(), process_time()
PluginManager.instance().discover()
assert "napari-prosma" in PluginManager.instance()
print(json.dumps({"seconds": perf_counter() - begun, "processor": process_time() - work, **loaded()}))
"""
)
PANEL = (
    LOADED
    + """
import os
from time import perf_counter, process_time, sleep
import napari, numpy
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication

class Painted(QObject):
    was = False
    def eventFilter(self, watched, event):
        self.was = self.was or event.type() == QEvent.Type.Paint
        return False

def turn(until, seconds):
    # The longest that the event loop took for a turn.
    longest, last = 0.0, perf_counter()
    end = last + seconds
    while not until() and last < end:
        QApplication.processEvents()
        sleep(0.001)
        longest, last = max(longest, perf_counter() - last), perf_counter()
    return longest

def open_panel(name):
    painted, begun, work = Painted(), perf_counter(), process_time()
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", name)
    panel.installEventFilter(painted)
    while not painted.was:
        QApplication.processEvents()
    taken = {"seconds": perf_counter() - begun, "processor": process_time() - work, **loaded()}
    taken["stall"] = turn(lambda: panel.preparing.is_running, 5)
    taken["stall"] = max(taken["stall"], turn(lambda: not panel.preparing.is_running, 60))
    taken["ready"] = perf_counter() - begun
    return taken

viewer = napari.Viewer()
turn(lambda: False, 2)
first = open_panel(sys.argv[1])
viewer.add_image(numpy.random.rand(256, 256))
viewer.add_labels(numpy.zeros((256, 256), numpy.uint8))
turn(lambda: False, 1)
print(json.dumps({"first": first, "second": open_panel(sys.argv[2])}), flush=True)
os._exit(0)
"""
)
MODEL = """
import sys
from pathlib import Path
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import sample_folder
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
data = find_cases(sample_folder() / "ultrasound")
config = TrainConfig(run_dir=Path(sys.argv[1]), widths="quick", epochs=1, steps_per_epoch=1, batch=1)
for _ in train(config, data.cases, data.class_names):
    pass
"""


def wait_until_calm() -> None:
    """Wait, but not for ever, while others keep the processor busy."""
    end = perf_counter() + LONGEST_WAIT
    while psutil.cpu_percent(1.0) > BUSY and perf_counter() < end:
        pass


def fresh(command: list[str], home: Path) -> tuple[float, float, str]:
    """Seconds, processor seconds and the last line that a new process prints, once the machine is calm."""
    wait_until_calm()
    begun, before = perf_counter(), os.times()
    environment = {**os.environ, "HOME": str(home), "USERPROFILE": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    seconds, after = perf_counter() - begun, os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")
    return seconds, work, (done.stdout.strip().splitlines() or [""])[-1]


def repeated(command: list[str], processes: int, home: Path) -> dict[str, dict[str, Any]]:
    """Rows with medians over fresh processes; a first one, which reads files into memory, is not counted.

    One row, or one for each thing that the process times itself.
    """
    taken: list[dict[str, dict[str, Any]]] = []
    for _ in range(processes + 1):
        seconds, work, line = fresh(command, home)
        said = json.loads(line) if line.startswith("{") else {}
        rows = said if "first" in said else {"": {"seconds": seconds, "processor": work, **said}}
        taken.append(rows)
    return {
        name: {key: middle([rows[name][key] for rows in taken[1:]]) for key in row}
        for name, row in rows.items()
    }


def middle(values: list[Any]) -> Any:
    """The median of numbers; of anything else the last one."""
    return median(values) if isinstance(values[-1], float) else values[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--panels", default=",".join(SECOND), help="empty for none")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    python = [sys.executable, "-c"]
    commands = {
        "python alone": [*python, "pass"],
        "import napari_prosma": [*python, IMPORT],
        "prosma --help": [sys.executable, "-m", "napari_prosma", "--help"],
        "prosma --version": [sys.executable, "-m", "napari_prosma", "--version"],
        "plugin discovery": [*python, DISCOVERY],
        **{f"panel {name}": [*python, PANEL, name, SECOND[name]] for name in given.panels.split(",") if name},
    }
    result: dict[str, Any] = {
        "command": shlex.join(["benchmarks/start.py", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load before": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "processes": given.processes,
    }
    print(f"{'':28} {'seconds':>8} {'processor':>9} {'ready':>6} {'stall':>6}  modules of ours, heavy ones")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fresh([*python, MODEL, str(home / "prosma-runs" / "earlier")], home)
        for name, command in commands.items():
            for which, row in repeated(command, given.processes, home).items():
                key = f"panel {command[-1]}, second" if which == "second" else name
                result[key] = row
                later = "".join(f"{row[k]:7.2f}" if k in row else " " * 7 for k in ("ready", "stall"))
                modules = f"{len(row['ours'])}, {' '.join(row['heavy']) or 'none'}" if "ours" in row else ""
                print(f"{key:28} {row['seconds']:8.2f} {row['processor']:9.2f}{later}  {modules}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
