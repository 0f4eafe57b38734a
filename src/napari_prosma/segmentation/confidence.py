"""How sure a segmentation is of itself, element by element, as maps from 0 (sure) to 1 (as unsure as can be).

``entropy`` looks at one answer. ``disagreement`` looks at several answers to the same image: of mirrored
passes, or of an ensemble's members.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def disagreement(answers: Iterable[np.ndarray]) -> np.ndarray:
    """Mutual information between the class and which answer was asked, as a share of ``log K``.

    ``H(mean p) - mean H(p)``: high where each answer is sure but they contradict one another, 0 where all
    say the same, however unsure (equation 2 of Houlsby et al. 2011, "Bayesian active learning for
    classification and preference learning"). The answers are read one at a time.

    Parameters
    ----------
    answers : of (K, *spatial)
        Class probabilities of the same image, one array per pass or member.

    Returns
    -------
    (*spatial) float32
        0 to 1; all 0 for a single answer.

    Raises
    ------
    ValueError
        There is no answer.
    """
    count = 0
    for answer in answers:
        if not count:
            total, unsure = np.zeros(answer.shape, np.float32), np.zeros(answer.shape[1:], np.float32)
        total += answer
        unsure += entropy(answer)
        count += 1
    if not count:
        raise ValueError("disagreement needs at least one answer")
    return np.clip(entropy(total / count) - unsure / count, 0, 1)
