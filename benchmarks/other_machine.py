"""Training on another machine: what is sent, whether the run is the same, and what breaks it.

    python benchmarks/other_machine.py --out benchmarks/results/other-machine.json
    python benchmarks/other_machine.py --small-disk /mnt/3mb --out other-machine.json

Starts a scheduler and two workers (one with ``GPU=1``) with the commands of the documentation, and reaches
them through a tunnel that counts bytes and can be cut. Then: a folder of images once and again; a run's
epochs against the same run here; the tunnel cut and mended; the worker killed (SIGKILL); what cannot be done,
with the seconds until it is said. ``--small-disk`` is an empty folder on a disk of a few megabytes, for a
worker whose disk is full.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from distributed import Client
from measuring import circumstances
from PIL import Image

from napari_prosma.app.elsewhere.run import train_elsewhere
from napari_prosma.app.elsewhere.scheduler import in_words, opened_line
from napari_prosma.app.runs import left_run
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ULTRASOUND_CLASSES, ultrasound_case
from napari_prosma.errors import ProsmaError
from napari_prosma.events import EpochEnd, Event, Notice, Progress
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

SIDE, EPOCHS, STEPS = 256, 8, 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--small-disk", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    row: dict[str, Any] = circumstances(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder_of_images(folder / "data", given.images)
        cases = find_cases(data).cases
        with cluster(folder / "cache") as (address, start_worker), Tunnel(address) as tunnel:
            start_worker("--resources", "GPU=1")
            worker = start_worker()
            wait_for_workers(address, 2)
            row["wrong"] = what_is_wrong(address) | unfit_workers(folder)
            row["sent"] = sent(tunnel, folder, data, cases)
            few = cases[:8]
            here = run_of(train(config(folder / "here"), few, ULTRASOUND_CLASSES))
            row["run"] = the_same(tunnel, folder, few, here)
            row["connection"] = cut(tunnel, folder, few, here)
            row["killed"] = killed(address, folder, few, here)
            worker.kill()
        if given.small_disk is not None:
            row["full disk"] = full_disk(given.small_disk, folder, cases)
    text = json.dumps(row, indent=1).replace(scratch, "SCRATCH").replace(str(given.small_disk), "SMALL_DISK")
    with written_whole(given.out) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)


# ---- parts ------------------------------------------------------------------------------------------------


def what_is_wrong(address: str) -> dict[str, Any]:
    """Words and seconds of what cannot be done."""
    return {
        "no scheduler": refusal(lambda: in_words("tcp://127.0.0.1:9")),
        "no such machine": refusal(lambda: in_words("tcp://no-such-machine.invalid:8786")),
        "busy": busy(address),
    }


def busy(address: str) -> dict[str, Any]:
    """A third user of two workers."""
    with ExitStack() as stack:
        for n in range(2):
            stack.callback(opened_line(address, "auto", f"the run '{n}'", is_exclusive=True).end)
        return refusal(lambda: opened_line(address, "auto", "the third run", is_exclusive=True))


def unfit_workers(folder: Path) -> dict[str, Any]:
    """Words and seconds of workers that cannot be used."""
    wheel = folder / "another" / "napari_prosma-9.9.dist-info"
    wheel.mkdir(parents=True)
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: napari-prosma\nVersion: 9.9\n")
    clone = folder / "older" / "napari_prosma"  # of the same version, but without what is called there
    clone.mkdir(parents=True)
    (clone / "__init__.py").touch()
    unfit: dict[str, tuple[Path | None, tuple[str, ...]]] = {
        "another version": (wheel.parent, ()),
        "an older clone": (clone.parent, ()),
        "too little memory": (None, ("--memory-limit", "300MB")),
    }
    found = {}
    for name, (path, options) in unfit.items():
        with cluster(folder / "cache", path) as (address, start_worker):
            start_worker(*options)
            wait_for_workers(address, 1)
            found[name] = refusal(lambda at=address: opened_line(at, "auto", "a run", is_exclusive=True))
    return found


def sent(tunnel: Tunnel, folder: Path, data: Path, cases: Sequence[Case]) -> dict[str, Any]:
    """Bytes towards the worker until the first step, of the same cases once and again."""
    found: dict[str, Any] = {
        "images": len(cases),
        "bytes on disk": sum(path.stat().st_size for path in data.rglob("*.png")),
    }
    unseen = [replace(case, files=()) for case in cases]  # this worker would see the files
    for name in ("once", "again"):
        before, began = tunnel.bytes_there, time.monotonic()
        run = train_elsewhere(tunnel.address, config(folder / name), unseen, ULTRASOUND_CLASSES)
        said = until_first_step(run)
        taken = time.monotonic() - began
        run.close()
        found[name] = {"bytes": tunnel.bytes_there - before, "seconds to the first step": taken, "said": said}
    before = tunnel.bytes_there
    seen = config(folder / "seen", data=data, validation_fraction=0.02)
    run = train_elsewhere(tunnel.address, seen, cases, ULTRASOUND_CLASSES)
    said = until_first_step(run)
    run.close()
    found["files that it sees"] = {"bytes": tunnel.bytes_there - before, "said": said}
    return found


def until_first_step(run: Iterator[Event]) -> str:
    said = ""
    for event in run:
        if isinstance(event, Notice) and ("Sent" in event.message or "itself" in event.message):
            said += event.message + ". "
        if isinstance(event, Progress) and "loss" in event.message:
            break
    return said


def the_same(tunnel: Tunnel, folder: Path, cases: Sequence[Case], here: dict[str, Any]) -> dict[str, Any]:
    before, back = tunnel.bytes_there, tunnel.bytes_back
    there = run_of(train_elsewhere(tunnel.address, config(folder / "there"), cases, ULTRASOUND_CLASSES))
    return {
        "losses here": here["losses"],
        "losses there": there["losses"],
        "equal": there["losses"] == here["losses"],
        "seconds here": here["seconds"],
        "seconds there": there["seconds"],
        "bytes there": tunnel.bytes_there - before,
        "bytes back": tunnel.bytes_back - back,
        "bytes of the checkpoints": sum(p.stat().st_size for p in (folder / "there").glob("*.safetensors")),
    }


def cut(tunnel: Tunnel, folder: Path, cases: Sequence[Case], here: dict[str, Any]) -> dict[str, Any]:
    """The caller leaves while the tunnel is cut, and comes back to the run as a new one would."""
    wanted = config(folder / "cut")
    run = train_elsewhere(tunnel.address, wanted, cases, ULTRASOUND_CLASSES)
    next(event for event in run if isinstance(event, EpochEnd))
    tunnel.cut()
    said = next(e.message for e in run if isinstance(e, Notice) and "lost" in e.message)
    run.close()
    time.sleep(3)
    tunnel.mend()
    began = time.monotonic()
    left = left_run(wanted.run_dir)
    again = train_elsewhere(tunnel.address, left.config, cases, ULTRASOUND_CLASSES, left.checkpoint)
    first = next(event for event in again if isinstance(event, EpochEnd))
    back = time.monotonic() - began
    rest = run_of(again)
    losses = [first.loss, *rest["losses"]]
    return {"said": said, "seconds until it is back": back, "equal": losses == here["losses"]}


def killed(address: str, folder: Path, cases: Sequence[Case], here: dict[str, Any]) -> dict[str, Any]:
    run = train_elsewhere(address, config(folder / "killed"), cases, ULTRASOUND_CLASSES)
    first = next(event for event in run if isinstance(event, EpochEnd))
    kill_worker(address)
    began = time.monotonic()
    said, ends, after = "", [first.loss], 0.0
    for event in run:
        if isinstance(event, Notice) and "was lost" in event.message:
            said = event.message
        if isinstance(event, EpochEnd):
            ends.append(event.loss)
            if said and not after:
                after = time.monotonic() - began
    return {"said": said, "seconds to the next epoch": after, "equal": ends == here["losses"]}


def full_disk(disk: Path, folder: Path, cases: Sequence[Case]) -> dict[str, Any]:
    with cluster(disk) as (address, start_worker):
        start_worker()
        wait_for_workers(address, 1)
        unseen = [replace(case, files=()) for case in cases]
        run = train_elsewhere(address, config(folder / "full"), unseen, ULTRASOUND_CLASSES)
        return refusal(lambda: run_of(run))


# ---- what parts share -------------------------------------------------------------------------------------


def config(run_dir: Path, **changes: Any) -> TrainConfig:
    short = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "batch": 2, "patch": (64, 64), "widths": (8, 16, 32)}
    return TrainConfig.of(run_dir=run_dir, device="auto", threads=1, seed=0, **{**short, **changes})


def run_of(events: Iterator[Event]) -> dict[str, Any]:
    began = time.monotonic()
    losses = [event.loss for event in events if isinstance(event, EpochEnd)]
    return {"losses": losses, "seconds": time.monotonic() - began}


def refusal(call: Callable[[], object]) -> dict[str, Any]:
    """What is said, and after how many seconds."""
    began = time.monotonic()
    try:
        call()
    except ProsmaError as error:
        return {"said": str(error), "seconds": time.monotonic() - began}
    raise RuntimeError("nothing was refused")


def folder_of_images(folder: Path, number: int) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed in range(number):
        case = ultrasound_case(seed, (SIDE, SIDE))
        assert case.read_label is not None
        Image.fromarray(case.read_image().array[0]).save(folder / "images" / f"{seed}.png")
        Image.fromarray(case.read_label() * 255).save(folder / "masks" / f"{seed}.png")
    return folder


@contextmanager
def cluster(cache: Path, first: Path | None = None) -> Iterator[tuple[str, Callable[..., subprocess.Popen]]]:
    """A scheduler, and what starts a worker of it with further options; ``first`` is where it looks first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    if first is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(first), *sys.path])
    processes: list[subprocess.Popen] = []

    def start(program: str, *options: str) -> subprocess.Popen:
        words = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard", *options]
        processes.append(subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL))
        return processes[-1]

    start("scheduler", "--host", "127.0.0.1", "--port", str(port))
    try:
        yield (
            address,
            lambda *options: start("worker", address, "--nworkers", "1", "--nthreads", "1", *options),
        )
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)


def wait_for_workers(address: str, number: int) -> None:
    with Client(address, set_as_default=False, timeout=60) as client:
        client.wait_for_workers(number, timeout=60)


def kill_worker(address: str) -> None:
    """The process of the worker that trains."""
    with Client(address, set_as_default=False) as client:
        trains = client.run(lambda: any(thread.name == "prosma" for thread in threading.enumerate()))
        processes = client.run(os.getpid)
    os.kill(next(processes[name] for name, is_busy in trains.items() if is_busy), 9)


class Tunnel:
    """A way to a scheduler, as by ssh, that counts what passes and can be cut."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.bytes_there = self.bytes_back = 0
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
                for one, other, name in ((near, far, "bytes_there"), (far, near, "bytes_back")):
                    threading.Thread(target=self._pass, args=(one, other, name), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, name: str) -> None:
        with suppress(OSError):
            while data := one.recv(2**16):
                setattr(self, name, getattr(self, name) + len(data))
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
