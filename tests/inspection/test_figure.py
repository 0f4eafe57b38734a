"""The figure for a journal: its width, its letters, and that nothing lies outside or on something else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from napari_prosma.data.case import Image
from napari_prosma.errors import ConfigError
from napari_prosma.events import Finished
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.compare import compare
from napari_prosma.inspection.figure import WIDTHS, gates_figure, models_figure, save_figure
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.report import draw_map, shown_slice
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]


@pytest.fixture(scope="module")
def image() -> Image:
    array = np.random.default_rng(0).normal(size=(1, 37, 45)).cumsum(axis=-1).astype(np.float32)
    return Image(array, Geometry((0.5, 0.25), (3.0, 4.0), "mm"))


@pytest.fixture(scope="module")
def label() -> np.ndarray:
    label = np.zeros((37, 45), np.uint8)
    label[6:24, 9:25] = 1
    return label


@pytest.fixture(scope="module")
def record(make_checkpoint: Make, image: Image, label: np.ndarray) -> GateRecord:
    events = inspect_gates(make_checkpoint(), image, label=label, second=make_checkpoint("attention", seed=1))
    return next(event.result for event in events if isinstance(event, Finished))


def words(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", list(WIDTHS))
def test_the_figure_is_as_wide_as_the_column_and_its_words_stand_apart(
    record: GateRecord, width: str
) -> None:
    figure = gates_figure(record, width)
    assert figure.get_size_inches()[0] * 25.4 == pytest.approx(WIDTHS[width])
    shown = {text.get_text(): text.get_window_extent() for text in words(figure)}
    assert {"image", "skip 1", "skip 2", "prediction", "label"} <= shown.keys()
    whole = figure.bbox
    for name, box in shown.items():
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, name
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, name
    for (one, first), (other, second) in combinations(shown.items(), 2):
        assert not first.overlaps(second), (one, other)


def test_models_stand_in_rows_on_one_scale_under_long_names_too(
    make_checkpoint: Make, image: Image, label: np.ndarray
) -> None:
    models = {"prosma": make_checkpoint(), "a training with a very long name": make_checkpoint("attention")}
    found = next(e.result for e in compare(models, image, label) if isinstance(e, Finished))
    figure = models_figure(found, "single")
    texts = words(figure)
    rows = [" ".join(text.get_text().split()) for text in texts if text.get_rotation() == 90]
    assert rows == ["prosma", "prosma, lambda = 0 (not retrained)", "a training with a very long name"]
    assert all(figure.bbox.x0 <= text.get_window_extent().x0 for text in texts)
    assert sum(text.get_text() == "0.5" for text in texts) == 1
    limits = {
        image.get_clim() for axes in figure.axes for image in axes.images if image.cmap.name == "viridis"
    }
    assert limits == {(0.0, 1.0)}


def test_letters_are_in_every_file(record: GateRecord, tmp_path: Path) -> None:
    figure = gates_figure(record)
    pdf, svg, png = (save_figure(figure, tmp_path / f"gates{end}") for end in (".pdf", ".svg", ".png"))
    assert b"/FontFile2" in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    assert "<text" not in svg.read_text()
    assert png.read_bytes()[:4] == b"\x89PNG"
    again = save_figure(gates_figure(record), tmp_path / "again.svg")
    assert len(again.read_bytes()) == len(svg.read_bytes())


def test_other_names_and_widths_are_refused_with_those_that_there_are(
    record: GateRecord, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'gates.jpg' should end in .svg, .pdf, .png"):
        save_figure(gates_figure(record), tmp_path / "gates.jpg")
    with pytest.raises(ConfigError, match="single, one and a half, double columns wide, found 'wide'"):
        gates_figure(record, "wide")


def test_a_coarse_map_lies_over_the_elements_that_it_covers(record: GateRecord) -> None:
    from napari_prosma.inspection.maps import skip_layer

    at, figure = shown_slice(record), Figure()
    for level, factor in ((1, 1), (2, 2)):
        layer = skip_layer(record, level, "psi")
        assert layer is not None
        axes = figure.add_subplot()
        left, right, bottom, top = draw_map(axes, layer, record, at).get_extent()
        rows, columns = layer.data.shape
        assert (left, right) == (-0.5, factor * columns - 0.5)
        assert (top, bottom) == (-0.5, factor * rows - 0.5)
        assert axes.get_xlim() == (-0.5, 44.5)
        assert axes.get_ylim() == (36.5, -0.5)
