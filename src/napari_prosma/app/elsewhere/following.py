"""The caller's side of what goes on at a worker: its events, as if they were made here."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from napari_prosma.app.elsewhere.scheduler import TRANSFER, Line, Unreachable
from napari_prosma.app.elsewhere.store import array_sent
from napari_prosma.app.elsewhere.worker import Failure, Heard, Told
from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Notice, Progress
from napari_prosma.training.steering import Changes, Steering

ASKS = 0.2
"""Seconds between two questions for what is new."""
TRIES = 2.0
"""Seconds between two tries to connect again."""
STILL = 0.5
"""Seconds after which the last progress is told again, so that whoever pulls can stop or hold."""
ENDS = 120.0
"""Seconds that a run has to keep its place when it is stopped."""
LOST = "connection lost, the run continues there"
_MOST_FAILURES = 5
"""Questions that go wrong, one after the other, over a connection that holds."""


class WorkerLost(Exception):
    """The worker is gone, or what it did."""


class Following:
    """Asks a worker for its events, in a thread, and hands them to whoever pulls.

    Parameters
    ----------
    line : Line
        With a job that was begun.
    steering : Steering
        What the user changes here is changed there.
    cases : name -> Case
        Whose labels may be corrected.
    keep : (name of a file, content) -> None, optional
        Keeps the files of the run folder there; called whenever one has changed.
    comes_back : str
        How to come back to it once this program has left.

    Attributes
    ----------
    is_over : bool
        It has ended there, and all of it has come.
    """

    def __init__(
        self,
        line: Line,
        steering: Steering,
        cases: dict[str, Case] | None = None,
        keep: Callable[[str, bytes], None] | None = None,
        comes_back: str = "",
    ) -> None:
        self._line, self._steering, self._cases, self._keep = line, steering, cases or {}, keep
        self._comes_back = comes_back
        self.is_over = False
        self._told = Told()
        self._has: dict[str, tuple[int, int]] = {}
        self._queue: queue.SimpleQueue[tuple[int, Event] | Exception | None] = queue.SimpleQueue()
        self._taken = 0
        self._is_cut = False
        self._closes = threading.Event()
        self._leaves = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="prosma events", daemon=True)

    @property
    def has_heard(self) -> bool:
        """Whether any event has come from there."""
        return self._told.received > 0

    def events(self) -> Iterator[Event]:
        """What happens there; closing it stops that and keeps its files, unless the steering was left.

        Raises
        ------
        WorkerLost
        ProsmaError
            Of the job.
        """
        self._thread.start()
        last: Progress | None = None
        try:
            while True:
                try:
                    item = self._queue.get(timeout=STILL)
                except queue.Empty:
                    if last is not None:
                        yield replace(last, message=LOST) if self._is_cut else last
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                number, event = item
                last = event if isinstance(event, Progress) else last
                yield event
                self._taken = number
        except GeneratorExit:
            if not self._steering.is_left:
                self._closes.set()
                self._thread.join(ENDS)
            raise
        finally:
            self._leaves.set()
            self._thread.join(TRANSFER)

    # ---- in the thread ------------------------------------------------------------------------------------

    def _ask(self) -> None:
        failures = 0
        try:
            while not self._leaves.is_set():
                try:
                    self._take_changes()
                    heard: Heard = self._line.call("exchange", self._told)
                    self._told = replace(self._told, changes=Changes(), labels={})
                    self._keep_files(heard)
                except Unreachable as error:
                    failures += 1
                    if not self._connect(error, failures):
                        return
                    continue
                failures = 0
                for numbered in heard.events:
                    self._queue.put(numbered)
                    self._told = replace(self._told, received=numbered[0])
                if heard.ended:
                    self.is_over = True
                    self._queue.put(None if heard.failure is None else _error_of(heard.failure))
                    return
                if not heard.events:
                    time.sleep(ASKS)
        except Exception as error:
            self._queue.put(error)

    def _keep_files(self, heard: Heard) -> None:
        """Before the events that tell of them."""
        for name, state in heard.files.items():
            if self._keep is not None and self._has.get(name) != state:
                self._keep(name, self._line.call("read", name, seconds=TRANSFER))
                self._has[name] = state

    def _take_changes(self) -> None:
        """What the user changed since the last time goes along; what has not arrived yet goes again."""
        new, old = self._steering.take(), self._told.changes
        changes = Changes(
            {**old.settings, **new.settings},
            old.relabelled | (new.relabelled & self._cases.keys()),
            old.finish | new.finish,
            old.stop | new.stop,
        )
        self._told = replace(
            self._told,
            taken=self._taken,
            changes=changes,
            view=self._steering.view,
            closes=self._closes.is_set(),
        )
        for name in sorted(changes.relabelled - self._told.labels.keys()):
            read = self._cases[name].read_label
            assert read is not None
            try:
                parcel = array_sent(read())
            except DataError as error:
                self._tell(str(error))
                changes = replace(changes, relabelled=changes.relabelled - {name})
                self._told = replace(self._told, changes=changes)
                continue
            self._line.send([parcel])
            self._told = replace(self._told, labels={**self._told.labels, name: parcel.sent})

    def _connect(self, error: Exception, failures: int = 0) -> bool:
        """Connect again, however long that takes; False where this ends here, which the queue says why."""
        said = False
        while True:
            try:
                if not self._line.again() or failures > _MOST_FAILURES:
                    self._queue.put(WorkerLost(str(error)))
                    return False
            except ConfigError:
                if not said:
                    said = self._is_cut = True
                    self._tell(
                        f"The connection to '{self._line.address}' is lost. The run continues there, and "
                        f"this program tries to reconnect"
                    )
            else:
                self._is_cut = False
                if said:
                    self._tell(f"Connected to '{self._line.address}' again")
                return True
            stops = self._steering.was_stopped or self._told.changes.stop
            if stops or self._closes.is_set() or self._leaves.is_set():
                left = f"The run continues at '{self._line.address}', which does not answer now"
                logging.getLogger(__name__).warning(left)
                self._queue.put(ProsmaError(f"{left}; {self._comes_back}" if self._comes_back else left))
                return False
            self._leaves.wait(TRIES)

    def _tell(self, message: str) -> None:
        self._queue.put((self._told.received, Notice(message)))


def _error_of(failure: Failure) -> Exception:
    if failure.kind is None:
        return RuntimeError(f"on the other machine:\n{failure.text}")
    return failure.kind(failure.text)
