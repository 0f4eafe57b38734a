"""The window engine: overlapping windows over an array of any size, blended with Gaussian weights.

Own code rather than MONAI's because a window must be able to report progress and stop, because rows whose
windows are all done can be finished and let go, and because the gate maps are stitched from the very same
windows as the labels, each on its own coarser grid.

A network of fewer dimensions than the array (2D over a stack) sees windows one element thin along the first
axes, or across the axis along which the slices of a volume lie. All window starts are multiples of the
network's divisor, so every coarser grid is tiled exactly.

Sums are held in float32. Measured against float64 on 1.6 million voxels of 14 classes, with windows that
disagree, bfloat16 changed 5,842 labels (up to 0.03 between the two best logits), float16 changed 751 (up to
0.004) and float32 one, a tie to six digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, groupby, islice, pairwise, product
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.data.planes import thin_axes
from napari_prosma.events import Notice
from napari_prosma.model.memory import ran_out_of_memory, release
from napari_prosma.nn.build import Network
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.unet import ProSMAUNet, pad_to_multiple

Start = tuple[int, ...]
T = TypeVar("T")
Rows = Callable[[int, int], np.ndarray]
"""``rows(start, stop)`` gives (C, stop - start, *rest) float32, valid until it is called again."""

CERTAIN = 1e4
"""A logit whose sigmoid or softmax is 1 to the last digit."""


@dataclass(frozen=True)
class Tiling:
    """Where windows lie over an array."""

    size: tuple[int, ...]  # (n,): size of the array
    padded: tuple[int, ...]  # (n,): its size after padding on the right and bottom
    window: tuple[int, ...]  # (n,)
    starts: tuple[Start, ...]  # list of (n,): in the order of the array's elements, first axis slowest
    # Along which windows are one element thin, since the network does not see them.
    thin: tuple[int, ...] = ()

    def seen(self, sizes: Sequence[T]) -> tuple[T, ...]:
        """What belongs to the axes that the network sees."""
        return tuple(size for axis, size in enumerate(sizes) if axis not in self.thin)

    def at(self, start: Start, factors: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Slices of the window at ``start``, on a grid coarser by ``factors``."""
        factors = factors or (1,) * len(start)
        return tuple(slice(s // f, (s + w) // f) for s, w, f in zip(start, self.window, factors, strict=True))

    def over(self, first: int, stop: int) -> list[Start]:
        """Starts of the windows that see any of the rows ``first`` to ``stop`` of the first axis."""
        return [start for start in self.starts if start[0] < stop and start[0] + self.window[0] > first]


def tile(
    size: Sequence[int], window: Sequence[int], divisor: int, overlap: float = 0.5, across: int = 0
) -> Tiling:
    """Tiling of an array of ``size`` by ``window``, whose axes are the array's last ones.

    A volume is tiled by windows in planes across its axis ``across``. A window is no longer than the array
    rounded up to ``divisor``; neighbours overlap by about ``overlap``.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must lie within 0 and 1, found {overlap}")
    thin = thin_axes(len(size), len(window), across)
    padded, shrunk, starts = [], [], []
    wanted = iter(window)
    for axis, n in enumerate(size):
        if axis in thin:
            padded.append(n)
            shrunk.append(1)
            starts.append(list(range(n)))
            continue
        w = next(wanted)
        long = -(-n // divisor) * divisor
        w = min(-(-w // divisor) * divisor, long)
        step = max(divisor, int(w * (1 - overlap)) // divisor * divisor)
        count = -(-(long - w) // step) + 1
        spread = (long - w) / max(1, count - 1)
        padded.append(long)
        shrunk.append(w)
        starts.append(sorted({round(k * spread / divisor) * divisor for k in range(count)}))
    return Tiling(tuple(size), tuple(padded), tuple(shrunk), tuple(product(*starts)), thin)


def pad(image: Tensor, dims: int, divisor: int, across: int = 0) -> Tensor:
    """Pad the last ``dims`` axes of (C, *size) to multiples of ``divisor``, as the network itself would.

    Of a volume and a network of pictures, those but ``across``.
    """
    if across and image.ndim == dims + 2:
        return pad(image.movedim(1 + across, 1), dims, divisor).movedim(1, 1 + across)
    before, spatial = image.shape[:-dims], image.shape[-dims:]
    padded = pad_to_multiple(image.reshape(image.shape[0], -1, *spatial), divisor)
    return padded.reshape(*before, *padded.shape[2:])


def gaussian_weight(length: int) -> Tensor:
    """Importance of each element of a window along one axis (length,), float64.

    A Gaussian with an eighth of the window as its spread; no weight is below a thousandth of the largest.
    """
    position = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    weight = torch.exp(-0.5 * (position / (length / 8)) ** 2)
    return weight.clamp(min=1e-3 * float(weight.max()))


def _shares(starts: Sequence[int], window: int, length: int) -> dict[int, Tensor]:
    """Weights of the windows along one axis, which add up to 1 at every element.

    Windows lie on a grid, so the products of these over the axes add up to 1 too. No sum of weights is kept,
    and where there is a single window its values come out as they are.
    """
    weight, total = gaussian_weight(window), torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += weight
    return {start: (weight / total[start : start + window]).float() for start in starts}


class Blend:
    """Weighted mean of overlapping windows, on a grid coarser than the image by ``factors``.

    With ``rows`` it holds so many rows of the first axis at a time: windows come in the order of
    ``tiling.starts``, and ``drop`` lets go of what is finished.
    """

    def __init__(
        self,
        tiling: Tiling,
        channels: int,
        factors: Sequence[int] | None = None,
        rows: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._tiling = tiling
        self._factors = tuple(factors or (1,) * len(tiling.size))
        grid = tuple(p // f for p, f in zip(tiling.padded, self._factors, strict=True))
        self._size = tuple(-(-n // f) for n, f in zip(tiling.size, self._factors, strict=True))
        self._shares = [
            _shares(sorted({start[axis] // f for start in tiling.starts}), tiling.window[axis] // f, length)
            for axis, (f, length) in enumerate(zip(self._factors, grid, strict=True))
        ]
        self._sum = torch.zeros((channels, rows or grid[0], *grid[1:]), device=device)
        self.first = 0

    @property
    def device(self) -> torch.device:
        return self._sum.device

    def to(self, device: torch.device | str) -> None:
        """Keep the sums elsewhere from now on."""
        self._sum = self._sum.to(device)

    def add(self, start: Start, values: Tensor) -> None:
        """Add ``values`` (channels, *window / factors) of the window at ``start``."""
        rows, *rest = self._tiling.at(start, self._factors)
        shares = [axis[s // f] for axis, s, f in zip(self._shares, start, self._factors, strict=True)]
        weight = reduce(lambda outer, share: outer[..., None] * share, [s.to(self.device) for s in shares])
        held = slice(rows.start - self.first, rows.stop - self.first)
        self._sum[(slice(None), held, *rest)].addcmul_(values.to(self.device), weight)

    def upto(self, stop: int) -> Tensor:
        """Mean (channels, rows, *rest) of the held rows before ``stop``, without the padding; a view."""
        inside = tuple(slice(0, n) for n in self._size[1:])
        return self._sum[(slice(None), slice(0, min(stop, self._size[0]) - self.first), *inside)]

    def drop(self, stop: int) -> None:
        """Let go of the rows before ``stop``."""
        gone = stop - self.first
        move_up(self._sum, gone)
        self._sum[:, max(0, self._sum.shape[1] - gone) :] = 0
        self.first = stop

    def result(self) -> np.ndarray:
        """Mean (channels, *grid) of all rows, without the padding."""
        return self.upto(self._size[0]).cpu().numpy()


class Nearest:
    """Which window each element is taken from where a mean would say nothing: that of the nearest centre.

    On a grid coarser by ``factors``, without the padding. Windows lie on a grid, so each has its own box.
    """

    def __init__(self, tiling: Tiling, factors: Sequence[int]) -> None:
        self._factors = tuple(factors)
        self._boxes: list[dict[int, slice]] = []
        for axis, f in enumerate(self._factors):
            starts = sorted({start[axis] // f for start in tiling.starts})
            window, size = tiling.window[axis] // f, -(-tiling.size[axis] // f)
            # Half way between two centres; an element in the very middle is the first window's.
            ends = [(a + b + window + 1) // 2 for a, b in pairwise(starts)]
            edges = [0, *(min(end, size) for end in ends), size]
            self._boxes.append(
                {s: slice(*between) for s, between in zip(starts, pairwise(edges), strict=True)}
            )

    def of(self, start: Start) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The elements of the window at ``start``: slices of the whole grid, and the same of the window."""
        at = [s // f for s, f in zip(start, self._factors, strict=True)]
        whole = tuple(boxes[s] for boxes, s in zip(self._boxes, at, strict=True))
        within = tuple(slice(box.start - s, box.stop - s) for box, s in zip(whole, at, strict=True))
        return whole, within


def move_up(held: Any, by: int) -> None:
    """Move the rows of an array (C, rows, *rest) up in place, piece by piece so that none is held twice."""
    for row in range(0, held.shape[1] - by, by):
        piece = held[:, row + by : row + 2 * by]
        held[:, row : row + piece.shape[1]] = piece


def windows(image: Tensor, tiling: Tiling, batch: int) -> Iterator[tuple[list[Start], Tensor]]:
    """Batches (B, C, *window) of an image padded to the tiling, with the starts of their windows."""
    for first in range(0, len(tiling.starts), batch):
        starts = list(tiling.starts[first : first + batch])
        cut = [image[(slice(None), *tiling.at(start))] for start in starts]
        yield starts, torch.stack([c.reshape(c.shape[0], *tiling.seen(c.shape[1:])) for c in cut])


def padded_for(array: np.ndarray, tiling: Tiling, network: Network | Ensemble) -> Tensor:
    """An array (C, *grid) padded for the windows of ``tiling``."""
    across = tiling.thin[0] if len(tiling.thin) == 1 else 0
    return pad(torch.from_numpy(array), network.spec.dims, network.divisor, across)


@torch.no_grad()
def predict(model: nn.Module, array: np.ndarray, tiling: Tiling, batch: int, blend: Blend) -> Iterator[int]:
    """Add the logits of all windows of ``array`` (C, *grid) to ``blend``; yields how many are new.

    Leaves the network in evaluation mode: whoever learns with it sets the mode before each step.
    """
    model.eval()
    unet = unwrap(model)
    device = next(model.parameters()).device
    padded = padded_for(array, tiling, unet)
    for starts, cut in windows(padded, tiling, batch):
        logits: Tensor = model(cut.to(device)).float().cpu()
        for start, values in zip(starts, logits, strict=True):
            blend.add(start, values.reshape(values.shape[0], *tiling.window))
        yield len(starts)


@dataclass(frozen=True)
class Slab:
    """Rows of the first axis whose windows are all done."""

    start: int  # the first row
    # (channels, rows, *rest) float32: without the padding. A view: valid, and free to be written over, until
    # the next thing is pulled.
    logits: Tensor
    disagreement: Tensor | None = None  # (rows, *rest) float32


def sweep(
    model: nn.Module,
    rows: Rows,
    tiling: Tiling,
    *,
    axis: int = 0,
    batch: int = 1,
    flips: Sequence[int] = (),
    disagreement: bool = False,
    background: Callable[[Tensor], bool] | None = None,
    span: tuple[int, int] | None = None,
    deepest: Callable[[Start, Tensor], None] | None = None,
) -> Iterator[Slab | Notice | int]:
    """Go through all windows, row by row; rows whose windows are all done come out and are let go.

    Sums are kept on the device of the model. When its memory runs out the batch is halved as often as needed,
    then the sums go to the CPU.

    Parameters
    ----------
    model : network
    rows : function
        Reads the image; the padding is added here.
    tiling : Tiling
        Of the image with its axis ``axis`` put first, as ``rows`` gives it.
    axis : int
        An axis of the network; 0 for an image of more axes than the network has.
    batch : int
        Windows per forward pass.
    flips : network axes, counted from the last (-1)
        Every window is passed once for each combination of mirrored axes. The answer is the mean of the
        probabilities of all passes, as that of an ensemble's networks.
    disagreement : bool
        Whether the passes are compared: the mutual information of class and pass, ``H(mean p) - mean H(p)``
        (Houlsby et al. 2011), as a share of the most there can be, ``log K``.
    background : function, optional
        Says whether a window (C, *window) is plain background. It is not looked at then: all of its elements
        are background with certainty.
    span : (first, stop), optional
        Rows that are wanted. They come out as in a sweep over all, bit for bit.
    deepest : function, optional
        Is given what the deepest level of a :class:`ProSMAUNet` (of an ensemble, the first) makes of each
        window (F, *coarse), not mirrored.

    Yields
    ------
    int
        How many windows are new.
    Slab
        In order and without gaps.
    Notice
        What was changed because memory ran out.

    Raises
    ------
    RuntimeError, MemoryError
        There is no memory for a single window (:func:`ran_out_of_memory` is true of it), or torch fails.
    """
    unet = unwrap(model)
    device = next(model.parameters()).device
    channels = unet.spec.out_channels
    first, stop = span or (0, tiling.size[0])
    size = batch
    blend, notice = _make_blend(tiling, channels + disagreement, device)
    if notice is not None:
        yield notice
    starts = tiling.over(first, stop)
    blend.first = starts[0][0]
    plain: list[Start] = []

    def finished(before: int) -> Iterator[Slab]:
        begin, end = max(blend.first, first), min(before, stop)
        if begin < end:
            held = blend.upto(end)
            _fill_background(held, channels, tiling, plain, blend.first)
            wanted = held[:, begin - blend.first :]
            yield Slab(begin, wanted[:channels], wanted[-1] if disagreement else None)
        blend.drop(before)
        plain[:] = [start for start in plain if start[0] + tiling.window[0] > before]

    cuts = _cuts(rows, tiling, starts, unet.spec.dims, unet.divisor, axis, background)
    while group := list(islice(cuts, size)):
        todo = [cut for _, cut in group if cut is not None]
        answers: list[Tensor] = []
        levels: list[Tensor] = []
        while len(answers) < len(todo):
            notice = None
            try:
                part = todo[len(answers) : len(answers) + size]
                found, encoded = _answers(model, part, flips, disagreement, device, deepest is not None)
                answers += found
                levels += encoded
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error) or (size == 1 and blend.device.type == "cpu"):
                    raise
                if size > 1:
                    size = size // 2
                    notice = Notice(f"Memory ran out: continuing with fewer windows at a time ({size})")
                else:
                    blend.to("cpu")
                    notice = Notice("Memory ran out: continuing with the sums in main memory.")
            if notice is not None:  # the error is gone now, and with it what it held
                release(device)
                yield notice
        for start, cut in group:
            if start[0] > blend.first:
                yield from finished(start[0])
            if cut is None:
                plain.append(start)
            else:
                values = answers.pop(0).movedim(1 + axis, 1)
                blend.add(start, values.reshape(len(values), *tiling.window))
                del values  # or it would lie beside the next pass
                if deepest is not None and levels:
                    deepest(start, levels.pop(0).movedim(1 + axis, 1))
        yield len(group)
    yield from finished(tiling.padded[0])


def _make_blend(tiling: Tiling, channels: int, device: torch.device) -> tuple[Blend, Notice | None]:
    """Sums for as many rows as a window has, beside the model if there is room."""
    try:
        return Blend(tiling, channels, rows=tiling.window[0], device=device), None
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error) or device.type == "cpu":
            raise
    release(device)
    notice = Notice("Memory ran out: the sums are kept in main memory.")
    return Blend(tiling, channels, rows=tiling.window[0]), notice


def _fill_background(held: Tensor, channels: int, tiling: Tiling, plain: Sequence[Start], first: int) -> None:
    """Make the windows at ``plain`` background, in sums (channels, rows, *rest) from row ``first`` on."""
    certain = torch.zeros(len(held), *[1] * len(tiling.size), device=held.device)
    certain[0] = -CERTAIN if channels == 1 else CERTAIN
    for start in plain:
        rows, *rest = tiling.at(start)
        held[(slice(None), slice(max(0, rows.start - first), rows.stop - first), *rest)] = certain


def _cuts(
    rows: Rows,
    tiling: Tiling,
    starts: Sequence[Start],
    dims: int,
    divisor: int,
    axis: int,
    background: Callable[[Tensor], bool] | None,
) -> Iterator[tuple[Start, Tensor | None]]:
    """Windows (C, *window) with their axes as the network has them; None for plain background."""
    for first, row in groupby(starts, key=lambda start: start[0]):
        slab = _padded_rows(rows, tiling, first, dims, divisor)
        for start in row:
            cut = slab[(slice(None), slice(None), *tiling.at(start)[1:])]
            if background is not None and background(cut):
                yield start, None
            else:
                # A copy: the rows may be overwritten while the window still waits for its batch.
                cut = cut.reshape(len(cut), *cut.shape[-dims:]).movedim(1, 1 + axis)
                yield start, cut.clone(memory_format=torch.contiguous_format)


def _padded_rows(rows: Rows, tiling: Tiling, start: int, dims: int, divisor: int) -> Tensor:
    """Rows of the windows that start at ``start``, padded as the network itself pads a whole image."""
    length, stop = tiling.size[0], start + tiling.window[0]
    if stop <= length:
        slab = torch.from_numpy(rows(start, stop))
    else:
        wanted = np.arange(start, stop)
        # As pad_to_multiple: mirrored, or the edge repeated where there is too little to mirror.
        beyond = 2 * (length - 1) - wanted if tiling.padded[0] < 2 * length else length - 1
        wanted = np.where(wanted < length, wanted, beyond)
        lowest = int(wanted.min())
        slab = torch.from_numpy(rows(lowest, length)[:, wanted - lowest])
    return pad(slab, min(dims, len(tiling.size) - 1), divisor)


@torch.no_grad()
def _answers(
    model: nn.Module,
    cuts: Sequence[Tensor],
    flips: Sequence[int],
    disagreement: bool,
    device: torch.device,
    with_deepest: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits (channels, *window) of some windows, followed by the disagreement if it is asked for.

    And what the deepest level makes of each, if that is asked for and known.
    """
    stack = torch.stack(list(cuts)).to(device) if len(cuts) > 1 else cuts[0][None].to(device)
    unet = unwrap(model)
    networks = list(unet.members) if isinstance(unet, Ensemble) else [model]
    mirrored = [axes for n in range(len(flips) + 1) for axes in combinations(flips, n)]
    passes = len(mirrored) * len(networks)
    first = with_deepest
    levels: list[Tensor] = []
    if passes == 1:
        logits, levels = _passed(model, stack, first)
        answer = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1) if disagreement else logits
        return list(answer), levels
    total: Tensor | None = None
    inside: Tensor | float = 0.0
    for axes, network in product(mirrored, networks):
        logits, encoded = _passed(network, stack.flip(axes) if axes else stack, first)
        levels, first = levels or encoded, False
        log = log_probabilities(logits.flip(axes) if axes else logits)
        total = log if total is None else torch.logaddexp(total, log)
        if disagreement:
            inside = inside + _entropy(log)
    assert total is not None
    total -= math.log(passes)
    answer = total[:, 1:] - total[:, :1] if unet.spec.out_channels == 1 else total
    if disagreement:
        information = (_entropy(total) - inside / passes).clamp(min=0) / math.log(total.shape[1])
        answer = torch.cat([answer, information], dim=1)
    return list(answer), levels


def _passed(network: nn.Module, stack: Tensor, with_deepest: bool) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, channels, *window), and what the deepest level makes of each window if it is asked for."""
    unet = unwrap(network)
    if not with_deepest or not isinstance(unet, ProSMAUNet):
        return network(stack).float(), []
    encoded = unet.encode(stack)
    return unet.decode(encoded).float(), list(encoded.bottleneck.float())


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms of the class probabilities (B, K, ...), background first, of logits (B, 1 or K, ...)."""
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return torch.log_softmax(logits, dim=1)


def _entropy(log: Tensor) -> Tensor:
    """Entropy (B, 1, ...) of log-probabilities (B, K, ...)."""
    return -(log.exp() * log).sum(dim=1, keepdim=True)


def unwrap(model: nn.Module) -> Network | Ensemble:
    """The network inside the wrappers of Fabric and of ``torch.compile``, or itself."""
    while not isinstance(model, Network | Ensemble):
        model = getattr(model, "_orig_mod", None) or model.get_submodule("module")
    return model


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (K, *grid), background first, of logits (1 or K, *grid)."""
    scores = torch.from_numpy(logits)
    if logits.shape[0] == 1:
        foreground = torch.sigmoid(scores)
        return torch.cat([1 - foreground, foreground]).numpy()
    return torch.softmax(scores, dim=0).numpy()


def labels_of(scores: np.ndarray) -> np.ndarray:
    """Class (*grid) uint8 with the highest of scores (K, *grid); a tie goes to the lower index.

    By running maxima: ``argmax`` over the first axis takes several times as long.
    """
    best, labels = scores[0].copy(), np.zeros(scores.shape[1:], np.uint8)
    for k in range(1, len(scores)):
        np.copyto(labels, k, where=scores[k] > best, casting="unsafe")
        np.maximum(best, scores[k], out=best)
    return labels


def sureness_of(probabilities: np.ndarray) -> np.ndarray:
    """Probability (*grid) uint8 of the class that ``labels_of`` gives; 255 is certain."""
    return np.rint(255 * probabilities.max(axis=0)).astype(np.uint8)
