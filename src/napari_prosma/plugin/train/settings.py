"""How the network is made and how it learns: what the Train panel asks beside the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QPushButton, QWidget

from napari_prosma.errors import ConfigError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.plugin.shared.choosers import PathField
from napari_prosma.plugin.shared.fields import folded_form, group, stack, whole
from napari_prosma.plugin.shared.form import Form
from napari_prosma.plugin.shared.job import spare_threads
from napari_prosma.plugin.shared.model_chooser import ModelChooser, ModelFacts
from napari_prosma.training.config import FINE_TUNING, SETTINGS

USUAL_EPOCHS, USUAL_MINUTES = 100, 30
LIVE_MINUTES = 10
"""Of a run on open layers, whose user waits for it: 100 epochs on a CT are 15 hours."""
MOST_ELEMENTS = 2**31 - 1


class Settings(QWidget):
    """The group *Network*, and the folds *Fine-tuning* and *Advanced*.

    Attributes
    ----------
    fields : Form
        The settings that have a label, by their names.

    Signals
    -------
    changed()
        Something was set.
    """

    changed = Signal()
    _length_chosen: bool

    def __init__(self) -> None:
        super().__init__()
        self._length_chosen = False
        self.fields = Form(SETTINGS.values())
        box, form = group("Network")
        self._add_network(form)
        self.fine_tuning, form = folded_form("Fine-tuning")
        self._add_fine_tuning(form)
        self.advanced, form = folded_form("Advanced")
        self._add_advanced(form)
        stack(self, box, self.fine_tuning, self.advanced)
        self._of_model: dict[str, tuple[Any, Any]] = {}
        self._model_described(None)
        self._tell_changes()

    def values(self) -> dict[str, Any]:
        """What the form says, as settings of ``TrainConfig``.

        Raises ``ConfigError``: sizes that are not understood.
        """
        by_time = self.limit_unit.currentText() == "minutes"
        start_from = self.start_from.path
        return self.fields.settings() | {
            "run_dir": self.run_field.path,
            "epochs": UNLIMITED_EPOCHS if by_time else self.limit.value(),
            "minutes": float(self.limit.value()) if by_time else None,
            "start_from": start_from,
            "trains": self.fields["trains"].value if start_from else "all",
            "threads": spare_threads(),
        }

    def require_fit(self, axes: int | None) -> None:
        """Refuse sizes that fit neither images of so many spatial axes nor the network.

        Raises ``ConfigError``: a size has another number of axes.
        """
        if axes is None:
            return
        dims = self.fields["dims"].value
        for name, wanted, owner in (
            ("spacing", (axes,), "images have"),
            ("patch", (dims,) if dims else range(2, axes + 1), "network sees"),
        ):
            given, what = self.fields[name].value, SETTINGS[name].setting.label.lower()
            if given is not None and len(given) not in wanted:
                raise ConfigError(
                    f"the {what} has {len(given)} number{'s' * (len(given) != 1)}, but the {owner} "
                    f"{max(wanted)} axes; give one number per axis, or leave it empty"
                )

    def suggest(self, from_layers: bool) -> None:
        """Fewer minutes for layers, whose user waits; what the user chose stays."""
        if not self._length_chosen:
            self.limit_unit.setCurrentText("minutes")
            self.limit.setValue(LIVE_MINUTES if from_layers else USUAL_MINUTES)
            self._length_chosen = False

    def go_on_from(self, model: Path | None, dims: int | None) -> None:
        """Start from a model, and let the network see slices or volumes as that model does."""
        if model is not None:
            self.start_from.set_path(model)
            self.fine_tuning.expand(animate=False)
        self.fields["dims"].value = dims

    def _add_network(self, form: QFormLayout) -> None:
        self.limit = whole(
            UNLIMITED_EPOCHS, USUAL_MINUTES, "How long to learn; Stop ends it earlier and keeps the model"
        )
        self.limit_unit = QComboBox()
        self.limit_unit.addItems(["minutes", "epochs"])
        self.limit_unit.setToolTip(
            "An epoch goes through the training cases at least once; then the model is validated"
        )
        self.limit_unit.currentTextChanged.connect(self._unit_changed)
        self.limit.valueChanged.connect(self._choose_length)
        limit = QHBoxLayout()
        limit.addWidget(self.limit, 1)
        limit.addWidget(self.limit_unit, 1)
        self.run_field = PathField("Choose a folder for the run", "folder for the model")
        self.run_field.line.setToolTip("The best and the last model are saved here; created if missing")
        self.fields.add_to(form, ["widths"])
        form.addRow("Train for", limit)
        form.addRow("Keep in", self.run_field)

    def _add_fine_tuning(self, form: QFormLayout) -> None:
        self.start_from = ModelChooser(
            "a new network",
            "A trained model to start from, also for other data, classes or channels",
        )
        self.start_from.described.connect(self._model_described)
        form.addRow("Start from", self.start_from)
        self.fields.add_to(form, [name for name in self.fields if _is_fine_tuning(name)])

    def _add_advanced(self, form: QFormLayout) -> None:
        self.examples_button = QPushButton("Show examples")
        self.examples_button.setToolTip(
            "Show patches of an image with random changes, as the network will see them"
        )
        for name in self.fields:
            if name != "widths" and not _is_fine_tuning(name):
                self.fields.add_to(form, [name])
            if name == "modality":
                form.addRow("", self.examples_button)

    def _tell_changes(self) -> None:
        self.fields.on_change(self._tell)
        self.limit.valueChanged.connect(self._tell)
        self.limit_unit.currentIndexChanged.connect(self._tell)
        self.start_from.changed.connect(self._tell)
        self.run_field.line.textChanged.connect(self._tell)

    def _tell(self, *_: object) -> None:
        self.changed.emit()

    def _choose_length(self) -> None:
        self._length_chosen = True

    def _unit_changed(self, unit: str) -> None:
        self.limit.setValue(USUAL_MINUTES if unit == "minutes" else USUAL_EPOCHS)

    def _model_described(self, facts: ModelFacts | None) -> None:
        """Weights come over whole only into a network that is built alike, and know images varied alike."""
        for name in filter(_is_fine_tuning, self.fields):
            self.fields[name].native.setEnabled(facts is not None)
        size = self.fields["widths"]
        size.native.setEnabled(facts is None)
        size.native.setToolTip(
            size.entry.setting.tip if facts is None else "As large as the model to start from"
        )
        if facts is None:
            self._give_back()
            return
        size.offer(facts.widths, "as the model")
        self._take("widths", facts.widths)
        self._take("gate", facts.gate)
        if self.fields["modality"].value in ("auto", self._of_model.get("modality", ("auto",))[0]):
            self._take("modality", facts.modality)

    def _take(self, name: str, value: Any) -> None:
        """Choose what the model has, and remember what was chosen before."""
        field = self.fields[name]
        _, before = self._of_model.get(name, (None, field.value))
        self._of_model[name] = value, before
        field.value = value

    def _give_back(self) -> None:
        """As it was before a model was chosen, but for what the user chose since."""
        for name, (value, before) in self._of_model.items():
            if self.fields[name].value == value:
                self.fields[name].value = before
        self._of_model = {}


def _is_fine_tuning(name: str) -> bool:
    return SETTINGS[name].setting.group == FINE_TUNING
