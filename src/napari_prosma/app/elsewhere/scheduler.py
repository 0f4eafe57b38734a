"""A worker of a Dask scheduler, found, compared and called."""

from __future__ import annotations

import getpass
import logging
import platform
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from napari_prosma.data.cluster import ANSWERS, LOST, PREFIX, Worker, connect, require_usable, workers_of
from napari_prosma.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distributed import Actor, Client

    from napari_prosma.app.elsewhere.store import Parcel
    from napari_prosma.app.elsewhere.worker import Job

STARTS = 30.0
"""Seconds in which a worker that answers has loaded this program."""
TRANSFER = 300.0
"""Seconds in which a file arrives."""
_LOOKS = 3
"""Times that a worker is asked before it counts as gone, a second apart."""


class Unreachable(Exception):
    """A worker does not answer: it is gone, or the connection to it."""


def fitting_workers(client: Client, address: str, device: str) -> list[Worker]:
    """The workers that can do what is wanted: for ``cuda`` those with a GPU.

    Raises
    ------
    ConfigError
        None can, and why.
    """
    found = workers_of(client, address)
    wanted = [worker for worker in found if worker.has_gpu or device != "cuda"]
    if not wanted:
        raise ConfigError(
            f"no worker of '{address}' offers a GPU ({len(found)} without); start one with dask worker "
            f"{address} --resources GPU=1, or choose the device auto"
        )
    return require_usable(wanted)


def in_words(address: str) -> str:
    """What a scheduler offers, for the one who tests an address.

    Raises
    ------
    ConfigError
        As the others here.
    """
    with closing(connect(address)) as client:
        found = fitting_workers(client, address, "auto")
    gpus = sum(worker.has_gpu for worker in found)
    hosts = ", ".join(sorted({worker.host for worker in found}))
    plural = "s" if len(found) > 1 else ""
    return f"{len(found)} worker{plural} on {hosts}, {gpus or 'none'} with a GPU, of the same version"


class Line:
    """The way to a place on a worker.

    Parameters
    ----------
    address : str
        Of the scheduler.
    name : str
        Of the place.
    """

    def __init__(self, address: str, name: str, client: Client, actor: Actor) -> None:
        self.address, self.name, self.host = address, name, ""
        self._client, self._actor = client, actor
        self.host, self.folder = self.call("where")

    def call(self, method: str, *arguments: Any, seconds: float = ANSWERS) -> Any:
        """What a method of the place gives.

        Raises
        ------
        Unreachable
        ProsmaError
            Of the method.
        """
        try:
            with self._client.as_current():
                return getattr(self._actor, method)(*arguments).result(timeout=seconds)
        except DataError as error:
            raise type(error)(f"on '{self.host}': {error}") from error
        except LOST as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def send(self, parcels: Sequence[Parcel]) -> int:
        """Send what is not there yet; the number of bytes that went."""
        lacking = set(self.call("lacking", [parcel.sent for parcel in parcels]))
        gone = 0
        for parcel in parcels:
            if parcel.sent in lacking:
                packed = parcel.pack()
                self.call("keep", parcel.sent, packed, seconds=TRANSFER)
                lacking.remove(parcel.sent)
                gone += len(packed)
        return gone

    def begin(self, job: Job) -> None:
        """Start a job, which goes on when the connection is lost."""
        from distributed.protocol.pickle import dumps

        from napari_prosma.app.elsewhere.worker import PackedJob

        self.call("begin", PackedJob(dumps(job)), seconds=TRANSFER)

    def again(self) -> bool:
        """Connect anew; False where the worker, or what it did, is gone.

        Raises
        ------
        ConfigError
            The scheduler does not answer.
        """
        self.close()
        found = found_again(self.address, self.name)
        if found is None:
            return False
        self._client, self._actor = found._client, found._actor
        return True

    def end(self) -> None:
        """Nothing is wanted any more from the worker."""
        try:
            self.call("forget")
            self._client.unpublish_dataset(self.name)
        except (Unreachable, *LOST) as error:  # what is left there is swept one day
            logging.getLogger(__name__).warning("'%s' was left as it is: %s", self.host, error)
        finally:
            self.close()

    def close(self) -> None:
        """Leave what goes on there."""
        self._client.close(timeout=ANSWERS)


def opened_line(address: str, device: str, what: str, is_exclusive: bool) -> Line:
    """A new place on a worker; the client is open until the line is closed.

    Parameters
    ----------
    address : str
    device : str
        ``cuda`` wants a worker with a GPU; ``auto`` prefers one.
    what : str
        What is to be done, in words.
    is_exclusive : bool
        Not beside another of these in one process.

    Raises
    ------
    ConfigError
        Nobody answers, no worker fits, or all are busy.
    """
    from napari_prosma.app.elsewhere.worker import Place

    client = connect(address)
    busy: list[str] = []
    try:
        for worker in fitting_workers(client, address, device):
            if tasks := worker.tasks(client):
                busy.append(f"'{worker.host}' is busy with {tasks} other tasks of Dask")
                continue
            name = f"{PREFIX}{uuid4().hex[:12]}"
            owner = f"{what} of {getpass.getuser()} at '{platform.node()}', since {datetime.now():%H:%M}"
            future: Any = client.submit(
                Place, name, owner, actor=True, workers=[worker.address], key=name, pure=False
            )
            try:
                line = Line(address, name, client, future.result(timeout=STARTS))
                if is_exclusive:
                    line.call("reserve")
                client.publish_dataset(future, name=name)
            except ConfigError as error:
                busy.append(str(error))
                continue
            except (Unreachable, OSError) as error:
                busy.append(f"the worker on '{worker.host}' does not answer ({error or 'in time'})")
                continue
            except LOST as error:
                said = str(error.__cause__ or error).partition("\n")[0]
                raise ConfigError(
                    f"the worker on '{worker.host}' cannot load this program ({said}); install the same "
                    f"version on both"
                ) from error
            return line
        raise ConfigError(f"{'; '.join(busy)}: wait for the end, or start another worker of '{address}'")
    except BaseException:
        client.close(timeout=ANSWERS)
        raise


def found_again(address: str, name: str) -> Line | None:
    """The line to a place that was made before; None where the worker, or what it did, is gone.

    Raises
    ------
    ConfigError
        The scheduler does not answer.
    """
    client = connect(address)
    for look in range(1, _LOOKS + 1):
        try:
            with client.as_current():
                future = client.get_dataset(name)
            return Line(address, name, client, future.result(timeout=ANSWERS))
        except (KeyError, RuntimeError):
            break
        except (Unreachable, *LOST):
            time.sleep(look < _LOOKS)
    client.close(timeout=ANSWERS)
    return None
