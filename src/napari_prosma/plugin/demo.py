"""``python -m napari_prosma.plugin.demo MODEL IMAGE [MASK]``: napari with the image and the gates over it.

What a user would click: open the image, open *Inspect gates*, choose the model, press the button. With
``--screenshot FILE`` the window is photographed when the layers are there, and closed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import napari

from napari_prosma.data.layouts import case_from_files
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.plugin.inspect.panel import InspectPanel
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.layers import add_layer, image_layer, labels_layer

WINDOW = (1400, 900)


def open_viewer(model: Path, image: Path, mask: Path | None) -> tuple[napari.Viewer, InspectPanel]:
    """Viewer with the image, its label, and the panel at work on the model."""
    checkpoint = load_checkpoint(model)
    case = case_from_files(image, mask, channels=checkpoint.plan.channels)
    viewer = napari.Viewer(title="napari with ProSMA")
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Inspect gates")
    assert isinstance(panel, InspectPanel)
    held = case.read_image()
    shown = add_layer(viewer, image_layer(held, case.name))
    panel.image_layer.choose(shown)
    if case.read_label is not None:
        names = checkpoint.plan.class_names
        drawn = add_layer(viewer, labels_layer(case.read_label(), held.geometry, f"{case.name} label", names))
        drawn.visible = False
        panel.label_layer.choose(drawn)
    panel.model.set_path(model)
    panel.job.ended.connect(lambda _: viewer.reset_view())
    panel.start_button.click()
    return viewer, panel


def main() -> None:
    """Open the viewer and run napari until it is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path, nargs="?")
    parser.add_argument("--screenshot", type=Path)
    chosen = parser.parse_args()
    viewer, panel = open_viewer(chosen.model, chosen.image, chosen.mask)
    if chosen.screenshot is not None:
        viewer.window._qt_window.resize(*WINDOW)

        def photograph(ending: Ending) -> None:
            from qtpy.QtCore import QTimer

            def shoot() -> None:
                viewer.screenshot(str(chosen.screenshot), canvas_only=False)
                viewer.close()

            QTimer.singleShot(1500, shoot)

        panel.job.ended.connect(photograph)
    napari.run()


if __name__ == "__main__":
    main()
