"""Which cases are held out: a share drawn as the papers' code draws it, or one fold of several."""

from __future__ import annotations

import numpy as np
import pytest

from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError
from napari_prosma.training.split import split_cases


def cases(count: int) -> list[Case]:
    return [Case.from_arrays(str(n), np.zeros((1, 4, 4), np.float32)) for n in range(count)]


def test_the_held_out_cases_are_the_first_of_the_papers_permutation() -> None:
    for seed in (2981, 6142, 1187):
        training, validation = split_cases(cases(647), 0.2, seed)
        assert (len(training), len(validation)) == (517, 130)
        assert set(validation) == set(np.random.RandomState(seed).permutation(647)[:130].tolist())
        assert sorted(training + validation) == list(range(647))


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(1, 0.2, 0), (2, 0.01, 1), (2, 0.99, 1), (9, 0, 0)]
)
def test_something_is_left_to_train_on_and_one_is_held_out_if_there_are_two(
    count: int, fraction: float, held_out: int
) -> None:
    training, validation = split_cases(cases(count), fraction, 0)
    assert (len(training), len(validation)) == (count - held_out, held_out)


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (5, 5), (11, 3), (13, 5)])
def test_over_all_folds_every_case_is_held_out_once(count: int, folds: int) -> None:
    parts = [split_cases(cases(count), 0.2, 7, (k, folds)) for k in range(folds)]
    assert sorted(n for _, held_out in parts for n in held_out) == list(range(count))
    for training, held_out in parts:
        assert sorted(training + held_out) == list(range(count))
        assert len(held_out) in (count // folds, count // folds + 1)


def test_folds_follow_the_seed() -> None:
    assert split_cases(cases(9), 0.2, 0, (0, 3)) == split_cases(cases(9), 0.9, 0, (0, 3))
    assert split_cases(cases(9), 0.2, 0, (0, 3)) != split_cases(cases(9), 0.2, 1, (0, 3))


def test_fewer_cases_than_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"4 case.* cannot be cut into 5 folds"):
        split_cases(cases(4), 0.2, 0, (0, 5))
