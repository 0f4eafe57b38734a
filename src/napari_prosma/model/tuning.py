"""How a network computes fastest on this machine: measured on request, on the real shapes, then remembered.

Nothing is measured before a run or a segmentation: that took longer than a short run gained by it, and found
the slower layout beside a busy neighbour. ``prosma tune`` measures when the user wants it.

Layouts and compiled code agree to rounding, not to the last bit, and the same image should give the same mask
each time: as long as what is remembered stays, nothing is chosen that could be chosen otherwise next time.
The number type is no choice: bfloat16 changes masks, and on the CPU its gradients are NaN.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from threading import RLock
from time import perf_counter
from typing import Any, cast

import torch
from platformdirs import user_cache_path
from pydantic import BaseModel, PositiveFloat, ValidationError

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.texts import read_json
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.device import Precision, best_precision, usable_device
from napari_prosma.model.memory import ran_out_of_memory, release
from napari_prosma.model.passes import Work, apart_when_fused, pass_of, with_signs
from napari_prosma.nn.build import LAYOUTS, USUAL_LAYOUT, Layout, Network, build_model, fuse, lay_out
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.fast.forward import fuses
from napari_prosma.nn.spec import ModelSpec

CACHE = "PROSMA_CACHE"
"""Environment variable: the folder to remember in; empty = nothing is remembered."""
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 2, 5, 2.0
"""So many times the layouts take turns; after so many seconds no further round begins."""
USUAL_COMPILING = 60
"""Seconds, for the bar."""
FUSED_APART = 0.01
"""Fused gates may differ by so much of what the others compute: half precision rounds at 0.004."""
TYPICAL: dict[int, tuple[int, ...]] = {2: (4, 1, 256, 256), 3: (2, 1, 64, 64, 64)}
"""Batches that a plan makes of gray images without further wishes (``data.fingerprint.BATCH_ELEMENTS``)."""


@dataclass(frozen=True)
class Execution:
    """How a network computes: its layout, and the seconds that compiling it takes; 0 = it is not compiled.

    ``fused``: the ends of its gates are one kernel (``nn.fast.tail``); then it is not compiled.
    """

    layout: Layout
    compiling: float = 0.0
    fused: bool = False


def usual_execution(spec: ModelSpec) -> Execution:
    """The way where nothing is measured."""
    return Execution(USUAL_LAYOUT[spec.dims])


class Measured(BaseModel, frozen=True, extra="forbid"):
    """The faster layout, and seconds of a pass: by layout, ``compiled`` in ``compiling``, and ``fused``."""

    layout: Layout
    seconds: dict[Layout, PositiveFloat]
    compiled: PositiveFloat | None = None
    compiling: PositiveFloat = 1.0
    fused: PositiveFloat | None = None

    def execution(self, passes: float, seconds: float) -> Execution:
        """Fastest way for this much work; compiling must give back the time that it takes.

        Fused gates must have beaten both other ways.
        """
        if self.compiled is None:
            return Execution(self.layout)
        plain = self.seconds[self.layout]
        if self.fused is not None and self.fused < min(plain, self.compiled):
            return Execution(self.layout, fused=True)
        saved = min(passes, seconds / plain) * (plain - self.compiled)
        return Execution(self.layout, self.compiling if saved > self.compiling else 0.0)

    def in_words(self) -> str:
        """Such as ``channels-last (contiguous 312 ms, channels-last 201 ms)``."""
        found = [f"{name} {1e3 * seconds:.0f} ms" for name, seconds in self.seconds.items()]
        if self.compiled is not None:
            found.append(f"compiled in {self.compiling:.0f} s {1e3 * self.compiled:.0f} ms")
        if self.fused is not None:
            found.append(f"with fused gates {1e3 * self.fused:.0f} ms")
        return f"{self.layout} ({', '.join(found) or 'could not be measured here'})"


_WRITING = RLock()
"""Two panels may measure at a time."""


def known_execution(work: Work, passes: float, seconds: float = math.inf) -> Execution:
    """What :func:`tune` found for such work on this machine, else the usual way: nothing is measured here.

    Parameters
    ----------
    work : Work
    passes : float
        How many there will be at least.
    seconds : float
        How long they may take at most.
    """
    file = cache_file()
    if file is None:
        return usual_execution(work.spec)
    try:
        measured = remembered(file).get(work.key)
    except DataError as error:
        _say_once(str(error))
        return usual_execution(work.spec)
    return usual_execution(work.spec) if measured is None else measured.execution(passes, seconds)


def tune(works: Sequence[Work], compiled: bool = False) -> Iterator[Event]:
    """Measure anew and remember; the last event is ``Finished`` with ``Measured`` by ``Work``.

    With ``compiled`` each is also tried compiled, which takes a minute or more, and then with fused gates.

    Raises ``DataError``: the file cannot be written.
    """
    file, found = cache_file(), dict[Work, Measured]()
    for work in works:
        measured = yield from measure(work)
        if measured is None:
            yield Notice(f"{work.in_words()} could not be measured here")
            continue
        if compiled:
            measured = yield from _compiled(work, measured)
            measured = yield from _fused(work, measured)
        found[work] = measured
        if file is not None:
            _remember(file, {work.key: found[work]})
    yield Finished(found)


def works_of(checkpoint: Checkpoint | None, device: str) -> list[Work]:
    """Segmentation with a model and training as it was trained, or the same of new networks in 2D and 3D."""
    target, works, wanted = usable_device(device), list[Work](), "auto"
    batches = [(ModelSpec(dims, 1, 1), shape, shape[2:]) for dims, shape in TYPICAL.items()]
    if checkpoint is not None:
        plan, wanted = checkpoint.plan, checkpoint.config.get("precision", wanted)
        batches = [(checkpoint.spec, (plan.batch, plan.channels, *plan.patch), plan.window)]
    precision = best_precision(target) if wanted == "auto" else cast(Precision, wanted)
    for spec, shape, seen in batches:
        window = (-(-n // spec.divisor) * spec.divisor for n in seen)
        works.append(Work("forward", spec, (1, shape[1], *window), target))
        works.append(Work("step", spec, shape, target, precision))
    return works


def measure(work: Work) -> Generator[Event, None, Measured | None]:
    """Seconds of passes over noise, the layouts in turns; None where memory runs out or one is not known."""
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
        if not ran_out_of_memory(error) and work.device.type != "cpu":
            raise
        release(work.device)
        return None
    return Measured(layout=_faster(work, taken), seconds={name: min(each) for name, each in taken.items()})


def computing(
    model: Network | Ensemble, work: Work, execution: Execution
) -> Generator[Event, None, Network | Ensemble]:
    """``model`` as it computes that way; what is compiled is so by a first pass over zeros."""
    lay_out(model, work.spec.dims, execution.layout)
    zeros = torch.zeros(work.shape, device=work.device)
    if execution.fused:
        fuse(model)
        try:
            torch.no_grad()(model)(zeros)
        except Exception as error:  # whatever Triton says of this machine
            fuse(model, False)
            yield Notice(not_fused(error))
    if not execution.compiling:
        return model
    yield Started(
        math.ceil(execution.compiling), f"Compiling, about {execution.compiling:.0f} s", str(work.device)
    )
    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    members = [cast(Network, torch.compile(network)) for network in networks]
    compiled = Ensemble(members) if isinstance(model, Ensemble) else members[0]
    try:
        yield from with_signs(torch.no_grad()(lambda: compiled(zeros)), execution.compiling)
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
    except Exception as error:  # whatever the compiler of this machine says
        yield Notice(_not_compiled(error))
        return found
    return found.model_copy(update={"compiled": fastest, "compiling": compiling})


def _fused(work: Work, found: Measured) -> Generator[Event, None, Measured]:
    """``found`` with what fused gates bring, where they can be and give the numbers of the others."""
    with torch.device("meta"):
        has_gates = fuse(build_model(work.spec))
    if not (has_gates and fuses(torch.empty(0, device=work.device))):
        return found
    yield Started(1, f"Fusing the gates, {work.in_words()}", str(work.device))
    try:
        apart = apart_when_fused(work, found.layout)
        if not apart < FUSED_APART:
            yield Notice(f"Fused gates gave numbers {apart:.2g} apart from the others'; they are not used")
            return found
        run = pass_of(work, found.layout, fused=True)
        run()
        fastest = min(run() for _ in range(MOST_ROUNDS))
    except Exception as error:  # whatever Triton says of this machine
        yield Notice(not_fused(error))
        return found
    return found.model_copy(update={"fused": fastest})


def _not_compiled(error: Exception) -> str:
    return f"The network could not be compiled ({_said(error)}); it computes as it is"


def not_fused(error: Exception) -> str:
    return f"The kernel of the gates failed ({_said(error)}); they compute without it"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]


def _faster(work: Work, taken: dict[Layout, list[float]]) -> Layout:
    """The usual layout unless another wins by its best and its median: what disturbs comes and goes."""
    usual = USUAL_LAYOUT[work.spec.dims]
    for layout, seconds in taken.items():
        if all(of(seconds) < of(taken[usual]) for of in (min, median)):
            return layout
    return usual


def _entries(file: Path) -> dict[str, Any]:
    """What the file holds, of other versions too; a missing or damaged one nothing."""
    if not file.exists():
        return {}
    try:
        found = read_json(file)
    except DataError as error:
        if isinstance(error.__cause__, OSError):
            raise  # it may hold what must not be written over
        return {}
    return found if isinstance(found, dict) else {}


def remembered(file: Path) -> dict[str, Measured]:
    """The entries that can be read; others are measured anew."""
    found = {}
    for key, entry in _entries(file).items():
        with suppress(ValidationError):
            found[key] = Measured.model_validate(entry)
    return found


def _remember(file: Path, new: dict[str, Measured]) -> None:
    """Write ``new`` beside what the file holds."""
    told = {key: one.model_dump(mode="json", exclude_defaults=True) for key, one in new.items()}
    with _WRITING, written_whole(file) as temporary:
        temporary.write_text(json.dumps(_entries(file) | told, indent=1), encoding="utf-8")


@cache
def _say_once(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "%s. What was measured is not used; %s names another folder", reason, CACHE
    )
