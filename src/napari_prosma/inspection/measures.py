"""The numbers of a gate, under the names of the method's section 1.6.

``z_zero_fraction`` says how sparse z is, ``floor_pixel_fraction`` how many positions are without evidence.
Neither says how much of the skip was removed: psi has a floor and c lies within 0 and 1, so only
``retained_energy`` speaks of what the decoder received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata

from napari_prosma.data.labels import is_foreground

if TYPE_CHECKING:
    from napari_prosma.inspection.record import SkipRecord


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
        flat = u[0].flatten(1).double()
        self._number += flat.shape[1]
        self._sum += flat.sum(dim=1).cpu().numpy()
        self._squares += flat.square().sum(dim=1).cpu().numpy()
        self._zeros += (z[0].flatten(1) == 0).sum(dim=1).cpu().numpy()
        self._peak = np.maximum(self._peak, flat.abs().amax(dim=1).cpu().numpy())

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


def skip_measures(
    record: SkipRecord, reference: np.ndarray, factors: tuple[int, ...], energy: float
) -> dict[str, float]:
    """Numbers of one skip; those that need foreground and background are left out where one is missing.

    Parameters
    ----------
    record : SkipRecord
    reference : (*grid of level 1) class indices
        What is ``IGNORE`` is neither foreground nor background.
    factors : how much coarser the skip's grid is, per axis
    energy : float
        Sum of x~^2 over the sum of x^2, over all positions and channels.
    """
    figures: dict[str, float] = {}
    if record.zero_fraction is not None and record.without_evidence is not None:
        figures["z_zero_fraction"] = float(record.zero_fraction.mean())
        figures["floor_pixel_fraction"] = float(record.without_evidence.mean())
    if record.channel_zeros is not None:
        figures["dead_channel_fraction"] = float((record.channel_zeros == 1).mean())
    if record.threshold is not None and record.field_spread is not None:
        figures["lambda_mean"] = float(record.threshold.mean())
        alive = record.field_spread > 0
        if alive.any():
            relative = record.threshold[alive] / record.field_spread[alive]
            figures["lambda_over_std_mean"] = float(relative.mean())
    if record.floor is not None:
        figures["gate_floor"] = record.floor
    if record.psi is not None:
        figures["psi_mean"] = float(record.psi.mean())
        figures["psi_std"] = float(record.psi.std())
        inside = mostly(is_foreground(reference), factors)
        figures |= foreground_measures(record.psi, inside, mostly(reference == 0, factors) & ~inside)
    figures["retained_energy"] = energy
    if record.channel is not None:
        figures["channel_mean"] = float(record.channel.mean())
    return figures


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
