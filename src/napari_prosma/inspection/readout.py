"""What every gate did at one position of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_prosma.inspection.record import GateRecord, SkipRecord

TOP_CHANNELS = 3


@dataclass(frozen=True)
class LatentValue:
    """One latent channel at one position: ``z`` is what the threshold left of ``u``."""

    channel: int
    u: float
    threshold: float
    z: float


@dataclass(frozen=True)
class Readout:
    """One skip at one position."""

    level: int
    index: tuple[int, ...]  # on the skip's grid
    energy_kept: float
    support: float | None = None  # share of the latent channels whose z is not zero
    psi: float | None = None
    psi_dense: float | None = None
    floor: float | None = None
    without_evidence: bool | None = None  # z is zero in every channel: psi stands at its floor
    # through, stopped: the channels of z with the largest ``|z|``, and those with z = 0 that came nearest to
    # passing (largest ``|u| / lambda``), at most so many as were asked for. Empty where the gate has no
    # threshold, or the record was too large to keep z and u.
    through: tuple[LatentValue, ...] = ()
    stopped: tuple[LatentValue, ...] = ()


def readout(record: GateRecord, position: Sequence[float], top: int = TOP_CHANNELS) -> list[Readout]:
    """Every skip of ``record`` at one position, finest first; empty where the position is not on its image.

    Parameters
    ----------
    position : per spatial axis
        Index on the grid of ``record.image``; fractions are allowed, the middle of element i is i.
    top : int
        How many latent channels are named.

    Raises
    ------
    ValueError
        Another number of axes than the image's.
    """
    fine = record.image.geometry
    if len(position) != fine.ndim:
        raise ValueError(f"the image has {fine.ndim} axes, the position {len(position)}")
    inside = zip(position, record.image.array.shape[1:], strict=True)
    if not all(-0.5 <= at < n - 0.5 for at, n in inside):
        return []
    place = [o + at * s for o, at, s in zip(fine.origin, position, fine.spacing, strict=True)]
    found = []
    for level, skip in sorted(record.skips.items()):
        coarse, grid = skip.geometry, skip.energy_kept.shape
        axes = zip(place, coarse.origin, coarse.spacing, grid, strict=True)
        # Rounding may put the very edge of the image one element beyond the last.
        index = tuple(int(np.clip(np.floor((at - o) / s + 0.5), 0, n - 1)) for at, o, s, n in axes)
        through, stopped = _latent(skip, index, top)
        empty = skip.without_evidence
        found.append(
            Readout(
                level=level,
                index=index,
                energy_kept=float(skip.energy_kept[index]),
                support=None if skip.zero_fraction is None else 1 - float(skip.zero_fraction[index]),
                psi=None if skip.psi is None else float(skip.psi[index]),
                psi_dense=None if skip.psi_dense is None else float(skip.psi_dense[index]),
                floor=skip.floor,
                without_evidence=None if empty is None else bool(empty[index]),
                through=through,
                stopped=stopped,
            )
        )
    return found


def _latent(
    skip: SkipRecord, index: tuple[int, ...], top: int
) -> tuple[tuple[LatentValue, ...], tuple[LatentValue, ...]]:
    if skip.z is None or skip.u is None or skip.threshold is None:
        return (), ()
    at: tuple[slice | int, ...] = (slice(None), *index)
    z, u, threshold = skip.z[at], skip.u[at], skip.threshold
    nearness = np.abs(u) / np.maximum(threshold, np.finfo(np.float32).tiny)

    def values(channels: np.ndarray) -> tuple[LatentValue, ...]:
        return tuple(
            LatentValue(int(k), float(u[k]), float(threshold[k]), float(z[k])) for k in channels[:top]
        )

    passing = np.argsort(-np.abs(z), kind="stable")
    nearest = np.argsort(-nearness, kind="stable")
    return values(passing[z[passing] != 0]), values(nearest[z[nearest] == 0])
