"""The scheduler of a Dask cluster, by its address."""

from __future__ import annotations

import socket
from importlib.util import find_spec
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
        # A client that never got through holds up whoever collects it, for seconds.
        socket.create_connection(get_address_host_port(address), ANSWERS).close()
        return Client(address, timeout=ANSWERS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        said = str(error).strip() or type(error).__name__
        raise ConfigError(
            f"no Dask scheduler answers at '{address}' ({said}); start one there with dask scheduler, and "
            f"give its address, such as tcp://HOST:8786"
        ) from error
