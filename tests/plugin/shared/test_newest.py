"""Of several requests the newest wins, whatever became of the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.newest import NewestJob

SOON = 10_000


class Reader:
    """Asks a job for names, and keeps what it hears."""

    def __init__(self, job: NewestJob) -> None:
        self.job = job
        self.results: list[str] = []
        self.endings: list[Ending] = []
        job.happened.connect(self._hear)
        job.ended.connect(self.endings.append)

    def ask(self, name: str, interrupt: bool = True) -> None:
        self.job.ask(partial(self.job.start, name, partial(reading, name)), interrupt)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.results.append(event.result)


def reading(name: str) -> Iterator[Event]:
    yield Started(0, name)
    time.sleep(0.1)
    if name == "broken":
        raise DataError("broken")
    yield Finished(name)


@pytest.fixture
def reader(qtbot: QtBot) -> Iterator[Reader]:
    parent = QObject()
    job = NewestJob(parent)
    yield Reader(job)
    job.close()


@pytest.mark.parametrize("first", ["first", "broken"])
def test_the_newest_request_is_all_that_is_heard(reader: Reader, qtbot: QtBot, first: str):
    for name in (first, "second", "third"):
        reader.ask(name)
    qtbot.waitUntil(lambda: bool(reader.endings), timeout=SOON)
    assert reader.results == ["third"]
    assert reader.endings == [Ending()]
    reader.ask("fourth")
    qtbot.waitUntil(lambda: len(reader.endings) == 2, timeout=SOON)
    assert reader.results[-1] == "fourth"


def test_a_run_that_may_finish_is_heard_before_the_newest(reader: Reader, qtbot: QtBot):
    for name in ("first", "second", "third"):
        reader.ask(name, interrupt=False)
    qtbot.waitUntil(lambda: bool(reader.endings), timeout=SOON)
    assert reader.results == ["first", "third"]


def test_a_request_that_starts_nothing_ends_all_the_same(reader: Reader, qtbot: QtBot):
    reader.ask("broken")
    reader.job.ask(lambda: None)
    qtbot.waitUntil(lambda: bool(reader.endings), timeout=SOON)
    assert reader.endings == [Ending(stopped=True)]


@pytest.mark.parametrize("end", ["stop", "close"])
def test_what_waits_is_forgotten_where_nothing_is_wanted_any_more(reader: Reader, qtbot: QtBot, end: str):
    reader.ask("first")
    reader.ask("second")
    getattr(reader.job, end)()
    qtbot.waitUntil(lambda: not reader.job.is_running, timeout=SOON)
    qtbot.wait(300)
    assert "second" not in reader.results
