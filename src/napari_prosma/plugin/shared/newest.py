"""``NewestJob``: a ``Job`` that can be asked at any time; of several requests the newest wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from qtpy.QtCore import QObject

from napari_prosma.events import Event
from napari_prosma.plugin.shared.job import SHORT_WAIT, Ending, Job


class NewestJob(Job):
    """For what is read, measured or drawn as the user goes, and has nothing to save.

    ``ended`` is emitted once no request is left; of a run that was interrupted nothing is heard any more. Its
    errors are for the panel to show.
    """

    def __init__(self, parent: QObject, **slots: Callable[..., object]) -> None:
        super().__init__(parent, notify=False, **slots)
        self._next: Callable[[], None] | None = None

    @property
    def is_waited_for(self) -> bool:
        """A request waits for the run in progress to end."""
        return self._next is not None

    def ask(self, begin: Callable[[], None], interrupt: bool = True) -> None:
        """Call ``begin``, which may ``start`` a run, now or when the run in progress has ended.

        Parameters
        ----------
        begin : () -> None
            Takes the place of one that waits.
        interrupt : bool
            End the run in progress early and drop what it still says; else it is heard to its end.
        """
        if self.is_running:
            self._next = begin
            if interrupt:
                super().stop()
        else:
            begin()

    def ask_for(self, title: str, make_events: Callable[[], Iterator[Event]]) -> None:
        """Run these events as soon as the run in progress, which is interrupted, has ended."""
        self.ask(partial(self.start, title, make_events))

    def stop(self) -> None:
        """As ``Job.stop``; what waits is forgotten."""
        self._next = None
        super().stop()

    def close(self, longest: float = SHORT_WAIT) -> None:
        """As ``Job.close``; what waits is forgotten."""
        self._next = None
        super().close(longest)

    def _deliver(self, event: Event | None) -> None:
        if event is None or not (self.is_waited_for and self.is_stopping):
            super()._deliver(event)

    def _end(self) -> None:
        begin, self._next = self._next, None
        ending = self._finish()
        if begin is not None:
            begin()
            ending = Ending(stopped=True)  # where it started nothing
        if not self.is_running:
            self._tell_ending(ending)
