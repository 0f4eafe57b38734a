"""Which stored value of the masks is which class: a table to read and to change."""

from __future__ import annotations

from dataclasses import replace

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLineEdit,
    QPushButton,
    QTableWidgetItem,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_prosma.data.labels import LabelRule
from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.message import Message

VALUE, NAME = 0, 1
UNLABELLED, BACKGROUND = "not labelled", "background"
_ROWS_SHOWN = 5
_IN_WORDS = {"on": ("0", "1 or 255"), "above": ("up to 127", "128 and above"), "any": ("0", "all others")}


class ClassTable(QWidget):
    """Stored values and class names; every change that makes sense is told at once.

    Signals
    -------
    changed(LabelRule or None)
        The classes as the user wants them if the labels were complete; None = as found.
    """

    changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.table = FigureTable(_ROWS_SHOWN)
        self.table.setEditTriggers(
            FigureTable.EditTrigger.DoubleClicked
            | FigureTable.EditTrigger.EditKeyPressed
            | FigureTable.EditTrigger.AnyKeyPressed
        )
        self.table.head(("Value in the mask", "Class"))
        self.table.setToolTip(
            "Which value in the mask files is which class. Double-click to rename a class or change its "
            "value. Values with the same name are one class. Clear a value to remove its class."
        )
        self.table.itemChanged.connect(self._edited)
        self.add_button = QPushButton("Add a value")
        self.add_button.setToolTip("Name another value in the mask files")
        self.add_button.clicked.connect(self._add)
        self.reset_button = QPushButton("As found")
        self.reset_button.setToolTip("Reset the classes to those found in the masks")
        self.reset_button.clicked.connect(self._reset)
        self.one_button = QPushButton("One structure")
        self.one_button.setToolTip(
            "Treat every value except 0 as the same structure, for example if objects are numbered"
        )
        self.one_button.clicked.connect(self._make_one)
        self.apart_button = QPushButton("Each value a class")
        self.apart_button.setToolTip("Treat every value as a class of its own, not as an object of one class")
        self.apart_button.clicked.connect(self._take_apart)
        self.filled = QCheckBox("fill outlines")
        self.filled.setToolTip("The masks are outlines: what they enclose belongs to the structure")
        self.filled.clicked.connect(self._fill)
        self.overlap = QComboBox()
        for text, overlap in (
            ("refuse overlaps", ""),
            ("later class on top", "last"),
            ("earlier on top", "first"),
        ):
            self.overlap.addItem(text, overlap)
        self.overlap.setToolTip("Which class counts where structures of DICOM SEG or RTSTRUCT overlap")
        self.overlap.activated.connect(self._order)
        self.message = Message()
        buttons = in_a_row(self.add_button, self.one_button, self.reset_button)
        stack(
            self,
            self.table,
            buttons,
            self.apart_button,
            self.filled,
            self.overlap,
            self.message,
            margins=(6, 0, 0, 0),
        )
        self._rule: LabelRule | None = None
        self._shown: list[tuple[str, str]] = []
        self._held_back: tuple[LabelRule, bool] | None = None
        delegate = self.table.itemDelegate()
        assert delegate is not None
        delegate.closeEditor.connect(self._show_held_back)

    def show_rule(self, rule: LabelRule, has_objects: bool = False) -> None:
        """Show the classes of a data set; ``has_objects`` where these may overlap.

        Where somebody types, after that, and not at all where they changed something: it is looked at anew.
        """
        if self.table.findChild(QLineEdit) is not None:
            self._held_back = rule, has_objects
        else:
            self._show(rule, has_objects)

    def _show_held_back(self) -> None:
        if self._held_back is not None:
            self._show(*self._held_back)

    def _show(self, rule: LabelRule, has_objects: bool) -> None:
        self._held_back = None
        self._rule, self._shown = rule, rows_of(rule)
        self.message.tell("")
        self.filled.setChecked(rule.filled)
        self.overlap.setVisible(has_objects)
        self.apart_button.setVisible(any(number for _, number in rule.merged))
        self.overlap.setCurrentIndex(self.overlap.findData(rule.overlap))
        with signals_blocked(self.table):
            self.table.show_rows(self._shown)
            names = [name for _, name in self._shown]
            # Once each: a further value of the background may be called otherwise.
            for name in {UNLABELLED, BACKGROUND} & {*names}:
                self._lock(names.index(name), NAME)

    def _reset(self) -> None:
        self.changed.emit(None)

    def _make_one(self) -> None:
        assert self._rule is not None
        names = self._rule.class_names
        name = names[1] if len(names) == 2 else "foreground"
        self.changed.emit(replace(LabelRule.instances(name), filled=self.filled.isChecked()))

    def _take_apart(self) -> None:
        assert self._rule is not None
        several = {self._rule.class_names[number] for _, number in self._rule.merged if number}
        names = self._rule.stored.items()
        background, *others = ((v, f"label {v}" if name in several else name) for v, name in names)
        apart = LabelRule.of_pairs([background, *sorted(others)])
        changed = replace(self._rule, class_names=apart.class_names, values=apart.values, merged=apart.merged)
        self.changed.emit(replace(changed, labelled_slices_only=False))

    def _fill(self, filled: bool) -> None:
        assert self._rule is not None
        self.changed.emit(replace(self._rule, filled=filled, labelled_slices_only=False))

    def _order(self) -> None:
        assert self._rule is not None
        overlap = self.overlap.currentData()
        self.changed.emit(replace(self._rule, overlap=overlap, labelled_slices_only=False))

    def _lock(self, row: int, column: int) -> None:
        item = self.table.cell(row, column)
        item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
        item.setToolTip("Given by the smallest value")

    def _add(self) -> None:
        with signals_blocked(self.table):
            rows = self._texts()
            self.table.show_rows([*rows, ("", "")])
        self.table.setCurrentCell(len(rows), VALUE)
        item = self.table.item(len(rows), VALUE)
        self.table.scrollToItem(item)
        self.table.editItem(item)

    def _texts(self) -> list[tuple[str, str]]:
        def text(row: int, column: int) -> str:
            item: QTableWidgetItem | None = self.table.item(row, column)
            return item.text().strip() if item is not None else ""

        return [(text(row, VALUE), text(row, NAME)) for row in range(self.table.rowCount())]

    def _edited(self) -> None:
        assert self._rule is not None
        rows = self._texts()
        if any(value and not name for value, name in rows) or rows == self._shown:
            return
        try:
            rule = rule_of(self._rule, rows)
        except DataError as error:
            self.message.tell_error(str(error))
        else:
            self.message.tell("")
            self._held_back = None
            self.changed.emit(rule)


def rows_of(rule: LabelRule) -> list[tuple[str, str]]:
    """Stored values, in words, and class names of a rule."""
    if rule.kind in _IN_WORDS:
        return list(zip(_IN_WORDS[rule.kind], rule.class_names, strict=True))
    unlabelled = [] if rule.unlabelled is None else [(str(rule.unlabelled), UNLABELLED)]
    return [*unlabelled, *((str(value), name) for value, name in rule.stored.items())]


def rule_of(shown: LabelRule, rows: list[tuple[str, str]]) -> LabelRule:
    """The rule, for complete labels, of a table that showed ``shown`` before it was changed.

    Raises ``DataError``: a value is no whole number or stands twice, or no class is left.
    """
    kept = [(value, name) for value, name in rows if value]
    names = [name for _, name in kept]
    if [value for value, _ in kept] == [value for value, _ in rows_of(shown)] and shown.kind in _IN_WORDS:
        return replace(shown, class_names=(BACKGROUND, *names[1:]), labelled_slices_only=False)
    numbered: dict[int, str] = {}
    unlabelled: int | None = None
    for value, name in kept:
        if not value.removeprefix("-").isdecimal():
            raise DataError(f"'{value}' is not a mask value; enter a whole number, such as 2")
        if int(value) in numbered:
            raise DataError(f"the value {value} appears twice; give every value one name")
        if name == UNLABELLED and (unlabelled is None or int(value) == shown.unlabelled):
            unlabelled = int(value)
            continue
        numbered[int(value)] = name
    rule = LabelRule.of_names(numbered) if numbered else shown
    if len(numbered) < 2 or len(rule.class_names) < 2:
        raise DataError("no class is left to learn; keep the background and at least one more value")
    return replace(rule, unlabelled=unlabelled, filled=shown.filled, overlap=shown.overlap)
