"""How the texts of errors are shown where they stand alone."""

import pytest

from napari_prosma.errors import as_sentence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("choose a folder first", "Choose a folder first"),
        ("a layer was closed", "A layer was closed"),
        ("'scan.nii' is empty", "'scan.nii' is empty"),
        ("scan_1.nii: it is empty", "scan_1.nii: it is empty"),
        ("lesion: it is empty", "lesion: it is empty"),
        ("--label is for one image", "--label is for one image"),
        ("prosma ablate needs a run", "prosma ablate needs a run"),
        ("napari ended", "napari ended"),
        ("z of skip 2 is too large", "z of skip 2 is too large"),
        ("one thing\nanother thing", "One thing\nAnother thing"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_but_a_name_stays_as_it_is(text: str, shown: str) -> None:
    assert as_sentence(text) == shown
