"""A run on a worker of a scheduler is the run that it is here, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from distributed import Client
from rich.console import Console
from typer.testing import CliRunner

from napari_prosma.app.elsewhere import called, following, scheduler, worker
from napari_prosma.app.elsewhere.note import note_of
from napari_prosma.app.elsewhere.run import train_elsewhere
from napari_prosma.app.elsewhere.scheduler import in_words, opened_line
from napari_prosma.app.elsewhere.worker import Place, Told
from napari_prosma.app.runs import left_run
from napari_prosma.cli import follow
from napari_prosma.cli.app import app
from napari_prosma.data import atomic, cluster
from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ULTRASOUND_CLASSES, ultrasound_case
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import EpochEnd, Event, Finished, LivePreview, Notice, Progress, Resumed
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.run_folder import read_metrics, read_run
from napari_prosma.training.steering import Steering, View

Settings = Callable[..., TrainConfig]
EPOCHS = 3


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, local_scheduler: Callable[[], AbstractContextManager[str]]
) -> Iterator[str]:
    """A scheduler with one worker, without a GPU, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # So that no run is over before a test has stopped it.
        patch.setattr(worker, "AHEAD", 0.0)
        patch.setattr(following, "ASKS", 0.005)
        with local_scheduler() as address:
            yield address


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings, ultrasound: list[Case]
) -> list[EpochEnd]:
    """The epochs of the run on this computer."""
    config = settings(tmp_path_factory.mktemp("here") / "run", epochs=EPOCHS)
    return epochs(train(config, ultrasound, ULTRASOUND_CLASSES))


def epochs(events: Iterator[Event]) -> list[EpochEnd]:
    return [event for event in events if isinstance(event, EpochEnd)]


def losses(ends: list[EpochEnd]) -> list[tuple[float, float]]:
    return [(end.loss, end.validation["dice"]) for end in ends]


def said(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Notice))


def until(events: Iterator[Event], kind: type[Event]) -> Event:
    return next(event for event in events if isinstance(event, kind))


# ---- a run on another machine -----------------------------------------------------------------------------


def test_a_run_there_is_the_run_that_it_is_here(
    address: str, tmp_path: Path, settings: Settings, ultrasound: list[Case], here: list[EpochEnd]
) -> None:
    config = settings(tmp_path / "run", epochs=EPOCHS)
    events = list(train_elsewhere(address, config, ultrasound, ULTRASOUND_CLASSES))
    assert losses(epochs(iter(events))) == losses(here)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.result.best, last.result.last) == (config.run_dir / BEST, config.run_dir / LAST)
    best = load_checkpoint(config.run_dir)
    assert best.config["run_dir"] == str(config.run_dir)
    assert read_run(config.run_dir).ended is not None
    assert note_of(config.run_dir) is None
    assert str(tmp_path) not in said(events)


def test_what_was_sent_is_not_sent_again_and_corrections_arrive(
    address: str, tmp_path: Path, settings: Settings, ultrasound: list[Case]
) -> None:
    label = ultrasound[0].read_label()
    cases = [replace(ultrasound[0], read_label=lambda: label), *ultrasound[1:]]
    steering = Steering()
    steering.look_at(View(cases[0].name, (None, None)))
    config = settings(tmp_path / "run", epochs=20, steps_per_epoch=10)
    run = train_elsewhere(address, config, cases, ULTRASOUND_CLASSES, steering=steering)
    events = [event for event, _ in zip(run, range(30), strict=False)]
    label = np.roll(label, 3, axis=0)
    steering.relabel(cases[0].name)
    for event in run:
        events.append(event)
        if isinstance(event, Notice) and "have changed and are learned from now on" in event.message:
            break
    steering.finish()
    events += run
    assert "Sent 0.0 MB; 6 of 6 cases were there already" in said(events)
    kept = {case.name: case.label_hash for case in read_run(config.run_dir).cases}
    assert kept[cases[0].name] == content_hash(label)
    assert any(isinstance(event, LivePreview) and event.case == cases[0].name for event in events)
    assert isinstance(events[-1], Finished)


def test_a_run_that_is_stopped_there_is_resumed_here(
    address: str, tmp_path: Path, settings: Settings, ultrasound: list[Case], here: list[EpochEnd]
) -> None:
    config = settings(tmp_path / "run", epochs=EPOCHS)
    with closing(train_elsewhere(address, config, ultrasound, ULTRASOUND_CLASSES)) as run:
        until(run, EpochEnd)
    left = left_run(config.run_dir)
    assert left.checkpoint is not None
    rest = epochs(train(left.config, ultrasound, ULTRASOUND_CLASSES, left.checkpoint))
    assert losses(rest) == losses(here)[-len(rest) :]


def test_a_run_that_was_stopped_here_is_resumed_there_with_both_its_checkpoints(
    address: str, tmp_path: Path, settings: Settings, ultrasound: list[Case], here: list[EpochEnd]
) -> None:
    config = settings(tmp_path / "run", epochs=EPOCHS)
    with closing(train(config, ultrasound, ULTRASOUND_CLASSES)) as run:
        until(run, EpochEnd)
    left = left_run(config.run_dir)
    assert left.checkpoint is not None
    run = train_elsewhere(address, left.config, ultrasound, ULTRASOUND_CLASSES, left.checkpoint)
    until(run, Resumed)
    (there,) = worker._running.values()
    for name in (BEST, LAST):
        assert load_checkpoint(there.folder / name).epoch == 1
    assert losses(epochs(run)) == losses(here)[1:]


def test_a_worker_that_is_killed_is_replaced(
    address: str, tmp_path: Path, settings: Settings, ultrasound: list[Case]
) -> None:
    config = settings(tmp_path / "run", epochs=6)  # more than it does before it is killed
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
    process = subprocess.Popen(
        [*command, "--nthreads", "1", "--resources", "GPU=1"], stderr=subprocess.DEVNULL
    )
    try:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
        run = train_elsewhere(address, config, ultrasound, ULTRASOUND_CLASSES)  # on the worker with a GPU
        events = [until(run, EpochEnd)]
    finally:
        process.kill()
        process.wait()
    events += run
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert [end.epoch for end in ends] == list(range(1, 7))
    assert [end.loss for end in read_metrics(config.run_dir)] == [end.loss for end in ends]
    assert "was lost; the run resumes on another one, from its last checkpoint" in said(events)
    assert isinstance(events[-1], Finished)


def test_a_run_outlives_its_connection_and_its_caller(
    address: str,
    tmp_path: Path,
    settings: Settings,
    ultrasound: list[Case],
    here: list[EpochEnd],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "ANSWERS", 1.0)
    config = settings(tmp_path / "run", epochs=EPOCHS)
    with Tunnel(address) as tunnel:
        run = train_elsewhere(tunnel.address, config, ultrasound, ULTRASOUND_CLASSES)
        until(run, EpochEnd)
        tunnel.cut()
        assert "continues there" in next(
            e.message for e in run if isinstance(e, Notice) and "lost" in e.message
        )
        assert "connection lost" in next(e.message for e in run if isinstance(e, Progress))
        run.close()
        assert note_of(config.run_dir) is not None
        tunnel.mend()
        left = left_run(config.run_dir)
        events = list(
            train_elsewhere("tcp://nowhere:1", left.config, ultrasound, ULTRASOUND_CLASSES, left.checkpoint)
        )
    assert losses(epochs(iter(events))) == losses(here)
    assert isinstance(events[-1], Finished)


# ---- one image on another machine -------------------------------------------------------------------------


def test_labels_and_gates_from_there_are_those_from_here(
    address: str, make_checkpoint: Callable[..., Checkpoint], noise: Callable[..., np.ndarray]
) -> None:
    model, image = make_checkpoint(), Image(noise(1, 40, 48), Geometry.pixels(2))
    there, here = (list(called(at, segment)(model, image, device="cpu"))[-1] for at in (address, None))
    np.testing.assert_array_equal(there.result.labels, here.result.labels)
    np.testing.assert_allclose(there.result.probabilities, here.result.probabilities, atol=1e-6)
    there, here = (list(called(at, inspect_gates)(model, image, device="cpu"))[-1] for at in (address, None))
    np.testing.assert_allclose(there.result.skips[1].psi, here.result.skips[1].psi, atol=1e-6)
    with pytest.raises(DataError, match="channel"):
        list(called(address, segment)(model, Image(noise(2, 40, 48), Geometry.pixels(2)), device="cpu"))


def test_the_shell_trains_segments_and_inspects_there(
    address: str, tmp_path: Path, ultrasound: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is on this machine, so that it sees the files."""
    monkeypatch.setattr(follow, "console", Console(soft_wrap=True, width=200))
    for case in ultrasound[:3]:
        for folder, array in (("images", case.read_image().array[0]), ("masks", case.read_label())):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            gray = (array * (255 if folder == "masks" else 1)).astype(np.uint8)
            PIL.Image.fromarray(gray).save(tmp_path / "data" / folder / f"{case.name}.png")
    image, run = tmp_path / "data" / "images" / f"{ultrasound[0].name}.png", tmp_path / "run"
    options = ("--epochs", "1", "--steps-per-epoch", "1", "--widths", "4,8,16", "--device", "cpu")
    lines = [
        ("train", tmp_path / "data", "--out", run, *options),
        ("segment", run, image, "--out", tmp_path / "labels", "--device", "cpu"),
        ("inspect", run, image, "--out", tmp_path / "gates", "--device", "cpu"),
        ("inspect", run, tmp_path / "data", "--out", tmp_path / "set", "--tests", "0", "--pictures", "0"),
    ]
    told = ""
    for line in lines:
        done = CliRunner().invoke(app, [*map(str, line), "--scheduler", address])
        assert done.exit_code == 0, done.output
        told += done.output
    assert f"reads the files in '{tmp_path / 'data'}' itself" in told
    assert load_checkpoint(run).config["data"] == str(tmp_path / "data")
    assert [path.name for path in (tmp_path / "labels").glob("*.png")] == [f"{image.stem}_labels.png"]
    assert (tmp_path / "set" / "report.html").is_file()
    wrong = CliRunner().invoke(app, [*map(str, lines[0]), "--folds", "2", "--scheduler", address])
    assert wrong.exit_code == 2
    assert "leave out --folds" in wrong.output


# ---- what cannot be done is told at once ------------------------------------------------------------------


BANNERS = {
    "a silent port": b"",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "a small number": (7).to_bytes(8, "little") + b"what",
}


@pytest.fixture(params=BANNERS)
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that listens and is no scheduler."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def greet() -> None:
            with suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(BANNERS[request.param])

        threading.Thread(target=greet, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for each in kept:
            each.close()


def test_who_listens_but_is_no_scheduler_is_told_in_time(
    stranger: str,
    make_checkpoint: Callable[..., Checkpoint],
    noise: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "ANSWERS", 0.5)
    monkeypatch.setattr(follow, "console", Console(soft_wrap=True, width=300))
    save_checkpoint(tmp_path / "model.safetensors", make_checkpoint())
    PIL.Image.fromarray(np.uint8(noise(32, 40) * 30 + 99)).save(tmp_path / "a.png")
    began = time.monotonic()
    with pytest.raises(ConfigError, match="does not speak as Dask does"):
        in_words(stranger)
    assert time.monotonic() - began < 4 * cluster.ANSWERS
    words = ["segment", tmp_path / "model.safetensors", tmp_path / "a.png", "--out", tmp_path / "labels"]
    shell = CliRunner().invoke(app, [*map(str, words), "--scheduler", stranger])
    assert shell.exit_code != 0
    assert f"no Dask scheduler answers at '{stranger}'" in shell.output


def test_a_worker_is_no_scheduler(address: str) -> None:
    with closing(cluster.connect(address)) as client:
        worker_address = next(iter(client.scheduler_info()["workers"]))
    with pytest.raises(ConfigError, match="it is a Dask worker, not the scheduler"):
        in_words(worker_address)


def test_what_is_wrong_with_a_cluster_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for nowhere in ("tcp://127.0.0.1:9", "my machine"):
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"no Dask scheduler answers at '{nowhere}'"):
            in_words(nowhere)
        assert time.monotonic() - began < cluster.ANSWERS
    with pytest.raises(ConfigError, match=r"offers a GPU \(1 without\).*choose the device auto"):
        opened_line(address, "cuda", "a run", is_exclusive=True)
    line = opened_line(address, "auto", "the run 'one'", is_exclusive=True)
    with pytest.raises(ConfigError, match=r"is busy with the run 'one' of .* another worker"):
        opened_line(address, "auto", "the run 'two'", is_exclusive=True)
    line.end()
    opened_line(address, "auto", "the run 'two'", is_exclusive=True).end()
    assert "1 worker on 127.0.0.1, none with a GPU" in in_words(address)
    monkeypatch.setattr(cluster, "__version__", "9.9")
    with pytest.raises(ConfigError, match=r"napari-prosma 9\.9; install the same on both"):
        in_words(address)
    monkeypatch.undo()
    found = cluster.Worker(address, "there", False, "3.9", cluster.__version__)
    with pytest.raises(ConfigError, match=r"has Python 3\.9 .* this computer Python"):
        found.require_usable()
    with pytest.raises(ConfigError, match="the worker on 'there' has no napari-prosma; install version"):
        replace(found, version="").require_usable()
    same = replace(found, python=".".join(map(str, sys.version_info[:2])))
    same.require_usable()
    with pytest.raises(ConfigError, match=r"'there' is short of memory \(its limit is 0\.3 GiB\); restart"):
        replace(same, memory=300_000_000).require_usable()
    with pytest.raises(ConfigError, match="'there' is paused, as its memory is full; wait, or restart it"):
        replace(same, memory=2**32, is_paused=True).require_usable()


_OVER = threading.Event()


def _wait_for_it() -> None:
    _OVER.wait(60)


def test_a_worker_whose_threads_others_take_is_busy(address: str) -> None:
    """Else nothing begins there before they end."""
    with closing(cluster.connect(address)) as client:
        others = [client.submit(_wait_for_it, pure=False) for _ in range(2)]
        try:
            while sum(map(len, client.processing().values())) < len(others):
                time.sleep(0.01)
            with pytest.raises(ConfigError, match="is busy with 2 other tasks of Dask: wait for the end"):
                opened_line(address, "auto", "a look", is_exclusive=False)
        finally:
            _OVER.set()
            client.gather(others)


def full(*folders: str) -> Callable[[Path, bytes], int]:
    """``Path.write_bytes`` where the disk of what lies in folders of these names is full."""
    write = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        if path.parent.name in folders or path.parent.parent.name in folders:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    return write_bytes


def test_a_full_disk_there_is_told_before_the_run(
    address: str,
    tmp_path: Path,
    settings: Settings,
    ultrasound: list[Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "write_bytes", full("sent"))
    config = settings(tmp_path / "run")
    with pytest.raises(DataError, match=r"^on '.*': cannot write .*No space left.*make room"):
        list(train_elsewhere(address, config, ultrasound, ULTRASOUND_CLASSES))
    assert note_of(config.run_dir) is None
    monkeypatch.undo()
    in_words(address)
    opened_line(address, "auto", "the next", is_exclusive=True).end()  # it is free again


def test_a_disk_that_fills_there_during_a_run_ends_it_with_its_last_checkpoint_here(
    address: str,
    tmp_path: Path,
    settings: Settings,
    ultrasound: list[Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced = atomic.replace

    def replace_(temporary: Path, path: Path, on_disk: bool = True) -> None:
        if "sent" in Path(path).parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(temporary, path, on_disk)

    config = settings(tmp_path / "run", epochs=30)
    run = train_elsewhere(address, config, ultrasound, ULTRASOUND_CLASSES)
    until(run, EpochEnd)
    monkeypatch.setattr(atomic, "replace", replace_)
    with pytest.raises(DataError, match=r"^on '.*': cannot write .*sent/runs.*No space left.*make room"):
        list(run)
    assert load_checkpoint(config.run_dir / LAST).epoch >= 1


def test_files_that_the_worker_does_not_see_are_sent(
    address: str, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        case = ultrasound_case(seed, (32, 32))
        for folder, array in (("images", case.read_image().array[0]), ("masks", 255 * case.read_label())):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array.astype(np.uint8)).save(tmp_path / "data" / folder / f"{seed}.png")
    data = find_cases(tmp_path / "data")
    config = settings(tmp_path / "run", epochs=1, steps_per_epoch=1, data=tmp_path / "data")
    monkeypatch.setattr(Place, "sees", lambda place, files: False)
    events = list(train_elsewhere(address, config, data.cases, data.class_names))
    assert "Sent" in said(events)
    assert "reads the files" not in said(events)
    assert isinstance(events[-1], Finished)


def test_workers_that_are_lost_again_and_again_end_the_run_in_words(
    address: str,
    tmp_path: Path,
    settings: Settings,
    ultrasound: list[Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where each is killed for lack of memory in the first step."""

    def lost(those: following.Following) -> Iterator[Event]:
        those._told = Told(received=1)
        yield Progress(0, 1)
        worker._running.clear()  # as with its process
        raise following.WorkerLost("it was killed")

    monkeypatch.setattr(following.Following, "events", lost)
    config = settings(tmp_path / "run")
    with pytest.raises(ProsmaError, match=r"two workers of .* were lost at the same place.*--memory-limit"):
        list(train_elsewhere(address, config, ultrasound, ULTRASOUND_CLASSES))


@pytest.mark.parametrize(
    "way",
    [
        (scheduler.Line, "begin", scheduler.Unreachable),
        (following.Following, "events", following.WorkerLost),
    ],
    ids=["begin", "load"],
)
def test_a_worker_that_is_lost_before_the_run_begins_is_told(
    way: tuple[type, str, type[Exception]],
    address: str,
    tmp_path: Path,
    settings: Settings,
    ultrasound: list[Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the import of PyTorch takes more memory than it may have."""
    kind, name, error = way

    def lost(*_: object) -> Iterator[Event]:
        worker._running.clear()  # as with its process
        raise error("it was killed")

    monkeypatch.setattr(kind, name, lost)
    with pytest.raises(ProsmaError, match=r"lost before the run began .*memory.*--memory-limit"):
        list(train_elsewhere(address, settings(tmp_path / "run"), ultrasound, ULTRASOUND_CLASSES))


# ---- the worker's side, without a scheduler ---------------------------------------------------------------


class Counting:
    """A job of a thousand steps."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done, self.is_closed, self.error = 0, False, error

    def events(self, place: Place) -> Iterator[Event]:
        try:
            if self.error is not None:
                raise self.error
            for self.done in range(1, 1001):
                yield Progress(self.done, 1000) if self.done % 2 else Notice(f"step {self.done}")
                time.sleep(0.001)
        finally:
            self.is_closed = True


def test_a_caller_who_does_not_take_holds_the_run_and_one_who_is_gone_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "AHEAD", 0.02)
    monkeypatch.setattr(worker, "_LOOKS_UP", 0.01)
    place, job = Place("a", "somebody"), Counting()
    place.begin(job)
    held = []
    for _ in range(4):
        time.sleep(0.04)
        heard = place.exchange(Told())
        held.append(job.done)
    assert held[-1] == held[1] < 200
    assert [number for number, _ in heard.events] == sorted(number for number, _ in heard.events)
    assert sum(isinstance(event, Progress) for _, event in heard.events) == 1
    monkeypatch.setattr(worker, "ALONE", 0.01)
    time.sleep(0.1)
    assert job.done > held[-1] + 20
    place.exchange(Told(closes=True))
    while not (heard := place.exchange(Told())).ended:
        time.sleep(0.01)
    assert job.is_closed
    assert job.done < 1000


def test_memory_that_runs_out_there_is_told() -> None:
    place = Place("c", "somebody")
    place.begin(Counting(MemoryError()))
    while not (heard := place.exchange(Told())).ended:
        time.sleep(0.005)
    assert heard.failure == worker.Failure(ProsmaError, "memory ran out; choose smaller patches or networks")


@pytest.mark.parametrize("error", [DataError("too small"), KeyError("what")])
def test_an_error_there_ends_the_job_and_is_told(error: Exception) -> None:
    place = Place("b", "somebody")
    place.begin(Counting(error))
    while not (heard := place.exchange(Told())).ended:
        time.sleep(0.005)
    assert heard.failure is not None
    assert heard.failure.kind is (DataError if isinstance(error, ProsmaError) else None)
    assert str(error) in heard.failure.text


def test_a_process_that_ends_stops_its_job_first() -> None:
    """A thread that is in torch when Python ends aborts the process."""
    program = (
        "import torch\n"
        "from napari_prosma.app.elsewhere.worker import Place\n"
        "from napari_prosma.events import Progress\n"
        "class Job:\n"
        "    def events(self, place):\n"
        "        try:\n"
        "            while True:\n"
        "                yield Progress(0, int(torch.rand(300, 300).matmul(torch.rand(300, 300)).sum()))\n"
        "        finally:\n"
        "            print('kept')\n"
        "place = Place('place', 'a test')\n"
        "place.begin(Job())\n"
        "while not place._count:\n"
        "    pass\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "kept\n", "")


class Tunnel:
    """A way to a scheduler that can be cut, as by ssh."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._is_cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *error: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        self._is_cut = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open = []

    def mend(self) -> None:
        self._is_cut = False

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(2**16):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
