"""What a pass through a network costs, in time and in what it keeps for the backward pass, and where."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import Tensor

from napari_prosma.nn.fast import forward as fast


def computing(way: str) -> AbstractContextManager[object]:
    """Within it gates compute as ``way`` begins or ends, also backward: fast throughout, or as written."""
    if way.startswith("prosma fast"):
        return patch.object(fast, "FEWEST", {4: 0, 5: 0})
    return fast.reference() if way.endswith("as written") else nullcontext()


def circumstances(device: torch.device) -> dict[str, Any]:
    """What the file of a benchmark says of how it was made; once torch's threads are set."""
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0],
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Of the program as it is checked out; None outside of a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall clock and processor seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, processor = perf_counter(), process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - wall, process_time() - processor


def saved_bytes(run: Callable[[], object], known: Iterable[Tensor]) -> int:
    """What ``run`` keeps for a backward pass, each block of memory once, without those of ``known``."""
    own = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    del output
    return sum(kept.values())
