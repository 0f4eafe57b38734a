"""``segment``: a checkpoint and an image become labels on the image's own grid."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.model.applying import OVERLAP, Segmentation, named
from napari_prosma.model.augment import recipe_of
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.model.device import usable_device
from napari_prosma.model.features import deepest_level
from napari_prosma.model.memory import ran_out_of_memory, release
from napari_prosma.model.passes import Work
from napari_prosma.model.tuning import computing, known_execution
from napari_prosma.model.windows import Tiling
from napari_prosma.nn.build import Network
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.segmentation.prepared import Prepared
from napari_prosma.segmentation.stream import Background, Labelled, label_rows, window_tiling

T = TypeVar("T")


def segment(
    checkpoint: Checkpoint | Path | str,
    image: Image,
    *,
    name: str = "image",
    device: str = "auto",
    overlap: float = OVERLAP,
    batch: int = 1,
    mirror: bool = False,
    disagreement: bool = False,
    probabilities: Sequence[int] | None = None,
    features: bool = False,
) -> Iterator[Event]:
    """Segment one image; the last event is ``Finished`` with a :class:`Segmentation`.

    Windows of plain background, such as the air around a patient, are not looked at (``Background`` has the
    rule, a notice says how many they were); their labels are 0. When memory runs out, smaller batches, sums
    on the CPU and smaller windows are tried in this order, with a notice of each.

    The memory layout is the usual one unless ``model.tuning`` found another to be faster on this machine; no
    segmentation measures, so that the same image gives the same result each time.

    Parameters
    ----------
    checkpoint : Checkpoint or path of one, or of a run folder
    image : (C, *spatial)
        2D, 3D, a stack that a 2D model goes through slice by slice, or a time series of what the model was
        trained on. A memory map is read piece by piece.
    name : str
        Used in messages and kept in the result.
    overlap : float
        Least overlap of neighbouring windows, as a share of the window.
    batch : int
        Windows per forward pass on a GPU; on the CPU they pass one by one, whatever it is.
    mirror : bool
        Also pass every window mirrored, along the axes that the model's training mirrored.
    disagreement : bool
        Also tell where mirrored passes, or the networks of an ensemble, disagree.
    probabilities : class indices, optional
        Whose probabilities are made; by default all. ``()`` takes the least memory.
    features : bool
        Also keep what the network's deepest level makes of the image.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        Before the first event.
    ProsmaError
        There is no memory for the smallest window.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    plan = checkpoint.plan
    flips = flips_of(checkpoint) if mirror else ()
    require_settings(overlap, batch)
    if disagreement and not flips and checkpoint.members == 1:
        if mirror:
            raise ConfigError(
                "there is nothing to disagree, since the training of this model mirrored nothing; choose an "
                "ensemble"
            )
        raise ConfigError("there is nothing to disagree: choose mirrored passes too, or an ensemble")
    kept = _classes(plan, probabilities)
    with named(name):
        prepared = Prepared(image.array, image.geometry, plan)
        yield from prepared.survey(name)
    target = usable_device(device)
    model = checkpoint.build(target)
    yield from map(Notice, (*image.notices, *prepared.notices))
    if mirror and not flips:
        yield Notice(mirrored_in_words(checkpoint))

    def in_windows(window: tuple[int, ...]) -> Generator[Event, None, Segmentation]:
        tiling = window_tiling(prepared, window, model.divisor, overlap)
        network = yield from _as_fast_as_known(
            model, plan, tiling, prepared.network_axis, target, batch, 2 ** len(flips)
        )
        yield Started(len(tiling.starts), f"Segmenting {name}", str(target))
        result = _Result(prepared.image_shape, prepared.axis, len(kept), disagreement)
        background, done = Background(plan), 0
        deepest = deepest_level(network, tiling) if features else None
        for found in label_rows(
            network,
            prepared,
            tiling,
            batch=batch,
            flips=flips,
            disagreement=disagreement,
            background=background,
            classes=kept,
            deepest=None if deepest is None else deepest.add,
        ):
            if isinstance(found, Labelled):
                result.put(found)
            elif isinstance(found, Notice):
                yield found
            else:
                done += found
                yield Progress(done, len(tiling.starts), name)
        if background.skipped:
            yield background.notice(len(tiling.starts))
        return Segmentation(
            name=name,
            labels=result.labels,
            probabilities=result.probabilities,
            geometry=image.geometry,
            class_names=plan.class_names,
            kept=None if probabilities is None else kept,
            disagreement=result.disagreement,
            features=None if deepest is None else np.moveaxis(deepest.result(), 1, 1 + prepared.axis),
        )

    with named(name):
        yield Finished((yield from windows_that_fit(plan.window, model.divisor, target, in_windows)))


def _as_fast_as_known(
    model: Network | Ensemble,
    plan: Plan,
    tiling: Tiling,
    axis: int,
    device: torch.device,
    batch: int,
    mirrored: int,
) -> Generator[Event, None, Network | Ensemble]:
    """``model`` as it computes fastest on this machine over these windows."""
    window = list(tiling.window[-plan.dims :])
    window.insert(axis, window.pop(0))  # as the network sees it
    shape = (1 if device.type == "cpu" else batch, plan.channels, *window)
    members = len(model.members) if isinstance(model, Ensemble) else 1
    work = Work("forward", model.spec, shape, device)
    execution = known_execution(work, len(tiling.starts) * mirrored * members / shape[0])
    return (yield from computing(model, work, execution))


class _Result:
    """The arrays of a result on the image's grid, while rows come in along ``axis``."""

    def __init__(self, shape: tuple[int, ...], axis: int, classes: int, disagreement: bool) -> None:
        self.labels = np.zeros(shape, np.uint8)
        self.probabilities = np.empty((classes, *shape), np.float32)
        self.disagreement = np.empty(shape, np.float32) if disagreement else None
        self._axis = axis

    def put(self, labelled: Labelled) -> None:
        here = slice(labelled.start, labelled.start + len(labelled.labels))
        np.moveaxis(self.labels, self._axis, 0)[here] = labelled.labels
        np.moveaxis(self.probabilities, 1 + self._axis, 1)[:, here] = labelled.probabilities
        if self.disagreement is not None:
            np.moveaxis(self.disagreement, self._axis, 0)[here] = labelled.disagreement


def windows_that_fit(
    window: tuple[int, ...],
    divisor: int,
    device: torch.device,
    run: Callable[[tuple[int, ...]], Generator[Event, None, T]],
) -> Generator[Event, None, T]:
    """What ``run`` does with the largest window that there is memory for: half of its longest axis at a time.

    Raises
    ------
    ProsmaError
        No window is small enough.
    """
    while True:
        try:
            return (yield from run(window))
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            if max(window) <= divisor:
                raise ProsmaError(
                    f"memory runs out even with windows of {_in_words(window)}; close other programs, or "
                    f"choose the device cpu"
                ) from error
        release(device)
        longest = window.index(max(window))
        half = -(-window[longest] // (2 * divisor)) * divisor
        window = (*window[:longest], half, *window[longest + 1 :])
        yield Notice(
            f"Memory ran out: starting again with windows of {_in_words(window)}. The model was trained on "
            f"larger ones, so look at the result."
        )


def _in_words(window: tuple[int, ...]) -> str:
    return " x ".join(map(str, window))


def flips_of(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Axes, counted from the last, that the checkpoint's training mirrored; none where classes have sides."""
    if not checkpoint.config.get("augment", True):
        return ()
    recipe = recipe_of(str(checkpoint.config.get("modality", "auto")), checkpoint.plan)
    return tuple(axis for axis, mirrored in ((-1, recipe.left_right), (-2, recipe.up_down)) if mirrored)


def mirrored_in_words(checkpoint: Checkpoint) -> str:
    """What mirrored passes do with this model."""
    ways = " and ".join({-1: "left-right", -2: "up-down"}[axis] for axis in flips_of(checkpoint))
    if not ways:
        return "No mirrored passes: the training of this model mirrored nothing."
    return f"Every window was also segmented mirrored ({ways}), as in the model's training."


def require_settings(overlap: float, batch: int) -> None:
    """Refuse settings that make no sense.

    Raises
    ------
    ConfigError
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap must lie within 0 and 1, found {overlap}")
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, found {batch}")


def _classes(plan: Plan, wanted: Sequence[int] | None) -> tuple[int, ...]:
    number = len(plan.class_names)
    classes = tuple(range(number) if wanted is None else wanted)
    if not set(classes) <= set(range(number)):
        raise ConfigError(f"the model knows the classes 0 to {number - 1}, asked for {list(classes)}")
    return classes
