"""Looking into the gates from the panel, by clicks, on a real viewer."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.inspection.one_image import ALONE
from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint
from napari_prosma.plugin.inspect.layers import canvas_text
from napari_prosma.plugin.inspect.panel import InspectPanel

Press = Callable[[QAbstractButton], None]
Finish = Callable[[InspectPanel], None]
SOON = 30_000
AT_FIRST = ["skip 1 without selection", "skip 1 psi", "skip 1 relative energy"]


PLACE: Any = {"scale": (0.5, 0.25), "translate": (3, 4)}


@pytest.fixture
def panel(
    open_panel: Callable[[str], InspectPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    run: Path,
    lesion_image: np.ndarray,
) -> InspectPanel:
    made = open_panel("Inspect gates")
    viewer.add_image(lesion_image, name="breast", units=("mm", "mm"), **PLACE)
    made.model.set_path(run)
    qtbot.waitUntil(lambda: made.model.facts is not None, timeout=SOON)
    return made


def table(panel: InspectPanel) -> dict[str, list[str]]:
    rows = [
        [panel.table.item(row, column).text() for column in range(panel.table.columnCount())]
        for row in range(panel.table.rowCount())
    ]
    return {row[0]: row[1:] for row in rows}


def test_pages_that_a_model_reads_as_channels_are_inspected(
    panel: InspectPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
):
    model = tmp_path / "stains.safetensors"
    save_checkpoint(model, make_checkpoint(channels=3))
    panel.model.set_path(model)
    viewer.layers.clear()
    pages = np.random.default_rng(0).random((3, 32, 40)).astype(np.float32)
    stains = viewer.add_image(pages, name="stains", scale=(7, 0.5, 0.25), translate=(1, 2, 3))
    press(panel.start_button)  # maybe before the model was read
    finish(panel)
    assert not panel.status.is_error
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)
    labels = viewer.add_labels(np.eye(32, 40, dtype=int), scale=(0.5, 0.25), translate=(2, 3))
    panel.image_layer.choose(stains)
    panel.label_layer.choose(labels)
    press(panel.start_button)
    finish(panel)
    assert not panel.status.is_error
    assert panel.record is not None
    assert panel.record.reference == "label"
    psi = viewer.layers["skip 1 psi"]
    np.testing.assert_allclose(psi.data.shape * psi.scale, (16, 10))
    assert len(panel.pointer.at(tuple(stains.data_to_world((1, 5, 5))))) > 0
    panel.what_if._try_here()
    qtbot.waitUntil(lambda: not panel.what_if.job.is_running, timeout=SOON)
    assert not panel.what_if.message.is_error


def test_maps_lie_over_the_image_at_their_own_scale(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish
):
    press(panel.start_button)
    finish(panel)
    assert [layer.name for layer in viewer.layers] == ["breast", *AT_FIRST, "breast segmentation"]
    assert [name for name in AT_FIRST if viewer.layers[name].visible] == ["skip 1 psi"]
    image = viewer.layers["breast"]
    press(panel.choice.level_boxes[2])
    for level in (1, 2):
        layer = viewer.layers[f"skip {level} psi"]
        factor = 2 ** (level - 1)
        assert layer.data.shape == tuple(n // factor for n in image.data.shape)
        np.testing.assert_allclose(layer.scale, factor * image.scale)
        np.testing.assert_allclose(layer.translate, image.translate + (factor - 1) / 2 * image.scale)
        assert layer.units == image.units
        assert tuple(layer.contrast_limits) == (0, 1)


def test_ticking_adds_and_unticking_removes_without_another_run(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish
):
    press(panel.start_button)
    finish(panel)
    kept = viewer.layers["skip 1 psi"]
    press(panel.choice.kind_boxes["energy kept"])
    press(panel.choice.kind_boxes["without selection"])
    names = {layer.name for layer in viewer.layers}
    assert names == {
        *("breast", "breast segmentation", "skip 1 psi", "skip 1 relative energy", "skip 1 energy kept"),
    }
    assert viewer.layers["skip 1 psi"] is kept
    viewer.layers.remove("skip 1 psi")
    press(panel.choice.kind_boxes["psi"])
    press(panel.choice.kind_boxes["psi"])
    assert "skip 1 psi" in viewer.layers


def test_measures_and_plain_lines(panel: InspectPanel, press: Press, finish: Finish):
    press(panel.start_button)
    finish(panel)
    shown = table(panel)
    assert panel.record is not None
    for level, skip in panel.record.skips.items():
        measures = skip.measures
        assert shown["selectivity, %"][level] == f"{100 * measures['selectivity']:.1f}"
        assert shown["zeros in z, %"][level] == f"{100 * measures['z_zero_fraction']:.1f}"
        assert shown["gate floor"][level] == f"{measures['gate_floor']:.2f}"
        assert shown["energy kept, %"][level] == f"{100 * measures['retained_energy']:.1f}"
    assert shown["energy kept, %"][0] == "6.2"  # what a gate that selects nothing keeps
    told = panel.facts.plain_text()
    assert "trained for only" not in told  # its statistics are those of its weights
    assert "Not zero: psi" in told
    assert f"{panel.record.skips[1].floor:.2f}" in told
    assert "Exactly zero: z" in told
    assert "prosma-exact" in told
    assert "Structure in the measures: the prediction." in told
    assert "removed" not in told


def test_what_has_to_be_known_first_stands_above_the_table(
    panel: InspectPanel,
    press: Press,
    finish: Finish,
    make_checkpoint: Callable[..., Checkpoint],
    qtbot: QtBot,
    tmp_path: Path,
):
    press(panel.start_button)
    finish(panel)
    assert panel.cautions.isHidden()
    save_checkpoint(tmp_path / "plain.safetensors", make_checkpoint("none"))
    panel.model.set_path(tmp_path / "plain.safetensors")
    qtbot.waitUntil(lambda: panel.model.facts is not None and panel.model.facts.gate == "none", timeout=SOON)
    press(panel.start_button)
    finish(panel)
    assert not panel.cautions.isHidden()
    assert "The model has no gates" in panel.cautions.plain_text()
    layout = panel.result.layout()
    assert layout is not None
    assert layout.indexOf(panel.cautions) < layout.indexOf(panel.answer)


def test_all_that_is_saved_has_the_sentences_and_their_numbers_in_one_file(
    panel: InspectPanel,
    viewer: napari.Viewer,
    lesion_image: np.ndarray,
    press: Press,
    finish: Finish,
    tmp_path: Path,
):
    panel.label_layer.choose(viewer.add_labels(np.where(lesion_image < 40, 1, 0), name="drawn", **PLACE))
    press(panel.start_button)
    finish(panel)
    assert panel.inspected is not None
    panel.save(tmp_path)
    finish(panel)
    (path,) = tmp_path.glob("*_inspection.json")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert f"{kept['sentences']['1']} {ALONE}" == panel.answer.sentence.plain_text()
    tried = panel.inspected.tried[1]["selection"]
    assert kept["tried"]["1"]["selection"]["agreement"] == pytest.approx(tried.agreement)
    skips = panel.inspected.record.skips
    assert {level: each["psi"] for level, each in kept["means"].items()} == {
        str(level): pytest.approx(skip.means.psi) for level, skip in skips.items()
    }
    told = {str(n): int(s.wrong.sum()) for n, s in skips.items() if s.wrong is not None}
    assert told
    assert {n: each["missed"] + each["added"] for n, each in kept["errors"].items()} == told
    assert kept["tests"] == []


def test_the_first_view_says_what_each_skip_selects_where_and_what_that_is_worth(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish, lesion_image: np.ndarray
):
    panel.label_layer.choose(viewer.add_labels(np.where(lesion_image < 40, 1, 0), name="drawn", **PLACE))
    press(panel.start_button)
    finish(panel)
    inspected, rows = panel.inspected, panel.answer.table
    assert inspected is not None
    for row, (level, skip) in enumerate(inspected.record.skips.items()):
        assert rows.item(row, 0).text() == str(level)
        assert rows.item(row, 1).text() == f"{100 * skip.measures['selectivity']:.1f} %"
        tried = inspected.tried[level]["selection"]
        assert rows.item(row, 4).text() == f"{tried.dice_before - tried.dice + 0.0:+.2f}".replace(
            "-0.00", "+0.00"
        )
    told = panel.answer.sentence.plain_text()
    assert told.startswith(
        "Skip 1, positions of 0.5 x 0.25 mm: selectivity "
        f"{100 * inspected.record.skips[1].measures['selectivity']:.1f} %"
    )
    panel.answer.table.selectRow(1)
    assert panel.answer.sentence.plain_text().startswith("Skip 2, positions of 1 x 0.5 mm:")
    assert [layer.name for layer in viewer.layers if "skip" in layer.name and layer.visible] == ["skip 2 psi"]
    assert canvas_text(viewer).text.startswith("skip 2 psi: bright =")
    viewer.layers["skip 2 psi"].visible = False
    assert not canvas_text(viewer).visible


def test_a_model_without_gates_says_so(
    panel: InspectPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
):
    save_checkpoint(tmp_path / "none.safetensors", make_checkpoint("none"))
    panel.model.set_path(tmp_path / "none.safetensors")
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)
    press(panel.start_button)
    finish(panel)
    assert "has no gates" in panel.facts.plain_text()
    assert "skip 1 without selection" not in viewer.layers
    press(panel.choice.kind_boxes["without skip"])
    assert "skip 1 without skip" in viewer.layers


def test_a_label_layer_is_the_structure(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish, lesion_image: np.ndarray
):
    drawn = viewer.add_labels(np.where(lesion_image < 40, 5, 0), name="drawn", **PLACE)
    panel.label_layer.choose(drawn)
    press(panel.start_button)
    finish(panel)
    assert panel.record is not None
    assert panel.record.reference == "label"
    np.testing.assert_array_equal(panel.record.label, lesion_image < 40)
    assert "Structure in the measures: the label." in panel.facts.plain_text()


def test_a_label_layer_with_more_classes_than_the_model_is_refused(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish, lesion_image: np.ndarray
):
    panel.label_layer.choose(viewer.add_labels(np.digitize(lesion_image, (40, 80)), name="drawn", **PLACE))
    press(panel.start_button)
    finish(panel)
    assert panel.status.is_error
    assert "has classes up to 2, but the model knows only background, lesion" in panel.status.plain_text()
    assert [layer.name for layer in viewer.layers] == ["breast", "drawn"]


def test_a_label_layer_that_calls_the_structure_otherwise_is_told(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish, lesion_image: np.ndarray
):
    mask = (lesion_image < 40).astype(np.uint8)
    drawn = viewer.add_labels(mask, name="drawn", metadata={"class_names": ("background", "cyst")}, **PLACE)
    panel.label_layer.choose(drawn)
    press(panel.start_button)
    finish(panel)
    assert "'cyst' is taken for 'lesion'" in panel.cautions.plain_text()


def test_another_run_replaces_the_layers_of_the_last(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish
):
    for _ in range(2):
        press(panel.start_button)
        finish(panel)
    assert [layer.name for layer in viewer.layers] == ["breast", *AT_FIRST, "breast segmentation"]


def test_tables(
    panel: InspectPanel,
    viewer: napari.Viewer,
    press: Press,
    finish: Finish,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    press(panel.start_button)
    finish(panel)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    press(panel.csv_button)
    finish(panel)
    with (tmp_path / "breast_channels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"c", "lambda", "zero_fraction"} <= rows[0].keys()
    assert (tmp_path / "breast_measures.csv").is_file()
    assert panel.status.plain_text() == f"Saved 2 files in {tmp_path}"


def test_a_wrong_label_leaves_the_layers_as_they_were(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, finish: Finish
):
    panel.label_layer.choose(viewer.add_labels(np.ones((5, 5), int), name="other"))
    press(panel.start_button)
    finish(panel)
    assert panel.status.is_error
    assert "Labels layer 'other' lies elsewhere" in panel.status.plain_text()
    assert [layer.name for layer in viewer.layers] == ["breast", "other"]
    assert panel.start_button.isEnabled()
