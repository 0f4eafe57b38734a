"""The scheduler of a Dask cluster, by its address."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING

from napari_prosma.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

ANSWERS = 5.0
"""Seconds in which a scheduler or a worker answers."""


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
