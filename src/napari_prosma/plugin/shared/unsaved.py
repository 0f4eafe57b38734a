"""``Unsaved``: labels that were painted and that no file holds: kept aside, asked about, brought back."""

from __future__ import annotations

import json
import logging
import os
import shutil
import weakref
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from platformdirs import user_state_path
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QMainWindow,
    QPushButton,
    QWidget,
)

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.keep import safe_name
from napari_prosma.data.texts import parse_json
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event
from napari_prosma.plugin.shared.asking import agrees
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.guesses import MARKS, guesses_of
from napari_prosma.plugin.shared.job import SHORT_WAIT, Ending, Job
from napari_prosma.plugin.shared.layers import GEOMETRY, add_layer, finest, labels_layer, spatial_shape
from napari_prosma.plugin.shared.message import Message
from napari_prosma.training.run_claim import claim, release

INTERVAL_MS = 20_000
"""Between two looks at what was painted; writing it takes some seconds at most."""
LEAVE, STAY = "Close without saving", "Stay"
_PLACE = ("scale", "translate", "rotate", "shear", "affine")
_NAMED = 5
_OF: weakref.WeakKeyDictionary[napari.Viewer, Unsaved] = weakref.WeakKeyDictionary()


def unsaved_of(viewer: napari.Viewer) -> Unsaved:
    """The one of a viewer, made when it is first asked for."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins see proxies
    if viewer not in _OF:
        _OF[viewer] = Unsaved(viewer)
    return _OF[viewer]


def note_saved(data: object) -> None:
    """A file holds these labels now, the very array of a layer or of its copy."""
    for each in list(_OF.values()):
        each.saved(data)


def aside_folder() -> Path:
    """Where painted labels are kept, in a folder per process."""
    return user_state_path("napari-prosma", appauthor=False) / "unsaved"


class Unsaved(QObject):
    """Follows the labels layers of a viewer.

    What the hand paints is kept aside every 20 s until it is saved or its layer is closed, so that a crash
    costs no more than that; before napari is closed the user is asked.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        # Owned by Qt, which takes it away in its own thread: Python may collect it in that of a run.
        super().__init__(QApplication.instance())
        self._viewer = weakref.ref(viewer)
        self._painted: dict[LabelsLayer, bool] = {}  # whether it is still to be kept aside
        self._aside: dict[LabelsLayer, str] = {}  # names of files
        self._watched: weakref.WeakSet[LabelsLayer] = weakref.WeakSet()
        self._elsewhere: list[weakref.WeakMethod[Callable[[LabelsLayer], bool]]] = []
        self._claimed: Path | None = None
        self._window: weakref.ref[QMainWindow] | None = None
        self.is_answered = False
        self.keeping = Job(self, notify=False, ended=self._kept)
        self._timer = QTimer(self)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self.keep)
        for layer in viewer.layers:
            self._watch(layer)
        viewer.layers.events.inserted.connect(lambda event: self._watch(event.value))
        viewer.layers.events.removed.connect(lambda event: self._forget(event.value))

    def guard(self, window: QWidget | None) -> None:
        """Ask before this window of napari is closed."""
        if isinstance(window, QMainWindow) and self._window is None:
            self._window = weakref.ref(window)  # it holds the viewer
            window.installEventFilter(self)
            window.destroyed.connect(self._window_gone)

    def kept_by(self, holds: Callable[[LabelsLayer], bool]) -> None:
        """``holds``, a method, tells of a layer whether somebody else, such as a run, keeps what it shows."""
        self._elsewhere.append(weakref.WeakMethod(holds))

    def layers(self) -> list[LabelsLayer]:
        """Those that hold what no file holds."""
        viewer = self._viewer()
        there = () if viewer is None else viewer.layers
        painted = [layer for layer in self._painted if layer in there]
        holders = [holds for held in self._elsewhere if (holds := held()) is not None]
        return [layer for layer in painted if not any(holds(layer) for holds in holders)]

    def in_words(self) -> str:
        """For a question; empty = nothing is unsaved."""
        names = [f"'{layer.name}'" for layer in self.layers()]
        if not names:
            return ""
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"What was painted on {', '.join(names[:_NAMED])}{more} is not saved."

    def saved(self, data: object) -> None:
        """A file holds this layer, or the layer of this array, as it is."""
        data = getattr(data, "__wrapped__", data)  # plugins see proxies
        for layer in [each for each in self._painted if data is each or data is each.data]:
            del self._painted[layer]

    def keep(self) -> None:
        """Keep aside what was painted since the last time, and no longer what was saved; in a thread."""
        if self.keeping.is_running:
            return
        gone = [layer for layer in self._aside if layer not in self._painted]
        painted = [layer for layer in self.layers() if self._painted[layer]]
        if not gone and not painted:
            return
        try:
            folder = self._folder()
        except (ConfigError, DataError) as error:
            self.keeping.ended.emit(Ending(error=error))
            return
        over = [self._aside.pop(layer) for layer in gone]
        work = []
        for layer in painted:
            self._painted[layer] = False
            data = np.array(finest(layer))
            place = {name: np.asarray(getattr(layer, name)).tolist() for name in _PLACE}
            work.append((self._file_of(layer), data, {"name": layer.name, **place}))
        self.keeping.start("ProSMA: backing up painted labels", partial(_keeping, folder, work, over))

    def is_safe(self, layer: LabelsLayer) -> bool:
        """A crash would cost nothing of it: it is kept aside as it is, or there is nothing to keep."""
        is_aside = layer in self._aside and not self._painted.get(layer) and not self.keeping.is_running
        return is_aside or layer not in self.layers()

    def _file_of(self, layer: LabelsLayer) -> str:
        """Its file, the same every time; names of two layers may be alike on disk."""
        if layer not in self._aside:
            name = safe_name(layer.name)
            taken = {file.casefold() for file in self._aside.values()}
            files = (f"{name} {n}.npz" if n > 1 else f"{name}.npz" for n in count(1))
            self._aside[layer] = next(file for file in files if file.casefold() not in taken)
        return self._aside[layer]

    def _kept(self, ending: Ending) -> None:
        """What could not be written is tried again."""
        if ending.error is not None:
            logging.getLogger(__name__).warning("painted labels are not kept aside: %s", ending.error)
            self._painted = dict.fromkeys(self._painted, True)

    def discard(self) -> None:
        """The user wants none of it any more."""
        self._timer.stop()
        self.keeping.close(SHORT_WAIT)
        self._painted.clear()
        self._aside.clear()
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            release(claimed)
            shutil.rmtree(claimed, ignore_errors=True)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Qt's hook; True = the event goes no further."""
        if event is None or event.type() != QEvent.Type.Close or self.is_answered:
            return False
        window = None if self._window is None else self._window()
        assert window is not None
        if self.layers() and not is_closed_by_script(window, event) and not self._agrees(window):
            event.ignore()
            return True
        return False

    def _agrees(self, window: QMainWindow) -> bool:
        said = "Painted labels are not saved"
        return agrees(window, f"{said}.", self.in_words(), LEAVE, leave=STAY, title=said, loses=True)

    def _watch(self, layer: object) -> None:
        if isinstance(layer, LabelsLayer) and layer not in self._watched:
            self._watched.add(layer)
            if MARKS in layer.metadata:
                guesses_of(layer)  # from now on a stroke over them counts as drawn
            held = weakref.ref(layer)
            seen = _strokes(layer)

            def painted(event: object = None) -> None:
                nonlocal seen
                drawn = held()
                if drawn is not None:
                    seen = _strokes(drawn)
                    self._painted[drawn] = True
                    if not self._timer.isActive():
                        self._timer.start()

            def drawn_anew(event: object = None) -> None:
                # All that napari tells of undo and redo; what moves is a stroke from one list to the other.
                nonlocal seen
                drawn = held()
                now = (0, 0) if drawn is None else _strokes(drawn)
                if now != seen and sum(now) == sum(seen):
                    painted()
                seen = now

            layer.events.paint.connect(painted)
            layer.events.set_data.connect(drawn_anew)

    def _forget(self, layer: object) -> None:
        if isinstance(layer, LabelsLayer):
            self._painted.pop(layer, None)

    def _folder(self) -> Path:
        if self._claimed is None:
            folder = aside_folder() / f"{os.getpid()}-{id(self):x}"
            self._claimed = claim(folder, self, goes_on=True)
        return self._claimed

    def _window_gone(self) -> None:
        self._window = None
        self.discard()
        self.deleteLater()


def _strokes(layer: LabelsLayer) -> tuple[int, int]:
    """Strokes that can be undone, and those that can be made again."""
    return len(layer._undo_history), len(layer._redo_history)


def is_closed_by_script(window: QMainWindow, event: QEvent) -> bool:
    """``Viewer.close`` hides the canvas before it closes the window; a script is not asked."""
    centre = window.centralWidget()
    inside = [] if centre is None else [w for w in centre.children() if isinstance(w, QWidget)]
    return not event.spontaneous() and all(widget.isHidden() for widget in inside)


# ---- after a crash ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Left:
    """What a process that is gone had kept aside: files, in a folder that is ours by now."""

    claimed: Path
    files: tuple[Path, ...]

    def forget(self) -> None:
        """Remove it."""
        release(self.claimed)
        shutil.rmtree(self.claimed, ignore_errors=True)

    def without(self, files: Collection[Path]) -> Left | None:
        """Remove these; what is left then, or nothing."""
        rest = tuple(path for path in self.files if path not in files)
        if not rest:
            self.forget()
            return None
        for path in set(self.files) - set(rest):
            with suppress(OSError):  # it is offered once more
                path.unlink(missing_ok=True)
        return replace(self, files=rest)


def left_by_a_crash() -> list[Left]:
    """What can be brought back."""
    found: list[Left] = []
    for folder in sorted(aside_folder().glob("*/")):
        with suppress(ConfigError, DataError):  # of a napari that runs
            left = Left(claim(folder, found, goes_on=True), tuple(sorted(folder.glob("*.npz"))))
            if left.files:
                found.append(left)
            else:
                left.forget()
    return found


class BringBack(QWidget):
    """Offers what was painted before napari ended without a word."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.left: list[Left] = []
        self._added: dict[Path, LabelsLayer] = {}
        self._damaged = ""
        self.message = Message()
        self.back_button, self.forget_button = QPushButton("Bring back"), QPushButton("Forget")
        self.back_button.setToolTip("Add them as layers; open their image first")
        self.back_button.clicked.connect(self.bring_back)
        self.forget_button.setToolTip("Delete the backup")
        self.forget_button.clicked.connect(self.forget)
        buttons = in_a_row(self.back_button, self.forget_button)
        stack(self, self.message, buttons)
        unsaved_of(viewer).keeping.ended.connect(self._kept)
        self.look()

    def look(self) -> None:
        """Look for what a crash left."""
        self.left += left_by_a_crash()
        names = [path.stem for left in self.left for path in left.files]
        self.setVisible(bool(names))
        if names:
            said = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
            self.message.tell(f"napari closed before painted labels were saved: {said}. There is a backup")

    def bring_back(self) -> None:
        """Add it as layers that are not saved yet; it is removed once they are kept aside anew."""
        damaged = []
        for path in [path for left in self.left for path in left.files]:
            if self._added.get(path) not in self._viewer.layers:
                try:
                    self._added[path] = self._add(path)
                except DataError as error:
                    damaged.append(str(error))
        self._damaged = "; ".join(damaged)
        self._forget_safe()
        unsaved_of(self._viewer).keep()

    def forget(self) -> None:
        """Remove it."""
        left, self.left = self.left, []
        self._added.clear()
        for each in left:
            each.forget()
        self.hide()

    def _kept(self, ending: Ending) -> None:
        if self._added and ending.error is not None:
            told = (
                f"The labels are back, but not backed up: {ending.error}. Save them; the old backup is kept"
            )
            self.message.tell_error(f"{told}. {self._damaged}" if self._damaged else told)
        elif self._added:
            self._forget_safe()
            if self._added:  # painted on meanwhile
                unsaved_of(self._viewer).keep()

    def _forget_safe(self) -> None:
        """Remove what was brought back and would survive another crash."""
        unsaved = unsaved_of(self._viewer)
        safe = [path for path, layer in self._added.items() if unsaved.is_safe(layer)]
        self._added = {path: layer for path, layer in self._added.items() if path not in safe}
        self.left = [rest for left in self.left if (rest := left.without(safe)) is not None]
        self.setVisible(bool(self.left))
        if self._damaged:
            self.message.tell_error(self._damaged)

    def let_go(self) -> None:
        """Leave it for the next time."""
        left, self.left = self.left, []
        self._added.clear()
        for each in left:
            release(each.claimed)

    def _add(self, path: Path) -> LabelsLayer:
        data, said = _read(path)
        name = str(said.get("name", path.stem))
        for image in self._viewer.layers:
            frame = image.metadata.get(GEOMETRY) if isinstance(image, ImageLayer) else None
            if frame is not None and spatial_shape(image) == data.shape and _lies_at(image, said):
                layer = add_layer(self._viewer, labels_layer(data, frame, name, ()))
                break
        else:
            place = {key: said[key] for key in _PLACE if key in said}
            layer = add_layer(self._viewer, (data, {"name": name, **place}, "labels"))
        assert isinstance(layer, LabelsLayer)
        layer.events.paint(value=[])  # as if it had just been painted: no file holds it
        return layer


def _lies_at(image: ImageLayer, place: Mapping[str, Any]) -> bool:
    """Whether an image lies where labels lay, its channels aside."""
    for name in _PLACE:
        if name in place:
            kept, own = np.asarray(place[name], float), np.asarray(getattr(image, name), float)
            own = own[tuple(slice(-n, None) for n in kept.shape)]
            if own.shape != kept.shape or not np.allclose(own, kept):
                return False
    return True


def _keeping(
    folder: Path, work: Sequence[tuple[str, np.ndarray, dict[str, Any]]], over: Sequence[str] = ()
) -> Iterator[Event]:
    for name in over:
        (folder / name).unlink(missing_ok=True)
    for name, data, said in work:
        with written_whole(folder / name) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, data=data, said=np.array(json.dumps(said)))
    yield from ()


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["data"], parse_json(str(kept["said"]), f"'{path}'")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"'{path}' is damaged ({error}) and cannot be brought back") from error
