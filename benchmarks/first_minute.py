"""How long a newcomer takes from the start of napari to a mask on an own picture, and in how many clicks.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/first_minute.py --out first-minute.json

Every round is a fresh process with an empty home: napari starts, a picture is dropped on it, *Plugins >
ProSMA > Segment* is opened and **Segment** pressed, by clicks of the mouse; the model of the package that the
panel offers segments it. Nobody thinks or looks for a button meanwhile. ``--picture`` takes another picture
than a generated one. Goals: under a minute and four clicks, and a mask within 3 s after the last click.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

SIZE = (512, 512)
LONGEST = 120.0
MENUS = ("Plugins", "ProSMA", "Segment")


class Newcomer:
    """A mouse in a napari window, and a stopwatch that runs since the process was started."""

    def __init__(self, started: float) -> None:
        self.started, self.clicks, self.seconds = started, 0, {}

    def reached(self, what: str) -> None:
        self.seconds[what] = round(time.time() - self.started, 2)

    def wait(self, until: Any) -> None:
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + LONGEST
        while not until():
            if time.monotonic() > end:
                raise SystemExit(f"nothing happened for {LONGEST:g} s after {list(self.seconds)}")
            QApplication.processEvents()
            time.sleep(0.005)

    def click(self, widget: Any, where: Any = None) -> None:
        from qtpy.QtCore import QPoint, Qt
        from qtpy.QtTest import QTest

        self.clicks += 1
        button, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QTest.mouseClick(widget, button, keys, QPoint(widget.rect().center()) if where is None else where)

    def choose(self, menu: Any, title: str) -> Any:
        """Click an entry of a menu; its submenu, if it has one."""
        self.wait(menu.isVisible)
        action = next(a for a in menu.actions() if a.text().replace("&", "").startswith(title))
        self.click(menu, menu.actionGeometry(action).center())
        return action.menu()


def watch(picture: str, started: float) -> dict[str, Any]:
    """One newcomer, in this process."""
    import napari
    from napari.layers import Labels

    newcomer = Newcomer(started)
    viewer = napari.Viewer()
    window = viewer.window._qt_window
    newcomer.wait(window.isVisible)
    newcomer.reached("window")
    viewer.window._qt_viewer._qt_open([picture], stack=False)
    newcomer.wait(lambda: len(viewer.layers) == 1)
    newcomer.reached("picture")
    menu = window.menuBar()
    for title in MENUS:
        menu = newcomer.choose(menu, title)
    docks = viewer.window.dock_widgets
    newcomer.wait(lambda: any(name.startswith(MENUS[-1]) for name in docks))
    panel = next(widget for name, widget in docks.items() if name.startswith(MENUS[-1]))
    newcomer.wait(lambda: panel.start_button.isVisible() and panel.start_button.isEnabled())
    newcomer.reached("panel")
    before = time.time()
    newcomer.click(panel.start_button)
    newcomer.wait(lambda: any(isinstance(layer, Labels) and layer.data.any() for layer in viewer.layers))
    newcomer.reached("mask")
    return {
        "clicks": newcomer.clicks,
        "seconds": newcomer.seconds,
        "after the last click": round(time.time() - before, 2),
        "model": panel.model.path.name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--watch", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        print(json.dumps(watch(given.watch[0], float(given.watch[1]))), flush=True)
        os._exit(0)
    with tempfile.TemporaryDirectory() as folder:
        picture = given.picture or phantom(Path(folder) / "my-scan.png")
        rounds = [fresh(picture.resolve(), Path(folder) / f"home-{n}") for n in range(given.rounds)]
    found = {
        "machine": {"processor": platform.processor(), "cores": len(os.sched_getaffinity(0))}
        | {name: version(name) for name in ("napari-prosma", "napari", "torch")},
        "median seconds": {
            what: median(one["seconds"][what] for one in rounds) for what in rounds[0]["seconds"]
        },
        "rounds": rounds,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


def phantom(path: Path) -> Path:
    from PIL import Image

    from napari_prosma.data.phantoms import ultrasound_case

    Image.fromarray(ultrasound_case(36, SIZE).read_image().array[0]).save(path)
    return path


def fresh(picture: Path, home: Path) -> dict[str, Any]:
    home.mkdir()
    places = {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
    environment = os.environ | {name: str(place) for name, place in places.items()}
    line = [sys.executable, __file__, "--watch", str(picture), str(time.time())]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
