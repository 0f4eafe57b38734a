"""What a network sees in an image: features by which images are alike or not."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from napari_prosma.model.windows import Blend, Start, Tiling, unwrap
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.unet import ProSMAUNet

_SAMPLES = 8
"""Per axis, of an image that the network has no bottleneck for."""


class DeepestLevel:
    """What the deepest level makes of an image, put together from its windows; ``add`` is for ``sweep``."""

    def __init__(self, network: ProSMAUNet, tiling: Tiling) -> None:
        spec = network.spec
        factors = [1 if axis in tiling.thin else spec.divisor for axis in range(len(tiling.size))]
        self._tiling = tiling
        self._size = [w // f for w, f in zip(tiling.window, factors, strict=True)]
        self._blend = Blend(tiling, spec.widths[-1], factors)

    def add(self, start: Start, deepest: Tensor) -> None:
        """Add what it makes (F, *coarse) of the window at ``start``."""
        # A window of a single element at this level was padded once more for its norm.
        inside = (slice(None), *(slice(0, n) for n in self._tiling.seen(self._size)))
        self._blend.add(start, deepest[inside].reshape(-1, *self._size))

    def result(self) -> np.ndarray:
        """(F, *coarse) float32; 0 where no window was looked at."""
        return self._blend.result()


def deepest_level(network: nn.Module, tiling: Tiling) -> DeepestLevel | None:
    """Of an ensemble, the first network's; None for a network of another paper, which has none of its own."""
    unet = unwrap(network)
    if isinstance(unet, Ensemble):
        unet = unwrap(unet.members[0])
    return DeepestLevel(unet, tiling) if isinstance(unet, ProSMAUNet) else None


def coarse_copy(array: np.ndarray, dims: int, across: int = 0) -> np.ndarray:
    """Features (C, *coarse) of a prepared image (C, *grid) for a network without a deepest level of its own.

    The axis ``across``, along which a network of pictures goes through a volume, keeps its length.
    """
    places = [np.linspace(0, n - 1, min(n, _SAMPLES)).round().astype(int) for n in array.shape[1:]]
    if array.ndim == 4 and dims == 2:
        places[across] = np.arange(array.shape[1 + across])
    return array[np.ix_(np.arange(len(array)), *places)].astype(np.float32)
