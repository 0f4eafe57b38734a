"""``ModelChooser``: a checkpoint or a run folder, and what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.shared.choosers import PathField
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.loading import map_torch
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import Message, epochs_in_words

if TYPE_CHECKING:
    from napari_prosma.model.checkpoint import Checkpoint


@dataclass(frozen=True)
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


class ModelChooser(QWidget):
    """A path field with the description of its checkpoint below, read in the background.

    Signals
    -------
    described(ModelFacts or None)
        None when the file is no model.
    """

    described = Signal(object)

    def __init__(self, placeholder: str = "a run folder or .safetensors") -> None:
        super().__init__()
        self.field = PathField("Choose a trained model", placeholder, "Trained model (*.safetensors)")
        self.field.line.setToolTip(
            "The folder of a training run, or its best.safetensors; the best model is taken"
        )
        self.field.chosen.connect(self._read)
        self.field.line.textChanged.connect(self._forget_if_empty)
        self.text = Message()
        self.facts: ModelFacts | None = None
        self._wanted: Path | None = None
        self._reading = NewestJob(self)
        self._reading.happened.connect(self._happened)
        self._reading.ended.connect(self._ended)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addWidget(self.field)
        layout.addWidget(self.text)
        self.setFocusProxy(self.field)

    @property
    def path(self) -> Path | None:
        return self.field.path

    @property
    def is_reading(self) -> bool:
        return self._reading.is_running

    def set_path(self, path: Path) -> None:
        """As if the user had entered it; read again even if it is the same."""
        self.field.show_path(path)
        self._read(path)

    def read(self) -> None:
        """Describe the model that is shown, unless that is done or under way."""
        if self.path is not None and self.path != self._wanted:
            self._read(self.path)

    def required_path(self) -> Path:
        """The path.

        Raises
        ------
        ConfigError
            When none was chosen.
        """
        if self.path is None:
            raise ConfigError("choose a trained model: the folder of a run, or a .safetensors file")
        return self.path

    def let_go(self) -> None:
        """Read no longer."""
        self._reading.close()

    def _read(self, path: Path) -> None:
        self._wanted, self.facts = path, None
        begin = partial(self._reading.start, "ProSMA: reading a model", partial(_reading, path))
        self._reading.ask(begin)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Started):
            self.text.tell(event.message)
        elif isinstance(event, Finished):
            self.facts = event.result
            self.text.tell(event.result.in_words)
            self.described.emit(self.facts)

    def _ended(self, ending: Ending) -> None:
        if ending.error is not None:
            self.text.tell_error(str(ending.error))
            self.described.emit(None)

    def _forget_if_empty(self, text: str) -> None:
        if not text.strip():
            self._reading.close(0)
            self.facts, self._wanted = None, None
            self.text.tell("")
            self.described.emit(None)


def _reading(path: Path) -> Iterator[Event]:
    yield Started(0, "Reading the model")
    map_torch()
    from napari_prosma.model.checkpoint import load_checkpoint
    from napari_prosma.nn.spec import WIDTHS

    checkpoint = load_checkpoint(path)
    yield Finished(
        ModelFacts(
            path=checkpoint.path or path,
            gate=checkpoint.spec.gate,
            widths=next((name for name, widths in WIDTHS.items() if widths == checkpoint.spec.widths), None)
            or checkpoint.spec.widths,
            levels=checkpoint.spec.gated_levels,
            epoch=checkpoint.epoch,
            modality=checkpoint.config.get("modality", "auto"),
            in_words=_in_words(checkpoint),
        )
    )


def _in_words(checkpoint: Checkpoint) -> str:
    plan = checkpoint.plan
    kind = {1: "gray", 3: "colour"}.get(plan.channels, f"{plan.channels} channels")
    parts = [
        f"{plan.dims}D, {kind}; finds {', '.join(plan.class_names[1:])}",
        f"{checkpoint.spec.network}, gate: {checkpoint.spec.gate}; "
        f"trained for {epochs_in_words(checkpoint.epoch)}",
    ]
    if "dice" in checkpoint.metrics:
        validation = checkpoint.split.get("validation", [])
        on = f" on {len(validation)} validation case{'s' * (len(validation) != 1)}"
        if set(validation) & set(checkpoint.split.get("training", [])):
            on = ", on a case that it learned from"
        parts.append(f"Dice {checkpoint.metrics['dice']:.3f}{on}")
    return "\n".join(parts)
