"""Names for those who do not see a control, and the page of the docs that a panel opens."""

from __future__ import annotations

import re
from pathlib import Path

from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QScrollBar,
    QTableWidget,
    QTextBrowser,
    QWidget,
)

import napari_prosma
from napari_prosma.plugin.shared.fields import stack

_CONTROLS = (
    *(QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit, QPlainTextEdit),
    *(QProgressBar, QTableWidget),
)
_OF_KIND = ((QProgressBar, "progress"), (QTableWidget, "table"))
"""What is called by its kind where nothing else names it."""
_PAGE = "panels.md"
_SIZE = (560, 640)


def controls(root: QWidget) -> list[QWidget]:
    """What can be worked with inside a widget, without the parts of Qt's own controls."""
    found = [child for kind in _CONTROLS for child in root.findChildren(kind)]
    inner = (QAbstractSpinBox, QComboBox, QTableWidget, QAbstractSlider)
    return [child for child in found if not isinstance(child.parent(), inner) and _is_ours(child)]


def name_controls(root: QWidget) -> None:
    """Give every control a name for screen readers: its label in a form, its text, or what its tip says."""
    for form in root.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            label, field = (
                item.widget() if (item := form.itemAt(row, role)) is not None else None
                for role in (QFormLayout.ItemRole.LabelRole, QFormLayout.ItemRole.FieldRole)
            )
            if isinstance(label, QLabel) and field is not None:
                for control in [field, *controls(field)]:
                    if not control.accessibleName() and not isinstance(control, QAbstractButton):
                        control.setAccessibleName(label.text())
    for control in controls(root):
        has_text = isinstance(control, QAbstractButton) and re.search(r"\w", control.text())
        if not control.accessibleName() and not has_text:
            said = re.split(r"[.;:,(\n]", control.toolTip())[0].strip()
            control.setAccessibleName(
                said or next((x for kind, x in _OF_KIND if isinstance(control, kind)), "")
            )


def _is_ours(control: QWidget) -> bool:
    """Not a button in the corner of a table, one that Qt puts into a field, nor a scroll bar."""
    return (
        not isinstance(control, QScrollBar)
        and not control.objectName().startswith("qt_")
        and control.parent() is not None
    )


class Page(QDialog):
    """The section of the docs about one panel, which lies in the package and needs no network."""

    def __init__(self, section: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(section)
        self.text = QTextBrowser()
        self.text.setOpenExternalLinks(True)
        self.text.setAccessibleName(f"help on {section}")
        self.text.setMarkdown(section_of_docs(section))
        stack(self, self.text)
        self.resize(*_SIZE)


def section_of_docs(section: str) -> str:
    """The text below a heading of the page on the panels, with the heading."""
    package = Path(napari_prosma.__file__).parent
    installed = package / "docs" / _PAGE
    path = installed if installed.is_file() else package.parents[1] / "docs" / _PAGE
    _, heading, rest = path.read_text(encoding="utf-8").partition(f"\n## {section}\n")
    return f"{heading}{rest.partition(chr(10) + '## ')[0]}"
