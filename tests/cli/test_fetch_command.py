"""``prosma fetch`` as a user meets it; a proxy on 127.0.0.1 stands between it and the network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """Accepts connections and, by itself, says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def start(proxy: socket.socket, *arguments: str) -> subprocess.Popen[str]:
    address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    environment = {**os.environ, **dict.fromkeys(names, address), "NO_PROXY": "", "no_proxy": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "napari_prosma", "fetch", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: a test run in the background passes on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_an_unknown_name_exits_2_with_the_names(proxy: socket.socket, tmp_path: Path) -> None:
    process = start(proxy, "brats", "--out", str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "busi, kvasir-seg, spleen or colon" in errors


def test_without_a_network_the_terms_and_the_way_by_hand_are_told(
    proxy: socket.socket, tmp_path: Path
) -> None:
    process = start(proxy, "kvasir-seg", "--out", str(tmp_path))
    connection, _ = proxy.accept()
    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    connection.close()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "research and education only" in output
    assert "Jha" in output
    assert "by hand from https://datasets.simula.no/kvasir-seg" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")
def test_ctrl_c_tells_how_to_go_on(proxy: socket.socket, tmp_path: Path) -> None:
    process = start(proxy, "spleen", "--out", str(tmp_path))
    connection, _ = proxy.accept()
    with connection:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to resume" in output
    assert "Traceback" not in errors
