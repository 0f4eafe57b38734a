"""Maps of how sure an answer is, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_prosma.segmentation.confidence import disagreement, entropy


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


def test_answers_that_are_sure_and_contradict_one_another_disagree_wholly() -> None:
    """All the entropy of the mean comes from the choice of the answer: log 2 of log 2."""
    one, other = of_columns((1, 0), (1, 0)), of_columns((0, 1), (1, 0))
    np.testing.assert_allclose(disagreement([one, other]), [1, 0], atol=1e-6)


def test_answers_that_are_unsure_alike_do_not_disagree() -> None:
    same = of_columns((0.5, 0.5), (0.3, 0.7))
    np.testing.assert_allclose(disagreement([same] * 3), 0, atol=1e-6)


def test_disagreement_by_hand() -> None:
    """Mean (0.5, 0.5) has 1 bit; each answer has H(0.1) = 0.469 bit."""
    found = disagreement(iter([of_columns((0.1, 0.9)), of_columns((0.9, 0.1))]))
    np.testing.assert_allclose(found, 1 - 0.4689956, atol=1e-6)


def test_disagreement_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        disagreement([])


def test_rounding_never_leads_out_of_0_to_1() -> None:
    """Seven equal float32 probabilities give a sum just above log 7; equal answers differ by rounding."""
    assert entropy(np.full((7, 1), 1 / 7, np.float32)).max() <= 1
    raw = np.random.default_rng(0).random((3, 500)).astype(np.float32)
    assert disagreement([raw / raw.sum(axis=0)] * 3).min() >= 0
