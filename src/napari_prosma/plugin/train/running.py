"""The events of a training run, begun or resumed, as its thread makes them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_prosma.app.elsewhere.note import note_of
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.loading import loading
from napari_prosma.plugin.train.data import Data, LayerData
from napari_prosma.training.run_claim import claimed
from napari_prosma.training.steering import Steering

if TYPE_CHECKING:
    from napari_prosma.training.config import TrainConfig


@dataclass(frozen=True)
class Configured(Event):
    """The configuration that a run begins or goes on with."""

    config: TrainConfig


def training(
    settings: dict[str, Any], data: Data, scheduler: str | None, steering: Steering
) -> Iterator[Event]:
    """Begin a run; ``scheduler`` says where, if not on this computer."""
    yield from loading()
    from napari_prosma.app.elsewhere import training_on
    from napari_prosma.training.config import TrainConfig

    config = TrainConfig.of(**settings)
    with _no_old_garbage():
        yield Started(0, "Reading the labels")
        with claimed(config.run_dir, steering, config.data):
            opened = data.begin()
            config = config.model_copy(update=opened.settings)
            yield Configured(config)
            yield from training_on(scheduler)(
                config, opened.cases, opened.class_names, steering=steering, unlabelled=opened.unlabelled
            )


def resuming(
    folder: Path, live: LiveCase | None, moved: Path | None, scheduler: str | None, steering: Steering
) -> Iterator[Event]:
    """Go on with the run in a folder; its layers are ``live``, or its data were ``moved``."""
    yield from loading()
    from napari_prosma.app.elsewhere import training_on
    from napari_prosma.app.runs import cases_of, left_run
    from napari_prosma.training.run_folder import with_data

    left = left_run(folder)
    if left.is_finished and note_of(folder) is None:
        yield Notice(left.in_words())
        yield Finished(left.result())
        return
    config = left.config if live is not None else with_data(left.config, moved)
    with _no_old_garbage(), claimed(folder, steering, goes_on=True):
        data = cases_of(config) if live is None else LayerData(live, config.labels).begin()
        yield Configured(config)
        yield from training_on(scheduler)(
            config, data.cases, data.class_names, left.checkpoint, steering=steering
        )


@contextmanager
def _no_old_garbage() -> Iterator[None]:
    """Leave what is there now out of Python's search for garbage until the run ends.

    It would go through all that napari and torch hold, with every thread halted meanwhile (0.2 s and more).
    What others have left out before is theirs to bring back.
    """
    is_ours = not gc.get_freeze_count()
    if is_ours:
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()
