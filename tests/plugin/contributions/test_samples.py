"""Images of public data sets in File > Open Sample: their terms are shown, and nothing comes unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import PIL.Image
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_prosma.errors import DataError

BUSI = ("prosma-data", "Dataset_BUSI_with_GT", "benign")


@pytest.fixture
def answer() -> Callable[[str], list[str]]:
    """Presses a button of the question that comes, and keeps what was asked."""

    def answer_(text: str) -> list[str]:
        asked: list[str] = []

        def press() -> None:
            box = QApplication.activeModalWidget()
            assert isinstance(box, QMessageBox)
            asked.append(f"{box.text()} {box.informativeText()}")
            next(button for button in box.buttons() if button.text() == text).click()

        QTimer.singleShot(50, press)
        return asked

    return answer_


def test_a_public_sample_asks_with_its_licence_and_downloads_nothing_unasked(
    viewer: napari.Viewer, home: Path, answer: Callable[[str], list[str]]
) -> None:
    asked = answer("Not now")
    with pytest.raises(DataError, match="nothing was downloaded"):
        viewer.open_sample("napari-prosma", "kvasir-seg")
    (question,) = asked
    assert "Download Kvasir-SEG" in question
    assert "Licence: research and education only" in question
    assert "Please cite: D. Jha" in question
    assert not (home / "prosma-data").exists()


def test_a_public_sample_that_is_there_opens_images_with_labels(viewer: napari.Viewer, home: Path) -> None:
    folder = home.joinpath(*BUSI)
    folder.mkdir(parents=True)
    for n in (1, 2):
        pixels = np.full((24, 32), 60 * n, np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"benign ({n}).png")
        pixels[:, 8:], pixels[:, :8] = 0, 255
        PIL.Image.fromarray(pixels).save(folder / f"benign ({n})_mask.png")
    layers = viewer.open_sample("napari-prosma", "busi")
    assert [layer.name for layer in layers] == [
        *("benign (1)", "benign (1) label"),
        *("benign (2)", "benign (2) label"),
    ]
    assert np.unique(layers[1].data[:, :8]).tolist() == [1]


def test_a_public_sample_that_is_damaged_says_so(viewer: napari.Viewer, home: Path) -> None:
    home.joinpath(*BUSI).mkdir(parents=True)
    with pytest.raises(DataError, match="Dataset_BUSI_with_GT"):
        viewer.open_sample("napari-prosma", "busi")
    assert len(viewer.layers) == 0
