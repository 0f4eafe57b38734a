"""What some cases show: intervals over independent units, several at once, and when a case is unusual.

A claim needs :data:`FEWEST` units. Units are patients, or clusters of near-duplicates; for a method they are
trainings. Of several skips or parts the largest is always large, so their intervals hold at once: by the
largest studentised mean under random signs (Westfall and Young 1993), never narrower than Student's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import stats

FEWEST = 8
"""Units that a claim needs: with fewer even Student's interval is a matter of their distribution."""
LEVEL = 0.95
FLIPS = 4096
_SIMULATED = 2000
_LARGE = 200  # cases from which on the median and its spread are as good as known
Key = TypeVar("Key", bound=Hashable)
_NOTED: ContextVar[list[dict[str, Any]] | None] = ContextVar("_NOTED", default=None)


@dataclass(frozen=True)
class Interval:
    """Mean over some units with its 95 % interval, NaN where they are too few."""

    mean: float
    low: float
    high: float
    units: int

    @property
    def is_known(self) -> bool:
        """There were units enough for an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def is_above(self) -> bool:
        return self.is_known and self.low > 0

    @property
    def is_below(self) -> bool:
        return self.is_known and self.high < 0

    def is_within(self, reach: float) -> bool:
        """The whole interval lies between ``-reach`` and ``reach``."""
        return self.is_known and -reach < self.low and self.high < reach

    def in_words(self) -> str:
        """Mean and interval, or that there is none."""
        if not self.is_known:
            return f"{self.mean:+.3f}, no interval from {units_in_words(self.units)}"
        return f"{self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}"


def units_in_words(number: int) -> str:
    """Such as ``1 independent case`` or ``3 independent cases``."""
    return f"{number} independent case{'s' * (number != 1)}"


def interval(values: np.ndarray) -> Interval:
    """Student's interval of the mean of (n,) units."""
    return simultaneous({"": values})[""]


def simultaneous(samples: Mapping[Key, np.ndarray]) -> dict[Key, Interval]:
    """Intervals of several means over the same units (n,), which hold together with 95 %."""
    if not samples:
        return {}
    keys, table = list(samples), np.array([samples[key] for key in samples], dtype=float)
    number = table.shape[1]
    means = table.mean(axis=1) if number else np.full(len(keys), np.nan)
    if number < FEWEST:
        return _noted(
            {k: Interval(float(m), np.nan, np.nan, number) for k, m in zip(keys, means, strict=True)}
        )
    spreads = table.std(axis=1, ddof=1)
    critical = float(stats.t.isf((1 - LEVEL) / 2, number - 1))
    varies = spreads > 0
    if varies.sum() > 1:
        largest = _largest_by_chance((table - means[:, None])[varies])
        critical = max(critical, float(np.quantile(largest, LEVEL)))
    reach = critical * spreads / np.sqrt(number)
    return _noted(
        {
            key: Interval(float(m), float(m - r), float(m + r), number)
            for key, m, r in zip(keys, means, reach, strict=True)
        }
    )


@contextmanager
def noting() -> Iterator[list[dict[str, Any]]]:
    """Every interval that is made meanwhile, in the list: what a sentence rests on."""
    kept: list[dict[str, Any]] = []
    token = _NOTED.set(kept)
    try:
        yield kept
    finally:
        _NOTED.reset(token)


def _noted(intervals: dict[Key, Interval]) -> dict[Key, Interval]:
    kept = _NOTED.get()
    if kept is not None:
        kept += [{"of": key, **asdict(each)} for key, each in intervals.items()]
    return intervals


def _largest_by_chance(residuals: np.ndarray) -> np.ndarray:
    """Largest |t| over the rows (k, n) under random signs of the units."""
    number = residuals.shape[1]
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, number))
    means = signs @ residuals.T / number
    squares = np.square(residuals).mean(axis=1)
    spreads = np.sqrt(np.maximum(squares - means**2, np.finfo(float).tiny) * number / (number - 1))
    return np.abs(means / spreads * np.sqrt(number)).max(axis=1)


def by_unit(values: Mapping[str, float], units: Mapping[str, str] | None = None) -> dict[str, float]:
    """Means of cases over the units they belong to; a case that is in none is its own."""
    held: dict[str, list[float]] = {}
    for case, value in values.items():
        held.setdefault((units or {}).get(case, case), []).append(value)
    return {unit: float(np.mean(values)) for unit, values in held.items()}


def unusual_from(cases: int, measures: int) -> float:
    """Robust standard deviations from which on a case is called unusual.

    So that of sets in which nothing is unusual one in twenty has a case that is called so: for independent,
    normally distributed measures, by simulation with the median and 1.4826 MAD of so many cases.
    """
    if cases > _LARGE:
        return float(stats.norm.isf((1 - LEVEL) / (2 * cases * measures)))
    drawn = np.random.default_rng(0)
    largest = np.zeros(_SIMULATED)
    for _ in range(measures):
        values = drawn.standard_normal((_SIMULATED, cases))
        values -= np.median(values, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(values), axis=1)
        largest = np.maximum(largest, np.abs(values).max(axis=1) / spread)
    return float(np.quantile(largest, LEVEL))
