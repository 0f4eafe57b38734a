"""What a network sees in an image: features by which images are alike or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from napari_prosma.model.windows import Blend, padded_for, tile, windows
from napari_prosma.nn.build import Network
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.unet import ProSMAUNet

_SAMPLES = 8
"""Per axis, of an image that the network has no bottleneck for."""


@torch.no_grad()
def bottleneck(
    model: Network | Ensemble, array: np.ndarray, window: tuple[int, ...], across: int = 0
) -> Iterator[int | np.ndarray]:
    """What the deepest level makes of a prepared image (C, *grid).

    Of an ensemble, the first network's. Of a network of another paper, which has no such level of its own, a
    coarse copy of the image.

    Parameters
    ----------
    window : one per axis of the network
    across : int
        Axis along which a network of pictures goes through a volume.

    Yields
    ------
    int
        How many windows are new.
    (F, *coarse) float32
        At last; the axes that the network does not see are as long as those of the grid.
    """
    network = model.members[0] if isinstance(model, Ensemble) else model
    assert isinstance(network, Network)
    if not isinstance(network, ProSMAUNet):
        places = [np.linspace(0, n - 1, min(n, _SAMPLES)).round().astype(int) for n in array.shape[1:]]
        if array.ndim == 4 and network.spec.dims == 2:
            places[across] = np.arange(array.shape[1 + across])
        yield array[np.ix_(np.arange(len(array)), *places)].astype(np.float32)
        return
    spec = network.spec
    tiling = tile(array.shape[1:], window, spec.divisor, 0.0, across)
    factors = [1 if axis in tiling.thin else spec.divisor for axis in range(len(tiling.size))]
    size = [w // f for w, f in zip(tiling.window, factors, strict=True)]
    blend = Blend(tiling, spec.widths[-1], factors)
    device = next(network.parameters()).device
    for starts, cut in windows(padded_for(array, tiling, network), tiling, 1):
        deepest = network.encode(cut.to(device)).bottleneck[0].float()
        # A window of a single element at this level was padded once more for its norm.
        inside = (slice(None), *(slice(0, n) for n in tiling.seen(size)))
        blend.add(starts[0], deepest[inside].reshape(-1, *size))
        yield 1
    yield blend.result()
