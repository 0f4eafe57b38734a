"""A job runs events in a thread and is usable again after every end."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject, QTimer

from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.plugin.shared.job import Ending, Job

SOON = 10_000


class Listener:
    """What a job said, and in which thread."""

    def __init__(self, job: Job) -> None:
        self.events: list[Event] = []
        self.endings: list[Ending] = []
        self.threads: set[int] = set()
        job.happened.connect(self._hear)
        job.ended.connect(self.endings.append)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())


@pytest.fixture
def job(qtbot: QtBot) -> Iterator[Job]:
    parent = QObject()
    made = Job(parent)
    yield made
    made.close()


def endless(closed_in: list[int] | None = None) -> Iterator[Event]:
    """Events until closed; the thread that closes them is kept."""
    try:
        yield Started(10**6, "counting")
        for n in range(10**6):
            time.sleep(0.005)
            yield Progress(n, 10**6)
    finally:
        if closed_in is not None:
            closed_in.append(threading.get_ident())


def beginning_and_end() -> Iterator[Event]:
    yield Started(0, "")
    yield Finished(None)


def failing(error: Exception) -> Callable[[], Iterator[Event]]:
    def events() -> Iterator[Event]:
        yield Started(2, "trying")
        raise error

    return events


def counting() -> Iterator[Event]:
    yield Started(300, "counting")
    for n in range(1, 301):
        yield Progress(n, 300)
    yield Finished(300)


def test_a_run_ends_with_the_window_that_it_belongs_to(qtbot: QtBot) -> None:
    parent, closed_in = QObject(), []
    job = Job(parent)
    heard = Listener(job)
    job.start("counting", lambda: endless(closed_in))
    qtbot.waitUntil(lambda: bool(heard.events), timeout=SOON)
    parent.deleteLater()
    qtbot.waitUntil(lambda: bool(closed_in), timeout=SOON)
    assert closed_in[0] != threading.get_ident()


def test_events_come_in_order_in_the_main_thread(job: Job, qtbot: QtBot):
    heard = Listener(job)
    job.start("counting", counting)
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert heard.threads == {threading.get_ident()}
    assert heard.events[0] == Started(300, "counting")
    done = [event.done for event in heard.events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == 300
    assert heard.events[-1] == Finished(300)
    assert heard.endings == [Ending()]


def test_progress_is_thinned_out(job: Job, qtbot: QtBot):
    heard = Listener(job)
    job.start("counting", counting)
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert len(heard.events) < 100


def test_stop_closes_the_iterator_in_its_own_thread(job: Job, qtbot: QtBot):
    heard, closed_in = Listener(job), list[int]()
    job.start("endless", lambda: endless(closed_in))
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    began = time.monotonic()
    job.stop()
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert time.monotonic() - began < 2
    assert heard.endings == [Ending(stopped=True)]
    assert len(closed_in) == 1
    assert closed_in[0] != threading.get_ident()


def test_our_error_is_shown_word_for_word(job: Job, qtbot: QtBot):
    heard = Listener(job)
    job.start("failing", failing(DataError("'scan.nii' is cut short; copy it again")))
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert notification_manager.records[-1].message == "'scan.nii' is cut short; copy it again"
    assert str(notification_manager.records[-1].severity) == "error"
    assert isinstance(heard.endings[0].error, DataError)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ValueError("of another kind")])
def test_other_errors_are_shown_with_their_traceback(job: Job, qtbot: QtBot, error: Exception):
    heard = Listener(job)
    job.start("failing", failing(error))
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    shown = notification_manager.records[-1]
    assert shown.exception is error
    assert "failing" in shown.as_text()
    assert not job.is_running


@pytest.mark.parametrize("error", [RuntimeError("broken"), DataError("bad"), None])
def test_a_job_can_start_again_after_any_end(job: Job, qtbot: QtBot, error: Exception | None):
    heard = Listener(job)
    job.start("first", endless if error is None else failing(error))
    job.stop()
    qtbot.waitUntil(lambda: len(heard.endings) == 1, timeout=SOON)
    heard.events.clear()
    job.start("second", counting)
    qtbot.waitUntil(lambda: len(heard.endings) == 2, timeout=SOON)
    assert heard.endings[1] == Ending()
    assert heard.events[-1] == Finished(300)


def test_an_error_while_saving_after_stop_is_shown(job: Job, qtbot: QtBot):
    def events() -> Iterator[Event]:
        try:
            yield from endless()
        except GeneratorExit:
            raise DataError("cannot write 'last'; free some space") from None

    heard = Listener(job)
    job.start("endless", events)
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    job.stop()
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert str(heard.endings[0].error) == "cannot write 'last'; free some space"


def test_pause_holds_and_resume_goes_on(job: Job, qtbot: QtBot):
    heard = Listener(job)
    job.start("endless", endless)
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    with qtbot.waitSignal(job.held, timeout=SOON) as told:
        job.pause()
    assert told.args == [True]
    qtbot.wait(100)
    held = len(heard.events)
    qtbot.wait(400)
    assert len(heard.events) == held
    job.resume()
    qtbot.waitUntil(lambda: len(heard.events) > held, timeout=SOON)


def test_a_paused_job_stops(job: Job, qtbot: QtBot):
    heard, closed_in = Listener(job), list[int]()
    job.start("endless", lambda: endless(closed_in))
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    with qtbot.waitSignal(job.held, timeout=SOON):
        job.pause()
    job.stop()
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert closed_in


def test_close_waits_until_the_run_has_saved(job: Job, qtbot: QtBot):
    saved = []

    def events() -> Iterator[Event]:
        try:
            yield from endless()
        finally:
            time.sleep(0.5)
            saved.append("last")

    heard = Listener(job)
    job.start("endless", events)
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    job.close()
    assert saved == ["last"]
    assert not job.is_running


def test_a_closed_run_is_not_heard_by_the_next(job: Job, qtbot: QtBot):
    heard = Listener(job)
    job.start("endless", endless)
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    job.close()
    heard.events.clear()
    job.start("counting", counting)
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert heard.events[0] == Started(300, "counting")
    assert heard.endings == [Ending()]


def test_napari_keeps_the_worker_of_a_run_and_nothing_that_it_ran_on(
    make_napari_viewer: Callable[[], object], qtbot: QtBot
) -> None:
    make_napari_viewer()
    parent = QObject()
    job = Job(parent)
    case = Listener(job)
    gone = weakref.ref(case)
    with qtbot.waitSignal(job.ended, timeout=SOON):
        job.start("a run", partial(_counted, case))
    job.happened.disconnect()
    job.ended.disconnect()
    del case
    gc.collect()
    assert gone() is None


def _counted(case: object) -> Iterator[Event]:
    yield Started(1, "counting")
    yield Finished(case)


def test_runs_do_not_wait_for_each_other(qtbot: QtBot):
    parent = QObject()
    jobs = [Job(parent) for _ in range(6)]
    heard = [Listener(job) for job in jobs]
    for job in jobs:
        job.start("endless", endless)
    qtbot.waitUntil(lambda: all(len(listener.events) > 1 for listener in heard), timeout=SOON)
    for job in jobs:
        job.close()


def test_each_phase_has_a_bar_with_its_time_left(job: Job, qtbot: QtBot):
    from napari.utils import progress

    seen = []

    def events() -> Iterator[Event]:
        yield Started(4, "reading")
        yield Progress(4, 4)
        yield Started(50, "training")
        for n in range(1, 51):
            time.sleep(0.02)
            yield Progress(n, 50)

    def look(event: Event) -> None:
        seen.append(([bar.desc for bar in progress._all_instances], job.time_left()))

    job.happened.connect(look)
    heard = Listener(job)
    job.start("phases", events)
    qtbot.waitUntil(lambda: bool(heard.endings), timeout=SOON)
    assert {tuple(bars) for bars, _ in seen} >= {("reading",), ("training",)}
    assert seen[-1][1].startswith("00:0")
    assert not progress._all_instances


def test_steps_are_taken_one_a_turn_before_the_next_event(job: Job, qtbot: QtBot):
    log: list[str] = []

    def hear(event: Event) -> None:
        log.append(type(event).__name__)
        if isinstance(event, Started):
            job.in_turns(*(partial(step, n) for n in (1, 2)))

    def step(n: int) -> None:
        log.append(f"step {n}")
        QTimer.singleShot(0, lambda: log.append("the window"))

    job.happened.connect(hear)
    job.ended.connect(lambda ending: log.append("ended"))
    job.start("steps", beginning_and_end)
    qtbot.waitUntil(lambda: "ended" in log, timeout=SOON)
    assert log == ["Started", "step 1", "the window", "step 2", "the window", "Finished", "ended"]


def test_steps_that_a_step_leads_to_come_next(job: Job, qtbot: QtBot):
    done: list[int] = []
    job.in_turns(
        lambda: job.in_turns(partial(done.append, 1), partial(done.append, 2)), partial(done.append, 3)
    )
    qtbot.waitUntil(lambda: len(done) == 3, timeout=SOON)
    assert done == [1, 2, 3]


def test_a_step_that_fails_ends_no_run(job: Job, qtbot: QtBot):
    done: list[int] = []
    job.happened.connect(
        lambda event: (
            job.in_turns(partial(int, "none"), partial(done.append, 1))
            if isinstance(event, Started)
            else None
        )
    )
    with qtbot.captureExceptions() as errors, qtbot.waitSignal(job.ended, timeout=SOON):
        job.start("steps", beginning_and_end)
    assert len(errors) == 1
    assert done == [1]


def test_what_was_begun_is_done_when_a_panel_closes(job: Job, qtbot: QtBot):
    done: list[int] = []

    def hear(event: Event) -> None:
        if isinstance(event, Started):
            job.in_turns(*(partial(done.append, n) for n in range(9)))

    job.happened.connect(hear)
    job.start("steps", beginning_and_end)
    qtbot.waitUntil(lambda: bool(done), timeout=SOON)
    job.close()
    assert done == list(range(9))


def test_a_step_that_fails_while_a_panel_closes_leaves_no_run_behind(
    job: Job, qtbot: QtBot, caplog: pytest.LogCaptureFixture
):
    closed_in, done, heard = list[int](), list[int](), Listener(job)
    job.start("endless", lambda: endless(closed_in))
    qtbot.waitUntil(lambda: len(heard.events) > 1, timeout=SOON)
    job.in_turns(partial(int, "none"), partial(done.append, 1))
    job.close()
    assert len(closed_in) == 1
    assert done == [1]
    assert "invalid literal" in caplog.text
