"""The Evaluate panel: predictions against the reference, worst cases first, each a click away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QFormLayout,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.data.case import Case
from napari_prosma.data.class_names import as_ours
from napari_prosma.data.label_doubts import rule_of_arrays
from napari_prosma.data.labels import IGNORE, LabelRule, present_values, rule_from_text
from napari_prosma.data.readers import stem
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.asking import chosen_folder
from napari_prosma.plugin.shared.choosers import LayerChooser, PathField
from napari_prosma.plugin.shared.fields import BY_THE_DATA, in_a_row, number
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.job import Ending, leaving_a_core
from napari_prosma.plugin.shared.layers import (
    LayerTuple,
    add_layer,
    class_colours,
    finest,
    geometry_of,
    go_to,
    hide_previews,
    image_layer,
    labels_layer,
    names_of,
    remove_layers,
    spatial_shape,
)
from napari_prosma.plugin.shared.loading import EVALUATION
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import Panel
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.shared.placing import require_same_place
from napari_prosma.segmentation.measures import MEAN, MEASURES, TOLERANCE_MM
from napari_prosma.segmentation.pairs import (
    NO_REFERENCE,
    Pair,
    Pairs,
    find_pairs,
    rule_of_predictions,
    said_of_one_class,
    said_of_order,
)

if TYPE_CHECKING:
    from napari_prosma.segmentation.evaluate import CaseMeasures, Evaluation

WORST_SHOWN = 3
PLOTS_HEIGHT = 120
"""At least; the dock of the plots can be made higher."""
_CLASS_COLUMN = 1
_FEW = 3
"""So few values may be a mask with an undecided border."""


class EvaluatePanel(Panel):
    """Measure predictions against the reference, and open the cases that went wrong."""

    needs = EVALUATION
    page = "Evaluate"

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, "Evaluate")
        figures = ", ".join(measure.label for measure in MEASURES.values())
        self.start_button.setToolTip(f"{figures} of every case")
        self.evaluation: Evaluation | None = None
        self._measuring = False
        self.opening = NewestJob(self, finished=self._opened, failed=self.status.tell_error)
        self._compared: tuple[Layer, ...] = ()
        self._shown: dict[str, Layer] = {}
        self._shown_case: CaseMeasures | None = None
        self._plots: QWidget | None = None
        self._add_source(self.add_group("Predictions against the reference"))
        self._add_outcome()
        self.form.addStretch(1)
        self.lay_out()

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        find = self._from_folders() if self.from_folders.isChecked() else self._from_layers()
        self.notices.tell("")
        self._close_last()
        self._measuring = True
        return "ProSMA: evaluation", partial(_evaluating, find, self.tolerance.value())

    def happened(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.tell("\n".join(filter(None, (self.notices.plain_text(), event.message))))
        elif isinstance(event, Finished) and isinstance(event.result, list):
            self.status.tell(f"Saved {len(event.result)} files in {event.result[0].parent}")
        elif isinstance(event, Finished):
            self._show(event.result)

    def ended(self, ending: Ending) -> None:
        if self._measuring and ending.error is not None:
            self.evaluation = None  # an earlier one is not that of what is chosen now
        self.outcome.setVisible(self.evaluation is not None)
        if self._measuring and self.evaluation is not None:
            QTimer.singleShot(0, self._bring_into_view)  # once the layout has made room

    def _bring_into_view(self) -> None:
        bar = self.scroll_area.verticalScrollBar()
        assert bar is not None
        bar.setValue(self.outcome.y())

    def open_row(self, row: int, column: int = 0) -> None:
        """Open the case of a row of the table where it is worst; why not, for one that was not measured."""
        assert self.evaluation is not None
        measured = [(case, name) for case in self.evaluation.cases for name in case.classes]
        if row >= len(measured):
            name, why = list(self.evaluation.left_out.items())[row - len(measured)]
            self.status.tell_error(f"{name}: {why}")
            return
        self.opening.ask(partial(self._begin_opening, *measured[row]))

    def _begin_opening(self, case: CaseMeasures, class_name: str) -> None:
        assert self.evaluation is not None
        names = ("background", *self.evaluation.class_names)
        is_open = bool(self._compared) or (
            case is self._shown_case and all(layer in self.viewer.layers for layer in self._shown.values())
        )
        self.status.tell(f"Opening {case.pair.name}")
        self.opening.start(
            "ProSMA: opening a case",
            partial(_opening, case, names, class_name, not is_open, self.viewer.theme),
        )

    def save(self, folder: Path) -> None:
        """Write the tables and the box plots into ``folder``, in the background."""
        assert self.evaluation is not None
        self._measuring = False
        self.run("ProSMA: saving", partial(_saving, self.evaluation, folder))

    # ---- the form -----------------------------------------------------------------------------------------

    def _add_source(self, form: QFormLayout) -> None:
        self._form = form
        self.from_folders, self.from_layers = QRadioButton("Folders"), QRadioButton("Open layers")
        self.from_folders.setToolTip("Label files, paired by their names")
        self.from_layers.setToolTip("Two labels layers of this viewer")
        row = in_a_row(self.from_folders, self.from_layers)
        form.addRow("Compare", row)
        self.predicted = PathField("Folder of predicted labels")
        self.predicted.line.setToolTip(
            "Labels written by 'Segment' or 'prosma segment': a folder or one file"
        )
        self.truth = PathField("Folder of the reference")
        self.truth.line.setToolTip("A folder of label files, or a data set with images and labels")
        self.classes = QLineEdit()
        self.classes.setPlaceholderText(BY_THE_DATA)
        self.classes.setToolTip(
            "Values stored in the reference, such as 0=background,1=liver, or any=gland for numbered objects"
        )
        self.predicted_layer = LayerChooser(self.viewer, LabelsLayer)
        self.predicted_layer.setToolTip("The labels to measure")
        self.truth_layer = LayerChooser(self.viewer, LabelsLayer)
        self.truth_layer.setToolTip("The labels to compare with")
        self.tolerance = number(
            0, 1000, TOLERANCE_MM, 3, 0.5, "Surfaces within this distance count as equal in surface Dice"
        )
        self.tolerance.setSuffix(" mm")
        self._folder_rows: tuple[QWidget, ...] = (self.predicted, self.truth)
        self._layer_rows: tuple[QWidget, ...] = (self.predicted_layer, self.truth_layer)
        for rows in (self._folder_rows, self._layer_rows):
            for title, field in zip(("Prediction", "Reference"), rows, strict=True):
                form.addRow(title, field)
        form.addRow("Classes", self.classes)
        form.addRow("Tolerance", self.tolerance)
        both_open = len(self.truth_layer.layers()) > 1
        (self.from_layers if both_open else self.from_folders).setChecked(True)
        self.from_folders.toggled.connect(self._source_changed)
        self._source_changed()
        if both_open:
            self.truth_layer.choose(self.truth_layer.layers()[-2])

    def _source_changed(self) -> None:
        of_folders = self.from_folders.isChecked()
        for field in self._folder_rows:
            self._form.setRowVisible(field, of_folders)
        for field in self._layer_rows:
            self._form.setRowVisible(field, not of_folders)

    def _from_folders(self) -> Callable[[], Pairs]:
        predicted, truth = self.predicted.path, self.truth.path
        if predicted is None or truth is None:
            raise ConfigError("choose the folder of the predictions and that of the references")
        self._compared = ()
        return partial(find_pairs, predicted, truth, self._rule())

    def _from_layers(self) -> Callable[[], Pairs]:
        predicted, truth = self.predicted_layer.layer, self.truth_layer.layer
        if predicted is None or truth is None:
            raise ConfigError("first open the predicted labels and the reference")
        if predicted is truth:
            raise ConfigError(f"'{truth.name}' is chosen twice; choose the prediction and the reference")
        self._compared = (predicted, truth)
        return partial(pairs_of_layers, predicted, truth, self._rule())

    def _rule(self) -> LabelRule | None:
        classes = self.classes.text().strip()
        return rule_from_text(classes) if classes else None

    # ---- the outcome --------------------------------------------------------------------------------------

    def _add_outcome(self) -> None:
        self.notices = Message()
        self.outcome = QWidget()
        layout = QVBoxLayout(self.outcome)
        layout.setContentsMargins(0, 0, 0, 0)
        self.summary = Message()
        self.table = FigureTable(rows_shown=8)
        self.table.setToolTip("Click a row to open its case where it differs most")
        self.table.open_rows(self.open_row)
        self.plots_button = QPushButton("Box plots")
        self.plots_button.setToolTip("Distribution of each measure over the cases, per class")
        self.plots_button.clicked.connect(self._show_plots)
        self.save_button = QPushButton("Save all…")
        self.save_button.setToolTip(
            "Save the measures and their summary as CSV, and the box plots, to a folder"
        )
        self.save_button.clicked.connect(self._save)
        row = in_a_row(self.plots_button, self.save_button)
        for part in (self.summary, self.table):
            layout.addWidget(part)
        layout.addLayout(row)
        self.outcome.hide()
        self.form.addWidget(self.outcome)  # which scrolls: it is higher than small screens
        self.form.addWidget(self.notices)

    def _show(self, evaluation: Evaluation) -> None:
        self.evaluation, self._shown_case = evaluation, None
        units = " or ".join(sorted({"mm" if c.unit == "mm" else "px" for c in evaluation.cases}))
        tolerance = f"{evaluation.tolerance:g} {units}"
        figures = {
            (measure.heading or measure.label) + f" {units}" * measure.is_distance: measure.meaning.format(
                tolerance=tolerance
            )
            for measure in MEASURES.values()
        }
        self.table.head({"Case": "Lowest mean Dice first", "Class": "", **figures})
        rows = [
            [case.pair.name, name, *(MEASURES[key].text(value) for key, value in of_class.items())]
            for case in evaluation.cases
            for name, of_class in case.classes.items()
        ]
        empty = [""] * (len(figures) - 1)
        failed = [[name, "", "failed", *empty] for name in evaluation.failed]
        failed += [
            [stem(name) if why == NO_REFERENCE else name, "", why, *empty]
            for name, why in evaluation.unpaired.items()
        ]
        self.table.show_rows([*rows, *failed])
        for row in range(len(rows), len(rows) + len(failed)):
            self.table.setSpan(row, _CLASS_COLUMN + 1, 1, self.table.columnCount() - _CLASS_COLUMN - 1)
        self.table.setColumnHidden(_CLASS_COLUMN, len(evaluation.class_names) == 1)
        self.table.fit(wide=0)
        told = [(row[0], row[0]) for row in rows] + list(evaluation.left_out.items())
        for row, (name, why) in enumerate(told):
            self.table.cell(row).setToolTip(as_rich(name if why == name else f"{name}: {why}"))
        self.summary.tell("\n".join(_mean_lines(evaluation)))
        worst = (f"{case.pair.name} {case.dice:.3f}" for case in evaluation.cases[:WORST_SHOWN])
        said = f"Lowest Dice: {', '.join(worst)}"
        if evaluation.failed:
            self.status.tell_error(f"{said}\nNot measured: {', '.join(evaluation.failed)}")
        else:
            self.status.tell(said)

    def _show_plots(self) -> None:
        assert self.evaluation is not None
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

        from napari_prosma.segmentation.evaluation_report import box_plots

        self._close_plots()
        self._plots = FigureCanvasQTAgg(box_plots(self.evaluation))
        self._plots.setMinimumHeight(PLOTS_HEIGHT)
        self.viewer.window.add_dock_widget(self._plots, name="Evaluation", area="bottom")

    def _close_plots(self) -> None:
        if self._plots is not None and self._plots.parent() is not None:
            self.viewer.window.remove_dock_widget(self._plots)

    def _close_last(self) -> None:
        """Nothing of an earlier evaluation stays beside the next."""
        self._close_case()
        self._close_plots()
        self.outcome.hide()

    def _close_case(self) -> None:
        remove_layers(self.viewer, *self._shown.values())
        self._shown = {}

    def _save(self) -> None:
        folder = chosen_folder(self, "Save tables and box plots in")
        if folder is not None:
            self.save(folder)

    # ---- a case as layers ---------------------------------------------------------------------------------

    def _opened(self, opened: _CaseLayers) -> None:
        if opened.layers:
            hide_previews(self.viewer)
            self._close_case()
            self._shown = {made[1]["name"]: add_layer(self.viewer, made) for made in opened.layers}
            for layer in self._shown.values():
                # Made anew for every case: what was drawn on them would be lost without a word.
                layer.editable = False
            *_, truth = self._shown.values()
            truth.contour = 1
            self._shown_case = opened.case
            self.viewer.reset_view()
        looked_at = [
            layer for layer in (self._compared or self._shown.values()) if layer in self.viewer.layers
        ]
        if opened.worst is None:
            self.status.tell(f"{opened.case.pair.name}: prediction and reference are the same")
        elif looked_at:
            go_to(self.viewer, looked_at[-1], opened.worst)
            self.status.tell(f"{opened.case.pair.name}, where {opened.class_name} is worst")


@dataclass(frozen=True, eq=False)
class _CaseLayers:
    """A case as layers, the reference last, unless it is open already; and the element where it is worst."""

    case: CaseMeasures
    class_name: str
    layers: tuple[LayerTuple, ...]
    worst: tuple[int, ...] | None


def pairs_of_layers(predicted: LabelsLayer, truth: LabelsLayer, rule: LabelRule | None = None) -> Pairs:
    """Two labels layers as a pair; copies, since they may be drawn on while they are measured.

    Without a ``rule`` of the reference, classes are named after the metadata of one of them, else after the
    values of the reference, and of both where each value is a class.
    """
    if spatial_shape(predicted) == spatial_shape(truth):  # else it is said when they are measured
        require_same_place(predicted, truth)
    arrays = [np.array(finest(layer)) for layer in (predicted, truth)]
    values = set(present_values(arrays[0]).tolist())
    told = names_of(predicted)
    told = told if values <= set(range(len(told))) else ()
    notices: list[str] = []
    if rule is None:
        rule, notices = _rule_of_layers(arrays, values, told, names_of(truth))
    by_number = bool(told) and rule.kind == "values"
    ours = (
        LabelRule.of_names(dict(enumerate(told))) if by_number else rule_of_predictions(rule, lambda: values)
    )
    labels = [
        each.apply(array, layer.name)
        for each, array, layer in zip((ours, rule), arrays, (predicted, truth), strict=True)
    ]
    if told and rule.kind != "any":
        labels[0], said = as_ours(labels[0], told, rule.class_names, "the reference")
        notices += [said] if said else []
    elif not told:
        notices += said_of_order(ours, rule, lambda: values)
    held = (
        Case.from_arrays(layer.name, array[None], label, geometry_of(layer))
        for layer, array, label in zip((predicted, truth), arrays, labels, strict=True)
    )
    return Pairs((Pair(predicted.name, *held),), rule.class_names, tuple(notices))


def _rule_of_layers(
    arrays: Sequence[np.ndarray], values: set[int], told: Sequence[str], drawn: Sequence[str]
) -> tuple[LabelRule, list[str]]:
    """Rule of the second of two labels, and what to say of it; ``values`` are those of the first.

    By names that have all values, its own first; else by its own values, which ``told`` names if it has as
    many. Where the first has further classes, each value of both is one, unless the second has a single one
    and the first numbers its objects.
    """
    stored = set(present_values(arrays[1]).tolist())
    found = sorted(stored | values)
    for names in (drawn, told):
        if names and found[0] >= 0 and found[-1] < len(names):
            return LabelRule.of_names(dict(enumerate(names))), []
    # Only beside a single class may values number its objects; to look for that takes long in a large volume.
    looked = len(values - {0}) < 2 or len(stored) <= _FEW
    rule = rule_of_arrays(arrays[1:])[0] if looked else LabelRule.of_values(stored)
    if len(rule.class_names) == len(told):
        rule = replace(rule, class_names=tuple(told))
    elif rule.kind in ("on", "values"):
        ours, mixed = rule_of_predictions(rule, lambda: values), LabelRule.of_values(found)
        read = {0, 1, IGNORE} if ours.kind == "on" else {*ours.stored, ours.unlabelled}
        is_one = len(rule.class_names) == 2 and rule.unlabelled is None
        if not values <= read and is_one and (all_one := rule_of_arrays(arrays[:1])[0]).kind == "any":
            return all_one, [f"labels: {all_one.in_words()}"]
        if not values <= read and mixed.unlabelled == rule.unlabelled:
            return mixed, said_of_one_class(rule, [values])
    notices = [] if rule.kind == "on" else [f"labels: {rule.in_words()}"]
    return rule, notices + said_of_one_class(rule, [values])


def worst_place(
    predicted: np.ndarray, truth: np.ndarray, label: int, geometry: Geometry
) -> tuple[int, ...] | None:
    """Index of the element that lies deepest in what one class got wrong; None where nothing is wrong.

    Parameters
    ----------
    predicted, truth : (*spatial)
        Class indices; elements that the reference leaves unlabelled are not wrong.
    geometry : Geometry
        Its spacing says how deep an element lies.
    """
    from scipy import ndimage

    wrong = ((predicted == label) != (truth == label)) & (truth != IGNORE)
    (box,) = ndimage.find_objects(wrong.astype(np.uint8)) or [None]
    if box is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(wrong[box], 1), sampling=geometry.spacing)
    deepest = np.unravel_index(np.argmax(depth), depth.shape)
    return tuple(int(n) - 1 + s.start for n, s in zip(deepest, box, strict=True))


def _evaluating(find: Callable[[], Pairs], tolerance: float) -> Iterator[Event]:
    yield Started(0, "Finding pairs")
    from napari_prosma.segmentation.evaluate import evaluate

    with leaving_a_core():
        yield from evaluate(find(), tolerance)


def _opening(
    case: CaseMeasures, names: tuple[str, ...], class_name: str, as_layers: bool, theme: str
) -> Iterator[Event]:
    name, pair = case.pair.name, case.pair
    yield Started(0, f"Opening {name}")
    assert pair.predicted.read_label is not None
    assert pair.truth.read_label is not None
    predicted, truth = pair.predicted.read_label(), pair.truth.read_label()
    held = pair.truth.read_image()
    layers: list[LayerTuple] = []
    if as_layers:
        has_image = pair.truth.files[0] not in pair.truth.files[1:]
        if has_image:
            layers.append(image_layer(held, name))
        outline = "black" if theme == "light" and not has_image else "white"
        labels, attributes, kind = labels_layer(predicted, held.geometry, f"{name} prediction", names)
        layers.append((labels, {**attributes, "opacity": 0.5}, kind))
        labels, attributes, kind = labels_layer(truth, held.geometry, f"{name} reference", names)
        layers.append((labels, attributes | {"opacity": 0.9, "colormap": class_colours(outline)}, kind))
    worst = worst_place(predicted, truth, names.index(class_name), held.geometry)
    yield Finished(_CaseLayers(case, class_name, tuple(layers), worst))


def _saving(evaluation: Evaluation, folder: Path) -> Iterator[Event]:
    yield Started(0, "Saving")
    from napari_prosma.data.atomic import require_new
    from napari_prosma.segmentation.evaluation_report import FILES, write_evaluation

    require_new((folder / name for name in FILES), "choose another folder")
    yield Finished(write_evaluation(evaluation, folder))


def _mean_lines(evaluation: Evaluation) -> list[str]:
    count = len(evaluation.cases)
    lines = [f"{count} case{'s' * (count != 1)}; means over them:"]
    for name in evaluation.class_names:
        of_class = [case.classes[name] for case in evaluation.cases]
        means = (
            f"{measure.label} {measure.text(MEAN(np.array([figures[key] for figures in of_class])))}"
            for key, measure in MEASURES.items()
            if measure.in_brief
        )
        neither = evaluation.in_neither(name)
        absent = f" (1 where it is in neither file: {neither} of {count})" if neither else ""
        lines.append(f"{name}: {', '.join(means)}{absent}")
    return lines
