"""``Job``: runs an iterator of events in a thread and hands its events to the main thread, in order.

Stop closes the iterator in its own thread, so that ``train`` can save what it has; pause stops pulling.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from napari.qt.threading import create_worker
from napari.utils import progress
from napari.utils.notifications import notification_manager, show_error
from qtpy.QtCore import QObject, Qt, QThreadPool, Signal
from qtpy.QtWidgets import QApplication
from superqt.utils import GeneratorWorker

from napari_prosma.errors import ProsmaError, as_sentence
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.plugin.shared.layers import know_units
from napari_prosma.plugin.shared.strokes import single_shot

PROGRESS_INTERVAL = 0.1
"""Seconds between two ``Progress`` events that reach the main thread."""
LONGEST_WAIT = 30.0
"""Seconds that a script which closes a panel waits for its run to save what it has; a user is not held up."""
SHORT_WAIT = 1.0
"""The same where a run has nothing to save."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: by itself (both empty), stopped, or by an error."""

    stopped: bool = False
    error: Exception | None = None


class Job(QObject):
    """One run at a time, in a thread; usable again after each end, whatever it was.

    Parameters
    ----------
    notify : bool
        Show a ``ProsmaError`` as a napari notification too; the panel shows it anyway.
    **slots
        What hears a signal, by its name.

    Signals
    -------
    happened(Event)
        Every event, in order, one at a time.
    finished(object)
        The result of ``Finished``.
    failed(str)
        The words of an error.
    held(bool)
        The run is paused (True) or goes on (False).
    ended(Ending)
        After the last event; the user has been told of an error by then.
    """

    happened = Signal(object)
    finished = Signal(object)
    failed = Signal(str)
    held = Signal(bool)
    ended = Signal(object)

    def __init__(self, parent: QObject, notify: bool = True, **slots: Callable[..., object]) -> None:
        super().__init__(parent)
        for name, slot in slots.items():
            getattr(self, name).connect(slot)
        self._notify = notify
        self._run: _Run | None = None
        self._bar: progress | None = None
        self._from: tuple[float, int] | None = None  # when the phase was first heard of, and where it was
        self._inbox: deque[Event | None] = deque()
        self._steps: deque[Callable[[], object]] = deque()
        self._turn = single_shot(self, 0, self._take_step)
        self._delivering = False
        parent.destroyed.connect(self._parent_gone)

    @property
    def is_running(self) -> bool:
        """From ``start`` until ``ended``."""
        return self._run is not None

    @property
    def is_stopping(self) -> bool:
        return self._run is not None and self._run.worker.abort_requested

    def start(self, title: str, make_events: Callable[[], Iterator[Event]]) -> None:
        """Run the events of ``make_events``, which is called in the thread; ``title`` names it to napari."""
        if self._run is not None:
            raise RuntimeError(f"{title} cannot start before the run in progress has ended")
        _make_room_for_a_thread()
        know_units()  # the thread may make layers
        failure: list[Exception] = []
        worker = create_worker(
            _Titled(title), make_events, failure, _worker_class=EventWorker, _start_thread=False
        )
        self._inbox.clear()
        # What a worker still says after its panel was closed must not reach the run that came after.
        slots = (
            (worker.yielded, lambda event: self._receive(failure, event)),
            (worker.finished, lambda: self._receive(failure, None)),
            (worker.paused, lambda: self._hold(failure, True)),
            (worker.resumed, lambda: self._hold(failure, False)),
        )
        for signal, slot in slots:
            signal.connect(slot)
        worker.warned.connect(_log_warning)
        self._run = _Run(worker, failure, slots)
        worker.start()

    def stop(self) -> None:
        """Ask the run to end after the step it is in; ``ended`` tells when it has."""
        if self._run is not None:
            self._run.worker.quit()

    def pause(self) -> None:
        """Ask the run to hold after the step it is in; ``held`` tells when it does."""
        if self._run is not None:
            self._run.worker.pause()

    def resume(self) -> None:
        """Let a held run go on."""
        if self._run is not None:
            self._run.worker.resume()

    def in_turns(self, *steps: Callable[[], object]) -> None:
        """Take steps that an event leads to, each in a turn of the event loop of its own; later events wait.

        For work in the main thread that would hold the window up if it were done at once. Steps that a step
        leads to come next.
        """
        self._steps.extendleft(reversed(steps))
        self._turn.start()

    def close(self, longest: float = LONGEST_WAIT) -> None:
        """Stop, and wait until the run has saved what it has; nothing is signalled of it any more.

        Parameters
        ----------
        longest : float
            Seconds after which it is left to end by itself; 0 = at once, without a word.
        """
        run, self._run = self._run, None
        self._inbox.clear()
        if run is not None:
            run.worker.quit()
            run.let_go()
        self._take_all_steps()
        self._show_progress(None)
        if run is None:
            return
        if longest and run.worker.began and not run.worker.over.is_set():
            QApplication.setOverrideCursor(Qt.CursorShape.BusyCursor)
            try:
                if not run.worker.over.wait(longest):
                    logging.getLogger(__name__).warning("a run did not stop within %g s", longest)
            finally:
                QApplication.restoreOverrideCursor()
        if run.failure and self._shows(run.failure[0]):
            _tell(run.failure[0])

    def let_go(self) -> None:
        """The panel that it is part of is closed."""
        self.close()

    def _parent_gone(self) -> None:
        """A method: where Python collects the parent, a function may be cleared before it is called."""
        self._steps.clear()
        self.close()

    def _receive(self, sender: list[Exception], event: Event | None) -> None:
        if self._run is None or self._run.failure is not sender:
            return
        self._inbox.append(event)
        # napari's progress bars process Qt's events while they are updated, so this is entered again.
        if not self._delivering:
            self._deliver_all()

    def _deliver_all(self) -> None:
        self._delivering = True
        try:
            while self._inbox and self._run is not None and not self._steps:
                self._deliver(self._inbox.popleft())
        finally:
            self._delivering = False

    def _take_step(self) -> None:
        if self._delivering:  # an event whose progress bar lets others through
            self._turn.start()
        elif not self._steps:
            self._deliver_all()
        else:
            self._delivering = True
            try:
                self._steps.popleft()()
            finally:
                self._delivering = False
                self._turn.start()

    def _take_all_steps(self) -> None:
        """At once, where no further turn comes; one that fails does not keep the others from it."""
        while self._steps:
            try:
                self._steps.popleft()()
            except Exception:
                logging.getLogger(__name__).exception("what follows a run could not be finished")

    def _hold(self, sender: list[Exception], held: bool) -> None:
        if self._run is not None and self._run.failure is sender:
            self.held.emit(held)

    def _deliver(self, event: Event | None) -> None:
        if event is None:
            self._end()
            return
        self.happened.emit(event)
        if isinstance(event, Finished):
            self.finished.emit(event.result)
        if self._run is not None:
            self._show_progress(event)

    def _end(self) -> None:
        self._tell_ending(self._finish())

    def _tell_ending(self, ending: Ending) -> None:
        if ending.error is not None:
            self.failed.emit(str(ending.error) or type(ending.error).__name__)
        self.ended.emit(ending)

    def _finish(self) -> Ending:
        """Make room for the next run."""
        assert self._run is not None
        run, self._run = self._run, None
        run.let_go()
        self._show_progress(None)
        error = run.failure[0] if run.failure else None
        if error is not None and self._shows(error):
            _tell(error)
        return Ending(run.worker.abort_requested and error is None, error)

    def _shows(self, error: Exception) -> bool:
        return self._notify or not isinstance(error, ProsmaError)

    def _show_progress(self, event: Event | None) -> None:
        """Bar in napari's activity dock: a new one for each ``Started``, none after the end."""
        if event is None or isinstance(event, Started):
            bar, self._bar = self._bar, None
            if bar is not None:
                bar.close()
        if isinstance(event, Started):
            self._bar = progress(total=event.total, desc=event.message)
            self._from = None
        elif isinstance(event, Progress) and self._bar is not None:
            self._bar.update(event.done - self._bar.n)
            if self._from is None:
                self._from = (time.monotonic(), event.done)

    def time_left(self) -> str:
        """Time left of the phase that runs, as ``12:34``; empty while it is not known.

        A run that goes on, or is made longer, does not begin at 0.
        """
        if self._bar is None or self._from is None or not self._bar.total:
            return ""
        began, first = self._from
        done = self._bar.n - first
        if done <= 0:
            return ""
        return progress.format_interval((self._bar.total - self._bar.n) * (time.monotonic() - began) / done)


def spare_threads() -> int:
    """Threads for torch on the CPU that leave one core to the interface."""
    return max(1, (os.cpu_count() or 1) - 1)


@contextmanager
def leaving_a_core() -> Iterator[None]:
    """Torch computes with no more threads than that."""
    from napari_prosma.model.device import cpu_threads

    with cpu_threads(spare_threads()):
        yield


@dataclass(frozen=True)
class _Run:
    """A worker and the error that it left behind, if any."""

    worker: EventWorker
    failure: list[Exception]
    slots: tuple[tuple[Any, Callable[..., None]], ...]
    """Signals of the worker, and what of ours hears them."""

    def let_go(self) -> None:
        """Forget who listens: napari keeps every worker until it is closed, and with it all that it knows."""
        for signal, slot in self.slots:
            signal.disconnect(slot)


class _Titled(partial):
    """:func:`_events`, which napari's question before closing names by the title of the run."""

    title: str

    def __new__(cls, title: str) -> _Titled:
        self = super().__new__(cls, _events)
        self.title = title
        return self

    def __str__(self) -> str:
        return self.title


class EventWorker(GeneratorWorker):
    """superqt's worker, which also closes its generator in its own thread, however it ends.

    napari's own subclass would show every warning of torch and MONAI as a notification.
    """

    def __init__(self, func: Callable[..., Generator[Event, None, None]], *args: object) -> None:
        super().__init__(func, *args)
        self.began = False
        self.over = threading.Event()

    def work(self) -> Any:
        self.began = True
        try:
            with closing(self._gen):
                return super().work()
        finally:
            self.over.set()


def _events(
    make_events: Callable[[], Iterator[Event]], failure: list[Exception]
) -> Generator[Event, None, None]:
    """The events, thinned out; an error is left in ``failure`` (superqt loses every ``RuntimeError``)."""
    shown = 0.0
    try:
        with closing(make_events()) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Progress) and event.done < event.total:
                    now = time.monotonic()
                    if now - shown < PROGRESS_INTERVAL:
                        continue
                    shown = now
                yield event
    except Exception as error:
        failure.append(error)


def _tell(error: Exception) -> None:
    """Ours in its own words; anything else as napari shows errors, with its traceback."""
    if isinstance(error, ProsmaError):
        show_error(as_sentence(str(error)))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)


def _make_room_for_a_thread() -> None:
    """A run never waits for another one: Qt's pool has as many threads as cores, and each run keeps one."""
    pool = QThreadPool.globalInstance()
    assert pool is not None
    pool.setMaxThreadCount(max(pool.maxThreadCount(), pool.activeThreadCount() + 1))


def _log_warning(warning: tuple[Any, ...]) -> None:
    message, category, file, line, *_ = warning
    logging.getLogger("napari_prosma").info("%s:%s: %s: %s", file, line, category.__name__, message)
