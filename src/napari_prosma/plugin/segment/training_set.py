"""``TrainingSet``: a folder that corrected results are added to, for the model to learn from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QWidget

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Image
from napari_prosma.data.keep import TABLE, keep_case, safe_name
from napari_prosma.data.labels import LabelRule, present_values
from napari_prosma.data.readers import as_channels, read_image
from napari_prosma.data.texts import read_json, read_rows
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.segment.results import Result
from napari_prosma.plugin.shared.asking import chosen_folder
from napari_prosma.plugin.shared.choosers import DATA, PathField
from napari_prosma.plugin.shared.fields import group, in_a_row, stack
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.shared.layers import fitting_image, image_of, names_of
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.placing import onto_image

CLASSES = "classes.json"
"""File in the folder of a training set: which stored value is which class."""
_OF_THE_DESKTOP = ("desktop.ini", "thumbs.db")
"""Files that Windows leaves in folders that were looked at; those of macOS begin with a dot."""


class TrainingSet(QWidget):
    """The group *Correct and learn*.

    Signals
    -------
    fine_tune(Path, LabelRule or None)
        The Train panel shall open with this folder, whose labels mean this; None = as it is found there.
    """

    fine_tune = Signal(object, object)

    def __init__(self) -> None:
        super().__init__()
        self._result: Result | None = None
        self._suggested: Path | None = None
        self.job = Job(self, notify=False)
        self.message = Message()
        self.job.finished.connect(self.message.tell)
        self.job.failed.connect(self.message.tell_error)
        self.job.ended.connect(self._show_buttons)
        box, form = group("Correct and learn")
        self.folder = PathField("Choose the folder of the training set", "a folder for corrected cases")
        self.folder.line.setToolTip("Images and labels are saved here; created if missing")
        self.add_button = QPushButton("Add to training set")
        self.add_button.setToolTip(
            "Save the image and the corrected labels as a training case; adding it again replaces its labels"
        )
        self.add_button.clicked.connect(self._add)
        self.fine_tune_button = QPushButton("Fine-tune…")
        self.fine_tune_button.setToolTip("Open the Train panel with this folder, to fine-tune this model")
        self.fine_tune_button.clicked.connect(self._fine_tune)
        self.own_button = QPushButton("Fine-tune on a folder…")
        self.own_button.setToolTip(
            "Open the Train panel with this model and a folder of your own images and masks"
        )
        self.own_button.clicked.connect(self._fine_tune_on_a_folder)
        buttons = in_a_row(self.add_button, self.fine_tune_button)
        form.addRow("Keep in", self.folder)
        form.addRow(buttons)
        form.addRow(self.own_button)
        form.addRow(self.message)
        stack(self, box)
        self.show_result(None)

    def show_result(self, result: Result | None) -> None:
        """Offer to keep this result, by default where corrections of its own model are kept."""
        self._result = result
        if result is not None:
            self.suggest(result.model.path, result.model.data)
        self._show_buttons()

    def suggest(self, model: Path, data: Path | None = None) -> None:
        """A folder for corrections of this model, which learned from ``data``, unless the user chose one."""
        if self.folder.path in (None, self._suggested):
            self._suggested = training_set_of(model, data)
            self.folder.show_path(self._suggested)

    def _add(self) -> None:
        assert self._result is not None
        folder = self.folder.path
        if folder is None:
            self.message.tell_error("choose a folder for the corrected cases")
            return
        self.message.tell("Adding")
        self.job.start("ProSMA: adding to a training set", partial(_adding, folder, self._result))
        self._show_buttons()

    def _fine_tune(self) -> None:
        folder = self.folder.path
        try:
            if folder is None or not cases_in(folder):
                raise ConfigError("the training set is empty; first add a corrected result")
            names = class_names_of(folder)
        except ProsmaError as error:
            self.message.tell_error(str(error))
        else:
            self.fine_tune.emit(folder, LabelRule.of_names(names))

    def _fine_tune_on_a_folder(self) -> None:
        folder = chosen_folder(self, "Choose the folder of your images and masks", DATA)
        if folder is not None:
            self.fine_tune.emit(folder, None)

    def _show_buttons(self) -> None:
        self.add_button.setEnabled(self._result is not None and not self.job.is_running)
        self.fine_tune_button.setEnabled(not self.job.is_running)


def training_set_of(model: Path, data: Path | None = None) -> Path:
    """Where corrected results of a model are kept unless the user says otherwise.

    That is the training set that it learned from, where ``data`` is one.
    """
    if data is not None and (data / CLASSES).is_file():
        return data
    run = model.parent if model.suffix == ".safetensors" else model
    return Path.home() / "prosma-training-sets" / safe_name(run.name)


def cases_in(folder: Path) -> list[str]:
    """Names of the cases that were added to a folder.

    Raises ``DataError``: its table is damaged.
    """
    table = folder / TABLE
    return [row["name"] for row in read_rows(table, ["name"])] if table.exists() else []


def class_names_of(folder: Path) -> dict[int, str]:
    """Stored value -> class name of the cases that were added to a folder.

    Raises ``DataError``: the file that says so is missing or damaged.
    """
    path = folder / CLASSES
    try:
        return {int(value): str(name) for value, name in read_json(path).items()}
    except (DataError, ValueError, AttributeError) as error:
        raise DataError(
            f"'{path}', which names the classes, cannot be read ({error}); choose another folder"
        ) from error


def add_case(
    folder: Path, name: str, image: Image, labels: np.ndarray, class_names: Mapping[int, str]
) -> tuple[str, bool]:
    """Add an image and its labels (*spatial) to the training set in a folder.

    An image that is there already gets these labels instead of its own; another image of the same name gets
    a number behind it.

    Returns
    -------
    tuple of str and bool
        What the case is called, and whether it was there already.

    Raises
    ------
    ConfigError
        The folder holds something else, or cases with other classes.
    DataError
        The folder cannot be read or written to.
    """
    known = cases_in(folder)
    if known:
        _require_classes(folder, class_names)
    elif folder.is_dir() and any(map(_is_of_others, folder.iterdir())):
        raise ConfigError(f"'{folder}' holds other files; choose an empty folder, or a new one")
    name, is_there = _place(folder, known, safe_name(name), image)
    more = {int(value): _filler(value) for value in present_values(labels) if value not in class_names}
    there = class_names_of(folder) if known else {}
    given = {
        value: name for value, name in class_names.items() if value not in there or name != _filler(value)
    }
    names = more | there | given
    with written_whole(folder / CLASSES) as temporary:
        temporary.write_text(json.dumps(dict(sorted(names.items())), indent=1), encoding="utf-8")
    keep_case(folder, name, image, labels, beside=known)
    return name, is_there


def _require_classes(folder: Path, class_names: Mapping[int, str]) -> None:
    there = class_names_of(folder)
    for value, name in class_names.items():
        is_named = _filler(value) not in (name, there.get(value))
        if is_named and there.get(value, name) != name:
            raise ConfigError(
                f"in '{folder}' the value {value} is {there[value]}, but here it is {name}; choose another "
                f"folder for the corrections of this model"
            )


def _filler(value: int) -> str:
    """Name of a class that nobody named yet."""
    return f"label {value}"


def _is_of_others(path: Path) -> bool:
    return path.name != CLASSES and path.name[0] != "." and path.name.lower() not in _OF_THE_DESKTOP


def _place(folder: Path, known: list[str], name: str, image: Image) -> tuple[str, bool]:
    # 'Scan' and 'scan' are the same file on Windows and macOS.
    as_files = {each.casefold(): each for each in known}
    for number in count(1):
        tried = name if number == 1 else safe_name(f"{name[:40]}-{number}")
        held = as_files.get(tried.casefold())
        if held is None:
            return tried, False
        there = as_channels(read_image(folder / f"{held}.ome.zarr"), len(image.array))
        if np.array_equal(there.array, image.array, equal_nan=True):
            return held, True
    raise AssertionError("there is always a further number")


def _adding(folder: Path, result: Result) -> Iterator[Event]:
    yield Started(0, "Adding to the training set")
    channels = result.model.channels
    image = fitting_image(image_of(result.source), channels, result.source.name)
    labels = onto_image(np.array(result.labels.data), result.labels, result.source, channels)
    names = dict(enumerate(names_of(result.labels)))
    name, is_there = add_case(folder, result.found.name, image, labels, names)
    number = len(cases_in(folder))
    done = f"The labels of '{name}' were replaced" if is_there else f"'{name}' was added"
    yield Finished(f"{done}; the training set has {number} case{'s' * (number != 1)}")
