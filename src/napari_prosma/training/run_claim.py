"""A run folder has one owner: a lock names the process that trains into it, and no other folder is taken.

Imports no torch, so that a panel can ask before anything is loaded.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import struct
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from napari_prosma.data.keep import TABLE
from napari_prosma.data.limits import real
from napari_prosma.data.texts import parse_json, read_json
from napari_prosma.errors import ConfigError, DataError

LOCK, RUN = "run.lock", "run.json"
FORMAT = 1
"""Of ``run.json``."""
HERE = "this program"
CASES, UNLABELLED = "cases", "unlabelled"
"""Folders in that of a run on layers, written before it begins, with what is learned from."""
_OF_SYSTEMS = ("Thumbs.db", "desktop.ini", "Icon\r")
_TRIES = 3
_WRITTEN_AFTER = 10.0
"""Seconds after which a lock that names nobody was left by a process killed while it wrote it."""
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class _Owner:
    """What the lock says: a process, when it began, and where it runs; ``since`` is for people."""

    process: int
    began: str
    machine: str
    namespace: str
    since: str
    token: str

    def is_gone(self) -> bool:
        """Whether this process runs no longer; of another machine that cannot be known."""
        here = (self.machine, self.namespace) == (platform.node(), _namespace())
        return here and _beginning_of(self.process) != self.began

    def is_this(self) -> bool:
        """Whether it is this very process."""
        return not self.is_gone() and self.process == os.getpid() and self.machine == platform.node()

    @staticmethod
    def here() -> _Owner:
        """This process, now."""
        return _Owner(
            process=os.getpid(),
            began=_beginning_of(os.getpid()),
            machine=platform.node(),
            namespace=_namespace(),
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            token=secrets.token_hex(8),
        )


_OWNER = TypeAdapter(_Owner)
_GUARD = threading.RLock()


@dataclass
class _Claim:
    """On behalf of whom, how often, and whether the folder was made for it."""

    holder: object
    depth: int
    is_new: bool


_HELD: dict[Path, _Claim] = {}
"""Folders that this process trains into."""


@contextmanager
def claimed(folder: Path, holder: object, data: Path | None = None, goes_on: bool = False) -> Iterator[None]:
    """Own a run folder: nobody else trains into it until the block ends; made if missing.

    Under ``torchrun`` the first process claims it for all.

    Parameters
    ----------
    holder : object
        On behalf of whom; the same one may claim it again within the block.
    data : Path, optional
        What the run learns from.
    goes_on : bool
        The run in it is resumed; else :func:`require_own_folder`.

    Raises
    ------
    ConfigError
        Another run goes on in it, or it is no folder for one.
    DataError
        The folder cannot be written to.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    key = real(folder)
    claim(folder, holder, data, goes_on)
    try:
        yield
    finally:
        release(key)


def claim(folder: Path, holder: object, data: Path | None = None, goes_on: bool = False) -> Path:
    """As :func:`claimed`, until :func:`release` is called with what this gives."""
    key = real(folder)
    with _GUARD:
        held = _HELD.get(key)
        if held is not None and held.holder is not holder:
            raise ConfigError(
                f"'{folder}' is the folder of another run in this program; wait for its end, or "
                f"choose another folder"
            )
        if held is None:
            if not goes_on:
                require_own_folder(folder, data)
            held = _HELD[key] = _Claim(holder, 0, not folder.exists())
            try:
                _lock(folder)
            except BaseException:
                del _HELD[key]
                raise
        held.depth += 1
    return key


def release(key: Path) -> None:
    """Undo one :func:`claim`; a folder that was made for it and is still empty is removed."""
    with _GUARD:
        held = _HELD[key]
        held.depth -= 1
        if held.depth:
            return
        del _HELD[key]
        with suppress(OSError):  # else it is found stale
            (key / LOCK).unlink(missing_ok=True)
        if held.is_new:
            with suppress(OSError):  # not empty
                key.rmdir()


def who_trains(folder: Path) -> str:
    """Who trains into a folder now, in words: ``HERE``, or which process on which machine; empty = nobody."""
    if real(folder) in _HELD:
        return HERE
    try:
        owner = _OWNER.validate_json((folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return ""
    return "" if owner.is_gone() or owner.is_this() else f"process {owner.process} on '{owner.machine}'"


def require_own_folder(folder: Path, data: Path | None = None) -> None:
    """Refuse a folder for a run that holds something and is no run of ours, and the folder of the data.

    Raises ``ConfigError``.
    """
    if data is not None and real(folder) == real(data):
        raise ConfigError(
            f"'{folder}' holds the data to learn from; choose a new folder for the run, such as "
            f"'{folder.with_name(f'{folder.name}-run')}'"
        )
    if not folder.is_dir() or is_run(folder):
        return
    others = sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name not in (*_OF_SYSTEMS, LOCK) and not _is_empty(path)
    )
    if (folder / CASES / TABLE).is_file():  # of a run on layers that was stopped before it began
        others = [name for name in others if name not in (CASES, UNLABELLED)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ConfigError(
            f"'{folder}' holds '{others[0]}'{more} and is no run folder, so nothing is written there; choose "
            f"a new folder, such as '{folder / 'run'}'"
        )


def _is_empty(path: Path) -> bool:
    """Whether it is a folder with nothing in it, but perhaps the lock of a run that was killed early."""
    return path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, or of a cross-validation, that this program wrote."""
    with suppress(DataError):
        content = read_json(folder / RUN)
        if isinstance(content, dict) and {"format", "config", "plan", "cases"} <= content.keys():
            return True
    checkpoints = (*folder.glob("*.safetensors"), *folder.glob("fold[0-9]*/*.safetensors"))
    return any(map(_is_ours, checkpoints)) or any(map(is_run, folder.glob("fold[0-9]*")))


def _is_ours(checkpoint: Path) -> bool:
    """Whether the header of a safetensors file says that we wrote it."""
    with suppress(OSError, struct.error, DataError, AttributeError), checkpoint.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length < _LONGEST_HEADER:
            header = parse_json(file.read(length), f"'{checkpoint}'")
            return "prosma" in header.get("__metadata__", {})
    return False


def _lock(folder: Path) -> None:
    lock, owner = folder / LOCK, _Owner.here()
    for _ in range(_TRIES):
        is_made = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(lock, "x", encoding="utf-8") as file:
                is_made = True
                file.write(json.dumps(asdict(owner)))
            return
        except FileExistsError:
            _break(lock, owner)
        except OSError as error:
            if is_made:  # on a disk that is full
                lock.unlink(missing_ok=True)
            raise DataError(
                f"cannot write to '{folder}' ({error.strerror}); choose a folder that can be written to"
            ) from error
    raise ConfigError(f"'{folder}' is being taken by another run; choose another folder")


def _break(lock: Path, taker: _Owner) -> None:
    """Remove a lock whose process is gone.

    Raises ``ConfigError``: it is not gone, or runs on another machine.
    """
    try:
        text = lock.read_text(encoding="utf-8")
        written = lock.stat().st_mtime
    except FileNotFoundError:
        return
    try:
        owner = _OWNER.validate_json(text)
    except ValidationError as error:
        if time.time() - written < _WRITTEN_AFTER:
            raise ConfigError(f"'{lock.parent}' is being taken by another run; choose another one") from error
    else:
        # This process holds no lock that it does not know of: one that names it was left by a fork.
        if not owner.is_gone() and not owner.is_this():
            raise ConfigError(
                f"a run has been in progress in '{lock.parent}' since {owner.since} (process "
                f"{owner.process} on "
                f"'{owner.machine}'); wait for its end, or choose another folder; if that machine was "
                f"switched off meanwhile, delete '{lock}'"
            )
    stale = lock.with_name(f".{LOCK}-{taker.token}")
    with suppress(FileNotFoundError):  # somebody else was faster
        os.replace(lock, stale)
        if stale.read_text(encoding="utf-8") != text:  # and has a lock of its own by now
            os.replace(stale, lock)
        stale.unlink(missing_ok=True)


def _beginning_of(process: int) -> str:
    """When a process began, as text that stays the same while it runs; empty = there is none."""
    try:
        if sys.platform == "linux":  # in ticks since this start of the machine: clocks may be set
            said = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return "" if said[0] == "Z" else f"{said[19]} {start}"
        return f"{psutil.Process(process).create_time():.0f}"
    except (OSError, psutil.NoSuchProcess):
        return ""


def _namespace() -> str:
    """Where numbers of processes count: on this machine, of however many of the same name, or a container."""
    number = uuid.getnode()
    machine = "" if number >> 40 & 1 else f"{number:x}"  # else drawn anew in every process
    with suppress(OSError):
        machine = Path("/etc/machine-id").read_text().strip() or machine
    with suppress(OSError):
        machine += f" {os.readlink('/proc/self/ns/pid')}"
    return machine
