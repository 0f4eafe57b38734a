"""How the network is made and how it learns: what the Train panel asks beside the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.errors import ConfigError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.plugin.shared.choices import (
    CLASS_WEIGHTS,
    DEVICES,
    GATES,
    INTENSITIES,
    MODALITIES,
    PRECISIONS,
    SLICES,
    SPLITS,
    TOGETHER,
    TRAINS,
    WIDTHS,
    Choice,
)
from napari_prosma.plugin.shared.choosers import PathField
from napari_prosma.plugin.shared.fields import (
    BY_THE_DATA,
    SizesField,
    combo,
    folded_form,
    group,
    number,
    whole,
)
from napari_prosma.plugin.shared.job import spare_threads
from napari_prosma.plugin.shared.model_chooser import ModelChooser, ModelFacts

USUAL_EPOCHS, USUAL_MINUTES = 100, 30
LIVE_MINUTES = 10
"""Of a run on open layers, whose user waits for it: 100 epochs on a CT are 15 hours."""
_SIZE = "How large the network is: larger is slower and learns more"
MOST_ELEMENTS = 2**31 - 1

DIMS = {
    None: Choice("as the data", "Slices for pictures, volumes for volumes"),
    2: Choice("2D, slice by slice", "Each slice by itself"),
    3: Choice("3D", "Blocks of a volume"),
}


class Settings(QWidget):
    """The group *Network*, and the folds *Fine-tuning* and *Advanced*.

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
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        box, form = group("Network")
        self._add_network(form)
        layout.addWidget(box)
        self.fine_tuning, form = folded_form("Fine-tuning")
        self._add_fine_tuning(form)
        layout.addWidget(self.fine_tuning)
        self.advanced, form = folded_form("Advanced")
        self._add_advanced(form)
        layout.addWidget(self.advanced)
        self._of_model: dict[QComboBox, tuple[Any, Any]] = {}
        self._model_described(None)
        self._tell_changes()

    def values(self) -> dict[str, Any]:
        """What the form says, as settings of ``TrainConfig``.

        Raises
        ------
        ConfigError
            Sizes that are not understood.
        """
        by_time = self.limit_unit.currentText() == "minutes"
        start_from = self.start_from.path
        return {
            "run_dir": self.run_field.path,
            "widths": self.size_preset.currentData(),
            "gate": self.gate.currentData(),
            "epochs": UNLIMITED_EPOCHS if by_time else self.limit.value(),
            "minutes": float(self.limit.value()) if by_time else None,
            "start_from": start_from,
            "trains": self.trains.currentData() if start_from else "all",
            "taken_rate": self.taken_rate.value() or None,
            "dims": self.dims.currentData(),
            "modality": self.modality.currentData(),
            "learning_rate": self.rate.value() or None,
            "side": self.side.value() if self.side.value() > self.side.minimum() else None,
            "spacing": self.spacing.sizes(),
            "patch": self.patch.sizes(),
            "batch": self.batch.value() or None,
            "intensity": self.intensity.currentData(),
            "slices": self.slices.currentData(),
            "split": self.split.currentData(),
            "together": self.together.currentData(),
            "foreground_share": self.foreground_share.value() / 100,
            "class_weights": self.class_weights.currentData(),
            "average": self.average.value(),
            "patience": self.patience.value() or None,
            "gradient_clip": self.gradient_clip.value() or None,
            "seed": self.seed.value(),
            "device": self.device.currentData(),
            "precision": self.precision.currentData(),
            "threads": spare_threads(),
            "compile": self.compile.isChecked(),
            "tensorboard": self.tensorboard.isChecked(),
        }

    def require_fit(self, axes: int | None) -> None:
        """Refuse sizes that fit neither images of so many spatial axes nor the network.

        Raises
        ------
        ConfigError
            A size has another number of axes.
        """
        if axes is None:
            return
        dims = self.dims.currentData()
        for what, given, wanted, owner in (
            ("spacing", self.spacing.sizes(), (axes,), "images have"),
            ("patch size", self.patch.sizes(), (dims,) if dims else range(2, axes + 1), "network sees"),
        ):
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
        self.dims.setCurrentIndex(self.dims.findData(dims))

    def let_go(self) -> None:
        """Read no model any longer."""
        self.start_from.let_go()

    def _add_network(self, form: QFormLayout) -> None:
        self.size_preset = combo(WIDTHS, "auto", _SIZE, named=True)
        self.limit = whole(
            1, UNLIMITED_EPOCHS, USUAL_MINUTES, "How long to learn; Stop ends it earlier and keeps the model"
        )
        self.limit_unit = QComboBox()
        self.limit_unit.addItems(["minutes", "epochs"])
        self.limit_unit.setToolTip("An epoch is one pass over all the images")
        self.limit_unit.currentTextChanged.connect(self._unit_changed)
        self.limit.valueChanged.connect(self._choose_length)
        limit = QHBoxLayout()
        limit.addWidget(self.limit, 1)
        limit.addWidget(self.limit_unit, 1)
        self.run_field = PathField("Choose a folder for the run", "folder for the model")
        self.run_field.line.setToolTip("The best and the last model are kept here; made if missing")
        form.addRow("Size", self.size_preset)
        form.addRow("Train for", limit)
        form.addRow("Keep in", self.run_field)

    def _add_fine_tuning(self, form: QFormLayout) -> None:
        self.start_from = ModelChooser(
            "a new network",
            "A trained model to go on from, on other data, with other classes or channels if need be",
        )
        self.start_from.described.connect(self._model_described)
        self.trains = combo(TRAINS, "all", "Which part of the model still learns")
        self.taken_rate = number(
            0,
            1,
            0,
            2,
            0.05,
            "Learning rate of what was taken over, relative to what is new; by the steps: the lower the more "
            "there are",
            least="by the steps",
        )
        form.addRow("Start from", self.start_from)
        form.addRow("Trainable layers", self.trains)
        form.addRow("Pretrained LR factor", self.taken_rate)

    def _add_advanced(self, form: QFormLayout) -> None:
        self.gate = combo(
            GATES,
            "prosma",
            "What decides which details of the image reach the outline that is drawn: the gate on each skip "
            "connection (the shortcut from fine to coarse and back)",
            named=True,
        )
        self.modality = combo(MODALITIES, "auto", "What the images are: decides how they are varied")
        self.examples_button = QPushButton("Show examples")
        self.examples_button.setToolTip("Patches of an image, varied at random as the network will see them")
        self.dims = combo(DIMS, None, "Whether the network sees slices or volumes")
        self.rate = number(
            0,
            1,
            0,
            6,
            1e-4,
            "Learning rate: how large each correction is; lower it if the loss jumps",
            least="by the steps",
        )
        self.spacing = SizesField(
            "spacing",
            float,
            "Distance between voxels that every image is brought to, in the unit of the data: one number per "
            "axis, slices first, such as 3, 1, 1. Empty: the usual one of the data",
        )
        self.side = whole(
            31,
            4096,
            31,
            "2D images are shrunk so that their short side is about this; volumes are not. By the minutes: "
            "256 px, and less for a short run",
            least="by the minutes",
            suffix=" px",
        )
        self.slices = combo(SLICES, None, "Across which axis a network of slices goes through volumes")
        self.split = combo(SPLITS, "given", "Which cases are learned from, and which validate")
        self.together = combo(
            TOGETHER, "patients", "Which cases are either all training or all validation cases, in folds too"
        )
        self.intensity = combo(
            INTENSITIES, None, "How gray values are brought to one scale before the network sees them"
        )
        self.patch = SizesField(
            "patch size",
            int,
            "Size of what the network sees at once, in voxels: one number per axis, slices first, "
            "such as 32, 128, 128. Empty: by the data and the memory",
        )
        self.batch = whole(0, 256, 0, "Patches per step; fewer need less memory", least=BY_THE_DATA)
        self.foreground_share = whole(
            0, 100, 50, "Share of the patches that show some structure, each class alike", suffix=" %"
        )
        self.class_weights = combo(CLASS_WEIGHTS, "equal", "How much each class counts")
        self.average = number(
            0,
            0.9999,
            0,
            4,
            0.001,
            "Moving average of the weights, which is kept as the model: its decay per step, such as 0.999; "
            "calmer, but slow to follow in a short run",
            least="off",
        )
        self.patience = whole(
            0, 9999, 0, "End early when so many epochs brought nothing better", least="to the end"
        )
        self.gradient_clip = number(
            0, 1000, 12, 1, 1, "Corrections larger than this are shortened, against jumps", least="off"
        )
        self.seed = whole(
            0, MOST_ELEMENTS, 0, "Chance of this run: the same number gives the same run on the same machine"
        )
        self.device = combo(DEVICES, "auto", "What computes", named=True)
        self.precision = combo(PRECISIONS, "auto", "How exactly it computes")
        self.compile = QCheckBox("compile the network first")
        self.compile.setToolTip("Faster steps after a minute or more of waiting; for long runs on a card")
        self.tensorboard = QCheckBox("write files for TensorBoard")
        self.tensorboard.setToolTip("Curves for the program TensorBoard, in the run folder")
        for text, field in (
            ("Gate", self.gate),
            ("Images are", self.modality),
            ("", self.examples_button),
            ("Network sees", self.dims),
            ("Slices", self.slices),
            ("Split", self.split),
            ("Keep together", self.together),
            ("Learning rate", self.rate),
            ("Spacing", self.spacing),
            ("Shrink to", self.side),
            ("Gray values", self.intensity),
            ("Patch size", self.patch),
            ("Batch size", self.batch),
            ("Foreground", self.foreground_share),
            ("Class weights", self.class_weights),
            ("Averaging", self.average),
            ("Patience", self.patience),
            ("Gradient clip", self.gradient_clip),
            ("Seed", self.seed),
            ("Device", self.device),
            ("Precision", self.precision),
        ):
            form.addRow(text, field)
        form.addRow(self.compile)
        form.addRow(self.tensorboard)

    def _tell_changes(self) -> None:
        def tell(*_: object) -> None:
            self.changed.emit()

        for choice in self.findChildren(QComboBox):
            choice.currentIndexChanged.connect(tell)
        for whole_number in self.findChildren(QSpinBox):
            whole_number.valueChanged.connect(tell)
        for decimal in self.findChildren(QDoubleSpinBox):
            decimal.valueChanged.connect(tell)
        self.start_from.changed.connect(tell)
        for line in (self.run_field.line, self.spacing, self.patch):
            line.textChanged.connect(tell)
        for box in (self.compile, self.tensorboard):
            box.toggled.connect(tell)

    def _choose_length(self) -> None:
        self._length_chosen = True

    def _unit_changed(self, unit: str) -> None:
        self.limit.setValue(USUAL_MINUTES if unit == "minutes" else USUAL_EPOCHS)

    def _model_described(self, facts: ModelFacts | None) -> None:
        """Weights come over whole only into a network that is built alike, and know images varied alike."""
        for field in (self.trains, self.taken_rate):
            field.setEnabled(facts is not None)
        self.size_preset.setEnabled(facts is None)
        self.size_preset.setToolTip(_SIZE if facts is None else "As large as the model that is started from")
        if facts is None:
            self._give_back()
            return
        if self.size_preset.findData(facts.widths) < 0:
            self.size_preset.addItem("as the model", facts.widths)
        self._take(self.size_preset, facts.widths)
        self._take(self.gate, facts.gate)
        if self.modality.currentData() in ("auto", self._of_model.get(self.modality, ("auto",))[0]):
            self._take(self.modality, facts.modality)

    def _take(self, choice: QComboBox, value: Any) -> None:
        """Choose what the model has, and remember what was chosen before."""
        _, before = self._of_model.get(choice, (None, choice.currentData()))
        self._of_model[choice] = value, before
        choice.setCurrentIndex(choice.findData(value))

    def _give_back(self) -> None:
        """As it was before a model was chosen, but for what the user chose since."""
        for choice, (value, before) in self._of_model.items():
            if choice.currentData() == value:
                choice.setCurrentIndex(choice.findData(before))
        self._of_model = {}
