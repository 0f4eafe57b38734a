"""The window engine: overlapping windows over an array of any size, blended with Gaussian weights.

Own code rather than MONAI's because a window must be able to report progress and stop, and because the gate
maps are stitched from the very same windows as the labels, each on its own coarser grid.

A network of fewer dimensions than the array (2D over a stack) sees windows one element thin along the first
axes. All window starts are multiples of the network's divisor, so every coarser grid is tiled exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.unet import ProSMAUNet, pad_to_multiple

Start = tuple[int, ...]


@dataclass(frozen=True)
class Tiling:
    """Where windows lie over an array.

    Attributes
    ----------
    size : (n,)
        Size of the array.
    padded : (n,)
        Its size after padding on the right and bottom.
    window : (n,)
    starts : list of (n,)
    """

    size: tuple[int, ...]
    padded: tuple[int, ...]
    window: tuple[int, ...]
    starts: tuple[Start, ...]

    def at(self, start: Start, factors: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Slices of the window at ``start``, on a grid coarser by ``factors``."""
        factors = factors or (1,) * len(start)
        return tuple(slice(s // f, (s + w) // f) for s, w, f in zip(start, self.window, factors, strict=True))


def tile(size: Sequence[int], window: Sequence[int], divisor: int, overlap: float = 0.5) -> Tiling:
    """Tiling of an array of ``size`` by ``window``, whose axes are the array's last ones.

    A window is no longer than the array rounded up to ``divisor``; neighbours overlap by about ``overlap``.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must lie within 0 and 1, found {overlap}")
    thin = len(size) - len(window)
    padded, shrunk, starts = list(size[:thin]), [1] * thin, [list(range(n)) for n in size[:thin]]
    for n, w in zip(size[thin:], window, strict=True):
        long = -(-n // divisor) * divisor
        w = min(-(-w // divisor) * divisor, long)
        step = max(divisor, int(w * (1 - overlap)) // divisor * divisor)
        count = -(-(long - w) // step) + 1
        spread = (long - w) / max(1, count - 1)
        padded.append(long)
        shrunk.append(w)
        starts.append(sorted({round(k * spread / divisor) * divisor for k in range(count)}))
    return Tiling(tuple(size), tuple(padded), tuple(shrunk), tuple(product(*starts)))


def pad(image: Tensor, dims: int, divisor: int) -> Tensor:
    """Pad the last ``dims`` axes of (C, *size) to multiples of ``divisor``, as the network itself would."""
    before, spatial = image.shape[:-dims], image.shape[-dims:]
    padded = pad_to_multiple(image.reshape(image.shape[0], -1, *spatial), divisor)
    return padded.reshape(*before, *padded.shape[2:])


def gaussian_weight(window: Sequence[int]) -> Tensor:
    """Importance of each element of a window: a Gaussian with an eighth of the window as its spread.

    The smallest weight is a thousandth of the largest: a border that one window sees alone keeps its sum.
    """
    weight = torch.ones(())
    for n in window:
        position = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (position / (n / 8)) ** 2)
    return weight.clamp(min=1e-3 * float(weight.max()))


class Blend:
    """Weighted mean of overlapping windows, on a grid coarser than the image by ``factors``."""

    def __init__(self, tiling: Tiling, channels: int, factors: Sequence[int] | None = None) -> None:
        self._tiling = tiling
        self._factors = tuple(factors or (1,) * len(tiling.size))
        grid = tuple(p // f for p, f in zip(tiling.padded, self._factors, strict=True))
        window = tuple(w // f for w, f in zip(tiling.window, self._factors, strict=True))
        self._weight = gaussian_weight(window)
        self._sum = torch.zeros((channels, *grid))
        self._weights = torch.zeros(grid)

    def add(self, start: Start, values: Tensor) -> None:
        """Add ``values`` (channels, *window / factors) of the window at ``start``."""
        where = self._tiling.at(start, self._factors)
        self._sum[(slice(None), *where)] += values * self._weight
        self._weights[where] += self._weight

    def result(self) -> np.ndarray:
        """Mean (channels, *grid), without the padding."""
        inside = tuple(slice(0, -(-n // f)) for n, f in zip(self._tiling.size, self._factors, strict=True))
        return (self._sum[(slice(None), *inside)] / self._weights[inside]).numpy()


def windows(image: Tensor, tiling: Tiling, dims: int, batch: int) -> Iterator[tuple[list[Start], Tensor]]:
    """Batches (B, C, *window) of an image padded to the tiling, with the starts of their windows."""
    for first in range(0, len(tiling.starts), batch):
        starts = list(tiling.starts[first : first + batch])
        cut = [image[(slice(None), *tiling.at(start))] for start in starts]
        yield starts, torch.stack([c.reshape(c.shape[0], *c.shape[-dims:]) for c in cut])


@torch.no_grad()
def predict(model: nn.Module, array: np.ndarray, tiling: Tiling, batch: int, blend: Blend) -> Iterator[int]:
    """Add the logits of all windows of ``array`` (C, *grid) to ``blend``; yields how many are new."""
    unet = unwrap(model)
    device = next(model.parameters()).device
    padded = pad(torch.from_numpy(array), unet.spec.dims, unet.divisor)
    for starts, cut in windows(padded, tiling, unet.spec.dims, batch):
        logits: Tensor = model(cut.to(device)).float().cpu()
        for start, values in zip(starts, logits, strict=True):
            blend.add(start, values.reshape(values.shape[0], *tiling.window))
        yield len(starts)


def unwrap(model: nn.Module) -> ProSMAUNet | Ensemble:
    """The network inside the wrappers of Fabric and of ``torch.compile``, or itself."""
    while not isinstance(model, ProSMAUNet | Ensemble):
        model = getattr(model, "_orig_mod", None) or model.get_submodule("module")
    return model


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (K, *grid), background first, of logits (1 or K, *grid)."""
    scores = torch.from_numpy(logits)
    if logits.shape[0] == 1:
        foreground = torch.sigmoid(scores)
        return torch.cat([1 - foreground, foreground]).numpy()
    return torch.softmax(scores, dim=0).numpy()


def labels_of(probabilities: np.ndarray) -> np.ndarray:
    """Most probable class (*grid) uint8; a tie goes to the lower index."""
    best, labels = probabilities[0].copy(), np.zeros(probabilities.shape[1:], np.uint8)
    for k in range(1, probabilities.shape[0]):
        higher = probabilities[k] > best
        labels[higher] = k
        np.maximum(best, probabilities[k], out=best)
    return labels
