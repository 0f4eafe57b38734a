"""What a run says while it goes on. A run is an iterator of these; the caller pulls.

Stop = close the iterator, pause = stop pulling, progress = read the events.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from napari_prosma.geometry import Geometry

UNLIMITED_EPOCHS = 100_000
"""``epochs`` of a run that is limited by its minutes alone."""
OBJECTIVE = "objective/"
"""Begins the names of the objective's figures among those of the validation."""


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Started(Event):
    """A run begins. ``total`` counts the units of work that ``Progress.done`` will reach."""

    total: int
    message: str
    device: str = "cpu"


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``Started.total`` units of work are finished."""

    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should read, though the run goes on."""

    message: str


@dataclass(frozen=True)
class EpochEnd(Event):
    """One epoch is over.

    ``loss`` is the mean training loss; ``validation`` holds the validation figures by name
    (``training.figures.validation_figures``), beside those of the training objective as
    ``objective/<name>``; ``gates`` the state of each gated skip by level, finest = 1
    (``SkipTrace.summary``); ``memory`` is the most that was held on the GPU, in bytes, 0 without one.
    """

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    seconds: float
    validation: dict[str, float] = field(default_factory=dict)
    gates: dict[int, dict[str, float]] = field(default_factory=dict)
    memory: int = 0

    @property
    def objective(self) -> dict[str, float]:
        """Figures of the training objective over this epoch by name, such as ``divergence``."""
        return {
            name.removeprefix(OBJECTIVE): value
            for name, value in self.validation.items()
            if name.startswith(OBJECTIVE)
        }


@dataclass(frozen=True)
class Resumed(Event):
    """The run goes on where it was left; ``history`` are the epochs that are over, in order."""

    history: tuple[EpochEnd, ...]


@dataclass(frozen=True)
class Baseline(Event):
    """Validation figures, by name, of the model that a fine-tuning starts from, before its first step."""

    figures: dict[str, float]


@dataclass(frozen=True)
class Verdict(Event):
    """What the model finds after an epoch, in words; ``advice`` says what to do next, a sentence each."""

    epoch: int
    summary: str
    advice: tuple[str, ...] = ()

    def in_words(self) -> str:
        """All of it in one line."""
        return ". ".join([self.summary, *self.advice])


@dataclass(frozen=True)
class Preview(Event):
    """The current model on one validation case (3D: its slice with the most foreground).

    ``image`` is (C, y, x) as the network saw it, ``labels`` and ``truth`` are (y, x), all on the grid that
    ``geometry`` (two axes) describes.
    """

    epoch: int
    case: str
    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    geometry: Geometry


@dataclass(frozen=True)
class LivePreview(Event):
    """The current model on the plane that the user looks at (``Steering.look_at``).

    ``labels`` (*spatial) uint8 are on the image's own grid, one element thick along the axes that are not
    shown, and so is ``sureness``, their probability from 0 to 255; ``at`` is their index along each axis,
    None along the two that are shown.
    """

    step: int
    case: str
    labels: np.ndarray
    sureness: np.ndarray
    at: tuple[int | None, ...]


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint was written whole. ``kind`` is ``best`` or ``last``."""

    path: Path
    kind: str
    epoch: int


@dataclass(frozen=True)
class Finished(Event):
    """The run is over.

    ``result`` is a run folder of ``train``, a ``Segmentation`` of ``segment``, a ``GateRecord`` of
    ``inspect_gates``, a ``Comparison`` of ``compare``, and a ``Table`` of the tests of
    ``inspection.faithfulness``; any other iterator says so itself.
    """

    result: Any


def result_of(events: Iterable[Event], *told: type[Event]) -> Generator[Any, None, Any]:
    """Pass events on, all of them or those ``told``; return the result of the last, None without one."""
    for event in events:
        if isinstance(event, Finished):
            return event.result
        if isinstance(event, told or Event):
            yield event
    return None
