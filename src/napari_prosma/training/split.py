"""Which cases are trained on and which are held out: a share of them, or one fold of several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError


def split_cases(
    cases: Sequence[Case], fraction: float, seed: int, fold: tuple[int, int] | None = None
) -> tuple[list[int], list[int]]:
    """Indices for training and validation: a permutation drawn from ``seed``, as the papers' code draws it.

    ``RandomState(seed).permutation(n)``, of which the first ``ceil(fraction * n)`` validate. A single case,
    or a fraction of 0, leaves nothing to validate on.

    Parameters
    ----------
    fold : (k, n), optional
        Hold out the k-th (from 0) of n parts of the same permutation instead, cut as evenly as possible:
        over all k every case is held out once.

    Raises
    ------
    ConfigError
        Fewer cases than folds.
    """
    order = np.random.RandomState(seed).permutation(len(cases))
    if fold is None:
        held_out = order[: min(math.ceil(fraction * len(cases)), len(cases) - 1)]
    elif len(cases) < fold[1]:
        raise ConfigError(
            f"{len(cases)} case(s) cannot be cut into {fold[1]} folds; choose at most {len(cases)} folds, or "
            f"annotate more cases"
        )
    else:
        held_out = np.array_split(order, fold[1])[fold[0]]
    return sorted(set(order.tolist()) - set(held_out.tolist())), sorted(held_out.tolist())
