"""``RunOn``: on which computer a panel computes, with a button that tests it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from qtpy.QtWidgets import QComboBox, QFormLayout, QPushButton, QWidget
from superqt.utils import signals_blocked

from napari_prosma.app.remembered import MOST_RECENT, remember, remembered
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.shared.fields import in_a_row
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob

HERE = "this computer"
KNOWN, CHOSEN = "schedulers", "run on"
"""What is remembered: addresses that answered, and the choice of each panel."""


class RunOn(QWidget):
    """The field *Run on*.

    Parameters
    ----------
    panel : str
        Whose choice is remembered.
    """

    def __init__(self, panel: str) -> None:
        super().__init__()
        self._topic = f"{CHOSEN} {panel}"
        self.field = QComboBox()
        self.field.setEditable(True)
        self.field.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.field.setAccessibleName("Run on")
        self.field.setToolTip(
            "This computer, or another one: the address of its Dask scheduler, such as tcp://HOST:8786. See "
            "'On another machine' in the documentation"
        )
        line = self.field.lineEdit()
        assert line is not None
        line.setToolTip(self.field.toolTip())
        known = remembered(KNOWN)
        self.field.addItems([HERE, *(known if isinstance(known, list) else [])])
        chosen = remembered(self._topic)
        self.field.setCurrentText(chosen if isinstance(chosen, str) else HERE)
        self.test_button = QPushButton("Test")
        self.test_button.setToolTip("Ask the scheduler for its workers, their GPUs and versions")
        self.test_button.clicked.connect(self._test)
        self.message = Message()
        self.job = NewestJob(self, finished=self._answered, failed=self.message.tell_error)
        row = in_a_row(self.field, self.test_button, wide=self.field)
        layout = QFormLayout(self)
        layout.setContentsMargins(6, 0, 6, 0)
        layout.addRow("Run on", row)
        layout.addRow(self.message)
        self.field.currentTextChanged.connect(self._changed)
        self._changed()

    @property
    def scheduler(self) -> str | None:
        """Address of the scheduler; None for this computer."""
        text = self.field.currentText().strip()
        return None if text in ("", HERE) else text

    def used(self) -> str | None:
        """The same, for a run that starts: the choice is remembered."""
        self._keep()
        return self.scheduler

    def _changed(self) -> None:
        self.message.tell("")
        self.test_button.setEnabled(self.scheduler is not None)

    def _test(self) -> None:
        address = self.scheduler
        if address is not None:
            self.message.tell(f"Asking {address} …")
            self.job.ask_for("ProSMA: testing a scheduler", partial(_testing, address))

    def _answered(self, said: str) -> None:
        self.message.tell(said)
        self._keep()

    def _keep(self) -> None:
        address = self.scheduler
        remember(self._topic, address)
        if address is None:
            return
        known = [self.field.itemText(n) for n in range(1, self.field.count())]
        known = [address, *(other for other in known if other != address)][:MOST_RECENT]
        remember(KNOWN, known)
        with signals_blocked(self.field):
            self.field.clear()
            self.field.addItems([HERE, *known])
            self.field.setCurrentText(address)


def _testing(address: str) -> Iterator[Event]:
    from napari_prosma.app.elsewhere.scheduler import in_words

    yield Finished(in_words(address))
