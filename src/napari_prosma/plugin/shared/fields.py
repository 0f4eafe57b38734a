"""Small fields that several parts of a form share: choices with tips, numbers, titles that unfold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QBoxLayout,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLayout,
    QProgressBar,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_prosma.settings import Choice

Value = TypeVar("Value")

BY_THE_DATA = "by the data"
UNLIMITED = 16777215
"""Qt's own height without limit."""


def stack(
    owner: QWidget,
    *parts: QWidget | QLayout | None,
    wide: QWidget | QLayout | None = None,
    margins: tuple[int, int, int, int] | None = (0, 0, 0, 0),
) -> QVBoxLayout:
    """Lay out parts one below the other, None as free room; ``wide`` takes what is left.

    Without ``margins`` they are those of a window.
    """
    layout = QVBoxLayout(owner)
    if margins is not None:
        layout.setContentsMargins(*margins)
    _fill(layout, parts, wide)
    return layout


def in_a_row(
    *parts: QWidget | QLayout | None, owner: QWidget | None = None, wide: QWidget | QLayout | None = None
) -> QHBoxLayout:
    """The same side by side, to be put into another layout or filling ``owner``."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    _fill(layout, parts, wide)
    if owner is not None:
        owner.setLayout(layout)
    return layout


def _fill(
    layout: QBoxLayout, parts: Iterable[QWidget | QLayout | None], wide: QWidget | QLayout | None
) -> None:
    for part in parts:
        share = 1 if part is wide else 0
        if part is None:
            layout.addStretch(1)
        elif isinstance(part, QWidget):
            layout.addWidget(part, share)
        else:
            layout.addLayout(part, share)


def group(title: str) -> tuple[QGroupBox, QFormLayout]:
    """A titled box with a form in it."""
    box = QGroupBox(title)
    layout = QFormLayout(box)
    layout.setContentsMargins(6, 4, 6, 6)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
    return box, layout


def fold(title: str, content: QWidget) -> QCollapsible:
    """A title that hides what few need."""
    folded = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    folded.setDuration(0)
    folded.setContent(content)
    layout = folded.layout()
    assert layout is not None
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(0)
    folded.collapse(animate=False)
    # superqt holds the content to the height that it had when it was unfolded; it may grow later.
    folded.toggled.connect(lambda is_open: content.setMaximumHeight(UNLIMITED if is_open else 0))
    return folded


def folded_form(title: str) -> tuple[QCollapsible, QFormLayout]:
    """A form below a title that hides it."""
    content = QWidget()
    layout = QFormLayout(content)
    layout.setContentsMargins(6, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    return fold(title, content), layout


def combo(choices: Mapping[Value, Choice], default: Value, tip: str) -> QComboBox:
    """Choices with a tip each."""
    box = QComboBox()
    for value, choice in choices.items():
        box.addItem(choice.words, value)
    show_meanings(box, choices)
    box.setCurrentIndex(list(choices).index(default))
    box.setToolTip(tip)
    return box


def show_meanings(box: QComboBox, choices: Mapping[Value, Choice]) -> None:
    """The sentence of each choice, where the mouse rests on it."""
    for index, choice in enumerate(choices.values()):
        box.setItemData(index, choice.meaning, Qt.ItemDataRole.ToolTipRole)
    box.setMinimumContentsLength(10)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)


def thin_bar() -> QProgressBar:
    """Progress without words."""
    bar = QProgressBar()
    bar.setTextVisible(False)
    bar.setMaximumHeight(8)
    return bar


def whole(high: int, value: int, tip: str, suffix: str = "") -> QSpinBox:
    """A whole number from 1 on."""
    box = QSpinBox()
    box.setRange(1, high)
    box.setValue(value)
    box.setSuffix(suffix)
    box.setToolTip(tip)
    return box


def number(
    low: float, high: float, value: float, decimals: int, step: float, tip: str, least: str = ""
) -> QDoubleSpinBox:
    """A number with decimals; ``least`` is what the lowest one is called."""
    box = QDoubleSpinBox()
    box.setDecimals(decimals)
    box.setRange(low, high)
    box.setSingleStep(step)
    box.setValue(value)
    box.setSpecialValueText(least)
    box.setToolTip(tip)
    return box
