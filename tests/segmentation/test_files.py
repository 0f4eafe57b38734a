"""How results are cleaned, as a shell says it."""

from __future__ import annotations

import pytest

from napari_prosma.errors import ConfigError
from napari_prosma.segmentation.cleaning import Cleaning
from napari_prosma.segmentation.files import cleanings_from_text

NAMES = ("background", "liver", "left: kidney")


def test_every_class_or_one_of_them_is_cleaned_as_the_words_say() -> None:
    found = cleanings_from_text(["largest, min=0.5", "left: kidney:holes,smooth=2,threshold=0.4"], NAMES)
    assert found[1] == Cleaning(minimum_size=0.5, largest_only=True)
    assert found[2] == Cleaning(0.4, 2.0, 0.5, largest_only=True, fill_holes=True)
    assert cleanings_from_text([], NAMES) == {}


@pytest.mark.parametrize(
    "text", ["spleen:largest", "background:largest", "liver:min=", "liver:largest=1", "x"]
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        cleanings_from_text([text], NAMES)
