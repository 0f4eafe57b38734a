"""How sure a segmentation is of itself, element by element: from 0 (sure) to 1 (as unsure as can be).

Where several passes disagree is told by ``model.windows.sweep``.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import entr


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy of the class probabilities, as a share of the largest there can be, ``log K``.

    Parameters
    ----------
    probabilities : (K, *spatial)
        Background first, at least two classes; they sum to 1.

    Returns
    -------
    (*spatial) float32
        0 where one class is certain, 1 where all are equally probable.
    """
    total = np.zeros(probabilities.shape[1:], np.float32)
    for each in probabilities:
        total += entr(each)
    # Rounding in a probability can lift the sum a hair above log K.
    return np.clip(total / math.log(len(probabilities)), 0, 1)
