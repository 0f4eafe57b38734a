"""Classes of labels beside those of a model: by their names, else by number, and said."""

from __future__ import annotations

import numpy as np
import pytest

from napari_prosma.data.class_names import as_ours, says_nothing
from napari_prosma.errors import DataError

MODEL = ("background", "liver", "tumour")


@pytest.mark.parametrize(
    ("theirs", "taken"),
    [
        (("background", "Tumour", "liver"), [0, 2, 1, 255]),
        (("clear", "tumour"), [0, 2, 2, 255]),
        (("background", "label 1", "label 2"), [0, 1, 2, 255]),
        (("background", "foreground"), [0, 1, 2, 255]),
    ],
)
def test_classes_go_by_their_names_where_the_model_knows_them(theirs: tuple, taken: list) -> None:
    label = np.array([0, 1, 2, 255], np.uint8)
    found, said = as_ours(label, theirs, MODEL, "the model")
    assert (found.tolist(), said) == (taken, "")


def test_other_names_are_taken_by_number_and_told() -> None:
    label = np.array([0, 1, 2], np.uint8)
    found, said = as_ours(label, ("background", "liver", "lesion"), MODEL, "the model")
    assert found.tolist() == label.tolist()
    assert said == "the labels and the model name their classes differently: 'lesion' is taken for 'tumour'"


def test_a_name_that_is_another_class_of_the_model_is_no_number() -> None:
    with pytest.raises(DataError, match=r"call 1 'tumour', which is 2 in the model"):
        as_ours(np.zeros(2, np.uint8), ("background", "tumour", "cyst"), MODEL, "the model")


@pytest.mark.parametrize("name", ["Label_1", "class 12", "#ff0000", "foreground", "3", "Segment_1"])
def test_numbers_and_words_for_anything_say_nothing(name: str) -> None:
    assert says_nothing(name)
    assert not says_nothing("liver segment 1")
