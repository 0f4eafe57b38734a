"""Small fields that several parts of a form share: choices with tips, numbers, titles that unfold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QGroupBox, QSpinBox, QWidget
from superqt import QCollapsible

from napari_prosma.settings import Choice

Value = TypeVar("Value")

BY_THE_DATA = "by the data"
UNLIMITED = 16777215
"""Qt's own height without limit."""


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


def whole(low: int, high: int, value: int, tip: str, least: str = "", suffix: str = "") -> QSpinBox:
    """A whole number; ``least`` is what the lowest one is called."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSpecialValueText(least)
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
