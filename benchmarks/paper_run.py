"""One run of the paper's tables: epochs one after another, kept so that a run can be cut off and go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from napari_prosma.data.atomic import written_whole
from napari_prosma.nn.build import Network, build_model
from napari_prosma.nn.spec import ModelSpec

TORCH_SEED = 1029
"""Of weights and sampling, unless told otherwise, as in U-KAN; the seeds of the tables are of the splits."""
LAST_RATE = 1e-5
"""Where the cosine ends, as in U-KAN."""


class Task(Protocol):
    """What a table does in an epoch."""

    network: Network
    optimizer: torch.optim.Optimizer
    steps: int

    def train(self, epoch: int) -> Tensor:
        """Go once through the training set; the mean loss, still on the device."""

    def reported(self) -> dict[str, float]:
        """Figures on the part that is reported."""

    def inner(self) -> dict[str, float]:
        """Figures on the part that epochs are chosen on, its ``loss`` among them; empty if there is none."""

    def gates(self) -> dict[str, dict[str, float]]:
        """The state of every gate, by skip; empty if there is none."""


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes
    ----------
    epochs : int
    schedule : "cosine" or "plateau"
        Of the learning rate, per epoch: to ``LAST_RATE``, or by a tenth after 5 epochs without a lower loss.
    patience : int, optional
        End after so many epochs without a lower loss on the inner part.
    seconds : float, optional
        After the first epoch, ``epochs`` is cut to what there is time for, by :func:`clock_of`.
    deadline : float, optional
        On the monotonic clock: stop after the epoch in which it passes, and go on in another process.
    every : int
        Figures are taken every so many epochs and after the last.
    """

    epochs: int
    schedule: str = "cosine"
    patience: int | None = None
    seconds: float | None = None
    deadline: float | None = None
    every: int = 1


def fit(task: Task, length: Length, part: Path) -> dict[str, Any] | None:
    """Every epoch's loss and figures; None if the deadline came first, with the place kept in ``part``."""
    epochs: list[dict[str, Any]] = []
    planned, before = length.epochs, 0.0
    kept: dict[str, Any] = {}
    if part.is_file():
        kept = torch.load(part, map_location=next(task.network.parameters()).device, weights_only=True)
        epochs, planned, before = kept["epochs"], kept["planned"], kept["seconds"]
    schedule = _schedule(task.optimizer, length.schedule, planned)
    if kept:
        task.network.load_state_dict(kept["network"])
        # After the schedule was made, which sets the rates to those of the first epoch.
        task.optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
    clock = clock_of(next(task.network.parameters()).device)
    began, before_this = clock(), len(epochs)
    while len(epochs) < planned and not _ends(epochs, length.patience):
        late = length.deadline is not None and time.monotonic() > length.deadline
        if late and len(epochs) > before_this:
            with written_whole(part) as temporary:
                state = {
                    "network": task.network.state_dict(),
                    "optimizer": task.optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "epochs": epochs,
                    "planned": planned,
                    "seconds": before + clock() - began,
                }
                torch.save(state, temporary)
            return None
        started = clock()
        loss = float(task.train(len(epochs)))
        epoch: dict[str, Any] = {"loss": loss, "seconds": clock() - started}
        if math.isfinite(loss) and (len(epochs) + 1) % length.every == 0:
            epoch |= _measured(task)
        epochs.append(epoch)
        if length.seconds is not None and len(epochs) == 1:
            # The first epoch tells how many there is time for; the cosine ends with the last of them.
            planned = max(1, min(planned, int(length.seconds / (clock() - began))))
            schedule = _schedule(task.optimizer, length.schedule, planned)
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule.step(epoch.get("inner", {}).get("loss", loss))
        else:
            schedule.step()
    diverged = not math.isfinite(epochs[-1]["loss"])
    if not diverged and "reported" not in epochs[-1]:
        epochs[-1] |= _measured(task)
    stopped = not diverged and _ends(epochs, length.patience)
    part.unlink(missing_ok=True)
    return {
        "diverged": diverged,
        "stopped early": stopped,
        "shortened": not (diverged or stopped) and len(epochs) < length.epochs,
        "seconds": before + clock() - began,
        "epochs": epochs,
    }


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds as a run counts them: of the processor, per thread, where it computes; of the wall on a GPU.

    On a processor that other work shares, or while the run is halted, the wall's seconds say nothing of it.
    """
    if device.type != "cpu":
        return time.monotonic
    return lambda: time.process_time() / torch.get_num_threads()


def _measured(task: Task) -> dict[str, Any]:
    return {"reported": task.reported(), "inner": task.inner(), "gates": task.gates()}


def _ends(epochs: list[dict[str, Any]], patience: int | None) -> bool:
    """Whether the loss is no number any more, or has not fallen on the inner part for too long."""
    if not epochs:
        return False
    if not math.isfinite(epochs[-1]["loss"]):
        return True
    losses = [epoch["inner"]["loss"] for epoch in epochs if epoch.get("inner")]
    return patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def _schedule(optimizer: torch.optim.Optimizer, kind: str, epochs: int) -> Any:
    if kind == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.1, patience=5)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, LAST_RATE)


def selected(epochs: list[dict[str, Any]], figure: str, by_loss: bool = False) -> dict[str, dict[str, float]]:
    """Figures on the reported part of the epochs that each rule would choose.

    The best on the reported part, as the tables do it; the last; and the best on the inner part, by
    ``figure`` or by the loss.
    """
    measured = [n for n, epoch in enumerate(epochs) if "reported" in epoch]
    if not measured:
        return {}
    chosen = {
        "best on the reported": max(measured, key=lambda n: epochs[n]["reported"][figure]),
        "last": measured[-1],
    }
    if epochs[measured[0]]["inner"]:
        chosen["best on a part of training"] = max(
            measured,
            key=lambda n: -epochs[n]["inner"]["loss"] if by_loss else epochs[n]["inner"][figure],
        )
    return {how: {"epoch": n + 1, **epochs[n]["reported"]} for how, n in chosen.items()}


# ---- speed ----------------------------------------------------------------------------------------------


def flops_per_step(spec: ModelSpec, batch: int, patch: tuple[int, ...]) -> int:
    """Floating-point operations of one step: three times those of a pass forward, counted, not computed.

    Matrix products and convolutions, as ``torch.utils.flop_counter`` counts them; splines are not counted.
    It is not asked about the pass backward, where it takes depthwise convolutions for dense ones.
    """
    with torch.device("meta"):
        network = build_model(spec)
        image = torch.empty(batch, spec.in_channels, *patch)
        with FlopCounterMode(display=False) as counter:
            network(image)
    return 3 * counter.get_total_flops()


def best_flops(device: torch.device) -> float:
    """Floating-point operations per second at best.

    On a GPU those of a matrix product in bfloat16; elsewhere of a 3 x 3 convolution, which on some processors
    is more than twice as fast as a matrix product.
    """
    if device.type == "cuda":
        matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        operations, compute = 2 * 8192**3, lambda: matrix @ matrix
    else:
        images = torch.randn(8, 128, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(128, 128, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
        operations, compute = 2 * images.numel() * 128 * 9, lambda: F.conv2d(images, weight, padding=1)
    fastest = math.inf
    for _ in range(8):
        started = time.perf_counter()
        float(compute().flatten()[0])  # waits for it
        fastest = min(fastest, time.perf_counter() - started)
    return operations / fastest


def compiled(network: Network, example: Tensor) -> tuple[nn.Module, str]:
    """The network compiled, or itself if a step of it fails, and which of them in words.

    Its weights and statistics come out as they went in.
    """
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        quick = torch.compile(network)
        with torch.autocast(example.device.type, torch.bfloat16, example.device.type == "cuda"):
            loss = quick(example).float().sum()
        loss.backward()
    except Exception as error:  # whatever the compiler raises: the run goes on without it and says so
        return network, f"not compiled: {type(error).__name__}: {str(error)[:200]}"
    finally:
        network.load_state_dict(before)
        network.zero_grad(set_to_none=True)
    return quick, "compiled"
