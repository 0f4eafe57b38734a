"""The numbers of a gate, under the names of the method's section 1.6.

``z_zero_fraction`` says how sparse z is, ``floor_pixel_fraction`` how many positions are without evidence.
Neither says how much of the skip was removed: psi has a floor and c lies within 0 and 1, so only
``retained_energy`` speaks of what the decoder received.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata

if TYPE_CHECKING:
    from napari_prosma.inspection.record import GateRecord, SkipRecord


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
        variance, mean = (part.double().cpu().numpy() for part in torch.var_mean(flat, dim=1, correction=0))
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


def skip_measures(record: SkipRecord, kept: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """Numbers of one skip; those that need foreground and background are left out where one is missing.

    Parameters
    ----------
    record : SkipRecord
        With its ``inside`` and ``outside``.
    kept, whole : (*grid)
        Sum over the channels of x~^2 and of x^2.
    """
    figures: dict[str, float] = {}
    if record.zero_fraction is not None and record.without_evidence is not None:
        figures["z_zero_fraction"] = float(record.zero_fraction.mean())
        figures["floor_pixel_fraction"] = float(record.without_evidence.mean())
    if record.channel_zeros is not None:
        figures["dead_channel_fraction"] = float((record.channel_zeros == 1).mean())
        figures["open_channel_fraction"] = float((record.channel_zeros == 0).mean())
    if record.threshold is not None and record.field_spread is not None:
        figures["lambda_mean"] = float(record.threshold.mean())
        alive = record.field_spread > 0
        if alive.any():
            relative = record.threshold[alive] / record.field_spread[alive]
            figures["lambda_over_std_mean"] = float(relative.mean())
    if record.floor is not None:
        figures["gate_floor"] = record.floor
    inside, outside = record.inside, record.outside
    if record.psi is not None:
        figures["psi_mean"] = float(record.psi.mean())
        figures["psi_std"] = float(record.psi.std())
        figures["psi_zero_fraction"] = float((record.psi == 0).mean())
        if inside is not None and outside is not None:
            figures |= foreground_measures(record.psi, inside, outside)
    figures["retained_energy"] = energy_share(kept, whole)
    if inside is not None and outside is not None and inside.any() and outside.any():
        within, beyond = (
            energy_share(kept[inside], whole[inside]),
            energy_share(kept[outside], whole[outside]),
        )
        figures["retained_energy_inside"], figures["retained_energy_outside"] = within, beyond
        if beyond > 0:
            figures["retained_energy_ratio"] = within / beyond
    if record.channel is not None:
        figures["channel_mean"] = float(record.channel.mean())
    return figures


def energy_share(kept: np.ndarray, whole: np.ndarray) -> float:
    """Sum of x~^2 over the sum of x^2; 0 where x is 0 throughout."""
    total = float(whole.sum())
    return float(kept.sum()) / total if total > 0 else 0.0


def foreground_measures(psi: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """``psi_fg_bg_ratio`` and ``psi_auc`` of a mask, from where foreground and background lie.

    The latter is the chance that psi ranks a foreground position above a background one, ties counting half.
    Empty where either is missing.
    """
    above, below = psi[inside], psi[outside]
    if not above.size or not below.size:
        return {}
    ranks = rankdata(np.concatenate([above, below]))[: above.size].sum()
    wins = ranks - above.size * (above.size + 1) / 2
    figures = {"psi_auc": float(wins / (above.size * below.size))}
    if below.mean() > 0:
        figures["psi_fg_bg_ratio"] = float(above.mean() / below.mean())
    return figures


def mostly(mask: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """A mask on a grid coarser by ``factors``: where at least half of the elements covered are in it."""
    missing = [(0, -n % f) for n, f in zip(mask.shape, factors, strict=True)]
    padded = np.pad(mask, missing, mode="edge").astype(np.float32)
    blocks = [size for n, f in zip(padded.shape, factors, strict=True) for size in (n // f, f)]
    return padded.reshape(blocks).mean(axis=tuple(range(1, 2 * len(factors), 2))) >= 0.5


@dataclass(frozen=True, eq=False)
class ChannelStates:
    """The latent channels of one skip over some images.

    Attributes
    ----------
    zero_fraction : (C_a,)
        Share of exact zeros in z, the mean over the images.
    dead, open : tuple of int
        Channels of z that are zero everywhere, and nowhere, in every one of the images. A dead one is so on
        these images only; another image may wake it.
    images : int
        How many there were.
    """

    zero_fraction: np.ndarray
    dead: tuple[int, ...]
    open: tuple[int, ...]
    images: int


def channel_states(records: Iterable[GateRecord]) -> dict[int, ChannelStates]:
    """Per skip: which latent channels are dead or always open over all images (trap of section 1.5).

    Takes one record at a time, so a generator over a data set needs the memory of one image. Skips without a
    threshold are left out.
    """
    zeros: dict[int, list[np.ndarray]] = {}
    for record in records:
        for level, skip in record.skips.items():
            if skip.threshold is not None and skip.channel_zeros is not None:
                zeros.setdefault(level, []).append(skip.channel_zeros)
    states = {}
    for level, per_image in sorted(zeros.items()):
        stacked = np.stack(per_image)
        states[level] = ChannelStates(
            zero_fraction=stacked.mean(axis=0),
            dead=tuple(int(k) for k in np.flatnonzero((stacked == 1).all(axis=0))),
            open=tuple(int(k) for k in np.flatnonzero((stacked == 0).all(axis=0))),
            images=len(stacked),
        )
    return states
