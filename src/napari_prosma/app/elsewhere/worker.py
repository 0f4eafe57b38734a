"""What lives on a worker: an iterator of events that goes on in a thread there, and answers its caller.

While the caller takes its events the iterator stays at most ``AHEAD`` seconds before them, so that a caller
who stops pulling holds it. Where the caller is gone it goes on by itself, and keeps its events until somebody
comes back for them.

Imports no torch, so that a worker answers at once whether it is free and has room.
"""

from __future__ import annotations

import atexit
import platform
import shutil
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Protocol

from dask.system import CPU_COUNT

from napari_prosma.app.elsewhere.store import Sent, cache_folder, sweep_cache
from napari_prosma.data.fingerprint import hash_of_file
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event, LivePreview, Preview, Progress
from napari_prosma.training.run_claim import LOCK
from napari_prosma.training.steering import Changes, Steering, View

AHEAD = 1.0
ALONE = 10.0
"""Seconds without a word after which the caller is taken to be gone."""
HALTS = 30.0
"""Seconds that a process which ends waits for its job to stop."""
UNUSED = 120.0
"""Seconds without a word after which a place where nothing has begun is free for others."""
_LOOKS_UP = 0.5
"""Seconds after which a run that is held sees whether its caller is gone."""
_PASSING = (Progress, Preview, LivePreview)
"""Only the newest event of each of these kinds is kept."""


class Job(Protocol):
    """What a worker is given to do."""

    def events(self, place: Place) -> Iterator[Event]:
        """Its events, made on the worker."""
        ...


@dataclass(frozen=True)
class PackedJob:
    """A job as it travels: what it needs there, torch above all, is loaded when it is begun."""

    content: bytes

    def events(self, place: Place) -> Iterator[Event]:
        """Those of the job."""
        from distributed.protocol.pickle import loads

        from napari_prosma.model.device import cpu_threads

        # Dask gives its workers one thread of torch.
        with cpu_threads(CPU_COUNT), closing(loads(self.content).events(place)) as events:
            yield from events


@dataclass(frozen=True)
class Told:
    """What the caller says each time.

    Attributes
    ----------
    received, taken : int
        Numbers of the last event that arrived, and of the last that somebody has seen.
    changes : Changes
        For the steering of the run.
    labels : case name -> label
        Corrected ones, which were sent before.
    view : View, optional
    closes : bool
        Stop, and keep the place.
    """

    received: int = 0
    taken: int = 0
    changes: Changes = field(default_factory=Changes)
    labels: dict[str, Sent] = field(default_factory=dict)
    view: View | None = None
    closes: bool = False


@dataclass(frozen=True)
class Failure:
    """An error as it travels: in a user's words, or with its calls where nobody foresaw it."""

    kind: type[ProsmaError] | None
    text: str


@dataclass(frozen=True)
class Heard:
    """What the worker answers: new events by number, the state of its files, and whether it is over."""

    events: list[tuple[int, Event]]
    files: dict[str, tuple[int, int]]
    ended: bool
    failure: Failure | None


_running: dict[str, Place] = {}
"""Trainings of this process by name."""
_guard = threading.Lock()


class Place:
    """A caller's place on a worker: files, one iterator, and what it said.

    Parameters
    ----------
    name : str
        Of the place, unique.
    owner : str
        Who asks, in words.
    """

    def __init__(self, name: str, owner: str) -> None:
        self.name, self.owner = name, owner
        self.folder = cache_folder() / "runs" / name
        self.labels: dict[str, Sent] = {}
        self.steering = Steering()
        self._events: list[tuple[int, Event]] = []
        self._count = 0
        self._heard_at = time.monotonic()
        self._passing: dict[type[Event], tuple[int, Event]] = {}
        self._not_taken: deque[tuple[int, float]] = deque()  # numbers of events, and when they came
        self._changed = threading.Condition()
        self._closes = self._ended = False
        self._failure: Failure | None = None
        self._thread: threading.Thread | None = None

    def where(self) -> tuple[str, str]:
        """The name of this machine, and the run folder on it."""
        return platform.node(), str(self.folder)

    def lacking(self, wanted: Sequence[Sent]) -> list[Sent]:
        """What has to be sent first."""
        self._heard_at = time.monotonic()
        return [sent for sent in wanted if not sent.is_there]

    def keep(self, sent: Sent, packed: bytes) -> None:
        """Keep what was sent."""
        sent.keep(packed)

    def sees(self, files: Sequence[tuple[str, int]]) -> bool:
        """Whether files of these paths and sizes are here."""
        with suppress(OSError):
            return all(Path(path).stat().st_size == size for path, size in files)
        return False

    def hashes(self, files: Sequence[str]) -> list[str]:
        """Of files that are here."""
        return [hash_of_file(Path(path)) for path in files]

    def reserve(self) -> None:
        """Nobody else trains in this process until the run has ended.

        Raises
        ------
        ConfigError
            Somebody else trains.
        """
        sweep_cache()
        with _guard:
            for place in [place for place in _running.values() if place.is_abandoned]:
                del _running[place.name]
            for place in _running.values():
                raise ConfigError(f"'{platform.node()}' is busy with {place.owner}")
            _running[self.name] = self

    @property
    def is_abandoned(self) -> bool:
        """Whether its caller left before anything began."""
        return self._thread is None and time.monotonic() - self._heard_at > UNUSED

    def begin(self, job: Job) -> None:
        """Start what is to be done."""
        self._thread = threading.Thread(target=self._go, args=(job,), name="prosma", daemon=True)
        atexit.register(self._halt)
        self._thread.start()

    def exchange(self, told: Told) -> Heard:
        """Take up what the caller says, and give what it has not received."""
        with self._changed:
            self._heard_at = time.monotonic()
            while self._not_taken and self._not_taken[0][0] <= told.taken:
                self._not_taken.popleft()
            self._closes |= told.closes
            if told.closes:
                self.steering.stop()
            self._changed.notify_all()
        self.labels |= told.labels
        self._steer(told.changes)
        self.steering.look_at(told.view)
        ended = self._ended  # before the files are looked at: what was written last is among them then
        files = self._files()
        with self._changed:
            kept = (*self._events, *self._passing.values())
        new = sorted((n for n in kept if n[0] > told.received), key=itemgetter(0))
        return Heard(new, files, ended, self._failure if ended else None)

    def read(self, name: str) -> bytes:
        """A file of the run folder."""
        return (self.folder / name).read_bytes()

    def forget(self) -> None:
        """Remove the files of the run; its caller has them."""
        self._free()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steer(self, changes: Changes) -> None:
        if changes.settings:
            self.steering.change(**{name: value or 0 for name, value in changes.settings.items()})
        for case in changes.relabelled:
            self.steering.relabel(case)
        if changes.finish:
            self.steering.finish()
        if changes.stop:
            self.steering.stop()

    def _files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.folder.rglob("*"):
            with suppress(OSError):  # gone since
                if path.is_file() and path.name != LOCK and not path.name.startswith("."):
                    status = path.stat()
                    found[path.relative_to(self.folder).as_posix()] = (status.st_mtime_ns, status.st_size)
        return found

    def _go(self, job: Job) -> None:
        try:
            with closing(job.events(self)) as events:  # type: ignore[type-var]
                for event in events:
                    self._say(event)
                    if self._closes:
                        break
        except ProsmaError as error:
            self._failure = Failure(type(error), str(error))
        except MemoryError:
            self._failure = Failure(ProsmaError, "memory ran out; choose smaller patches or networks")
        except Exception:
            self._failure = Failure(None, traceback.format_exc())
        finally:
            atexit.unregister(self._halt)
            self._free()
            self._ended = True

    def _halt(self) -> None:
        """Keep the place before the process ends; a thread that is in torch by then would abort it."""
        self.exchange(Told(closes=True))
        assert self._thread is not None
        self._thread.join(HALTS)

    def _say(self, event: Event) -> None:
        """Keep an event; while somebody listens, wait until it is not too far before them."""
        with self._changed:
            self._count += 1
            numbered = (self._count, event)
            if isinstance(event, _PASSING):
                self._passing[type(event)] = numbered
            else:
                self._events.append(numbered)
            self._not_taken.append((self._count, time.monotonic()))
            while self._not_taken and not self._closes:
                now = time.monotonic()
                if now - self._heard_at > ALONE:
                    self._not_taken.clear()
                elif now - self._not_taken[0][1] < AHEAD:
                    break
                else:
                    self._changed.wait(_LOOKS_UP)

    def _free(self) -> None:
        with _guard:
            _running.pop(self.name, None)
