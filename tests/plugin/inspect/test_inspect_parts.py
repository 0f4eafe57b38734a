"""Trying, pointing, comparing and testing from the Inspect panel, by clicks, on a real viewer."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.events import Event, Progress
from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint
from napari_prosma.plugin.inspect.channels import DEAD, OPEN
from napari_prosma.plugin.inspect.layers import canvas_grid, canvas_text
from napari_prosma.plugin.inspect.panel import InspectPanel
from napari_prosma.plugin.inspect.pointer import PointerPart

Press = Callable[[QAbstractButton], None]
Finish = Callable[[InspectPanel], None]
SOON = 30_000


@pytest.fixture
def panel(
    open_panel: Callable[[str], InspectPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    lesion_image: np.ndarray,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
) -> InspectPanel:
    """A panel that has looked at an image, with a label."""
    save_checkpoint(tmp_path / "prosma.safetensors", make_checkpoint(patch=(64, 64)))
    made = open_panel("Inspect gates")
    viewer.add_image(lesion_image, name="breast", scale=(0.5, 0.25), translate=(3, 4), units=("mm", "mm"))
    drawn = viewer.add_labels(
        np.where(lesion_image < 40, 1, 0), name="drawn", scale=(0.5, 0.25), translate=(3, 4)
    )
    made.label_layer.choose(drawn)
    made.model.set_path(tmp_path / "prosma.safetensors")
    qtbot.waitUntil(lambda: made.model.facts is not None, timeout=SOON)
    press(made.start_button)
    finish(made)
    assert made.inspected is not None
    return made


@pytest.fixture
def settle(panel: InspectPanel, qtbot: QtBot) -> Callable[[], None]:
    return lambda: qtbot.waitUntil(lambda: not panel.what_if.job.is_running, timeout=SOON)


def test_maps_and_outline_follow_the_slider_and_come_back(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, settle: Callable[[], None]
):
    psi, outline = viewer.layers["skip 1 psi"], viewer.layers["breast segmentation"]
    trained, drawn = psi.data.copy(), outline.data.copy()
    panel.what_if.sliders[2].setValue(4.0)
    settle()
    assert not np.array_equal(psi.data, trained)
    assert panel.what_if.message.plain_text().startswith("Dice against the label ")
    choose(panel, 1, "skip at zero")
    settle()
    assert not np.array_equal(outline.data, drawn)
    press(panel.what_if.back_button)
    settle()
    np.testing.assert_array_equal(psi.data, trained)
    np.testing.assert_array_equal(outline.data, drawn)
    assert viewer.layers["skip 1 psi"] is psi
    assert panel.what_if.is_unchanged


def choose(panel: InspectPanel, level: int, setting: str) -> None:
    """As if the user had chosen what a gate is set to."""
    box = panel.what_if.settings[level]
    box.setCurrentIndex(box.findData(setting))


def test_what_is_changed_is_marked_on_the_canvas_and_in_the_names(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, settle: Callable[[], None]
):
    psi = viewer.layers["skip 1 psi"]
    choose(panel, 1, "psi at mean")
    settle()
    assert psi.name == "skip 1 psi (changed)"
    assert np.ptp(psi.data) == pytest.approx(0, abs=1e-6)
    assert "breast segmentation (changed)" in viewer.layers
    assert "skip 1 without selection" in viewer.layers  # that was tried, not changed
    said = canvas_text(viewer).text.replace("\n", " ")
    assert said.startswith("Changed by What if (skip 1: psi at mean). skip 1 psi (changed)")
    press(panel.choice.kind_boxes["energy kept"])
    assert "skip 1 energy kept (changed)" in viewer.layers
    press(panel.what_if.back_button)
    settle()
    assert psi.name == "skip 1 psi"
    assert "breast segmentation" in viewer.layers
    assert "Changed" not in canvas_text(viewer).text


def test_one_is_told_to_be_larger_and_means_are_those_of_the_record(panel: InspectPanel):
    box, means = panel.what_if.settings[1], panel.inspected.record.skips[1].means
    words = [box.itemText(n) for n in range(box.count())]
    assert f"psi = 1 ({1 / means.psi:.1f} x larger)" in words
    assert f"c = 1 ({1 / means.c:.1f} x larger)" in words
    choose(panel, 1, "both at mean")
    changed = panel.what_if.changes()[1]
    assert (changed.psi, changed.c) == (means.psi, means.c)


def test_support_of_the_deepest_skip_only_shrinks_as_its_slider_rises(
    panel: InspectPanel, settle: Callable[[], None]
):
    shares = []
    panel.what_if.followed.connect(
        lambda followed: shares.append(followed.effect.record.skips[2].measures["z_zero_fraction"])
    )
    for scale in (0.0, 0.5, 2.0, 4.0):
        panel.what_if.sliders[2].setValue(scale)
        settle()
    assert len(shares) == 4
    assert shares == sorted(shares)
    assert panel.what_if.zeros[2].text() == f"{100 * shares[-1]:.0f} %"


def test_the_newest_setting_wins(panel: InspectPanel, settle: Callable[[], None]):
    followed = []
    panel.what_if.followed.connect(followed.append)
    for scale in np.linspace(1.1, 4, 30):
        panel.what_if.sliders[1].setValue(float(scale))
    settle()
    assert len(followed) < 30
    skip = followed[-1].effect.record.skips[1]
    expected = 4 * panel.inspected.record.skips[1].threshold
    np.testing.assert_allclose(skip.threshold, expected, rtol=1e-4)


def look_again(
    panel: InspectPanel, qtbot: QtBot, press: Press, finish: Finish, checkpoint: Checkpoint, path: Path
) -> None:
    save_checkpoint(path, checkpoint)
    panel.model.set_path(path)
    qtbot.waitUntil(lambda: panel.model.path == path and panel.model.facts is not None, timeout=SOON)
    press(panel.start_button)
    finish(panel)


@pytest.fixture
def tiled(
    panel: InspectPanel,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
) -> InspectPanel:
    """A panel whose image is larger than the model's window; the whole follows at once."""
    look_again(panel, qtbot, press, finish, make_checkpoint(patch=(32, 32)), tmp_path / "tiled.safetensors")
    panel.what_if.rest.setInterval(0)
    return panel


def wait_for_whole(panel: InspectPanel, qtbot: QtBot) -> None:
    told = panel.what_if.whole_message
    qtbot.waitUntil(lambda: told.plain_text().startswith("In the whole image: Dice"), timeout=SOON)


def test_the_whole_image_follows_the_window(
    tiled: InspectPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press
):
    part, psi = tiled.what_if, viewer.layers["skip 1 psi"]
    shapes, trained = [], psi.data.copy()
    part.followed.connect(lambda followed: shapes.append(followed.effect.record.skips[1].psi.shape))
    part.sliders[2].setValue(4.0)
    wait_for_whole(tiled, qtbot)
    assert shapes == [(32, 32), (64, 64)]
    assert part.message.plain_text().startswith("In the window (32 x 32 of 64 x 64): Dice")
    assert psi.data.shape == viewer.layers["breast segmentation (changed)"].data.shape == (64, 64)
    assert not np.array_equal(psi.data, trained)
    press(part.back_button)
    qtbot.waitUntil(lambda: part.message.plain_text() == "As it was trained", timeout=SOON)
    np.testing.assert_array_equal(psi.data, trained)
    assert part.whole_message.plain_text() == ""


def test_the_whole_image_is_left_alone_where_it_is_not_wanted(
    tiled: InspectPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, settle: Callable[[], None]
):
    part = tiled.what_if
    press(part.whole_box)
    part.sliders[2].setValue(4.0)
    settle()
    qtbot.wait(100)
    assert not part.whole_job.is_running
    assert viewer.layers["skip 1 psi (changed)"].data.shape == (32, 32)
    press(part.whole_box)
    wait_for_whole(tiled, qtbot)
    assert viewer.layers["skip 1 psi (changed)"].data.shape == (64, 64)


def test_a_whole_image_of_an_older_setting_is_never_shown(tiled: InspectPanel, qtbot: QtBot):
    part, shown = tiled.what_if, []
    part.followed.connect(lambda followed: shown.append(followed.effect.record.skips[1]))

    def move_when_done(event: Event) -> None:
        is_last = isinstance(event, Progress) and event.done == event.total
        if is_last and part.sliders[1].value() == 4:
            part.whole_job._run.worker.over.wait(SOON)  # its result is on the way by then
            part.sliders[1].setValue(3.0)

    part.whole_job.happened.connect(move_when_done)
    part.sliders[1].setValue(4.0)
    wait_for_whole(tiled, qtbot)
    whole = [skip for skip in shown if skip.psi.shape == (64, 64)]
    assert len(whole) == 1
    np.testing.assert_allclose(whole[0].threshold, 3 * tiled.inspected.record.skips[1].threshold, rtol=1e-4)


def test_an_image_in_one_window_has_no_rest_to_follow(panel: InspectPanel, settle: Callable[[], None]):
    assert panel.what_if.whole_box.isHidden()
    assert panel.what_if.here_button.isHidden()
    panel.what_if.sliders[2].setValue(4.0)
    settle()
    assert not panel.what_if.rest.isActive()
    assert panel.what_if.message.plain_text().startswith("Dice against the label")


def test_in_a_volume_the_window_goes_where_the_slice_is(
    panel: InspectPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    settle: Callable[[], None],
    make_checkpoint: Callable[..., Checkpoint],
    noise: Callable[..., np.ndarray],
    tmp_path: Path,
):
    volume = viewer.add_image(noise(32, 16, 16), name="head", scale=(2, 1, 1), translate=(5, 0, 0))
    panel.image_layer.choose(volume)
    panel.label_layer.setCurrentIndex(0)
    viewer.dims.set_point(0, 5.0)
    model = make_checkpoint(dims=3, patch=(8, 16, 16))
    look_again(panel, qtbot, press, finish, model, tmp_path / "volume.safetensors")
    panel.what_if.whole_box.setChecked(False)
    psi = viewer.layers["skip 1 psi"]
    for slice_at in (1, 29):
        viewer.dims.set_point(0, 5.0 + 2 * slice_at)
        panel.what_if.sliders[1].setValue(1.5 + slice_at / 29)
        settle()
        first = (psi.translate[0] - 5) / 2
        assert psi.data.shape[0] == 8
        assert first <= slice_at < first + 8


def test_channels_before_and_after_the_gate_follow_and_come_back(
    panel: InspectPanel, viewer: napari.Viewer, finish: Finish, press: Press, settle: Callable[[], None]
):
    panel.what_if.sliders[1].setValue(4.0)
    settle()
    panel.channels.channel_chosen.emit(1, 3)
    finish(panel)
    settle()
    names = (f"skip 1 channel 3 {when} the gate (changed)" for when in ("before", "after"))
    before, after = (viewer.layers[name] for name in names)
    expected = panel.what_if._what_if.skip_channel(1, 3)
    np.testing.assert_array_equal(after.data, expected.after)
    choose(panel, 1, "skip at zero")
    settle()
    assert not after.data.any()
    assert before.data.any()
    press(panel.what_if.back_button)
    settle()
    np.testing.assert_array_equal(after.data, panel.inspected.what_if.skip_channel(1, 3).after)


def test_where_nothing_is_found_either_way_no_overlap_is_claimed(
    panel: InspectPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    settle: Callable[[], None],
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
):
    panel.label_layer.setCurrentIndex(0)
    blind = make_checkpoint(patch=(64, 64))
    blind.weights["head.bias"] -= 10
    look_again(panel, qtbot, press, finish, blind, tmp_path / "blind.safetensors")
    for row, (level, tried) in enumerate(panel.inspected.tried.items()):
        assert panel.answer.table.item(row, 0).text() == str(level)
        moved = tried["selection"].moved
        assert panel.answer.table.item(row, 4).text() == f"none found, |dp| {moved:.3f}"
    told = panel.answer.sentence.plain_text()
    assert "with psi at its mean nothing is segmented either way" in told.lower()
    assert "mattered" not in told
    panel.what_if.sliders[2].setValue(4.0)
    settle()
    assert panel.what_if.message.plain_text().startswith("Nothing is segmented either way")


def test_noise_is_of_the_kind_that_was_chosen(
    panel: InspectPanel, qtbot: QtBot, press: Press, finish: Finish
):
    panel.trials.noise_box.setCurrentIndex(panel.trials.noise_box.findText("Gaussian"))
    press(panel.trials.buttons["noise_test"])
    finish(panel)
    view = panel.outcomes.tabs.currentWidget()
    assert view.finding.plain_text().startswith("Mean Dice over Gaussian noise")
    (kept,) = panel.outcomes.numbers(panel.inspected)
    assert kept["test"] == "noise_test"
    # Of another model, image or label it is not; the same, looked at again, is none.
    assert panel.outcomes.numbers(replace(panel.inspected, of="another")) == []
    assert panel.outcomes.numbers(replace(panel.inspected)) == [kept]
    with qtbot.waitSignal(view.destroyed):  # Qt would keep a tab that is closed
        panel.outcomes.tabs.tabCloseRequested.emit(panel.outcomes.tabs.currentIndex())
    panel.outcomes.close()


def test_gates_at_their_floor_everywhere_are_shown(panel: InspectPanel, viewer: napari.Viewer, settle):
    panel.inspected.what_if.apply({})
    panel.what_if.sliders[1].setRange(0, 1e6)
    panel.what_if.sliders[1].setValue(1e6)
    settle()
    floor = panel.inspected.record.skips[1].floor
    np.testing.assert_allclose(viewer.layers["skip 1 psi (changed)"].data, floor, atol=1e-6)
    assert panel.what_if.zeros[1].text() == "100 %"


def test_a_brush_in_the_hand_stays_there(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, settle: Callable[[], None]
):
    drawn = viewer.layers["drawn"]
    viewer.layers.selection.active = drawn
    drawn.mode = "paint"
    press(panel.choice.level_boxes[2])
    panel.what_if.sliders[1].setValue(2.0)
    settle()
    assert viewer.layers.selection.active is drawn
    assert drawn.mode == "paint"


def point_at(viewer: napari.Viewer, element: tuple[int, int]) -> tuple[float, ...]:
    return tuple(viewer.layers["breast"].data_to_world(element))


def click(viewer: napari.Viewer, world: tuple[float, ...], moved: float = 0.0) -> None:
    """What napari does with a press, moves if any, and a release on the canvas."""
    event = SimpleNamespace(type="mouse_press", pos=(50.0, 50.0), position=world, button=1)
    callbacks = viewer.mouse_drag_callbacks
    ours = [each for each in callbacks if isinstance(getattr(each, "__self__", None), PointerPart)]
    running = [callback(viewer, event) for callback in ours]
    for each in running:
        next(each)
    event.type, event.pos = "mouse_move", (50.0 + moved, 50.0)
    for each in running if moved else ():
        next(each)
    event.type = "mouse_release"
    for each in running:
        next(each, None)


def test_the_readout_under_the_mouse_is_that_of_the_maps(panel: InspectPanel, viewer: napari.Viewer):
    panel.pointer._moved(viewer, SimpleNamespace(position=point_at(viewer, (20, 30))))
    told = panel.pointer.message.plain_text().splitlines()
    skips = panel.inspected.record.skips
    assert told[0].startswith(f"skip 1: psi {skips[1].psi[20, 30]:.2f}")
    assert told[1].startswith(f"skip 2: psi {skips[2].psi[10, 15]:.2f}")
    panel.pointer._moved(viewer, SimpleNamespace(position=point_at(viewer, (-20, 30))))
    assert panel.pointer.message.plain_text() == "Not over the image."


def test_a_click_pins_rows_but_a_drag_or_a_brush_does_not(
    panel: InspectPanel, viewer: napari.Viewer, press: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    world = point_at(viewer, (20, 30))
    viewer.layers.selection.active = viewer.layers["breast"]
    click(viewer, world)
    assert panel.pointer.rows == []
    panel.pointer.pin_box.setChecked(True)
    click(viewer, world, moved=40)
    viewer.layers.selection.active = viewer.layers["drawn"]
    viewer.layers["drawn"].mode = "paint"
    click(viewer, world)
    assert panel.pointer.rows == []
    viewer.layers["drawn"].mode = "pan_zoom"
    click(viewer, world)
    assert [row[1] for row in panel.pointer.rows] == ["1", "2"]
    assert panel.pointer.rows[0][2] == f"{panel.inspected.record.skips[1].psi[20, 30]:.3f}"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "p.csv"), ""))
    press(panel.pointer.save_button)
    with (tmp_path / "p.csv").open() as file:
        assert [row["skip"] for row in csv.DictReader(file)] == ["1", "2"]
    panel.pointer.pin_box.setChecked(False)
    click(viewer, world)
    assert len(panel.pointer.rows) == 2


def test_channels_stand_sorted_and_a_click_opens_their_maps(
    panel: InspectPanel, viewer: napari.Viewer, qtbot: QtBot, finish: Finish
):
    part, skip = panel.channels, panel.inspected.record.skips[1]
    values = [bar.value for bar in part.weights.bars]
    assert values == sorted(map(float, skip.channel))
    part.weights.resize(320, 90)
    qtbot.mouseClick(part.weights, Qt.MouseButton.LeftButton, pos=part.weights.place(2).toPoint())
    finish(panel)
    channel = int(np.argsort(skip.channel, kind="stable")[2])
    before, after = (viewer.layers[f"skip 1 channel {channel} {w} the gate"] for w in ("before", "after"))
    assert tuple(before.contrast_limits) == tuple(after.contrast_limits)
    assert np.all(after.data <= before.data + 1e-6)
    part.thresholds.resize(320, 90)
    bar = part.thresholds.bars[0]
    qtbot.mouseClick(part.thresholds, Qt.MouseButton.LeftButton, pos=part.thresholds.place(0).toPoint())
    np.testing.assert_array_equal(viewer.layers[f"skip 1 z channel {bar.channel}"].data, skip.z[bar.channel])
    for bar in part.thresholds.bars:
        assert (bar.colour == DEAD) == (skip.channel_zeros[bar.channel] == 1)
        assert (bar.colour == OPEN) == (skip.channel_zeros[bar.channel] == 0)


def test_twins_stand_side_by_side_on_one_scale(
    panel: InspectPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
):
    before = {layer.name: layer.visible for layer in viewer.layers}
    press(panel.compare.compare_button)
    assert "Choose at least one other model" in panel.status.plain_text()
    for other, gate in zip(panel.compare.others, ("attention", "dense"), strict=False):
        made = make_checkpoint(gate, patch=(64, 64))
        made = replace(made, split={"training": ("elsewhere",)}) if gate == "dense" else made
        save_checkpoint(tmp_path / f"{gate}.safetensors", made)
        other.set_path(tmp_path / f"{gate}.safetensors")
        qtbot.waitUntil(lambda other=other: other.facts is not None, timeout=SOON)
    press(panel.compare.compare_button)
    finish(panel)
    assert canvas_grid(viewer).enabled
    seen = {layer.name: layer for layer in viewer.layers if layer.visible}
    masks = [layer for name, layer in seen.items() if name.startswith("psi ")]
    assert len(masks) == 4
    assert {tuple(layer.contrast_limits) for layer in masks} == {(0, 1)}
    assert len({layer.colormap.name for layer in masks}) == 1
    assert {"breast", "prosma - attention", "prosma - dense"} <= set(seen)
    assert f"floor {panel.inspected.record.skips[1].floor:.2f}" in panel.compare.message.plain_text()
    assert "dense is no gate ablation of prosma: they differ in split" in panel.compare.message.plain_text()
    assert "agreement with itself" not in panel.compare.message.plain_text()
    without_label = replace(panel.compare.compared, reference="prediction")
    panel.compare.show_compared(without_label, panel.inspected.source)
    assert "structure is the prediction of prosma, to which its psi" in panel.compare.message.plain_text()
    assert "agreement with itself" in panel.compare.message.plain_text()
    assert panel.outcomes.tabs.count() == 0, "figures are drawn where they are asked for"
    press(panel.compare.leave_button)
    assert not canvas_grid(viewer).enabled
    assert {layer.name: layer.visible for layer in viewer.layers} == before
    panel.outcomes.close()


def test_a_twin_of_other_classes_is_refused(
    panel: InspectPanel,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
):
    other = make_checkpoint("attention", classes=("background", "liver", "spleen"))
    save_checkpoint(tmp_path / "liver.safetensors", other)
    panel.compare.others[0].set_path(tmp_path / "liver.safetensors")
    qtbot.waitUntil(lambda: panel.compare.others[0].facts is not None, timeout=SOON)
    press(panel.compare.compare_button)
    finish(panel)
    assert panel.status.is_error
    assert "liver" in panel.status.plain_text()


def test_a_test_ends_in_a_plot_with_its_sentence_and_its_table(
    panel: InspectPanel, press: Press, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    press(panel.trials.buttons["leave_one_out"])
    finish(panel)
    view = panel.outcomes.tabs.currentWidget()
    assert "skip" in view.finding.plain_text()
    assert view.table.rowCount() == 15  # five trials with each of two skips, and with both
    assert not view.picture.pixmap().isNull()
    for name in ("table.csv", "plot.png", "plot.svg"):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, n=name: (str(tmp_path / n), ""))
        press(view.save_button)
        assert (tmp_path / name).stat().st_size > 100
    panel.outcomes.close()


def test_the_canvas_says_what_is_seen_until_the_panel_is_closed(panel: InspectPanel, viewer: napari.Viewer):
    assert canvas_text(viewer).text.startswith("skip 1 psi: bright = ")
    panel.close_down()
    assert viewer.mouse_move_callbacks == []
    viewer.layers.remove("skip 1 psi")


def test_maps_stay_with_their_image_while_another_one_is_asked_for(
    panel: InspectPanel, viewer: napari.Viewer, settle: Callable[[], None], tmp_path: Path
):
    mine = panel.inspected.source
    panel.label_layer.setCurrentIndex(0)
    panel.image_layer.choose(viewer.add_image(np.zeros((64, 64)), name="other", translate=(100, 100)))
    panel.begin()
    panel.what_if.sliders[2].setValue(4.0)
    settle()
    assert panel.pointer._source is mine
    gate = panel.inspected.record.gate
    assert list(panel.inspected.models({gate: tmp_path})) == [gate, f"{gate}, other run"]
