"""Segmentation and inspection of one image on a worker of a Dask scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from napari_prosma.app.elsewhere import Call
from napari_prosma.app.elsewhere.following import Following, WorkerLost
from napari_prosma.app.elsewhere.jobs import CallJob
from napari_prosma.app.elsewhere.scheduler import Unreachable, opened_line
from napari_prosma.app.elsewhere.store import Parcel, SentImage, array_sent, model_sent
from napari_prosma.data.case import Image
from napari_prosma.errors import ProsmaError
from napari_prosma.events import Event
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.training.steering import Steering


def call(
    scheduler: str,
    function: Call,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Iterator[Event]:
    """Events of a function on a worker; ``elsewhere.called`` says what becomes of its arguments."""
    parcels: list[Parcel] = []
    job = CallJob(
        function,
        tuple(_sent(value, parcels) for value in arguments),
        {name: _sent(value, parcels) for name, value in named.items()},
    )
    line = opened_line(scheduler, named.get("device", "auto"), "a look", is_exclusive=False)
    try:
        line.send(parcels)
        line.begin(job)
        with closing(Following(line, Steering()).events()) as events:  # type: ignore[type-var]
            yield from events
    except (WorkerLost, Unreachable) as error:
        raise ProsmaError(
            f"the worker on '{line.host}' was lost ({error}), perhaps for lack of memory; try again, or work "
            f"on this computer"
        ) from error
    finally:
        line.end()


def _sent(value: Any, parcels: list[Parcel]) -> Any:
    """What stands for an argument on the way."""
    if isinstance(value, Mapping):
        return {name: _sent(held, parcels) for name, held in value.items()}
    if isinstance(value, Image):
        parcels.append(array_sent(value.array))
        return SentImage(parcels[-1].sent, value.geometry, value.notices)
    if isinstance(value, Checkpoint | np.ndarray):
        parcels.append(model_sent(value) if isinstance(value, Checkpoint) else array_sent(value))
        return parcels[-1].sent
    return value
