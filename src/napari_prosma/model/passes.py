"""A pass of a network over noise: what is timed to find the fastest way, and compiled."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Literal, TypeVar

import torch
from torch import Tensor

from napari_prosma import __version__
from napari_prosma.events import Event, Progress
from napari_prosma.model.device import Precision
from napari_prosma.nn.build import Layout, Network, build_model, fuse, lay_out
from napari_prosma.nn.gates import Gate
from napari_prosma.nn.spec import ModelSpec

T = TypeVar("T")
_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Work:
    """Passes of a network over inputs of ``shape`` (B, C, *spatial); a step is forward and backward."""

    kind: Literal["forward", "step"]
    spec: ModelSpec
    shape: tuple[int, ...]
    device: torch.device
    precision: Precision = "32-true"

    @property
    def key(self) -> str:
        """All that the fastest way may depend on, but for the number of threads.

        A panel leaves one core to the window and the shell does not; an image should give one mask in both.
        """
        on_cuda = self.device.type == "cuda"
        where = torch.cuda.get_device_name(self.device) if on_cuda else _processor()
        versions = f"torch {torch.__version__}, napari-prosma {__version__}"
        return " | ".join([self.in_words(), self.precision, where, versions, str(self.spec)])

    def in_words(self) -> str:
        does = "segmenting" if self.kind == "forward" else "training on"
        return f"{does} {' x '.join(map(str, self.shape))}"


def pass_of(work: Work, layout: Layout, compiled: bool = False, fused: bool = False) -> Callable[[], float]:
    """A pass over noise that gives its seconds; the network is new, and no random number is taken."""
    network, image = _network_and_noise(work, layout)
    fuse(network, fused)
    if compiled:
        network.compile()

    def run() -> float:
        began = perf_counter()
        _pass(work, network, image)
        if work.device.type != "cpu":
            torch.accelerator.synchronize()
        return perf_counter() - began

    return run


def apart_when_fused(work: Work, layout: Layout) -> float:
    """How far a pass with fused gates is from one without, as a share of how much its numbers differ.

    The larger of the logits' and, where the pass is a step, the gradients' of the gates and of all else.
    """
    network, image = _network_and_noise(work, layout)
    own = {p for gate in network.modules() if isinstance(gate, Gate) for p in gate.parameters()}
    computed = []
    for on in (False, True):
        fuse(network, on)
        numbers = [_pass(work, network, image).float().flatten()]
        gradients = [(p in own, p.grad.flatten()) for p in network.parameters() if p.grad is not None]
        for group in (True, False):
            found = [gradient for is_own, gradient in gradients if is_own == group]
            numbers += [torch.cat(found)] if found else []
        computed.append(numbers)
    plain, fused = computed
    return max(float((f - p).norm() / (p - p.mean()).norm()) for p, f in zip(plain, fused, strict=True))


def _network_and_noise(work: Work, layout: Layout) -> tuple[Network, Tensor]:
    with torch.random.fork_rng(devices=[]):
        network = lay_out(build_model(work.spec), work.spec.dims, layout)
        image = torch.randn(work.shape).to(work.device)
    return network.to(work.device).train(work.kind == "step"), image


def _pass(work: Work, network: Network, image: Tensor) -> Tensor:
    """Logits; a step leaves its gradient in the network."""
    half = torch.autocast(work.device.type, _TYPES.get(work.precision), enabled=work.precision in _TYPES)
    with torch.set_grad_enabled(work.kind == "step"):
        with half:
            logits = network(image)
        if work.kind == "step":
            network.zero_grad()
            logits.float().square().mean().backward()
    return logits.detach()


def with_signs(run: Callable[[], T], expected: float) -> Generator[Event, None, T]:
    """What ``run`` gives, with a sign of life every second while it works in a thread.

    Where the iterator is closed the thread works on, but does not keep the program from ending.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(run())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    began, total = perf_counter(), math.ceil(expected)
    while not wait([future], timeout=1).done:
        seconds = round(perf_counter() - began)
        yield Progress(min(seconds, total), total, f"{seconds} s")
    return future.result()


@cache
def _processor() -> str:
    """Its name; what Python knows of it is the kind alone on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()
