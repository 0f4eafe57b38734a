"""Maps of how sure an answer is, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np

from napari_prosma.segmentation.confidence import entropy


def of_columns(*columns: tuple[float, ...]) -> np.ndarray:
    """(K, n) probabilities, an element per argument."""
    return np.array(columns, np.float32).T


def test_entropy_is_0_for_a_certain_class_and_1_for_a_toss_up() -> None:
    found = entropy(of_columns((1, 0), (0.5, 0.5), (0.1, 0.9)))
    by_hand = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    np.testing.assert_allclose(found, [0, 1, by_hand], atol=1e-6)
    assert found.dtype == np.float32


def test_entropy_counts_as_a_share_of_the_largest_that_so_many_classes_can_have() -> None:
    quarter = (0.25, 0.25, 0.25, 0.25)
    np.testing.assert_allclose(entropy(of_columns(quarter, (0.5, 0.5, 0, 0))), [1, 0.5], atol=1e-6)


def test_rounding_never_leads_out_of_0_to_1() -> None:
    """Seven equal float32 probabilities give a sum just above log 7."""
    assert entropy(np.full((7, 1), 1 / 7, np.float32)).max() <= 1
