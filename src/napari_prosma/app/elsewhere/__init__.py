"""Training, segmentation and inspection on another machine: a worker of a Dask scheduler.

What stands here decides where; what it takes to work elsewhere is imported only for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from napari_prosma.events import Event

Call = Callable[..., Iterator[Event]]


def called(scheduler: str | None, function: Call) -> Call:
    """A function of events as it is, or on a worker of the scheduler at an address.

    Images, arrays and models among its arguments are sent, each once. Closing the events stops it there.

    Raises
    ------
    ConfigError
        When the first event is asked for: no scheduler, or no worker that fits.
    ProsmaError
        Of the function; and where the worker is lost.
    """
    if scheduler is None:
        return function

    def elsewhere(*arguments: Any, **named: Any) -> Iterator[Event]:
        from napari_prosma.app.elsewhere.calls import call

        return call(scheduler, function, arguments, named)

    return elsewhere


def training_on(scheduler: str | None) -> Call:
    """``train``, or the same on a worker of the scheduler at an address."""
    if scheduler is None:
        from napari_prosma.training.run import train

        return train
    from napari_prosma.app.elsewhere.run import train_elsewhere

    return partial(train_elsewhere, scheduler)
