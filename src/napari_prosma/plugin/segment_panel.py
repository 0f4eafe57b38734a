"""The Segment panel: a trained model and an image layer become labels over the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import napari
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtWidgets import QCheckBox, QFileDialog, QPushButton

from napari_prosma.data.writers import write_labels
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.plugin.choices import newest_run
from napari_prosma.plugin.choosers import LayerChooser
from napari_prosma.plugin.job import Ending, spare_threads
from napari_prosma.plugin.layers import (
    CLASS_NAMES,
    add_layer,
    fitting_image,
    geometry_of,
    hide_previews,
    image_of,
    result_layers,
)
from napari_prosma.plugin.model_chooser import ModelChooser
from napari_prosma.plugin.panel import Panel

SAVED_AS = "NIfTI (*.nii.gz *.nii);;TIFF (*.tif);;PNG, 2D only (*.png)"


class SegmentPanel(Panel):
    """Segment an image layer with a trained model."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, "Segment")
        self.start_button.setToolTip("Find the structures that the model knows in the image above")
        self.result: Layer | None = None
        self._source: Layer | None = None
        self.model = ModelChooser()
        self.add_group("Model").addRow(self.model)
        form = self.add_group("Image")
        self.image_layer = LayerChooser(napari_viewer, ImageLayer)
        self.image_layer.setToolTip("The open image to segment; a volume or a stack is segmented whole")
        self.probabilities = QCheckBox("also show probabilities")
        self.probabilities.setToolTip("One layer per structure: how sure the model is, from 0 to 1")
        form.addRow("Layer", self.image_layer)
        form.addRow(self.probabilities)
        self.form.addStretch(1)
        self.save_button = QPushButton("Save result…")
        self.save_button.setToolTip(
            "Write the labels as they are now, your corrections included, exactly over their image"
        )
        self.save_button.setEnabled(False)
        self.save_button.clicked.connect(self._save)
        self.below.addWidget(self.save_button)
        self.lay_out()
        newest = newest_run()
        if newest is not None:
            self.model.set_path(newest)

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        path, layer = self.model.required_path(), self.image_layer.layer
        if not isinstance(layer, ImageLayer):
            raise ConfigError("open an image to segment first")
        self._source = layer
        return "ProSMA: segmentation", partial(_segmenting, path, layer)

    def happened(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.status.tell(event.message)
        elif isinstance(event, Finished) and isinstance(event.result, Path):
            self.status.tell(f"Saved as {event.result}")
        elif isinstance(event, Finished):
            assert self._source is not None
            hide_previews(self.viewer)
            for layer in result_layers(event.result, self._source, self.probabilities.isChecked()):
                self.result = add_layer(self.viewer, layer)
            found = [
                f"{name}: {int((event.result.labels == k).sum()):,}"
                for k, name in enumerate(event.result.class_names)
                if k > 0
            ]
            unit = "pixels" if event.result.labels.ndim == 2 else "voxels"
            self.status.tell(f"Found, in {unit}: {', '.join(found)}")

    def ended(self, ending: Ending) -> None:
        self.save_button.setEnabled(self.result is not None)

    def close_down(self) -> None:
        self.model.let_go()
        super().close_down()
        self.image_layer.let_go()

    def save(self, path: Path) -> None:
        """Write the result as it is now, in the background."""
        assert self.result is not None
        self.save_button.setEnabled(False)
        self.run("ProSMA: saving", partial(_saving, path, self.result))

    def _save(self) -> None:
        assert self.result is not None
        suffix = ".nii.gz" if self.result.ndim > 2 else ".png"
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.result.name)
        start = str(Path.home() / f"{name}{suffix}")
        chosen, _ = QFileDialog.getSaveFileName(self, "Save result", start, SAVED_AS)
        if chosen:
            self.save(Path(chosen))


def _segmenting(path: Path, layer: ImageLayer) -> Iterator[Event]:
    yield Started(0, "Loading the model")
    from napari_prosma.segmentation.segment import segment
    from napari_prosma.training.checkpoint import load_checkpoint
    from napari_prosma.training.device import cpu_threads

    checkpoint = load_checkpoint(path)
    image = fitting_image(image_of(layer), checkpoint.plan.channels, layer.name)
    with cpu_threads(spare_threads()):
        yield from segment(checkpoint, image, name=layer.name)


def _saving(path: Path, layer: Layer) -> Iterator[Event]:
    yield Started(0, "Saving")
    labels = layer.data[0] if layer.multiscale else layer.data
    yield Finished(write_labels(path, labels, geometry_of(layer), layer.metadata.get(CLASS_NAMES, ())))
