"""The Segment panel: a trained model and image layers become labels, to clean, correct and learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.app.models import ImageKind
from napari_prosma.data.formats.pictures import Shown
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.names import file_stem
from napari_prosma.data.readers import can_read, stem
from napari_prosma.data.writers import DICOM_SUFFIXES, RTSTRUCT, SEG, write_descriptions
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.plugin.segment.cleaning_box import CleaningBox
from napari_prosma.plugin.segment.dicom_box import DicomBox
from napari_prosma.plugin.segment.results import (
    DISAGREEMENT,
    PROBABILITY,
    UNCERTAINTY,
    Outputs,
    Result,
    labels_to_paint,
    maps_of,
    shown_unit,
)
from napari_prosma.plugin.segment.segmenting import LayerFailed, LayerSegmented, LayerStarted, segment_layers
from napari_prosma.plugin.segment.training_set import TrainingSet
from napari_prosma.plugin.shared.adding import insert_layer
from napari_prosma.plugin.shared.asking import agrees
from napari_prosma.plugin.shared.choosers import JoinButton, LayerChooser
from napari_prosma.plugin.shared.fields import in_a_row, thin_bar
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.layer_ticks import LayerTicks
from napari_prosma.plugin.shared.layers import (
    SERIES,
    finest,
    folder_of,
    hide_previews,
    image_kind,
    names_of,
    new_layer,
    put_away_tools,
    remove_layers,
    show_some,
    write_layer,
)
from napari_prosma.plugin.shared.loading import SEGMENTATION
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.model_chooser import ModelChooser, ModelFacts
from napari_prosma.plugin.shared.panel import Panel, open_panel
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.shared.run_on import RunOn
from napari_prosma.plugin.shared.starting import usual_model

if TYPE_CHECKING:
    from napari.components.overlays.base import Overlay

    from napari_prosma.plugin.segment.regions_dock import RegionsTable

MOST_LINES = 5
IN_DICOM = {f"DICOM SEG (*{SEG})": SEG, f"DICOM RTSTRUCT (*{RTSTRUCT})": RTSTRUCT}
FOR_ITK_SNAP = "NIfTI with label descriptions for ITK-SNAP (*.nii.gz)"
VOLUMES = ("NIfTI (*.nii.gz *.nii)", FOR_ITK_SNAP, "Segments of 3D Slicer (*.seg.nrrd)", "TIFF (*.tif)")
PICTURES: dict[str, Shown] = {
    "PNG, 255 for the structure (*.png)": "white",
    "PNG in colours (*.png)": "colours",
    "PNG, class numbers (*.png)": "numbers",
}
"""How a result is saved, by what the dialog calls it."""


class ResultChooser(LayerChooser[LabelsLayer]):
    """The results of a panel that are still open, by their labels layers."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self.results: dict[Layer, Result] = {}
        super().__init__(viewer, LabelsLayer)
        self.setPlaceholderText("nothing has been segmented yet")

    @property
    def result(self) -> Result | None:
        """The chosen one."""
        layer = self.layer
        return None if layer is None else self.results.get(layer)

    def layers(self) -> list[LabelsLayer]:
        """Labels layers that were made by this panel."""
        self.results = {layer: made for layer, made in self.results.items() if layer in self._viewer.layers}
        return [layer for layer in super().layers() if layer in self.results]

    def add(self, result: Result, chosen: bool = True) -> None:
        """One more result."""
        self.results[result.labels] = result
        self.refresh()
        if chosen:
            self.choose(result.labels)


class SegmentPanel(Panel):
    """Segment image layers with a trained model; look at, clean, correct and keep what it found."""

    needs = SEGMENTATION
    page = "Segment"

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, "Segment")
        self.start_button.setToolTip("Segment the images ticked above")
        self.regions: RegionsTable | None = None
        self._in_view: Result | None = None
        self._saved: tuple[LabelsLayer, np.ndarray] | None = None
        self._meanings: dict[str, str] = {}
        self._found: list[str] = []
        self._failed: list[str] = []
        self._notices: list[str] = []
        self._number = self._of = 0
        self._layer_name = ""
        self.model = ModelChooser()
        self.add_group("Model").addRow(self.model)
        self._add_images()
        self.run_on = RunOn("segment")
        self.form.addWidget(self.run_on)
        self._add_results()
        self.cleaning = CleaningBox()
        self.form.addWidget(self.cleaning)
        self.training_set = TrainingSet()
        self.training_set.fine_tune.connect(self._fine_tune)
        self.form.addWidget(self.training_set)
        self.form.addStretch(1)
        self.batch_bar = thin_bar()
        self.batch_bar.setToolTip("Progress over all images; the bar above shows the current one")
        self.batch_bar.setAccessibleName("progress over all images")
        self.batch_bar.hide()
        self.summary = Message()
        self.below.addWidget(self.summary)
        self.lay_out()
        layout = self.layout()
        assert isinstance(layout, QVBoxLayout)
        layout.insertWidget(layout.indexOf(self.progress_bar) + 1, self.batch_bar)
        self.results.currentIndexChanged.connect(self._result_chosen)
        self.viewer.layers.selection.events.active.connect(self._layer_selected)
        self.model.described.connect(self._model_described)
        self.model.image = self._image_to_segment
        self.images.changed.connect(self.model.show_doubts)
        self._result_chosen()
        usual = usual_model()
        if usual is not None:
            self.model.show_path(usual)
        self.recall()

    @property
    def result(self) -> Result | None:
        """The result that is looked at."""
        return self.results.result

    def remembered_forms(self) -> Mapping[str, QWidget]:
        return {"segment": self}

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        path, layers = self.model.required_path(), self.images.ticked()
        if not self.images.layers():
            raise ConfigError("first open an image")
        if not layers:
            raise ConfigError("tick at least one image to segment")
        outputs = Outputs(
            mirror=self.mirror.isChecked(),
            probabilities=self.probabilities.isChecked(),
            uncertainty=self.uncertainty.isChecked(),
            disagreement=self.disagreement.isChecked(),
        )
        self._found, self._failed, self._notices = [], [], []
        self._number, self._of = 0, len(layers)
        self.summary.tell("")
        self.status.setToolTip("")
        self.batch_bar.setRange(0, len(layers))
        self.batch_bar.setValue(0)
        self.batch_bar.setVisible(len(layers) > 1)
        is_open = self.viewer.layers.__contains__
        return "ProSMA: segmentation", partial(
            segment_layers, path, layers, outputs, is_open, self.run_on.used()
        )

    def happened(self, event: Event) -> None:
        match event:
            case Notice():
                several = self._of > 1 and self._number > 0
                where = f"{self._layer_name}: " if several else ""
                self._notices.append(f"{where}{event.message}")
            case LayerStarted():
                self._number, self._layer_name = event.number, event.layer.name
                self.batch_bar.setValue(event.number - 1)
            case LayerSegmented():
                self._show(event)
            case LayerFailed():
                self._failed.append(event.reason)
            case Finished() if isinstance(event.result, Path):
                assert self._saved is not None
                layer, written = self._saved
                if np.array_equal(finest(layer), written):  # the hand may have gone on painting
                    self.unsaved.saved(layer)
                self._saved = None
                self.status.tell(f"Saved as {event.result}")
            case Finished():
                self._sum_up()

    def ended(self, ending: Ending) -> None:
        self.batch_bar.setAccessibleName("progress over all images")
        self.batch_bar.hide()
        self._result_chosen()
        if ending.stopped and self._of > 1:
            done = len(self._found)
            self.status.tell("\n".join([f"Stopped after {done} of {self._of} images", *_first(self._found)]))

    def remark(self) -> str:
        return f"image {self._number} of {self._of}" if self._of > 1 and self._number else ""

    def prepared(self) -> None:
        self.model.read()

    def close_down(self) -> None:
        super().close_down()
        if self.regions is not None:
            self.regions.close_down()
        self.viewer.layers.selection.events.active.disconnect(self._layer_selected)

    def save(
        self,
        path: Path,
        shown: Shown = "numbers",
        described: bool = False,
        meanings: Mapping[str, str] | None = None,
    ) -> None:
        """Write the result as it is now, in the background; a PNG is ``shown`` so in other programs.

        ``described`` adds names and colours for ITK-SNAP; the classes of a DICOM SEG have ``meanings``.
        """
        assert self.result is not None
        layer = self.result.labels
        self._of, self._saved = 0, (layer, np.array(finest(layer)))
        self.save_button.setEnabled(False)
        written = partial(write_layer, path, *self._saved, self.result.is_corrected, shown, meanings)
        names = names_of(layer) if described else ()
        self.run("ProSMA: saving", partial(_saving, path, written, names))

    def _add_images(self) -> None:
        form = self.add_group("Images")
        self.images = LayerTicks(self.viewer)
        self.probabilities = QCheckBox("show probabilities")
        self.probabilities.setToolTip(f"A layer per structure. {PROBABILITY}")
        self.uncertainty = QCheckBox("show uncertainty")
        self.uncertainty.setToolTip(UNCERTAINTY)
        self.disagreement = QCheckBox("show disagreement")
        self.disagreement.setToolTip(
            f"{DISAGREEMENT}. A single model also segments every window mirrored for it"
        )
        self.mirror = QCheckBox("mirrored passes")
        self.mirror.setToolTip(
            "Average mirrored passes of every window, along the axes that training mirrored: steadier, and "
            "two to four times slower"
        )
        form.addRow(self.images)
        self.join_button = JoinButton(self.viewer)
        self.join_button.joined.connect(self._tick_joined)
        self.join_button.refused.connect(self.status.tell_error)
        form.addRow(self.join_button)
        boxes = QGridLayout()
        for place, box in enumerate((self.probabilities, self.uncertainty, self.disagreement, self.mirror)):
            boxes.addWidget(box, *divmod(place, 2))
        form.addRow(boxes)

    def _tick_joined(self, layer: ImageLayer) -> None:
        self.images.tick([layer])

    def _add_results(self) -> None:
        form = self.add_group("Result")
        self.results = ResultChooser(self.viewer)
        self.results.setToolTip("The result that everything below applies to; follows the selected layer")
        self.regions_button = QPushButton("Regions…")
        self.regions_button.setToolTip(
            "A table of the connected regions: volume or area, diameter, intensity, confidence; click a row "
            "to go to its region"
        )
        self.regions_button.clicked.connect(self._open_regions)
        self.save_button = QPushButton("Save result…")
        self.save_button.setToolTip(
            "Write the labels as they are now, your corrections included, exactly over their image"
        )
        self.save_button.clicked.connect(self._save)
        row = in_a_row(self.regions_button, self.save_button)
        form.addRow(self.results)
        form.addRow(row)

    def _show(self, made: LayerSegmented) -> None:
        """Add what was made of a layer, which may have been closed at the last moment."""
        if made.layer not in self.viewer.layers:
            self._failed.append(f"'{made.layer.name}' was closed, so its result is not shown")
            return
        hide_previews(self.viewer)
        maps = tuple(
            new_layer(layer) for layer in maps_of(made.found, made.uncertainty, made.layer, made.outputs)
        )
        labels = new_layer(labels_to_paint(made.found, made.layer))
        result = Result(made.layer, labels, made.found, made.model, maps)
        for layer in (*maps, labels):
            layer.visible = False
        tools = put_away_tools(labels)
        self.job.in_turns(
            *(partial(insert_layer, self.viewer, layer) for layer in (*maps, labels)),
            partial(_bring, tools),
            partial(self._take, result, _in_words(made)),
            partial(self._replace_earlier, result, [layer.name for layer in (*maps, labels)]),
        )

    def _take(self, result: Result, said: str) -> None:
        if not {result.source, result.labels} <= set(self.viewer.layers):
            self._failed.append(
                f"'{result.source.name}' or its result was removed, so nothing is shown of it"
            )
            remove_layers(self.viewer, *result.maps, result.labels)
            return
        # Of several, only the first comes into the hand: it may be painted on while the others are made.
        is_first = not self._found
        if is_first:
            self.viewer.layers.selection.active = result.labels
            show_some(self.viewer, result.labels)
        self.results.add(result, chosen=is_first)
        if not is_first:
            _set_visible(result, False)
        self._found.append(said)
        self.batch_bar.setValue(self._number)

    def _replace_earlier(self, made: Result, names: Sequence[str]) -> None:
        """An earlier result of the same image and model goes, unless a hand has changed it."""
        if made.labels not in self.viewer.layers:
            return
        for labels, result in list(self.results.results.items()):
            is_same = (result.source, result.model) == (made.source, made.model)
            if is_same and result is not made and not result.is_corrected:
                remove_layers(self.viewer, labels, *result.maps)
        for layer, name in zip((*made.maps, made.labels), names, strict=True):
            if name not in self.viewer.layers:
                layer.name = name  # which the earlier one had

    def _sum_up(self) -> None:
        said = [f"{len(self._found)} of {self._of} images are segmented"] if self._of > 1 else []
        text = "\n".join([*said, *_first(self._found), *_first(list(dict.fromkeys(self._notices)))])
        if self._failed:
            self.status.tell_error("\n".join(_first(self._failed)))
            self.status.setToolTip(as_rich("\n".join(self._failed)))
            self.summary.tell(text)
        else:
            self.status.tell(text)

    def _result_chosen(self) -> None:
        result = self.result
        if result is not None and result is not self._in_view:
            for other in self.results.results.values():
                if other is not result:
                    _set_visible(other, False)
            _set_visible(result, True)
        self._in_view = result
        for button in (self.save_button, self.regions_button):
            button.setEnabled(result is not None and not self.job.is_running)
        self.cleaning.show_result(result)
        self.training_set.show_result(result)
        if self.regions is not None:
            self.regions.show_result(result)

    def _layer_selected(self) -> None:
        layer = self.viewer.layers.selection.active
        if layer in self.results.results:
            self.results.choose(layer)

    def _model_described(self, facts: ModelFacts | None) -> None:
        if facts is not None and self.result is None:
            self.training_set.suggest(facts.path)

    def _image_to_segment(self) -> ImageKind | None:
        """The first that is ticked and does not fit the model, else the first."""
        kinds = [image_kind(layer) for layer in self.images.ticked()]
        known = self.model.facts.known if self.model.facts is not None else None
        odd = [kind for kind in kinds if known is not None and known.warning(kind)]
        return next(iter([*odd, *kinds]), None)

    def _open_regions(self) -> None:
        from napari_prosma.plugin.segment.regions_dock import RegionsTable

        if self.regions is None:
            self.regions = RegionsTable(self.viewer)
            self.regions.closed.connect(self._regions_closed)
            self.viewer.window.add_dock_widget(self.regions, name="Regions", area="bottom")
        self.regions.show_result(self.result)

    def _regions_closed(self) -> None:
        self.regions = None

    def _fine_tune(self, folder: Path, labels: LabelRule | None) -> None:
        used = None if self.result is None else self.result.model
        model, dims = (self.model.path, None) if used is None else (used.path, used.dims)
        widget: Any = open_panel(self.viewer, "Train")
        widget.fine_tune(model, folder, labels, dims)

    def _save(self) -> None:
        assert self.result is not None
        layer = self.result.labels
        if layer.ndim > 2:
            suffix, kinds = ".nii.gz", [*VOLUMES]
        else:
            is_one = len(names_of(layer)) <= 2
            suffix, kinds = ".png", [*list(PICTURES)[not is_one :], *VOLUMES]
        kinds += [*IN_DICOM] if SERIES in layer.metadata else []
        start = folder_of(self.result.source) / f"{file_stem(layer.name)}{suffix}"
        chosen, kind = QFileDialog.getSaveFileName(self, "Save result", str(start), ";;".join(kinds))
        if chosen:
            self._save_as(Path(chosen), kind)

    def _save_as(self, chosen: Path, kind: str) -> None:
        """Save, after it was told what of the patient a DICOM object carries.

        The dialog asked whether ``chosen`` may be replaced; of any other file that is asked here.
        """
        path, meanings = of_kind(chosen, kind), None
        if path.name.lower().endswith(DICOM_SUFFIXES):
            assert self.result is not None
            names = () if path.name.lower().endswith(RTSTRUCT) else names_of(self.result.labels)[1:]
            box = DicomBox(self, names, self._meanings)
            if not box.exec():
                return
            if box.as_nifti:
                path = path.with_name(f"{stem(path)}.nii.gz")
            else:
                self._meanings |= box.meanings
                meanings = box.meanings
        described = kind == FOR_ITK_SNAP and meanings is None
        files = [path, _descriptions_of(path)] if described else [path]
        if all(file == chosen or self._may_write(file) for file in files):
            self.save(path, PICTURES.get(kind, "numbers"), described, meanings)

    def _may_write(self, file: Path) -> bool:
        """Whether nothing is lost by writing a file, or the user agrees to it."""
        return not file.exists() or agrees(
            self,
            f"Replace '{file.name}'?",
            f"It exists already in '{file.parent}'. What it holds now is lost.",
            "Replace",
            title="Save result",
            loses=True,
        )


def _first(lines: list[str]) -> list[str]:
    """As many lines as there is room for below the buttons."""
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"… and {more} more"]


def _set_visible(result: Result, visible: bool) -> None:
    """Show a result over its image, or hide both: results often lie at the same place."""
    result.source.visible = result.labels.visible = visible
    for layer in result.maps if not visible else result.maps[-1:]:
        layer.visible = visible


def _bring(tools: Sequence[Overlay]) -> None:
    for tool in tools:
        tool.visible = True


def _in_words(made: LayerSegmented) -> str:
    from napari_prosma.segmentation.regions import element_size

    size, unit = element_size(made.found.geometry)
    sizes = zip(made.found.class_names[1:], made.counts[1:], strict=True)
    digits = ",.0f" if size == 1 else ",.4g"
    said = ", ".join(f"{name} {format(count * size, digits)}" for name, count in sizes)
    return f"Found in {made.found.name}, in {shown_unit(unit)}: {said}"


def of_kind(chosen: Path, kind: str) -> Path:
    """The chosen file; where DICOM is wanted, with the ending of that kind in place of another format's."""
    name = chosen.name.lower()
    if kind not in IN_DICOM:
        return chosen
    if name.endswith(DICOM_SUFFIXES) and name.endswith(RTSTRUCT) == (IN_DICOM[kind] == RTSTRUCT):
        return chosen
    bare = stem(chosen) if can_read(chosen) else chosen.name
    return chosen.with_name(f"{bare}{IN_DICOM[kind]}")


def _descriptions_of(path: Path) -> Path:
    """Where the classes of a result are described for ITK-SNAP: as the shell calls it."""
    return path.with_name(f"{stem(path).removesuffix('_labels')}_labels.txt")


def _saving(path: Path, write: Callable[[], Path], described: Sequence[str]) -> Iterator[Event]:
    yield Started(0, "Saving")
    if described:
        write_descriptions(_descriptions_of(path), described)
    yield Finished(write())
