"""What a step or a device may do wrong: what is tried then, and how the user is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from napari_prosma.errors import ProsmaError
from napari_prosma.model.checkpoint import LAST
from napari_prosma.model.memory import ran_out_of_memory
from napari_prosma.training.batches import Batch
from napari_prosma.training.processes import MemoryElsewhere
from napari_prosma.training.state import RunState


def smaller_parts(error: Exception, batch: Batch, state: RunState) -> str | None:
    """Cut batches into twice as many parts where memory ran out, and say so; None for another error.

    Raises ``ProsmaError``: a part is a single patch already.
    """
    if not ran_out_of_memory(error) and not isinstance(error, MemoryElsewhere):
        return None
    if 2 * state.parts > len(batch.names):
        raise ProsmaError(
            f"memory ran out in step {state.step + 1} even with the smallest part of a batch; choose a "
            f"smaller patch or network, or close other programs"
        ) from error
    state.parts *= 2
    return (
        f"Memory ran out: from step {state.step + 1} on, each batch of {len(batch.names)} patches "
        f"is split into {state.parts} parts, whose gradients add up"
    )


def require_finite(loss: float, norm: float, batch: Batch, state: RunState) -> None:
    """Refuse to go on with a loss or a gradient that is no number."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = "loss" if not math.isfinite(loss) else "gradient"
    kept = f"'{state.config.run_dir / LAST}' keeps the weights of step {state.saved_step}"
    raise ProsmaError(
        f"the {what} became {loss if what == 'loss' else norm} in step {state.step + 1}, on the cases "
        f"{', '.join(sorted(set(batch.names)))}; look at them, or lower the learning rate; "
        + (kept if state.saved_step else "no weights were written yet")
    )


@contextmanager
def gpu_errors(run_dir: Path) -> Iterator[None]:
    """An error of the GPU itself in our words: it spoils everything that follows in this process."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise ProsmaError(
            f"the GPU reported an error ({first_line(error)}); restart the program, then resume the run "
            f"in '{run_dir}', on the CPU if it happens again"
        ) from error


def first_line(error: Exception) -> str:
    """Of a foreign error, in short."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
