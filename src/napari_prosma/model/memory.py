"""When memory runs out: smaller parts of a batch, and the largest batch that fits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from napari_prosma.data.fingerprint import BATCH_LIMITS, Plan

ROOMY = 0.4
"""A batch that needs less than this share of the memory is doubled."""
_CPU_ALLOCATOR = "DefaultCPUAllocator"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch raises when it gets no memory, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


def release(device: torch.device) -> None:
    """Give back what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Most bytes held on a GPU since the last call; 0 elsewhere."""
    if device.type != "cuda":
        return 0
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return int(peak)


def largest_batch(start: int, share: Callable[[int], float | None]) -> int:
    """Largest batch found by halving and doubling from ``start``.

    Parameters
    ----------
    share : function
        Share of the memory that a batch of this size needs, None where it is not enough.
    """
    least, most = BATCH_LIMITS
    size = max(start, least)
    needed = share(size)
    while needed is None and size > least:
        size = max(least, size // 2)
        needed = share(size)
    while needed is not None and needed < ROOMY and size < most:
        larger = min(most, 2 * size)
        needed = share(larger)
        if needed is not None:
            size = larger
    return size


def memory_shares(
    network: nn.Module, plan: Plan, device: torch.device, autocast: Callable[[], object], patches: int = 1
) -> Callable[[int], float | None]:
    """``share`` for :func:`largest_batch`: a step on noise, tried with a copy of the network.

    ``patches`` pass it for each one of the batch, as the objective has it.
    """

    def share(size: int) -> float | None:
        trial, image, loss = None, None, None
        try:
            torch.cuda.reset_peak_memory_stats(device)
            trial = copy.deepcopy(network).to(device).train()
            image = torch.randn(size * patches, plan.channels, *plan.patch, device=device)
            with autocast():  # type: ignore[attr-defined]
                loss = trial(image).float().square().mean()
            loss.backward()
            return torch.cuda.max_memory_allocated(device) / torch.cuda.mem_get_info(device)[1]
        except torch.OutOfMemoryError:
            return None
        finally:
            del trial, image, loss
            release(device)

    return share
