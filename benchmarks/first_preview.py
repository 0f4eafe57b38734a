"""How long the first prediction takes: a CT of 512 x 512 x 20 with a few strokes, from Start to the outline.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/first_preview.py --out first_preview.json

Opens napari, paints on three slices, presses Start in the Train panel with nothing changed, and takes the
processor time of the process, of all its threads, until the slice on screen has its prediction; and what was
told on the way. The goal is 10 s of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
import torch
from liveness import LIVE, wait
from measuring import circumstances

from napari_prosma.data.phantoms import ct_case
from napari_prosma.events import Event, LivePreview, Notice, Progress, Started

SHAPE, SPACING = (20, 512, 512), (5.0, 0.8, 0.8)
PAINTED = (6, 10, 14)
GOAL = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "first_preview.json")
    given = parser.parse_args()
    os.environ.setdefault("PROSMA_CACHE", "")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder) / "run")
    kept = {**circumstances(torch.device("cpu")), "shape": SHAPE, "goal": GOAL, **found}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    for at in found["told"]:
        print(f"{at['processor']:6.1f} s  {at['what']}")
    processor, clock = found["processor"], found["clock"]
    print(f"first preview after {processor:.1f} s of processor time, {clock:.1f} s by the clock")


def measure(run_dir: Path) -> dict[str, Any]:
    viewer = napari.Viewer()
    image, labels = strokes()
    viewer.add_image(image, name="ct", scale=SPACING, units="mm", contrast_limits=(-160, 240))
    viewer.add_labels(labels, name="organ", scale=SPACING, units="mm")
    viewer.dims.set_current_step(0, PAINTED[1] + 1)
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Train")
    wait(lambda: panel.preparing.is_running, 10)
    wait(lambda: not panel.preparing.is_running, 300)
    panel.source.from_layers.click()
    wait(lambda: False, 2)
    panel.settings.run_field.show_path(run_dir)
    told: list[dict[str, Any]] = []
    shown: list[float] = []

    def heard(event: Event) -> None:
        now = time.process_time() - began
        if isinstance(event, Started | Notice):
            told.append({"processor": now, "what": event.message})
        elif (
            isinstance(event, Progress)
            and "loss" in event.message
            and not any("step" in t["what"] for t in told)
        ):
            told.append({"processor": now, "what": "the first step"})
        elif isinstance(event, LivePreview) and not shown:
            shown.append(now)

    panel.job.happened.connect(heard)
    pressed, began = time.perf_counter(), time.process_time()
    panel.start_button.click()
    said = panel.status.plain_text()
    wait(lambda: LIVE in viewer.layers, 600)
    result = {
        "processor": time.process_time() - began,
        "clock": time.perf_counter() - pressed,
        "engine": shown[0] if shown else None,
        "said": said,
        "told": told,
    }
    panel.job.stop()
    wait(lambda: not panel.job.is_running, 60)
    viewer.close()
    return result


def strokes() -> tuple[np.ndarray, np.ndarray]:
    """A CT and an organ painted on three of its slices."""
    case = ct_case(3, SHAPE, SPACING)
    assert case.read_label is not None
    label = case.read_label()
    painted = np.zeros(SHAPE, np.uint8)
    painted[list(PAINTED)] = label[list(PAINTED)] > 0
    return case.read_image().array[0], painted


if __name__ == "__main__":
    main()
