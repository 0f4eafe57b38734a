"""Forms made from settings: a magicgui widget for each, from what its field says of itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox, LineEdit
from magicgui.widgets.bases import ValueWidget
from qtpy.QtWidgets import QFormLayout

from napari_prosma.errors import ConfigError
from napari_prosma.plugin.shared.fields import show_meanings
from napari_prosma.settings import Entry

MOST = 1_000_000
"""What a number without a limit goes to."""


class Field:
    """One setting in a form, with its magicgui widget."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.widget = _widget(entry)

    @property
    def native(self) -> Any:
        """The widget of Qt."""
        return self.widget.native

    @property
    def value(self) -> Any:
        """What the form says, as the setting takes it.

        Raises ``ConfigError``: a list that is not understood.
        """
        held = self.widget.value
        if isinstance(self.widget, LineEdit):
            return self._listed(held.strip()) if tuple in self.entry.types else self._text(held.strip())
        if isinstance(self.widget, FloatSpinBox):
            if self.entry.is_optional and held == self.widget.min:
                return None
            if self._is_share:
                return held / 100
            return int(held) if self.entry.kind is int else held
        return held

    @value.setter
    def value(self, value: Any) -> None:
        if isinstance(self.widget, LineEdit):
            value = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value or "")
        elif isinstance(self.widget, FloatSpinBox):
            value = self.widget.min if value is None else 100 * value if self._is_share else value
        self.widget.value = value

    def offer(self, value: Any, words: str) -> None:
        """Make it one of the choices."""
        if self.native.findData(value) < 0:
            self.native.addItem(words, value)

    @property
    def _is_share(self) -> bool:
        return self.entry.setting.unit == "%"

    def _text(self, text: str) -> str | None:
        """What was typed; nothing is None, or the default where an empty text cannot be a value."""
        if text or (str in self.entry.types and not self.entry.is_optional):
            return text
        return None if self.entry.is_optional else self.entry.default

    def _listed(self, text: str) -> tuple[Any, ...] | None:
        """The parts of a list."""
        if not text:
            return self.entry.default
        if str in self.entry.item_types:
            return tuple(part.strip() for part in text.split(","))
        kind: type[float] = int if float not in self.entry.item_types else float
        positive = self.entry.items_are_positive
        try:
            numbers = tuple(kind(part) for part in re.split(r"[\s,;x]+", text) if part)
        except ValueError:
            numbers = ()
        if not numbers or not all(math.isfinite(n) and (n > 0 or not positive) for n in numbers):
            example = "3, 1, 1" if kind is float else "32, 128, 128"
            number = "number" if kind is float else "whole number"
            wanted = f"one positive {number} per axis" if positive else f"{number}s separated by commas"
            raise ConfigError(
                f"the {self.entry.setting.label.lower()} '{text}' is not understood; give {wanted}, such as "
                f"{example}, or leave it empty"
            )
        return numbers


class Form(dict[str, Field]):
    """Fields by the names of their settings, of all settings that have a label."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        super().__init__({entry.name: Field(entry) for entry in entries if entry.setting.label})
        for name, field in self.items():
            setting = field.entry.setting
            if setting.applies is not None and setting.applies[0] in self:
                self._follow(setting.applies[0], self._enable, name, setting.applies[1])
            if setting.usual is not None and setting.usual[0] in self:
                self._follow(setting.usual[0], self._take_usual, name, setting.usual[1])

    def settings(self) -> dict[str, Any]:
        """What it says, by the names of the settings.

        Raises ``ConfigError``: a list that is not understood.
        """
        return {name: field.value for name, field in self.items()}

    def add_to(self, layout: QFormLayout, names: Iterable[str] | None = None) -> None:
        """A row for each of these, or of all."""
        for name in self if names is None else names:
            field = self[name]
            if isinstance(field.widget, CheckBox):
                layout.addRow(field.native)
            else:
                layout.addRow(field.entry.setting.label, field.native)

    def on_change(self, tell: Callable[..., object]) -> None:
        """Call ``tell`` when any is set; a method does not keep its object alive."""
        for field in self.values():
            field.widget.changed.connect(tell)

    def _follow(self, leader: str, follow: Callable[..., None], name: str, by: Any) -> None:
        self[leader].widget.changed.connect(lambda value: follow(name, by, value))
        follow(name, by, self[leader].value)

    def _enable(self, name: str, where: tuple[Any, ...], value: Any) -> None:
        self[name].native.setEnabled(value in where)

    def _take_usual(self, name: str, usual: dict[Any, Any], value: Any) -> None:
        """What is usual with ``value``, unless something else was chosen."""
        if value in usual and self[name].value in usual.values():
            self[name].value = usual[value]


def _widget(entry: Entry) -> ValueWidget[Any]:
    setting = entry.setting
    about: dict[str, Any] = {"name": entry.name, "tooltip": setting.tip or entry.help.rstrip(".")}
    if entry.choices:
        words = [
            (f"{value}: {choice.words}" if setting.by_name else choice.words, value)
            for value, choice in entry.choices.items()
        ]
        box = ComboBox(choices=words, value=entry.default, **about)
        show_meanings(box.native, entry.choices)
        return box
    if entry.kind is bool:
        return CheckBox(text=setting.label, value=entry.default, **about)
    if tuple in entry.types:
        usual = ", ".join(map(str, entry.default or ()))
        line = LineEdit(value=usual, **about)
        line.native.setPlaceholderText(usual or setting.unset)
        return line
    if entry.kind in (int, float):
        return _number(entry, about)
    if entry.types <= {str, Path}:
        line = LineEdit(value=str(entry.default or ""), **about)
        line.native.setPlaceholderText(setting.unset)
        return line
    raise TypeError(
        f"no widget for the setting {entry.name} of {set(entry.types)}; give it choices, or no label"
    )


def _number(entry: Entry, about: dict[str, Any]) -> FloatSpinBox:
    """A spin box; whole numbers are those without decimals, so that all know a word for the lowest."""
    setting, is_whole = entry.setting, entry.kind is int or entry.setting.unit == "%"
    decimals = setting.decimals
    if decimals is None:
        decimals = 0 if is_whole else 1 - math.floor(math.log10(setting.step))
    least = 10.0**-decimals
    factor = 100 if setting.unit == "%" else 1
    low = factor * (entry.low or 0)
    if entry.is_optional:
        low = low - 1 if is_whole else low  # the word for None stands below what can be chosen
    elif entry.is_above:
        low += least
    high = (
        setting.high or MOST if entry.high is None else factor * entry.high - (least if entry.is_below else 0)
    )
    box = FloatSpinBox(min=low, max=high, step=setting.step, value=low, **about)
    box.native.setDecimals(decimals)
    box.native.setSuffix(f" {setting.unit}" if setting.unit else "")
    if entry.is_optional or setting.least:
        box.native.setSpecialValueText(setting.least or setting.unset)
    if entry.default is not None:
        box.value = factor * entry.default
    return box
