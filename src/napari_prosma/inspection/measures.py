"""The numbers of a gate: ``MEASURES`` has one entry for each, which tables, plots and panel all read.

The next convolution undoes any constant per channel, so what a gate keeps in all says nothing: a gate that
selects nothing keeps its neutral value. ``selectivity`` says whether it does more than that, and
``relative_energy`` where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a panel lists the measures before torch is loaded
    from napari_prosma.inspection.record import SkipRecord
    from napari_prosma.nn.gate_kinds import GateKind

LEAST_RATIO = 2.0**-10
"""Least factor that is told apart from 0 where factors are averaged or drawn as logarithms."""
TIES = 5
"""Decimals to which psi is ranked: further ones are the rounding of overlapping windows."""


# ---- the measures -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One number of a skip."""

    label: str  # in tables and on plots
    # Gives it for a ``SkipRecord``; None where the gate, or the image, has no such number.
    of: Callable[[SkipRecord], float | None]
    meaning: str  # one sentence
    unit: str = ""  # "", "%" or "x": how it is printed: as it is, times 100, or as a factor
    # (low, high): between which it can lie; None = no bound.
    limits: tuple[float | None, float | None] = (0.0, 1.0)
    # Of the gate: the value at which it says nothing, None where there is none.
    neutral: Callable[[GateKind], float | None] = lambda kind: None

    def text(self, value: float) -> str:
        """The value in its unit, with as many digits as say something."""
        if self.unit == "%":
            return f"{100 * value:.1f}"
        return in_digits(value) if self.unit == "x" else f"{value:.2f}"

    def in_words(self, value: float) -> str:
        """The value with its unit."""
        return f"{self.text(value)} {self.unit}".strip()

    @property
    def name(self) -> str:
        """Its label without the unit."""
        return self.label.removesuffix(", %")


def in_digits(value: float) -> str:
    """A factor to two digits, so that small ones do not become 0."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def skips_in_words(levels: Sequence[int]) -> str:
    """Such as ``skip 1`` or ``skips 1, 3``."""
    return f"skip{'s' * (len(levels) > 1)} {', '.join(map(str, levels))}"


def _mean(array: np.ndarray | None) -> float | None:
    return None if array is None else float(array.mean())


def _share(array: np.ndarray | None, value: float) -> float | None:
    return None if array is None else float((array == value).mean())


def _kept(skip: SkipRecord, where: np.ndarray | None) -> float | None:
    """Energy after the gate over that before it, where a mask says so."""
    if where is None:
        return None
    whole = float(skip.energy[where].sum(dtype=np.float64))
    kept = float((skip.energy_kept[where] * skip.energy[where]).sum(dtype=np.float64))
    return kept / whole if whole > 0 else (0.0 if where.any() else None)


def _everywhere(skip: SkipRecord) -> np.ndarray:
    return np.ones(skip.energy.shape, bool)


def _relative_energy(skip: SkipRecord, where: np.ndarray | None) -> float | None:
    """Of the foreground or the background: mean of psi^2 there over that everywhere, weighted by energy."""
    if where is None or skip.relative_energy is None or not skip.energy[where].sum() > 0:
        return None
    return float(np.average(skip.relative_energy[where].astype(np.float64), weights=skip.energy[where]))


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _both(skip: SkipRecord) -> bool:
    return bool(
        skip.inside is not None and skip.outside is not None and skip.inside.any() and skip.outside.any()
    )


def _inside(skip: SkipRecord) -> np.ndarray | None:
    return skip.inside if _both(skip) else None


def _outside(skip: SkipRecord) -> np.ndarray | None:
    return skip.outside if _both(skip) else None


def auc(values: np.ndarray, above: np.ndarray, below: np.ndarray) -> float | None:
    """Chance that a value where ``above`` is larger than one where ``below``; ties count half.

    Values are ranked to :data:`TIES` decimals, or the rounding of a flat mask would be ranked. None where
    either is nowhere.
    """
    from scipy.stats import rankdata

    first, second = values[above], values[below]
    if not first.size or not second.size:
        return None
    ranks = rankdata(np.round(np.concatenate([first, second]).astype(np.float64), TIES))[: first.size].sum()
    return float((ranks - first.size * (first.size + 1) / 2) / (first.size * second.size))


def _auc_of_psi(skip: SkipRecord) -> float | None:
    if skip.psi is None or skip.inside is None or skip.outside is None:
        return None
    return auc(skip.psi, skip.inside, skip.outside)


def _auc_in_errors(skip: SkipRecord) -> float | None:
    if skip.psi is None or skip.wrong is None or skip.inside is None:
        return None
    return auc(skip.psi, skip.wrong & skip.inside, skip.wrong & ~skip.inside)


def _psi_ratio(skip: SkipRecord) -> float | None:
    if skip.psi is None or not _both(skip):
        return None
    return _ratio(float(skip.psi[skip.inside].mean()), float(skip.psi[skip.outside].mean()))


def _relative_threshold(skip: SkipRecord) -> float | None:
    if skip.threshold is None or skip.field_spread is None or not (skip.field_spread > 0).any():
        return None
    alive = skip.field_spread > 0
    return float((skip.threshold[alive] / skip.field_spread[alive]).mean())


ANY = (0.0, None)
MEASURES: dict[str, Measure] = {
    "selectivity": Measure(
        "selectivity, %",
        lambda skip: skip.selectivity,
        "Share of the gated skip's energy that no constant per channel explains; 0 = the gate only rescales, "
        "which the next convolution undoes",
        "%",
        neutral=lambda kind: 0.0,
    ),
    "relative_energy_inside": Measure(
        "relative energy inside",
        lambda skip: _relative_energy(skip, _inside(skip)),
        "What the mask psi passes inside the structure, relative to its own mean over the image: 1 = as much "
        "as on average",
        "x",
        ANY,
        neutral=lambda kind: 1.0,
    ),
    "relative_energy_outside": Measure(
        "relative energy outside",
        lambda skip: _relative_energy(skip, _outside(skip)),
        "The same outside the structure",
        "x",
        ANY,
        neutral=lambda kind: 1.0,
    ),
    "retained_energy_ratio": Measure(
        "energy kept inside/outside",
        lambda skip: _ratio(_kept(skip, _inside(skip)), _kept(skip, _outside(skip))),
        "Energy kept inside the structure over that outside. A weight per channel moves it too, even a "
        "constant one, where other channels are strong inside",
        "x",
        ANY,
        neutral=lambda kind: 1.0,
    ),
    "psi_auc": Measure(
        "AUC of psi",
        _auc_of_psi,
        "Chance that psi is higher at a position inside the structure than at one outside; 0.5 = no better "
        "than chance. Without a label this is agreement with the model's own prediction, which psi helps to "
        "make",
        neutral=lambda kind: 0.5,
    ),
    "psi_auc_in_errors": Measure(
        "AUC of psi among errors",
        _auc_in_errors,
        "The same among the positions where the model confuses structure and background, where it cannot "
        "just repeat the prediction; needs a label",
        neutral=lambda kind: 0.5,
    ),
    "z_zero_fraction": Measure(
        "zeros in z, %",
        lambda skip: None if skip.threshold is None else _mean(skip.zero_fraction),
        "Share of the gate's inner signals z that are exactly zero",
        "%",
    ),
    "floor_pixel_fraction": Measure(
        "without evidence, %",
        lambda skip: None if skip.threshold is None else skip.empty_share,
        "Share of the positions where z is zero in every channel: the mask equals the gate floor there",
        "%",
    ),
    "gate_floor": Measure(
        "gate floor", lambda skip: skip.floor, "Value of the mask psi where z is zero in every channel"
    ),
    "psi_mean": Measure(
        "mean of psi",
        lambda skip: _mean(skip.psi),
        "Mean of the mask that multiplies the skip; 0.5 where it is not trained",
        neutral=lambda kind: 0.5,
    ),
    "psi_std": Measure(
        "spread of psi",
        lambda skip: None if skip.psi is None else float(skip.psi.std()),
        "How much the mask varies over the image; 0 = it only scales the skip",
        neutral=lambda kind: 0.0,
    ),
    "psi_zero_fraction": Measure(
        "psi exactly zero, %",
        lambda skip: _share(skip.psi, 0),
        "Share of the positions where the mask itself is exactly zero",
        "%",
    ),
    "psi_fg_bg_ratio": Measure(
        "psi inside/outside",
        _psi_ratio,
        "Mean mask inside the structure over that outside",
        "x",
        ANY,
        neutral=lambda kind: 1.0,
    ),
    "retained_energy": Measure(
        "energy kept, %",
        lambda skip: _kept(skip, _everywhere(skip)),
        "Share of the skip's squared values that reaches the decoder. By itself it says nothing: a gate that "
        "selects nothing keeps its neutral value, and the next convolution undoes a constant",
        "%",
        neutral=lambda kind: kind.neutral_energy,
    ),
    "retained_energy_inside": Measure(
        "energy kept inside, %",
        lambda skip: _kept(skip, _inside(skip)),
        "The same inside the structure",
        "%",
        neutral=lambda kind: kind.neutral_energy,
    ),
    "retained_energy_outside": Measure(
        "energy kept outside, %",
        lambda skip: _kept(skip, _outside(skip)),
        "The same outside the structure",
        "%",
        neutral=lambda kind: kind.neutral_energy,
    ),
    "channel_mean": Measure(
        "mean of c",
        lambda skip: _mean(skip.channel),
        "Mean of the weights c of the channels",
        neutral=lambda kind: 0.5,
    ),
    "dead_channel_fraction": Measure(
        "silent channels, %",
        lambda skip: None if skip.threshold is None else _share(skip.channel_zeros, 1),
        "Share of the inner channels that are zero everywhere in this image",
        "%",
    ),
    "open_channel_fraction": Measure(
        "open channels, %",
        lambda skip: None if skip.threshold is None else _share(skip.channel_zeros, 0),
        "Share of the inner channels that are zero nowhere in this image",
        "%",
    ),
    "lambda_mean": Measure(
        "lambda",
        lambda skip: _mean(skip.threshold),
        "Mean of the thresholds; only comparable within a model",
        limits=ANY,
    ),
    "lambda_over_std_mean": Measure(
        "lambda / std(u)",
        _relative_threshold,
        "Mean of the thresholds lambda, each relative to the spread of the signal that it cuts",
        limits=ANY,
    ),
}  # fmt: skip
"""Every number of a skip, in the order of the tables."""


def skip_measures(record: SkipRecord) -> dict[str, float]:
    """Numbers of one skip, by the names of ``MEASURES``; what it does not have is left out."""
    figures = {name: measure.of(record) for name, measure in MEASURES.items()}
    return {name: value for name, value in figures.items() if value is not None}
