"""The device a user asked for, its precision, and torch's threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from napari_prosma.errors import ConfigError
from napari_prosma.nn.build import choose_device

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def usable_device(name: str) -> torch.device:
    """Device of that name; a ``ConfigError`` where this machine has none."""
    try:
        return choose_device(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def best_precision(device: torch.device) -> Precision:
    """bfloat16 or float16 beside float32 where the device computes it quickly, else float32."""
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` threads on the CPU for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_double(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float64, where it lies; on the CPU where its device has none (Metal)."""
    return (x.cpu() if x.device.type == "mps" else x).double()
