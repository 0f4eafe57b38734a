"""``CardWindow``: a model's card, to read and to save."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QPushButton, QTextBrowser, QWidget

from napari_prosma.events import Event, Finished, Notice
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob

if TYPE_CHECKING:
    from napari_prosma.app.cards import Card

WIDTH, HEIGHT = 640, 640
BUTTON_WIDTH = 160
SAVED_AS = "Page (*.html);;Markdown (*.md)"


class CardWindow(QWidget):
    """A window of its own; pictures of the worst cases are drawn when they are asked for, or saved."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self._model = Path()
        self._card: Card | None = None
        self.page = QTextBrowser()
        self.page.setOpenExternalLinks(True)
        self.message = Message()
        self.job = NewestJob(self, happened=self._happened, failed=self.message.tell_error, ended=self._ended)
        self.draw_button = QPushButton("Draw the worst cases")
        self.draw_button.setToolTip("Segment the worst cases of the run again, and draw them")
        self.draw_button.clicked.connect(self._draw)
        self.save_button = QPushButton("Save card…")
        self.save_button.setToolTip("As a page, HTML or Markdown")
        self.save_button.clicked.connect(self._save)
        for button in (self.draw_button, self.save_button):
            button.setMinimumWidth(BUTTON_WIDTH)
        row = in_a_row(self.draw_button, None, self.save_button)
        stack(self, self.page, self.message, row, wide=self.page, margins=None)
        self.resize(WIDTH, HEIGHT)

    def show_card(self, card: Card, model: Path) -> None:
        """Show it, in front."""
        from napari_prosma.app.card_pages import as_html

        self._card, self._model = card, model
        self.setWindowTitle(f"Card of {card.name}")
        self.page.setHtml(as_html(card))
        self.draw_button.setVisible(bool(card.worst) and not any(worst.picture for worst in card.worst))
        self.message.tell("")
        self.show()
        self.raise_()

    def save(self, path: Path) -> None:
        """Write it as .html or .md, in the background."""
        assert self._card is not None
        self.job.ask_for("ProSMA: saving a card", partial(_saving, self._card, path))

    def closeEvent(self, event: object) -> None:
        """Qt's hook."""
        self.job.close()
        super().closeEvent(event)  # type: ignore[arg-type]

    def _draw(self) -> None:
        self.draw_button.setEnabled(False)
        self.message.tell("Drawing…")
        self.job.ask_for("ProSMA: drawing cases", partial(_drawing, self._model))

    def _save(self) -> None:
        if self._card is None:
            return
        start = str(Path.home() / f"{self._card.name}.html")
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the card", start, SAVED_AS)
        if chosen:
            self.save(Path(chosen))

    def _happened(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.message.tell(event.message)
        elif isinstance(event, Finished) and isinstance(event.result, Path):
            self.message.tell(f"Saved as {event.result}")
        elif isinstance(event, Finished):
            said = self.message.plain_text()
            self.show_card(event.result, self._model)
            self.message.tell("" if any(worst.picture for worst in event.result.worst) else said)

    def _ended(self) -> None:
        self.draw_button.setEnabled(True)


def _drawing(model: Path) -> Iterator[Event]:
    from napari_prosma.app.card_pictures import pictured_card

    yield from pictured_card(model)


def _saving(card: Card, path: Path) -> Iterator[Event]:
    from napari_prosma.app.card_pages import write_page

    write_page(card, path)
    yield Finished(path)
