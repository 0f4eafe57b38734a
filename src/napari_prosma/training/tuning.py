"""How a network computes fastest on this machine: measured once on the real shapes, then remembered.

Layouts and compiled code agree to rounding, not to the last bit, and the same image must give the same mask
each time. So nothing is chosen that could be chosen otherwise next time: work that is too short to be worth a
measurement computes as usual, which is told by its number of passes alone, and so does all work where nothing
can be remembered. The number type is no choice: bfloat16 changes masks, and on the CPU its gradients are NaN.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import cast

import torch
from platformdirs import user_cache_path
from pydantic import BaseModel, PositiveFloat, TypeAdapter, ValidationError

from napari_prosma.data.atomic import written_whole
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.nn.build import LAYOUTS, USUAL_LAYOUT, Layout, Network, lay_out
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.checkpoint import Checkpoint
from napari_prosma.training.device import best_precision, usable_device
from napari_prosma.training.memory import ran_out_of_memory, release
from napari_prosma.training.passes import Work, pass_of, with_signs

CACHE = "PROSMA_CACHE"
"""Environment variable: the folder to remember in; empty = nothing is measured or remembered."""
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 2, 5, 2.0
"""So many times the layouts take turns; after so many seconds no further round begins."""
WORTH = 20
"""Work is worth a measurement if it takes this many times longer."""
USUAL_COMPILING = 60
"""Seconds, for the bar."""
LEAST_PASSES = WORTH * len(LAYOUTS) * (1 + MOST_ROUNDS)
TYPICAL: dict[int, tuple[int, ...]] = {2: (4, 1, 256, 256), 3: (2, 1, 64, 64, 64)}
"""Batches that a plan makes of gray images without further wishes (``data.fingerprint.BATCH_ELEMENTS``)."""


@dataclass(frozen=True)
class Way:
    """How a network computes: its layout, and the seconds that compiling it takes; 0 = it is not compiled."""

    layout: Layout
    compiling: float = 0.0


def usual_way(spec: ModelSpec) -> Way:
    """The way where nothing is measured."""
    return Way(USUAL_LAYOUT[spec.dims])


class Measured(BaseModel, frozen=True, extra="forbid"):
    """The faster layout, and seconds of a pass: by layout, and ``compiled``, which took ``compiling``."""

    layout: Layout
    seconds: dict[Layout, PositiveFloat]
    compiled: PositiveFloat | None = None
    compiling: PositiveFloat = 1.0

    def way(self, passes: float, seconds: float) -> Way:
        """Fastest way for this much work; compiling must give back the time that it takes."""
        plain = self.seconds[self.layout]
        saved = 0.0 if self.compiled is None else min(passes, seconds / plain) * (plain - self.compiled)
        return Way(self.layout, self.compiling if saved > self.compiling else 0.0)

    def in_words(self) -> str:
        """Such as ``channels-last (contiguous 312 ms, channels-last 201 ms)``."""
        found = [f"{name} {1e3 * seconds:.0f} ms" for name, seconds in self.seconds.items()]
        if self.compiled is not None:
            found.append(f"compiled in {self.compiling:.0f} s {1e3 * self.compiled:.0f} ms")
        return f"{self.layout} ({', '.join(found)})"


_FILE = TypeAdapter(dict[str, Measured])


def fastest_way(work: Work, passes: float, seconds: float = math.inf) -> Generator[Event, None, Way]:
    """What is remembered for such work on this machine, else what a measurement of a second or two finds.

    Parameters
    ----------
    work : Work
    passes : float
        How many there will be at least.
    seconds : float
        How long they may take at most.
    """
    file, usual = cache_file(), usual_way(work.spec)
    is_short = passes < LEAST_PASSES or seconds < WORTH * SECONDS
    if is_short or file is None or work.device.type == "mps":
        return usual
    measured = _remembered(file).get(work.key)
    if measured is None:
        try:
            _remember(file, {})  # told now, not after the measurement, that it cannot be written
            measured = yield from measure(work)
            if measured is None:
                return usual
            # Where another process was faster, both go by what it found.
            measured = _remember(file, {work.key: measured} | _remembered(file))[work.key]
        except DataError as error:
            _say_once(str(error))
            return usual
        yield Notice(f"Memory layout for {work.in_words()}: {measured.in_words()}")
    return measured.way(passes, seconds)


def tune(works: Sequence[Work], compiled: bool = False) -> Iterator[Event]:
    """Measure anew and remember; the last event is ``Finished`` with ``Measured`` by ``Work``.

    With ``compiled`` each is also tried compiled, which takes a minute or more.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    file, found = cache_file(), dict[Work, Measured]()
    for work in works:
        measured = yield from measure(work)
        if measured is None:
            yield Notice(f"{work.in_words()} needs more memory than there is")
            continue
        found[work] = (yield from _compiled(work, measured)) if compiled else measured
        if file is not None:
            _remember(file, {work.key: found[work]})
    yield Finished(found)


def works_of(checkpoint: Checkpoint | None, device: str) -> list[Work]:
    """Segmentation with a model and training as it was trained, or the same of new networks in 2D and 3D."""
    target, works = usable_device(device), []
    batches = [(ModelSpec(dims, 1, 1), shape) for dims, shape in TYPICAL.items()]
    if checkpoint is not None:
        plan = checkpoint.plan
        batches = [(checkpoint.spec, (plan.batch, plan.channels, *plan.patch))]
    for spec, (batch, channels, *patch) in batches:
        window = (-(-n // spec.divisor) * spec.divisor for n in patch)
        works.append(Work("forward", spec, (1, channels, *window), target))
        works.append(Work("step", spec, (batch, channels, *patch), target, best_precision(target)))
    return works


def measure(work: Work) -> Generator[Event, None, Measured | None]:
    """Seconds of passes over noise, the layouts in turns; None where memory runs out."""
    total, done, began = len(LAYOUTS) * (1 + MOST_ROUNDS), 0, perf_counter()
    yield Started(total, f"Measuring {work.in_words()}", str(work.device))
    taken: dict[Layout, list[float]] = {layout: [] for layout in LAYOUTS}
    try:
        passes = {layout: pass_of(work, layout) for layout in LAYOUTS}
        for turn in range(1 + MOST_ROUNDS):
            for layout, run in passes.items():
                taken[layout].append(run())
                done += 1
                yield Progress(done, total, layout)
            if turn == 0:
                began, taken = perf_counter(), {layout: [] for layout in LAYOUTS}  # the first are slower
            elif turn >= LEAST_ROUNDS and perf_counter() - began > SECONDS:
                break
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        release(work.device)
        return None
    return Measured(layout=_faster(work, taken), seconds={name: min(each) for name, each in taken.items()})


def computing(model: Network | Ensemble, work: Work, way: Way) -> Generator[Event, None, Network | Ensemble]:
    """``model`` as it computes that way; it is compiled by a first pass over zeros."""
    lay_out(model, work.spec.dims, way.layout)
    if not way.compiling:
        return model
    yield Started(math.ceil(way.compiling), f"Compiling, about {way.compiling:.0f} s", str(work.device))
    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    members = [cast(Network, torch.compile(network)) for network in networks]
    compiled = Ensemble(members) if isinstance(model, Ensemble) else members[0]
    zeros = torch.zeros(work.shape, device=work.device)
    try:
        yield from with_signs(torch.no_grad()(lambda: compiled(zeros)), way.compiling)
    except Exception as error:  # whatever the compiler of this machine says
        yield Notice(_not_compiled(error))
        return model
    return compiled


def cache_file() -> Path | None:
    """The file to remember in; None where the user wants none."""
    folder = os.environ.get(CACHE)
    if folder == "":
        return None
    return (Path(folder) if folder else user_cache_path("napari-prosma", appauthor=False)) / "tuning.json"


def _compiled(work: Work, found: Measured) -> Generator[Event, None, Measured]:
    """``found`` with what compiling brings."""
    run = pass_of(work, found.layout, compiled=True)
    yield Started(USUAL_COMPILING, f"Compiling {work.in_words()}", str(work.device))
    try:
        compiling = yield from with_signs(run, USUAL_COMPILING)
        fastest = min(run() for _ in range(MOST_ROUNDS))
    except Exception as error:  # as above
        yield Notice(_not_compiled(error))
        return found
    return found.model_copy(update={"compiled": fastest, "compiling": compiling})


def _not_compiled(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return f"The network could not be compiled ({said[:200]}); it computes as it is"


def _faster(work: Work, taken: dict[Layout, list[float]]) -> Layout:
    """The usual layout unless another wins by its best and its median: what disturbs comes and goes."""
    usual = USUAL_LAYOUT[work.spec.dims]
    for layout, seconds in taken.items():
        if all(of(seconds) < of(taken[usual]) for of in (min, median)):
            return layout
    return usual


def _remembered(file: Path) -> dict[str, Measured]:
    """What the file holds; a missing or damaged one nothing, so that it is measured anew."""
    try:
        return _FILE.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}


def _remember(file: Path, new: dict[str, Measured]) -> dict[str, Measured]:
    known = _remembered(file) | new
    with written_whole(file) as temporary:
        temporary.write_bytes(_FILE.dump_json(known, indent=1, exclude_defaults=True))
    return known


@cache
def _say_once(reason: str) -> None:
    logging.getLogger(__name__).warning("%s. Nothing is measured; %s names another folder", reason, CACHE)
