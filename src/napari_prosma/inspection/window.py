"""One window of an image as the network sees it, encoded once: what changes are tried on.

The window is no larger than the training patch, because the channel gates depend on what a window shows. A
whole image that fits is its own window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from napari_prosma.data.case import Image
from napari_prosma.data.labels import is_foreground
from napari_prosma.data.metrics import case_metrics
from napari_prosma.data.planes import slice_in_words
from napari_prosma.data.preparation import cut_axis, prepare_label
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.inspection.trace import network_of, one_network, require_label
from napari_prosma.model.applying import prepare_for
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.device import usable_device
from napari_prosma.model.windows import Tiling, pad, probabilities_of, tile
from napari_prosma.nn.gates import Change, GateTrace
from napari_prosma.nn.unet import Encoded, ProSMAUNet


@dataclass(frozen=True, eq=False)
class Window:
    """A window on the network's grid, with the model that looks at it."""

    name: str
    checkpoint: Checkpoint
    model: ProSMAUNet  # in evaluation mode, on its device
    # (C, *size) as the network sees it: resampled and normalised. Its geometry says where the window lies.
    image: Image
    label: np.ndarray | None  # (*size): the true classes on the same grid
    tiling: Tiling  # of a single window: the size, and its size after padding
    cut: torch.Tensor  # (1, C, *window): what goes into the network
    encoded: Encoded
    whole: tuple[int, ...]  # (n,): size of the whole image on the same grid
    start: tuple[int, ...]  # (n,): where the window begins on it

    @property
    def covers_image(self) -> bool:
        """The image is no larger than the window."""
        return self.tiling.size == self.whole

    def in_words(self) -> str:
        """Such as ``32 x 48 x 32 of 33 x 53 x 37``, on the network's grid, and in which slice, if in one."""
        both = (self.tiling.seen(size) for size in (self.tiling.size, self.whole))
        here, whole = (" x ".join(map(str, size)) for size in both)
        return f"{here} of {whole}" + (f" in {place}" if (place := self.place) else "")

    @property
    def place(self) -> str:
        """Such as ``slice x 20 (0 to 39)``, where the network sees one of several; else empty."""
        numbers = [
            n if axis in self.tiling.thin and self.whole[axis] > 1 else slice(None)
            for axis, n in enumerate(self.start)
        ]
        return slice_in_words(self.image.geometry.axes, numbers, self.whole)

    @property
    def levels(self) -> tuple[int, ...]:
        """Skips of the network, finest (1) first."""
        return tuple(range(1, len(self.checkpoint.spec.widths)))

    @torch.no_grad()
    def probabilities(
        self,
        changes: Mapping[int, Change] | None = None,
        encoded: Encoded | None = None,
        trace: GateTrace | None = None,
    ) -> np.ndarray:
        """Class probabilities (K, *size), background first, with ``changes`` to gates or to the skips."""
        return self.shown(self.model.decode(encoded or self.encoded, trace, changes))

    def shown(self, logits: torch.Tensor) -> np.ndarray:
        """Class probabilities (K, *size) of logits (1, channels, *window), without the padding."""
        flat = logits[0].float().cpu().reshape(logits.shape[1], *self.tiling.window)
        inside = (slice(None), *(slice(0, n) for n in self.tiling.size))
        return probabilities_of(flat[inside].contiguous().numpy())

    def dice(self, labels: np.ndarray) -> dict[str, float] | None:
        """Dice of (*size) against the label, the mean over its classes, then each; None without a label."""
        return None if self.label is None else self._dice(labels, self.label)

    def agreement(self, labels: np.ndarray, others: np.ndarray) -> float:
        """Dice of two segmentations of the window, the mean over the foreground classes in them."""
        return self._dice(labels, others)["dice"]

    def _dice(self, labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        figures = case_metrics(labels, truth, self.checkpoint.plan.class_names)
        return {name: float(value) for name, value in figures.items() if name.startswith("dice")}


def open_window(
    checkpoint: Checkpoint | Path | str,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    model: ProSMAUNet | None = None,
) -> Window:
    """Prepare and encode one window of an image.

    Parameters
    ----------
    image : (C, *spatial)
    label : (*spatial), optional
    region : slices per spatial axis, optional
        The window is put around its centre, such as what is visible; by default around the middle of the
        label's foreground, or of the image.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    held = one_network(checkpoint)
    plan = held.plan
    require_label(label, image, name, plan.class_names)
    prepared = prepare_for(plan, image, name)
    model = network_of(held, usable_device(device)) if model is None else model
    size, shape = prepared.array.shape[1:], image.array.shape[1:]
    across = cut_axis(plan, image.geometry)
    long = tile(size, plan.window, model.divisor, across=across)
    centre = _centre(shape, label, region)
    start = []
    for axis, (n, w) in enumerate(zip(long.padded, long.window, strict=True)):
        at = centre[axis] * size[axis] / shape[axis] - w / 2
        # Starts are multiples of the divisor, so that the maps lie on the grids of the whole image's.
        step = 1 if axis in long.thin else model.divisor
        start.append(int(np.clip(round(at / step) * step, 0, n - w)))
    here = tuple(slice(s, min(s + w, n)) for s, w, n in zip(start, long.window, size, strict=True))
    array = prepared.array[(slice(None), *here)]
    padded = pad(torch.from_numpy(np.ascontiguousarray(array)), plan.dims, model.divisor, across)
    cut = padded.reshape(1, padded.shape[0], *long.seen(padded.shape[1:])).to(next(model.parameters()).device)
    with torch.no_grad():
        encoded = model.encode(cut)
    window = tuple(padded.shape[1:])
    return Window(
        name=name,
        checkpoint=held,
        model=model,
        image=Image(array, _cropped(prepared.geometry, size, start), image.notices),
        label=None if label is None else prepare_label(label, image.geometry, plan)[here],
        tiling=Tiling(array.shape[1:], window, window, ((0,) * len(window),), long.thin),
        cut=cut,
        encoded=encoded,
        whole=size,
        start=tuple(start),
    )


def _centre(
    shape: tuple[int, ...], label: np.ndarray | None, region: tuple[slice, ...] | None
) -> tuple[float, ...]:
    """Where the window is put, as a position between 0 and the length of each axis."""
    if region is not None:
        limits = [part.indices(n)[:2] for part, n in zip(region, shape, strict=True)]
        return tuple((low + high) / 2 for low, high in limits)
    foreground = None if label is None else np.nonzero(is_foreground(label))
    if foreground is not None and foreground[0].size:
        return tuple(float(np.median(at)) + 0.5 for at in foreground)
    return tuple(n / 2 for n in shape)


def _cropped(geometry: Geometry, shape: tuple[int, ...], start: list[int]) -> Geometry:
    """Geometry of the part of an array of ``shape`` that begins at ``start``."""
    origin = tuple(o + s * d for o, s, d in zip(geometry.origin, start, geometry.spacing, strict=True))
    source = None
    if geometry.source is not None:
        to_ours = np.eye(4)
        to_ours[:3, 3] = start[-3:]
        affine = (geometry.source.array_affine(shape) @ to_ours)[:, [2, 1, 0, 3]]
        rows = tuple(tuple(float(value) for value in row) for row in affine)
        source = SourceFrame(rows, order=(2, 1, 0), flipped=(False, False, False))
    return replace(geometry, origin=origin, source=source)
