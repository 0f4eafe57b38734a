"""What some cases show: intervals over independent units, several at once, and when a case is unusual.

A claim needs :data:`FEWEST` units. Units are patients, or clusters of near-duplicates; for a method they are
trainings. Of several skips or parts the largest is always large, so their intervals hold at once: by the
largest studentised mean of units drawn anew (bootstrap-t, Efron and Tibshirani 1993, section 12.5), which
follows skewed differences, and never narrower than Student's, but where it is cut at what is possible. Where
all units are exactly equal there is no spread to make an interval of: that is said, and on which side of 0
they are may be claimed, as by chance all of eight lie on one side in one of a hundred sets (sign test).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from scipy import stats

FEWEST = 8
"""Units that a claim needs: with fewer even Student's interval is a matter of their distribution."""
LEVEL = 0.95
RESAMPLES = 4096
_ROUNDING = 1e-6
_SIMULATED = 2000
_LARGE = 200  # cases from which on the median and its spread are as good as known
Key = TypeVar("Key", bound=Hashable)
Limits = tuple[float, float]
ANYWHERE: Limits = (-np.inf, np.inf)
OF_SHARES: Limits = (0.0, 1.0)
"""Between which a share lies, such as Dice."""
OF_DIFFERENCES: Limits = (-1.0, 1.0)
"""Between which a difference of two shares lies."""
_NOTED: ContextVar[list[dict[str, Any]] | None] = ContextVar("_NOTED", default=None)


@dataclass(frozen=True)
class Interval:
    """Mean over some units with its 95 % interval, NaN where they are too few or nearly all equal.

    Of units that are all equal both ends are the mean: that is no interval, and not called one.
    """

    mean: float
    low: float
    high: float
    units: int

    @property
    def is_known(self) -> bool:
        """There were units enough for a claim, and more than a few of them differ, or none."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def is_of_equals(self) -> bool:
        """All units have one value, and they are enough for a claim."""
        return self.low == self.high

    @property
    def is_above(self) -> bool:
        return self.is_known and self.low > 0

    @property
    def is_below(self) -> bool:
        return self.is_known and self.high < 0

    def is_within(self, reach: float) -> bool:
        """The whole interval lies between ``-reach`` and ``reach``; never so of equals, which have none."""
        return self.is_known and not self.is_of_equals and -reach < self.low and self.high < reach

    def in_words(self) -> str:
        """Mean and interval, or that there is none."""
        if self.units < FEWEST:
            return f"{self.mean:+z.3f}, no interval from {units_in_words(self.units)}"
        if not self.is_known:
            return (
                f"{self.mean:+z.3f}, no interval, as nearly all of {self.units} independent cases are equal"
            )
        if self.is_of_equals:
            return f"{self.mean:+z.3f} in {self.each_in_words()}"
        return f"{self.mean:+z.3f}, 95 % interval {self.low:+z.3f} to {self.high:+z.3f}"

    def each_in_words(self) -> str:
        """How many units have the value, where all have."""
        return f"each of {units_in_words(self.units)}"


def units_in_words(number: int) -> str:
    """Such as ``1 independent case`` or ``3 independent cases``."""
    return f"{number} independent case{'s' * (number != 1)}"


def interval(values: np.ndarray, within: Limits = ANYWHERE) -> Interval:
    """Interval of the mean of (n,) units."""
    return simultaneous({"": values}, within)[""]


def simultaneous(
    samples: Mapping[Key, np.ndarray],
    within: Limits | Mapping[Key, Limits] = ANYWHERE,
    level: float = LEVEL,
    **about: str | float,
) -> dict[Key, Interval]:
    """Intervals of several means over the same units (n,), which hold together with 95 %, or ``level``.

    None reaches beyond ``within``, the least and the largest mean that there can be: of all, or of each.
    ``about`` is noted with them: whose they are, and of what.
    """
    if not samples:
        return {}
    keys, table = list(samples), np.array([samples[key] for key in samples], dtype=float)
    number = table.shape[1]
    means = table.mean(axis=1) if number else np.full(len(keys), np.nan)
    if number < FEWEST:
        return _noted(
            {k: Interval(float(m), np.nan, np.nan, number) for k, m in zip(keys, means, strict=True)}, about
        )
    errors = table.std(axis=1, ddof=1) / np.sqrt(number)
    student = float(stats.t.isf((1 - level) / 2, number - 1))
    below, above = np.full(len(keys), -student), np.full(len(keys), student)
    varies = errors > _ROUNDING * np.abs(table).max(axis=1, initial=0)
    if varies.any():
        lowest, highest = _critical_values((table - means[:, None])[varies], level)
        below[varies], above[varies] = np.minimum(lowest, -student), np.maximum(highest, student)
    found = {}
    for n, key in enumerate(keys):
        low, high = means[n] - above[n] * errors[n], means[n] - below[n] * errors[n]
        if not varies[n]:
            low = high = means[n]
        elif not np.isfinite(low + high):  # nearly all units are equal
            low = high = np.nan
        limits = within[key] if isinstance(within, Mapping) else within
        low, high = np.clip((low, high), *limits)
        found[key] = Interval(float(means[n]), float(low), float(high), number)
    return _noted(found, {"level": level, **about})


@contextmanager
def noting() -> Iterator[list[dict[str, Any]]]:
    """Every interval that is made meanwhile, in the list: what a sentence rests on."""
    kept: list[dict[str, Any]] = []
    token = _NOTED.set(kept)
    try:
        yield kept
    finally:
        _NOTED.reset(token)


def _noted(intervals: dict[Key, Interval], about: Mapping[str, str | float]) -> dict[Key, Interval]:
    kept = _NOTED.get()
    if kept is not None:
        kept += [{**about, "of": key, **asdict(each)} for key, each in intervals.items()]
    return intervals


def _critical_values(residuals: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Between which studentised means of all rows (k, n) lie at once, a pair for each row (k,).

    Of units drawn with replacement; infinite for a row of which often all drawn are equal.
    """
    number = residuals.shape[1]
    drawn = _drawn(number)
    means, squares = residuals @ drawn / number, np.square(residuals) @ drawn / number
    errors = np.sqrt(np.maximum(squares - means**2, 0) / (number - 1))
    rounding = _ROUNDING * np.abs(residuals).max(axis=1, keepdims=True)
    equal = np.where(np.abs(means) > rounding, np.copysign(np.inf, means), 0.0)
    away = np.divide(means, errors, out=equal, where=errors > rounding)
    finite = np.where(np.isfinite(away), away, 0.0)
    tail = (1 - level) / 2
    lowest, highest = np.quantile(finite.min(axis=0), tail), np.quantile(finite.max(axis=0), 1 - tail)
    return (
        np.minimum(lowest, np.quantile(away, tail, axis=1, method="lower")),
        np.maximum(highest, np.quantile(away, 1 - tail, axis=1, method="higher")),
    )


@lru_cache(maxsize=1)
def _drawn(number: int) -> np.ndarray:
    """How often each of so many units is drawn, (number, RESAMPLES)."""
    return np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), RESAMPLES).T


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
