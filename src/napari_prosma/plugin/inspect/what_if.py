"""``WhatIfPart``: sliders and settings of the gates; segmentation and maps follow while they are moved.

A window follows at once. Where the image is larger, the whole of it follows when the hand rests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)
from superqt import QLabeledDoubleSlider
from superqt.utils import signals_blocked

from napari_prosma.data.metrics import in_percent
from napari_prosma.events import Event, Finished, Progress, result_of
from napari_prosma.plugin.inspect.looking import InspectionResult, Region, opened
from napari_prosma.plugin.inspect.view import is_in_slice, region_on_screen
from napari_prosma.plugin.inspect.words import effect_in_words
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.job import Ending, leaving_a_core
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.strokes import single_shot

if TYPE_CHECKING:
    from napari_prosma.inspection.record import ChannelMaps, GateRecord, Means
    from napari_prosma.inspection.what_if import Effect, WhatIf
    from napari_prosma.nn.gates import Change

MOST = 4.0
"""Largest factor on lambda (method, section 5: the threshold sweep goes from 0 to 4)."""
SHORTEST = 8  # letters of a setting that are seen however narrow the panel is
REST_MS = 1000
"""So long nothing may have changed before the whole image is worked on."""
AS_TRAINED = "as trained"
SETTINGS = {
    AS_TRAINED: "The gate as it is",
    "psi at mean": "psi selects no positions: it is the same everywhere, its mean weighted by the energy of "
    "the skip",
    "c at mean": "c prefers no channel: each has the mean weight",
    "both at mean": "psi and c at their means",
    "skip at mean": "The decoder gets the mean of each channel, everywhere",
    "skip at zero": "The decoder gets nothing from this skip, unlike in training",
    "psi = 1": "The skip at a scale never seen in training: shows the effect of scale, not of selection",
    "c = 1": "The same for the channel weights",
}
"""What a gate can be set to, and what that means."""


@dataclass(frozen=True, eq=False)
class Followed:
    """What came of a setting, in the window or in the whole image."""

    effect: Effect
    dice_before: float | None  # there, against the label, as it was trained
    channels: tuple[ChannelMaps, ...]  # those that are looked at
    changed: str = ""  # what is changed, in words

    def in_words(self) -> str:
        """Dice, or overlap with the model's own prediction."""
        return effect_in_words(self.effect, self.dice_before)


class WhatIfPart(QWidget):
    """A slider and a setting per skip; the newest wins.

    Signals
    -------
    followed(Followed)
        What comes of the setting, or of the newest one while it was still worked on.
    back()
        The model is as it was trained.
    """

    followed = Signal(object)
    back = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._source: ImageLayer | None = None
        self._inspected: InspectionResult | None = None
        self._what_if: WhatIf | None = None
        self._region: Region | None = None
        self._channels: tuple[tuple[int, int], ...] = ()
        self.job = NewestJob(self)
        self.whole_job = NewestJob(self)
        self.message, self.whole_message = Message(), Message()
        self.job.finished.connect(self._tell)
        self.job.failed.connect(self.message.tell_error)
        self.job.ended.connect(self._ended)
        self.whole_job.happened.connect(self._whole_happened)
        self.whole_job.failed.connect(self.whole_message.tell_error)
        self.rest = single_shot(self, REST_MS, self._pass_whole)
        self.sliders: dict[int, QLabeledDoubleSlider] = {}
        self.settings: dict[int, QComboBox] = {}
        self.zeros: dict[int, QLabel] = {}
        self._grid = QGridLayout()
        self._grid.setColumnStretch(1, 1)
        self.back_button = QPushButton("Reset")
        self.back_button.setToolTip("Reset all thresholds and gates to the trained model")
        self.back_button.clicked.connect(self.reset)
        self.here_button = QPushButton("Try it here")
        self.here_button.setToolTip(
            "Try changes in a window around the middle of the screen; by default around the structure, or "
            "where the slice is. The window is as large as the patches that the model was trained on"
        )
        self.here_button.clicked.connect(self._try_here)
        self.whole_box = QCheckBox("then the whole image")
        self.whole_box.setChecked(True)
        self.whole_box.setToolTip(
            "The window is updated at once; when the sliders rest, the whole image follows in the "
            "background. Untick to update the window alone"
        )
        self.whole_box.toggled.connect(self._whole_toggled)
        buttons = in_a_row(self.back_button, self.here_button)
        stack(
            self, self._grid, buttons, self.message, self.whole_box, self.whole_message, margins=(6, 0, 0, 0)
        )

    def show_inspected(self, inspected: InspectionResult) -> None:
        """Offer the skips of a model, all as trained."""
        self.close_down()
        self._inspected, self._source = inspected, inspected.source
        self._what_if = inspected.what_if
        self._channels = ()
        self.here_button.setHidden(inspected.what_if.window.covers_image)
        self.whole_box.setHidden(inspected.what_if.window.covers_image)
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = None if item is None else item.widget()
            if widget is not None:
                widget.deleteLater()
        self.sliders, self.settings, self.zeros = {}, {}, {}
        for column, title in enumerate(("skip", "threshold x", "zeros", "set to")):
            self._grid.addWidget(QLabel(title), 0, column)
        for row, (level, skip) in enumerate(sorted(inspected.record.skips.items()), start=1):
            self._grid.addWidget(QLabel(str(level)), row, 0)
            self._add_skip(row, level, skip.threshold is not None, skip.means)
        self._show_zeros(inspected.record)
        self.whole_message.tell("")
        self.message.tell(
            "Move a slider: as the threshold of a skip rises, entries of its z can only become zero, never "
            "nonzero (theorem 1). Finer skips then get another input, so some of their z may become nonzero."
        )

    def changes(self) -> dict[int, Change]:
        """What the sliders and settings say."""
        assert self._inspected is not None
        skips = self._inspected.record.skips
        return {
            level: change_of(self._setting(level), slider.value(), skips[level].means)
            for level, slider in self.sliders.items()
        }

    def _setting(self, level: int) -> str:
        return str(self.settings[level].currentData())

    def in_words(self) -> str:
        """What is changed, such as ``skip 1: psi at mean; skip 2: threshold x 2``; empty where nothing is."""
        said = []
        for level, slider in self.sliders.items():
            parts = [] if slider.value() == 1 else [f"threshold x {slider.value():g}"]
            if self._setting(level) != AS_TRAINED:
                parts.append(self.settings[level].currentText())
            said += [f"skip {level}: {', '.join(parts)}"] if parts else []
        return "; ".join(said)

    @property
    def is_unchanged(self) -> bool:
        """Everything is as it was trained."""
        return not self.in_words()

    def reset(self) -> None:
        """As it was trained."""
        for level, slider in self.sliders.items():
            box = self.settings[level]
            with signals_blocked(slider), signals_blocked(box):
                slider.setValue(1.0)
                box.setCurrentIndex(0)
        self._apply()

    def follow_channels(self, channels: Sequence[tuple[int, int]]) -> None:
        """Feature channels (skip, channel) that are to follow from now on."""
        self._channels = tuple(channels)
        if not self.is_unchanged:
            self._apply()

    def close_down(self) -> None:
        """Follow no longer."""
        self.rest.stop()
        self.job.close()
        self.whole_job.close()

    def _add_skip(self, row: int, level: int, has_threshold: bool, means: Means) -> None:
        slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        slider.setRange(0.0, MOST)
        slider.setDecimals(2)
        slider.setSingleStep(0.1)  # type: ignore[arg-type]
        slider.setValue(1.0)
        slider.setEnabled(has_threshold)
        slider.setToolTip(
            f"Multiplies the thresholds lambda of skip {level}: 0 = no threshold, 1 = as trained"
            if has_threshold
            else "This gate has no threshold"
        )
        for number in slider.findChildren(QLineEdit):
            number.setToolTip(slider.toolTip())
        slider.valueChanged.connect(self._apply)
        self.sliders[level] = slider
        self._grid.addWidget(slider, row, 1)
        self.zeros[level] = QLabel()
        self.zeros[level].setToolTip("Share of exact zeros in z, in what the maps show")
        self._grid.addWidget(self.zeros[level], row, 2)
        box = QComboBox()
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        box.setMinimumContentsLength(SHORTEST)
        for setting, meaning in settings_of(means).items():
            box.addItem(shown_setting(setting, means), setting)
            box.setItemData(box.count() - 1, meaning, Qt.ItemDataRole.ToolTipRole)
        box.setToolTip("What the gate is set to")
        box.currentIndexChanged.connect(self._apply)
        self.settings[level] = box
        self._grid.addWidget(box, row, 3)

    def _try_here(self) -> None:
        self._move_window()
        self._apply()

    def _move_window(self) -> None:
        """Put the window around the middle of the screen."""
        if self._inspected is not None and self._source in self._viewer.layers:
            axes = self._inspected.image.geometry.ndim
            self._region = region_on_screen(self._viewer, self._source)[-axes:]
            self._what_if = None

    @property
    def _is_in_slice(self) -> bool:
        """The slices that are shown cut the window, so that there is something to see of it."""
        if self._what_if is None or self._inspected is None or self._source not in self._viewer.layers:
            return True
        part = self._what_if.window.image
        whole = self._inspected.image.geometry
        return is_in_slice(self._viewer, self._source, whole, part.geometry, part.array.shape[1:])

    def _apply(self) -> None:
        if self._inspected is None:
            return
        if not self._is_in_slice:
            self._move_window()
        # What is not of the newest setting is not worth waiting for.
        self._stop_whole()
        self.job.ask(self._follow, interrupt=False)

    def _follow(self) -> None:
        assert self._inspected is not None
        follow = partial(
            _following,
            self._inspected,
            self._what_if,
            self._region,
            self.changes(),
            self._channels,
            self.in_words(),
        )
        self.job.start("ProSMA: what if", follow)

    def _tell(self, made: tuple[WhatIf, Followed]) -> None:
        assert self._inspected is not None
        self._what_if, followed = made
        if self.is_unchanged:
            self.message.tell("As it was trained")
            self._show_zeros(self._inspected.record)
            self.back.emit()
            return
        said = followed.in_words()
        place = self._what_if.window.in_words()
        self.message.tell(
            said[0].upper() + said[1:] if self._is_whole else f"In the window ({place}): {said}"
        )
        self._show_zeros(followed.effect.record)
        self.followed.emit(followed)

    def _ended(self, ending: Ending) -> None:
        if ending.error is None and self.whole_box.isChecked() and self._has_rest:
            self.rest.start()

    @property
    def _is_whole(self) -> bool:
        """What follows at once is the whole image."""
        return self._what_if is not None and self._what_if.window.covers_image

    @property
    def _has_rest(self) -> bool:
        """The setting changes more than the window shows."""
        return self._what_if is not None and not self._is_whole and not self.is_unchanged

    def _whole_toggled(self, wanted: bool) -> None:
        if not wanted:
            self._stop_whole()
        elif self._has_rest and not self.job.is_running:
            self._pass_whole()

    def _stop_whole(self) -> None:
        self.rest.stop()
        self.whole_job.stop()
        self.whole_message.tell("")

    def _pass_whole(self) -> None:
        """The whole image with the setting as it is."""
        self.whole_job.ask(self._begin_whole)

    def _begin_whole(self) -> None:
        assert self._inspected is not None
        self.whole_message.tell("The whole image follows")
        passing = partial(_passing_whole, self._inspected, self.changes(), self._channels, self.in_words())
        self.whole_job.start("ProSMA: what if, whole image", passing)

    def _whole_happened(self, event: Event) -> None:
        # A setting that came after it stopped it: what it still says is of the old one.
        if self.whole_job.is_stopping:
            return
        if isinstance(event, Progress):
            left = self.whole_job.time_left()
            self.whole_message.tell(
                f"The whole image follows: window {event.done} of {event.total}"
                + (f", {left} left" if left else "")
            )
        elif isinstance(event, Finished):
            self.whole_message.tell(f"In the whole image: {event.result.in_words()}")
            self._show_zeros(event.result.effect.record)
            self.followed.emit(event.result)

    def _show_zeros(self, record: GateRecord) -> None:
        for level, label in self.zeros.items():
            share = record.skips[level].measures.get("z_zero_fraction")
            label.setText("" if share is None else in_percent(share))


def settings_of(means: Means) -> dict[str, str]:
    """What a gate with these parts can be set to, and what that means."""
    lacking = {"psi at mean", "psi = 1", "both at mean"} if means.psi is None else set()
    lacking |= {"c at mean", "c = 1", "both at mean"} if means.c is None else set()
    return {setting: meaning for setting, meaning in SETTINGS.items() if setting not in lacking}


def shown_setting(setting: str, means: Means) -> str:
    """The setting, with how many times louder it makes the skip."""
    mean = {"psi = 1": means.psi, "c = 1": means.c}.get(setting)
    return f"{setting} ({1 / mean:.1f} x larger)" if mean else setting


def change_of(setting: str, threshold: float, means: Means) -> Change:
    """A key of ``SETTINGS`` and a factor on lambda, as a change of the gate."""
    from napari_prosma.nn.gates import Change

    parts: dict[str, dict[str, Any]] = {
        AS_TRAINED: {},
        "psi at mean": {"psi": means.psi},
        "c at mean": {"c": means.c},
        "both at mean": {"psi": means.psi, "c": means.c},
        "skip at mean": {"skip": means.skip},
        "skip at zero": {"skip": (0.0,)},
        "psi = 1": {"psi": 1.0},
        "c = 1": {"c": 1.0},
    }
    return Change(threshold, **parts[setting])


def _following(
    inspected: InspectionResult,
    what_if: WhatIf | None,
    region: Region | None,
    changes: dict[int, Change],
    channels: tuple[tuple[int, int], ...],
    changed: str,
) -> Iterator[Event]:

    with leaving_a_core():
        if what_if is None:
            record = inspected.record
            what_if = opened(inspected.checkpoint, inspected.image, record.name, inspected.label, region)
        effect = what_if.apply(changes)
        maps = tuple(what_if.skip_channel(level, channel) for level, channel in channels)
        before = (what_if.unchanged.dice or {}).get("dice")
        yield Finished((what_if, Followed(effect, before, maps, changed)))


def _passing_whole(
    inspected: InspectionResult,
    changes: dict[int, Change],
    channels: tuple[tuple[int, int], ...],
    changed: str,
) -> Iterator[Event]:
    """Events of the whole image under changes; the last one is ``Finished`` with a ``Followed``."""
    from napari_prosma.inspection.trace import skip_channel
    from napari_prosma.inspection.what_if import dice_against, over_whole_image

    own = inspected.record.segmentation
    before = (dice_against(inspected.label, own.labels, own.class_names) or {}).get("dice")
    with leaving_a_core():
        maps = []
        for level, channel in channels:
            events = skip_channel(
                inspected.checkpoint,
                inspected.image,
                level,
                channel,
                name=inspected.record.name,
                changes=changes,
            )
            maps.append((yield from result_of(events)))
        effect = yield from result_of(over_whole_image(inspected.checkpoint, inspected.record, changes))
        yield Finished(Followed(effect, before, tuple(maps), changed))
