"""``ModelChooser``: the model that is chosen from the list of those that are known, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QPushButton, QSizePolicy, QWidget

from napari_prosma.app.models import ImageKind, KnownModel, known_model, shown_name
from napari_prosma.app.remembered import MODELS, remember_path
from napari_prosma.errors import CheckpointError, ConfigError
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.shared.card_window import CardWindow
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.loading import map_torch
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.model_list import ModelList
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import epochs_in_words
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.shared.run_folders import dropped_model

if TYPE_CHECKING:
    from napari_prosma.app.cards import Card
    from napari_prosma.model.checkpoint import Checkpoint

CHOOSE = "Choose a model…"


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What a panel needs to know of a checkpoint; the weights are not kept.

    ``widths`` is a preset of ``nn.spec.WIDTHS`` where it is one; ``modality`` that of its ``TrainConfig``.
    """

    path: Path
    gate: str
    widths: str | tuple[int, ...]
    levels: tuple[int, ...]
    epoch: int
    modality: str
    in_words: str
    known: KnownModel
    card: Card


class ModelChooser(QWidget):
    """A button that opens the list of models, and below it what is in the one that is chosen.

    A model that is dropped on it is chosen. What is in it is read in the background.

    Parameters
    ----------
    none : str
        What it is called to choose no model; empty = one has to be chosen.
    tip : str
        Of the button.
    brief : bool
        What is in the model stands in the button's tip, not below it.

    Signals
    -------
    changed()
        Another model, or none, is chosen.
    described(ModelFacts or None)
        None when the file is no model, or none is chosen.
    """

    changed = Signal()
    described = Signal(object)

    def __init__(self, none: str = "", tip: str = "", brief: bool = False) -> None:
        super().__init__()
        self._none, self._is_brief = none, brief
        self._tip = tip or "Choose a known model, or one in another folder"
        self.image: Callable[[], ImageKind | None] = lambda: None
        """Of the image that it is to be used on, if one is open; set by the panel."""
        self.path: Path | None = None
        self.facts: ModelFacts | None = None
        self._wanted: Path | None = None
        self._cards: CardWindow | None = None
        self.button = QPushButton()
        self.button.setToolTip(self._tip)
        self.button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.button.setStyleSheet("text-align: left; padding-left: 6px;")
        self.button.clicked.connect(self._open_list)
        self.card_button = QPushButton("Card…")
        self.card_button.setToolTip("How good this model is, and what it must not be used for")
        self.card_button.clicked.connect(self._open_card)
        self.list: ModelList | None = None
        self.text, self.doubt = Message(), Message()
        self._reading = NewestJob(self, happened=self._happened, failed=self._failed)
        row = in_a_row(self.button, self.card_button, wide=self.button)
        row.setSpacing(3)
        stack(self, row, self.doubt, self.text).setSpacing(3)
        self.setFocusProxy(self.button)
        self.setAcceptDrops(True)
        self.show_path(None)

    @property
    def is_reading(self) -> bool:
        return self._reading.is_running

    def set_path(self, path: Path | None) -> None:
        """As if the user had chosen it; read again even if it is the same."""
        self.show_path(path)
        if path is None:
            self._reading.close(0)
            self._wanted = None
            self.text.tell("")
            self.described.emit(None)
        else:
            self._read(path)

    def show_path(self, path: Path | None) -> None:
        """Show it, to be read by :meth:`read`."""
        is_other = path != self.path
        self.path, self.facts = path, None
        name = (self._none or CHOOSE) if path is None else shown_name(path)
        self.button.setText(f"{name.replace('&', '&&')}  ▾")
        self.card_button.setVisible(path is not None)
        self.card_button.setEnabled(False)
        self.button.setToolTip(self._tip)
        self.doubt.tell("")
        if is_other:
            self.changed.emit()

    def read(self) -> None:
        """Describe the model that is shown, unless that is done or under way."""
        if self.path is not None and self.path != self._wanted:
            self._read(self.path)

    def required_path(self) -> Path:
        """The path.

        Raises ``ConfigError``: when none was chosen.
        """
        if self.path is None:
            raise ConfigError("choose a trained model: from the list, a run folder, or a file")
        return self.path

    def show_doubts(self) -> None:
        """Say what speaks against the model for the image that is open."""
        image = self.image()
        if self.facts is None or image is None:
            self.doubt.tell("")
        else:
            self.doubt.tell_error(self.facts.known.warning(image))

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Qt's hook."""
        if event is not None and dropped_model(event) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Qt's hook."""
        path = None if event is None else dropped_model(event)
        if path is not None:
            self.set_path(path)

    def _open_list(self) -> None:
        if self.list is None:
            self.list = ModelList(self, self._none)
            self.list.chosen.connect(self.set_path)
        self.list.open_below(self.button, self.image())

    def _open_card(self) -> None:
        assert self.facts is not None
        if self._cards is None:
            self._cards = CardWindow(self)
        self._cards.show_card(self.facts.card, self.facts.path)

    def _read(self, path: Path) -> None:
        self._wanted, self.facts = path, None
        self._reading.ask_for("ProSMA: reading a model", partial(_reading, path))

    def _happened(self, event: Event) -> None:
        if isinstance(event, Started):
            self.text.tell(event.message)
        elif isinstance(event, Finished):
            self.facts = event.result
            self.text.tell("" if self._is_brief else event.result.in_words)
            self.text.setToolTip(as_rich(str(event.result.path)))
            if self._is_brief:
                self.button.setToolTip(as_rich(f"{self._tip}\n\n{event.result.in_words}"))
            self.card_button.setEnabled(True)
            if self.path is not None:
                remember_path(MODELS, self.path)
            self.show_doubts()
            self.described.emit(self.facts)

    def _failed(self, error: str) -> None:
        self.text.tell_error(error)
        self.described.emit(None)


def _reading(path: Path) -> Iterator[Event]:
    yield Started(0, "Reading the model")
    map_torch()
    from napari_prosma.app.cards import Card, card_of
    from napari_prosma.model.checkpoint import load_checkpoint
    from napari_prosma.nn.network_kinds import WIDTHS

    checkpoint = load_checkpoint(path)
    known = known_model(path)
    try:
        card = card_of(path)
    except CheckpointError as error:  # of the run beside it; the model itself is sound
        card = Card(
            name=known.name,
            finds=known.finds,
            dims=checkpoint.plan.dims,
            channels=known.channels,
            advice=(str(error),),
        )
    yield Finished(
        ModelFacts(
            path=checkpoint.path or path,
            gate=checkpoint.spec.gate,
            widths=next((name for name, widths in WIDTHS.items() if widths == checkpoint.spec.widths), None)
            or checkpoint.spec.widths,
            levels=checkpoint.spec.gated_levels,
            epoch=checkpoint.epoch,
            modality=checkpoint.config.get("modality", "auto"),
            in_words=_in_words(checkpoint, card),
            known=known,
            card=card,
        )
    )


def _in_words(checkpoint: Checkpoint, card: Card) -> str:
    finds = "" if card.figures else f"finds {', '.join(card.finds)}; "  # else the verdict says it
    made = (
        f"{card.images}; {finds}{checkpoint.spec.network}, gate: {checkpoint.spec.gate}; trained for "
        f"{epochs_in_words(checkpoint.epoch)}"
    )
    return f"{card.verdict}\n{made}"
