"""What a form held and where its panel stood, from one session of napari to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qtpy.QtCore import QMetaProperty, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDockWidget,
    QDoubleSpinBox,
    QMainWindow,
    QRadioButton,
    QSpinBox,
    QWidget,
)

from napari_prosma.app.remembered import remember, remembered

KEPT = "prosma_place_is_kept"
_FIELDS = (QComboBox, QSpinBox, QDoubleSpinBox)


def remember_form(name: str, form: QWidget) -> None:
    """Keep what the fields of a form hold."""
    remember(f"form {name}", {place: _own(field).read(field) for place, field in _fields(form)})


def recall_form(name: str, form: QWidget) -> None:
    """Give the fields of a form what they held; what no longer fits stays as it is."""
    held = remembered(f"form {name}")
    for _ in range(2 if isinstance(held, dict) else 0):  # one may set another to what is usual with it
        for place, field in _fields(form):
            if place in held:
                _give(field, held[place])


def keep_place(name: str, panel: QWidget) -> None:
    """Put the dock of a panel where it stood last, and follow it from now on."""
    dock = panel.parentWidget()
    window = dock.parentWidget() if dock is not None else None
    if not isinstance(dock, QDockWidget) or not isinstance(window, QMainWindow) or dock.property(KEPT):
        return
    dock.setProperty(KEPT, True)
    areas = {area.name: area for area in Qt.DockWidgetArea}
    area = areas.get(str(remembered(f"place {name}")))
    if area is not None and dock.isAreaAllowed(area) and area != window.dockWidgetArea(dock):
        window.addDockWidget(area, dock)
    dock.dockLocationChanged.connect(lambda moved: remember(f"place {name}", moved.name))


def _fields(form: QWidget) -> Iterator[tuple[str, QWidget]]:
    """Choices, numbers and boxes that are attributes of the form, by their names."""
    for name, held in vars(form).items():
        for key, each in held.items() if isinstance(held, dict) else [("", held)]:
            field = getattr(each, "native", each)  # of magicgui
            path = f"{name}.{key}" if key else name
            is_box = isinstance(field, QAbstractButton) and field.isCheckable()
            if isinstance(field, QWidget) and (is_box or type(field) in _FIELDS):
                yield path, field


def _own(field: QWidget) -> QMetaProperty:
    """What a user sets in a field: its text, its number, or whether it is checked."""
    about = field.metaObject()
    assert about is not None
    return about.userProperty()


def _give(field: QWidget, value: Any) -> None:
    own = _own(field)
    held = own.read(field)
    kind = int | float if isinstance(held, float) else type(held)
    if isinstance(value, kind) and (value or not isinstance(field, QRadioButton)):
        own.write(field, value)
