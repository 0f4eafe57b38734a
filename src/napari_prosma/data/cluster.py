"""The scheduler of a Dask cluster, by its address, and its workers."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

from napari_prosma import __version__
from napari_prosma.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

ANSWERS = 5.0
"""Seconds in which a scheduler or a worker answers."""
GPU = "GPU"
"""The resource that a worker with a GPU is started with."""
PREFIX = "prosma-"
"""How the names of what this program puts on workers begin."""
GIB = 2**30
LEAST_MEMORY = GIB
"""Of a worker: Dask ends one at 95 % of its limit, and Dask, PyTorch and this program alone take a third."""
LOST = (OSError, RuntimeError, ValueError)
"""What Dask raises where a worker, or the connection to it, is gone; ``TimeoutError`` is one of them."""


def connect(address: str) -> Client:
    """A client of the scheduler at an address such as ``tcp://HOST:8786``, to be closed.

    Raises
    ------
    ConfigError
        Dask is not installed, or nobody answers.
    """
    if find_spec("distributed") is None:
        raise ConfigError("another machine needs Dask: pip install 'napari-prosma[cluster]'")
    from distributed import Client
    from distributed.comm import get_address_host_port

    try:
        # A client that never got through holds up whoever collects it, for seconds or for ever.
        socket.create_connection(get_address_host_port(address), ANSWERS).close()
        _require_scheduler(address)
        return Client(address, timeout=ANSWERS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        said = str(error).strip() or type(error).__name__
        raise ConfigError(
            f"no Dask scheduler answers at '{address}' ({said}); start one there with dask scheduler, and "
            f"give its address, such as tcp://HOST:8786"
        ) from error


def _require_scheduler(address: str) -> None:
    """Refuse who listens there but is none, such as a web server or ssh.

    Raises
    ------
    ValueError
    """
    from distributed.core import rpc
    from distributed.security import Security

    async def ask() -> str:
        arguments = Security().get_connection_args("client")
        asked = rpc(address, timeout=ANSWERS, connection_args=arguments)
        try:
            return (await asked.identity())["type"]
        finally:
            await asked.close_rpc()

    answer: Future[str] = Future()

    def wait() -> None:
        try:
            answer.set_result(asyncio.run(ask()))
        except BaseException as error:
            answer.set_exception(error)

    # A thread that may be left behind: what listens there may take the question and stay silent.
    Thread(target=wait, name="prosma asks", daemon=True).start()
    try:
        kind = answer.result(ANSWERS)
    except TypeError:  # of Dask's settings for TLS
        raise
    except Exception as error:  # an answer in another language fails in any way
        raise ValueError(
            "something listens there that does not speak as Dask does, or not with the same TLS"
        ) from error
    if kind != "Scheduler":
        raise ValueError(f"it is a Dask {kind.lower()}, not the scheduler")


@dataclass(frozen=True)
class Worker:
    """A worker as the scheduler knows it."""

    address: str
    host: str
    has_gpu: bool
    python: str
    version: str
    threads: int = 1
    memory: int = 0
    is_paused: bool = False

    def require_usable(self) -> None:
        """Refuse one that would not understand what is sent, or has no memory for it.

        Raises
        ------
        ConfigError
        """
        here = ".".join(map(str, sys.version_info[:2]))
        if not self.version:
            raise ConfigError(
                f"the worker on '{self.host}' has no napari-prosma; install version {__version__} there, "
                f"where dask worker is started"
            )
        if (self.python, self.version) != (here, __version__):
            raise ConfigError(
                f"the worker on '{self.host}' has Python {self.python} and napari-prosma {self.version}, "
                f"this computer Python {here} and napari-prosma {__version__}; install the same on both"
            )
        if self.is_paused:
            raise ConfigError(
                f"the worker on '{self.host}' is paused, as its memory is full; wait, or restart it"
            )
        if 0 < self.memory < LEAST_MEMORY:
            raise ConfigError(
                f"the worker on '{self.host}' is short of memory (its limit is {self.memory / GIB:.1f} GiB); "
                f"restart it with a higher --memory-limit, at least {LEAST_MEMORY / GIB:.0f}GiB"
            )

    def tasks(self, client: Client) -> int:
        """How many tasks of others take all of its threads, which nothing begins before; 0 if they do not."""
        keys = client.processing([self.address]).get(self.address, ())
        others = sum(not str(key).startswith(PREFIX) for key in keys)
        return others if others >= self.threads else 0


def workers_of(client: Client, address: str) -> list[Worker]:
    """The workers, those with a GPU first.

    Raises
    ------
    ConfigError
        There is none, or they do not answer.
    """
    pool = ThreadPoolExecutor(1)
    try:
        asked = pool.submit(client.get_versions, check=False, packages=["napari_prosma"])
        versions: Any = asked.result(ANSWERS)
    except LOST as error:
        raise ConfigError(f"the workers of '{address}' do not answer; restart them") from error
    finally:
        pool.shutdown(wait=False)
    try:
        known = client.scheduler_info(n_workers=-1)["workers"]
    except TypeError:  # distributed before 2025.5
        known = client.scheduler_info()["workers"]
    found = []
    for worker, said in versions["workers"].items():
        if worker not in known:
            continue
        packages = said["packages"]
        found.append(
            Worker(
                worker,
                known[worker].get("host", worker),
                known[worker].get("resources", {}).get(GPU, 0) > 0,
                ".".join(packages["python"].split(".")[:2]),
                packages["napari_prosma"] or "",
                known[worker]["nthreads"],
                known[worker]["memory_limit"] or 0,
                known[worker]["status"] == "paused",
            )
        )
    if not found:
        raise ConfigError(
            f"the scheduler at '{address}' has no worker; start one on the machine that is to compute: "
            f"dask worker {address} --resources GPU=1"
        )
    return sorted(found, key=lambda worker: not worker.has_gpu)


def require_usable(workers: Sequence[Worker]) -> list[Worker]:
    """Those that can be used.

    Raises
    ------
    ConfigError
        None can, and why the first cannot.
    """
    wrong: ConfigError | None = None
    usable = []
    for worker in workers:
        try:
            worker.require_usable()
        except ConfigError as error:
            wrong = wrong or error
        else:
            usable.append(worker)
    if not usable and wrong is not None:
        raise wrong
    return usable
