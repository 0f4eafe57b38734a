"""The processes of a run: one alone, or several under ``torchrun`` that learn as one.

Memory may run out in one of them in the middle of a step, while the others wait for its part of a sum. So all
of them meet before everything that they do together in a step, and there hear of it; nobody is left waiting.
That is why gradients are added up here, once they are there, and not by torch's DDP while they come.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from napari_prosma.errors import ConfigError
from napari_prosma.model.device import best_precision, usable_device
from napari_prosma.nn.build import Network
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.losses import summed_over_processes


class MemoryElsewhere(Exception):
    """Memory ran out in another process of the run."""


class Processes:
    """Lightning Fabric for this process, and what it must agree on with the others.

    Attributes
    ----------
    fabric : lightning_fabric.Fabric
    device : torch.device
    rank, world : int
        Which one of how many; the first one alone writes files.
    scales_gradients : bool
        Whether float16 is used, where some steps overflow and are left out.
    """

    def __init__(self, config: TrainConfig) -> None:
        from lightning_fabric import Fabric

        self.device = usable_device(config.device)
        precision = best_precision(self.device) if config.precision == "auto" else config.precision
        self.scales_gradients = precision == "16-mixed"
        if self.device.type == "cpu" and precision != "32-true":
            # bfloat16 gradients of dilated depthwise convolutions come out NaN on the CPU (torch 2.13).
            raise ConfigError(f"precision {precision!r} needs a GPU; choose auto or 32-true on the CPU")
        self.world = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
        if self.world == 1:
            self.fabric = Fabric(accelerator=self.device.type, devices=1, precision=precision)
            self.rank = 0
            return
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        if self.device.type == "cuda" and here > torch.cuda.device_count():
            raise ConfigError(
                f"{here} processes were started on a machine with {torch.cuda.device_count()} GPU(s); give "
                f"torchrun as many processes as there are GPUs"
            )
        self.fabric = Fabric(
            accelerator=self.device.type,
            devices=here,
            num_nodes=self.world // here,
            strategy=_strategy(),
            precision=precision,
        )
        self._began = not dist.is_initialized()  # not within a cross-validation, which holds them together
        self.fabric.launch()
        self.device, self.rank = self.fabric.device, self.fabric.global_rank
        self._meeting = dist.new_group(backend="gloo")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self.world > 1 and self._began:
            if kind is None:
                # Gloo's threads may still let go of the last message, for which they need Python's lock; the
                # group's end waits for them with that lock held, for ever. They are done after one more.
                dist.barrier()
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def synchronised(self, network: Network) -> Network:
        """The network with batch norms that look across all processes, where the device has them."""
        if self.world == 1 or self.device.type != "cuda":
            return network
        for norm in nn.SyncBatchNorm.convert_sync_batchnorm(network).modules():
            if isinstance(norm, nn.SyncBatchNorm):
                norm.register_forward_pre_hook(lambda *_: self.meet())
                norm.register_forward_hook(lambda norm, given, out: self._met_again(out))
        return network

    def meet(self, ran_out: bool = False) -> None:
        """Wait for the others in a step, and tell them whether memory ran out here.

        Raises ``MemoryElsewhere``: it did in another process.
        """
        if self.world == 1:
            return
        told = torch.tensor([int(ran_out)])
        dist.all_reduce(told, group=self._meeting)
        if told and not ran_out:
            raise MemoryElsewhere("in another process")

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, with its gradient."""
        if self.world == 1:
            return sums
        self.meet()
        return self._met_again(summed_over_processes(sums))

    def backward(self, model: nn.Module, loss: torch.Tensor) -> None:
        """Gradients of a loss, the mean over all processes, added to those that are there."""
        self.fabric.backward(loss)
        if self.world > 1:
            self.meet()
            self._average(parameter.grad for parameter in model.parameters())

    def average_statistics(self, network: nn.Module) -> None:
        """Bring running statistics, which each process has of its own patches, to their mean."""
        if self.world > 1 and self.device.type != "cuda":
            self._average(buffer for buffer in network.buffers() if buffer.is_floating_point())

    def _average(self, tensors: Iterable[torch.Tensor | None]) -> None:
        alike = [tensor for tensor in tensors if tensor is not None]
        if alike:
            joined = torch.cat([tensor.flatten() for tensor in alike])
            dist.all_reduce(joined)
            joined /= self.world
            for tensor, mean in zip(alike, joined.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def _met_again(self, out: torch.Tensor) -> torch.Tensor:
        """The same; all meet before what they do together in its backward pass."""
        if out.requires_grad:
            out.register_hook(lambda gradient: self.meet())
        return out

    def of_first(self, values: Sequence[float]) -> list[float]:
        """The first process's values, so that all decide alike."""
        if self.world == 1:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(sent, src=0)
        return sent.tolist()

    def gathered(self, mine: Sequence[Any]) -> list[Any]:
        """What every process found for its share ``items[rank::world]``, in the order of ``items``."""
        if self.world == 1:
            return list(mine)
        parts: list[list[Any]] = [[] for _ in range(self.world)]
        dist.all_gather_object(parts, list(mine))
        longest = max(len(part) for part in parts)
        return [part[n] for n in range(longest) for part in parts if n < len(part)]


def _strategy() -> Any:
    """Fabric's for processes that ``torchrun`` started, which leaves the network and its gradients alone."""
    from lightning_fabric.strategies import DDPStrategy

    class Apart(DDPStrategy):
        def setup_module(self, module: nn.Module) -> Any:
            return module

    return Apart()
