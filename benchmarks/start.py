"""How long users wait for the program to be there: import, command line, plugin discovery, opening a panel.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/start.py --out start.json

Every figure is the median over fresh processes, beside the wall clock in processor time, which hardly depends
on what else the machine does. What the interpreter alone takes to start is told and not
subtracted. A panel is timed in a napari that is open, from the menu entry to its first painting; ``torch``
and ``monai`` say whether it had waited for them by then. Goals: ``prosma --help`` 0.3 s, a panel 0.5 s,
discovery imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

PANELS = ("Train", "Segment", "Inspect gates", "Evaluate")
HEAVY = ("torch", "monai", "matplotlib", "napari", "lightning_fabric", "scipy", "skimage")

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
from time import perf_counter, process_time
import napari
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication

class Painted(QObject):
    at = None
    def eventFilter(self, watched, event):
        if self.at is None and event.type() == QEvent.Type.Paint:
            self.at = perf_counter()
        return False

viewer = napari.Viewer()
end = perf_counter() + 3
while perf_counter() < end:
    QApplication.processEvents()
painted, begun, work = Painted(), perf_counter(), process_time()
_, panel = viewer.window.add_plugin_dock_widget("napari-prosma", sys.argv[1])
panel.installEventFilter(painted)
while painted.at is None and perf_counter() < begun + 60:
    QApplication.processEvents()
taken = {"seconds": painted.at - begun, "processor": process_time() - work, **loaded()}
print(json.dumps(taken), flush=True)
import os
os._exit(0)
"""
)


def fresh(command: list[str]) -> tuple[float, float, str]:
    """Seconds, processor seconds, and the last line of what a new process prints."""
    begun, before = perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    seconds, after = perf_counter() - begun, os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")
    return seconds, work, (done.stdout.strip().splitlines() or [""])[-1]


def repeated(command: list[str], processes: int) -> dict[str, Any]:
    """Median over fresh processes; a first one, which reads files into memory, is not counted."""
    taken: list[tuple[float, float]] = []
    said: dict[str, Any] = {}
    for turn in range(processes + 1):
        seconds, work, line = fresh(command)
        said = json.loads(line) if line.startswith("{") else {}
        if turn:
            taken.append((said.get("seconds", seconds), said.get("processor", work)))
    seconds, work = (median(values) for values in zip(*taken, strict=True))
    return {"seconds": seconds, "processor": work, **{k: said[k] for k in ("ours", "heavy") if k in said}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--panels", default=",".join(PANELS), help="empty for none")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    python = [sys.executable, "-c"]
    commands = {
        "python alone": [*python, "pass"],
        "import napari_prosma": [*python, IMPORT],
        "prosma --help": [sys.executable, "-m", "napari_prosma", "--help"],
        "prosma --version": [sys.executable, "-m", "napari_prosma", "--version"],
        "plugin discovery": [*python, DISCOVERY],
        **{f"panel {name}": [*python, PANEL, name] for name in given.panels.split(",") if name},
    }
    result: dict[str, Any] = {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "processes": given.processes,
    }
    print(f"{'':24} {'seconds':>8} {'processor':>9}  modules of ours, heavy ones")
    for name, command in commands.items():
        row = result[name] = repeated(command, given.processes)
        modules = f"{len(row['ours'])}, {' '.join(row['heavy']) or 'none'}" if "ours" in row else ""
        print(f"{name:24} {row['seconds']:8.2f} {row['processor']:9.2f}  {modules}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
