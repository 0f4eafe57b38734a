"""Makes the pictures and the animation of this documentation: napari, the panels, and made-up patients.

    xvfb-run -a -s "-screen 0 1400x900x24" python docs/images/make.py

Everything but the run with noisy labels is done by the buttons that a user presses, in five minutes on one
core; ``--only`` makes some of it. The user's own folders are not touched.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WINDOW = (1280, 800)
LEARNING = {"images": 60, "masks": 75}
"""Seconds of a run before it is finished."""
DOUBTING: dict[str, Any] = {
    "objective": "dale",
    "objective_options": {"warm_up_epochs": 8, "every": 2},
    "widths": "quick",
    "side": 64,
    "batch": 4,
    "epochs": 16,
    "steps_per_epoch": 15,
    "device": "cpu",
}
"""Settings of the run with noisy labels: a short one, whose warm-up is short too."""
FRAME_WIDTH, COLOURS, FRAME_MS = 860, 96, 900


class Scene:
    """One napari window, with what was photographed of it."""

    def __init__(self) -> None:
        import napari

        self.viewer = napari.Viewer(title="napari with ProSMA")
        self.viewer.window._qt_window.resize(*WINDOW)
        self.frames: list[Any] = []
        self.wait(1)

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Run the event loop for so long, or until something holds."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)

    def open(self, panel: str) -> Any:
        """A panel of the plugin, ready; the image fills what is left of the window."""
        _, widget = self.viewer.window.add_plugin_dock_widget("napari-prosma", panel)
        self.wait(5, lambda: widget.preparing.is_running)
        self.wait(60, lambda: not widget.preparing.is_running)
        self.viewer.reset_view()
        return widget

    def add(self, layers: Any) -> None:
        from napari_prosma.plugin.shared.layers import add_layer

        for layer in layers:
            add_layer(self.viewer, layer)
        self.viewer.reset_view()
        self.wait(1)

    def shot(self) -> Any:
        from PIL import Image

        return Image.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")

    def save(self, name: str) -> None:
        """The window as a small PNG: what it shows has few colours."""
        self.wait(0.5)
        self.shot().quantize(256).save(HERE / f"{name}.png", optimize=True)
        print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size >> 10} kB", flush=True)

    def film(self, times: int = 1) -> None:
        """One frame of the animation, shown for so many turns."""
        from PIL import Image

        shot = self.shot()
        size = (FRAME_WIDTH, round(shot.height * FRAME_WIDTH / shot.width))
        self.frames += [shot.resize(size, Image.Resampling.LANCZOS)] * times

    def write_film(self, name: str) -> None:
        from PIL import Image

        path = HERE / f"{name}.gif"
        every = Image.new("RGB", (FRAME_WIDTH, self.frames[0].height * len(self.frames)))
        for n, frame in enumerate(self.frames):
            every.paste(frame, (0, n * frame.height))
        palette = every.quantize(COLOURS)
        frames = [frame.quantize(palette=palette, dither=0) for frame in self.frames]
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True
        )
        print(f"{name}.gif: {path.stat().st_size >> 10} kB, {len(frames)} frames", flush=True)


def images_only(root: Path) -> None:
    """Scribbles on one image, a run that learns from them, the gates of its model."""
    import numpy as np

    from napari_prosma.data.phantoms import ultrasound_case
    from napari_prosma.plugin.shared.layers import image_layer, labels_layer
    from napari_prosma.plugin.train.live_preview import LIVE

    scene, case = Scene(), ultrasound_case(36)
    assert case.read_label is not None
    image, lesion = case.read_image(), case.read_label() > 0
    nothing = np.zeros(lesion.shape, np.uint8)
    scene.add(
        [
            image_layer(image, "ultrasound"),
            labels_layer(nothing, image.geometry, "scribbles", ("", "tissue", "lesion")),
        ]
    )
    panel = scene.open("Train")
    panel.source.from_layers.click()
    panel.source.labelled.setCurrentIndex(panel.source.labelled.findData("scribbles"))
    panel.settings.run_field.show_path(root / "images")
    scene.wait(1)
    scene.film(2)
    labels = scene.viewer.layers["scribbles"]

    def draw(value: int, strokes: list[Any]) -> None:
        labels.selected_label = value
        for stroke in strokes:
            labels.data_setitem(tuple(stroke), value)
            scene.wait(0.4)
            scene.film()

    draw(2, strokes(lesion, 2))
    draw(1, strokes(~lesion, 4))
    scene.wait(2)
    scene.save("images-scribbles")
    panel.start_button.click()
    scene.wait(60, lambda: LIVE in scene.viewer.layers)
    for _ in range(2):
        follow(scene, LEARNING["images"] / 2)
        shown = scene.viewer.layers[LIVE].data
        finer = shown.shape[0] // lesion.shape[0]
        found = shown[::finer, ::finer] == 2
        draw(1, strokes(found & ~lesion, 3))
        draw(2, strokes(lesion & ~found, 1))
    follow(scene, LEARNING["images"])
    scene.save("images-live")
    panel.finish_button.click()
    scene.wait(120, lambda: not panel.job.is_running)
    scene.film(2)
    panel.close_down()
    scene.viewer.window.remove_dock_widget("all")
    for layer in scene.viewer.layers:
        layer.visible = layer.name == "ultrasound"
    inspect(scene, root / "images")
    scene.film(4)
    scene.write_film("first-minute")
    scene.viewer.close()


def follow(scene: Scene, seconds: float) -> None:
    """Film a run while it learns."""
    for _ in range(6):
        scene.wait(seconds / 6)
        scene.film()


def strokes(where: Any, number: int) -> list[Any]:
    """Short strokes as indices (2, n), far from each other and not at the edge of an area."""
    import numpy as np
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    places = np.argwhere(depth >= min(5, depth.max()))
    if not depth.max() > 2:
        return []
    chosen = [places[depth[tuple(places.T)].argmax()]]
    while len(chosen) < number:
        apart = np.linalg.norm(places[:, None] - np.array(chosen), axis=2).min(axis=1)
        chosen.append(places[apart.argmax()])
    found = []
    for row, column in chosen:
        rows, columns = np.mgrid[-1:2, -9:10]
        rows, columns = rows + row + np.round(2 * np.sin(columns / 3)).astype(int), columns + column
        held = (np.minimum(rows, columns) >= 0) & (rows < where.shape[0]) & (columns < where.shape[1])
        rows, columns = rows[held], columns[held]
        inside = where[rows, columns]
        found.append(np.stack([rows[inside], columns[inside]]))
    return found


def masks(root: Path) -> None:
    """A folder of images and masks, a run, its curves."""
    from napari_prosma.data.phantoms import sample_folder

    scene = Scene()
    panel = scene.open("Train")
    panel.source.folder.set_path(sample_folder() / "ultrasound")
    scene.wait(60, lambda: panel.source.data_set is not None and not panel.source.scan.is_running)
    panel.settings.limit_unit.setCurrentText("minutes")
    panel.settings.limit.setValue(2)
    panel.settings.run_field.show_path(root / "masks")
    scene.save("masks-folder")
    panel.start_button.click()
    scene.wait(120, lambda: bool(panel.outcome.history))
    scene.wait(LEARNING["masks"], lambda: not panel.job.is_running)
    scene.viewer.reset_view()
    panel.scroll_area.ensureWidgetVisible(panel.outcome.curves)
    scene.save("masks-curves")
    panel.finish_button.click()
    scene.wait(120, lambda: not panel.job.is_running)
    panel.close_down()
    scene.viewer.close()


def model(root: Path) -> None:
    """An image segmented with the model of ``masks``, its regions, and the gates."""
    from napari_prosma.data.phantoms import ultrasound_case
    from napari_prosma.plugin.shared.layers import image_layer

    scene = Scene()
    scene.add([image_layer(ultrasound_case(38).read_image(), "new image")])
    panel = scene.open("Segment")
    panel.model.set_path(root / "masks")
    scene.wait(30, lambda: not panel.model.is_reading)
    panel.start_button.click()
    scene.wait(5, lambda: panel.job.is_running)
    scene.wait(120, lambda: not panel.job.is_running)
    panel.regions_button.click()
    scene.wait(2)
    scene.viewer.reset_view()
    scene.save("model-result")
    panel.close_down()
    scene.viewer.window.remove_dock_widget("all")
    inspect(scene, root / "masks")
    scene.save("model-gates")
    scene.viewer.close()


def inspect(scene: Scene, run: Path) -> None:
    """What the gates of a run let through in the image that is open."""
    panel = scene.open("Inspect gates")
    panel.model.set_path(run)
    scene.wait(30, lambda: not panel.model.is_reading)
    panel.start_button.click()
    scene.wait(5, lambda: panel.job.is_running)
    scene.wait(120, lambda: not panel.job.is_running)
    scene.wait(2)


def doubts(root: Path) -> None:
    """The sample images with one label moved, a run with noisy labels, and its suspicious labels."""
    from napari_prosma.data.layouts import find_cases
    from napari_prosma.training.config import TrainConfig
    from napari_prosma.training.run import train

    moved = with_a_moved_label(root / "sample")
    data = find_cases(root / "sample")
    config = TrainConfig.of(run_dir=root / "doubts", data=root / "sample", **DOUBTING)
    for _ in train(config, data.cases, data.class_names):
        pass
    scene = Scene()
    panel = scene.open("Train")
    panel.look_first(root / "doubts")
    scene.wait(60, lambda: bool(panel.suspicious.dock.rows) and not panel.suspicious.dock.listing.is_running)
    panel.suspicious.dock.open(next(row for row in panel.suspicious.dock.rows if row.case == moved))
    scene.wait(5, lambda: panel.suspicious.dock.opening.is_running)
    scene.wait(60, lambda: not panel.suspicious.dock.opening.is_running)
    scene.viewer.reset_view()
    scene.save("suspicious-labels")
    panel.close_down()
    scene.viewer.close()


def with_a_moved_label(folder: Path) -> str:
    """Copy the sample images and masks there, one mask shifted to the edge; gives the name of its case."""
    import shutil

    import numpy as np
    from PIL import Image

    from napari_prosma.data.layouts import find_cases
    from napari_prosma.data.phantoms import sample_folder

    shutil.copytree(sample_folder() / "ultrasound", folder)
    case = find_cases(folder).cases[-5]
    mask = case.files[1]
    drawn = np.asarray(Image.open(mask))
    columns = np.flatnonzero(drawn.any(axis=0))
    before, after = columns[0], drawn.shape[1] - 1 - columns[-1]
    Image.fromarray(np.roll(drawn, after if after > before else -before, axis=1)).save(mask)
    return case.name


SCENES: dict[str, Callable[[Path], None]] = {
    "images": images_only,
    "masks": masks,
    "model": model,
    "doubts": doubts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(SCENES), nargs="+", default=list(SCENES))
    parser.add_argument("--runs", type=Path, help="where the runs are kept; 'model' takes that of 'masks'")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "PROSMA_CACHE": ""}
        # A path without folders of this machine stands in the pictures.
        os.chdir(chosen.runs or home)
        Path("runs").mkdir(exist_ok=True)
        for scene in chosen.only:
            SCENES[scene](Path("runs"))


if __name__ == "__main__":
    main()
