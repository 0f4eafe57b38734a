"""What is kept of one skip while the windows of an image go by, and the ``SkipRecord`` that comes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from napari_prosma.data.labels import is_foreground
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.measures import skip_measures
from napari_prosma.inspection.record import Means, SkipRecord
from napari_prosma.model.device import in_double
from napari_prosma.model.windows import Blend, Nearest, Start, Tiling
from napari_prosma.nn.gates import SkipTrace

Z_KEPT = 2**24
"""Single channels of z and u are kept where all of a skip's z have no more elements than this (64 MiB)."""


class Gathered:
    """The maps and sums of one skip while the windows go by.

    psi and energies are blended as the labels are. z, u and what hangs on their zeros are no numbers that may
    be averaged: they come from the window whose centre is nearest. Only of the share without evidence the
    mean over the windows is kept, too.
    """

    def __init__(self, first: SkipTrace, tiling: Tiling, factors: tuple[int, ...]) -> None:
        self._tiling, self._factors = tiling, factors
        self._names = [name for name in ("psi", "psi_dense") if getattr(first, name) is not None]
        self._maps = Blend(tiling, len(self._names) + (first.z is not None) + 2, factors)
        self._nearest = Nearest(tiling, factors)
        grid = tuple(-(-n // f) for n, f in zip(tiling.size, factors, strict=True))
        keeps_z = first.z is not None and first.z.shape[1] * math.prod(grid) <= Z_KEPT
        # u beside z: the one says how far the other is from passing.
        self._latent = (
            np.zeros((2, first.z.shape[1], *grid), np.float32) if keeps_z and first.z is not None else None
        )
        self._zero_fraction = None if first.z is None else np.zeros(grid, np.float32)
        self._counts = None if first.field is None or first.z is None else Counts(first.z.shape[1])
        self._sums = Sums(first.skip.shape[1])
        self._channels: list[np.ndarray] = []
        self._threshold = None if first.threshold is None else first.threshold.cpu().numpy()
        self._floor = first.floor

    def add(self, start: Start, skip_trace: SkipTrace) -> None:
        window = tuple(w // f for w, f in zip(self._tiling.window, self._factors, strict=True))
        whole, within = self._nearest.of(start)

        def shaped(values: torch.Tensor) -> torch.Tensor:
            return values[0].float().cpu().reshape(-1, *window)

        stacked = [shaped(getattr(skip_trace, name)) for name in self._names]
        if skip_trace.z is not None and self._zero_fraction is not None:
            z = shaped(skip_trace.z)
            if self._latent is not None and skip_trace.field is not None:
                both = torch.stack([z, shaped(skip_trace.field)]).numpy()
                self._latent[(slice(None), slice(None), *whole)] = both[(slice(None), slice(None), *within)]
            zeros = (z == 0).float().mean(dim=0)
            self._zero_fraction[whole] = zeros.numpy()[within]
            stacked.append((zeros == 1)[None].float())
        stacked.append(shaped(skip_trace.gated.float().square().sum(dim=1, keepdim=True)))
        stacked.append(shaped(skip_trace.skip.float().square().sum(dim=1, keepdim=True)))
        self._maps.add(start, torch.cat(stacked))
        if skip_trace.z is not None and skip_trace.field is not None and self._counts is not None:
            inside = self._inside(start)
            self._counts.add(skip_trace.field[inside], skip_trace.z[inside])
        self._sums.add(skip_trace, self._tiling.seen(within))
        if skip_trace.channel is not None:
            self._channels.append(skip_trace.channel[0].float().cpu().numpy())

    def _inside(self, start: Start) -> tuple[slice, ...]:
        """Slices (B, C, *spatial) of the part of a window that lies over the image, not over its padding."""
        sizes = zip(start, self._tiling.size, self._factors, strict=True)
        reach = self._tiling.seen([-(-n // f) - s // f for s, n, f in sizes])
        return (slice(None), slice(None), *(slice(0, n) for n in reach))

    def record(
        self, level: int, geometry: Geometry, reference: np.ndarray, predicted: np.ndarray | None = None
    ) -> SkipRecord:
        """The skip of an image; ``reference`` (*size) has the foreground, ``predicted`` its errors."""
        maps = self._maps.result()
        named = dict(zip(self._names, maps, strict=False))
        kept, whole = maps[-2], maps[-1]
        channels = np.array(self._channels) if self._channels else None
        counts, psi, zeros = self._counts, named.get("psi"), self._zero_fraction
        empty = None if zeros is None else zeros == 1
        if psi is not None and empty is not None and self._floor is not None:
            psi[empty] = self._floor
            if self._floor == 0:  # there the skip itself is cut
                kept[empty] = 0
        z, u = (None, None) if self._latent is None else self._latent
        foreground = mostly(is_foreground(reference), self._factors)
        outside = mostly(reference == 0, self._factors) & ~foreground
        wrong = None
        if predicted is not None:  # where nobody labelled, nothing is wrong
            differs = mostly(is_foreground(predicted), self._factors) != foreground
            wrong = differs & (foreground | outside)
        record = SkipRecord(
            level=level,
            factor=max(self._factors),
            geometry=geometry.coarsened(tuple(float(f) for f in self._factors), reference.shape),
            energy=whole,
            energy_kept=np.divide(kept, whole, out=np.zeros_like(kept), where=whole > 0),
            relative_energy=None if psi is None else relative(psi, whole),
            selectivity=self._sums.selectivity(),
            means=self._sums.means(),
            zero_fraction=zeros,
            without_evidence=empty,
            empty_share=None if empty is None else float(maps[-3].mean()),
            z=z,
            u=u,
            channel=None if channels is None else channels.mean(axis=0),
            channel_spread=None if channels is None else channels.std(axis=0),
            threshold=self._threshold,
            field_spread=None if counts is None else counts.spread(),
            channel_zeros=None if counts is None else counts.zero_fraction(),
            field_peak=None if counts is None else counts.peak(),
            floor=self._floor,
            inside=foreground,
            outside=outside,
            wrong=wrong,
            **named,
        )
        return replace(record, measures=skip_measures(record))


class Counts:
    """Statistics of u and z per latent channel, gathered window by window."""

    def __init__(self, channels: int) -> None:
        self._number = 0
        self._sum = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._zeros = np.zeros(channels)
        self._peak = np.zeros(channels)

    def add(self, u: torch.Tensor, z: torch.Tensor) -> None:
        """Take in the field and its thresholded form, both (1, C_a, *spatial)."""
        flat = u[0].flatten(1).float()
        number = flat.shape[1]
        # The window's own moments are exact enough in float32; their sums over many windows are not.
        variance, mean = (in_double(part).cpu().numpy() for part in torch.var_mean(flat, dim=1, correction=0))
        low, high = (part.cpu().numpy() for part in torch.aminmax(flat, dim=1))
        self._number += number
        self._sum += number * mean
        self._squares += number * (variance + mean**2)
        self._zeros += (z[0].flatten(1) == 0).sum(dim=1).cpu().numpy()
        self._peak = np.maximum(self._peak, np.maximum(-low, high))

    def spread(self) -> np.ndarray:
        """std(u) (C_a,)."""
        mean = self._sum / self._number
        return np.sqrt(np.maximum(self._squares / self._number - mean**2, 0))

    def zero_fraction(self) -> np.ndarray:
        """Share of exact zeros of z (C_a,)."""
        return self._zeros / self._number

    def peak(self) -> np.ndarray:
        """max|u| (C_a,)."""
        return self._peak


class Sums:
    """What selectivity and means of one skip are made of, gathered from the windows' own positions."""

    def __init__(self, channels: int) -> None:
        self.channel_energy = np.zeros(channels)
        self._cross = np.zeros(channels)
        self._gated_energy = np.zeros(channels)
        self._gated = np.zeros(channels)
        self._psi = self._c = 0.0
        self._has_psi = self._has_c = False
        self._number = 0

    def add(self, skip_trace: SkipTrace, own: tuple[slice, ...]) -> None:
        """Take in the positions ``own`` (slices of the network's axes) of a window."""
        here = (slice(None), slice(None), *own)
        before, after = (in_double(part[here][0].flatten(1)) for part in (skip_trace.skip, skip_trace.gated))
        squares = before.square()
        energy = squares.sum(dim=1)
        self._number += before.shape[1]
        self.channel_energy += energy.cpu().numpy()
        self._cross += (before * after).sum(dim=1).cpu().numpy()
        self._gated_energy += after.square().sum(dim=1).cpu().numpy()
        self._gated += after.sum(dim=1).cpu().numpy()
        if skip_trace.psi is not None:
            self._has_psi = True
            self._psi += float((squares.sum(dim=0) * in_double(skip_trace.psi[here].flatten())).sum())
        if skip_trace.channel is not None:
            self._has_c = True
            self._c += float((energy * in_double(skip_trace.channel[0])).sum())

    def selectivity(self) -> float:
        """``1 - sum_c (sum_p x~ x)^2 / sum_p x^2 / sum x~^2``; 0 where nothing gets through."""
        total = self._gated_energy.sum()
        if not total > 0:
            return 0.0
        explained = np.divide(
            self._cross**2, self.channel_energy, out=np.zeros_like(self._cross), where=self.channel_energy > 0
        )
        return float(np.clip(1 - explained.sum() / total, 0, 1))

    def means(self) -> Means:
        """What the parts of the gate are on average."""
        energy, number = float(self.channel_energy.sum()), max(1, self._number)
        return Means(
            psi=self._psi / energy if self._has_psi and energy > 0 else None,
            c=self._c / energy if self._has_c and energy > 0 else None,
            skip=tuple((self._gated / number).tolist()),
        )


def relative(psi: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Square of psi (*grid) over its mean, weighted by ``energy``: 1 = as on average."""
    squares, total = np.square(psi, dtype=np.float64), float(energy.sum(dtype=np.float64))
    mean = float((squares * energy).sum()) / total if total > 0 else 0.0
    return (squares / mean if mean > 0 else np.ones_like(squares)).astype(np.float32)


def mostly(mask: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """A mask on a grid coarser by ``factors``: where at least half of the elements covered are in it."""
    missing = [(0, -n % f) for n, f in zip(mask.shape, factors, strict=True)]
    padded = np.pad(mask, missing, mode="edge").astype(np.float32)
    blocks = [size for n, f in zip(padded.shape, factors, strict=True) for size in (n // f, f)]
    return padded.reshape(blocks).mean(axis=tuple(range(1, 2 * len(factors), 2))) >= 0.5
