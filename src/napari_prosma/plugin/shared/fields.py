"""Small fields that several parts of a form share: choices with tips, sizes per axis, titles that unfold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QGroupBox, QLineEdit, QSpinBox, QWidget
from superqt import QCollapsible

from napari_prosma.errors import ConfigError
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
    return fold(title, content), layout


def combo(choices: Mapping[Value, Choice], default: Value, tip: str, named: bool = False) -> QComboBox:
    """Choices with a tip each; ``named`` puts the value, as a shell knows it, before the words."""
    box = QComboBox()
    for index, (value, choice) in enumerate(choices.items()):
        box.addItem(f"{value}: {choice.words}" if named else choice.words, value)
        box.setItemData(index, choice.meaning, Qt.ItemDataRole.ToolTipRole)
    box.setCurrentIndex(list(choices).index(default))
    box.setMinimumContentsLength(10)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setToolTip(tip)
    return box


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


class SizesField(QLineEdit):
    """Positive numbers, one per axis, parted by commas, blanks or x; empty = by the data.

    Parameters
    ----------
    what : str
        What they are, in a message.
    kind : int or float
    tip : str
    """

    def __init__(self, what: str, kind: type[float], tip: str) -> None:
        super().__init__()
        self._what, self._kind = what, kind
        self.setPlaceholderText(BY_THE_DATA)
        self.setToolTip(tip)

    def sizes(self) -> tuple[float, ...] | None:
        """The numbers; None where it is empty.

        Raises
        ------
        ConfigError
            Something else was typed.
        """
        text = self.text().strip()
        if not text:
            return None
        try:
            sizes = tuple(self._kind(part) for part in re.split(r"[\s,;x]+", text) if part)
        except ValueError:
            sizes = ()
        if not sizes or not all(0 < size < math.inf for size in sizes):
            example = "3, 1, 1" if self._kind is float else "32, 128, 128"
            of_kind = "" if self._kind is float else "whole "
            raise ConfigError(
                f"the {self._what} '{text}' is not understood; give one positive {of_kind}number per axis, "
                f"such as {example}, or leave it empty"
            )
        return sizes
