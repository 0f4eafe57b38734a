"""Running statistics of batch norms: a lag behind the weights while they learn, none in a model that is kept.

Running averages follow the weights at a tenth per step, layer upon layer, so that the model of a short run
would be judged and kept with statistics of a network that is no more: of 10 phantoms after 25 steps it found
next to nothing where the same weights with statistics of their own found what the live preview showed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from napari_prosma.data.fingerprint import Plan

ELEMENTS = 2**21
"""Pixels or voxels over which statistics are taken."""
PATCHES = (4, 32)
"""Least and most patches for that."""


def passes(plan: Plan) -> int:
    """Batches of the plan over which statistics are taken."""
    patches = min(max(ELEMENTS // math.prod(plan.patch), PATCHES[0]), PATCHES[1])
    return math.ceil(patches / plan.batch)


@contextmanager
def same_statistics(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """After it, the running statistics are those from before, which it gives by name."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield before
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


@torch.no_grad()
def settle(
    network: nn.Module, batches: Iterable[Tensor], autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """Give batch norms the mean and variance of ``batches`` (B, C, *patch), by the weights as they are.

    Those in evaluation mode keep theirs, and every count of batches seen stays. No random number is taken.

    Parameters
    ----------
    network : Module
        In the mode in which it learns.
    batches : of images
    autocast : the precision of the run
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    counts = [
        None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms
    ]
    device = next(network.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), autocast():
            for seen, images in enumerate(batches):
                for norm in norms:
                    norm.momentum = 1 / (seen + 1)  # the mean over all batches so far
                network(images)
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
