"""Which skip mattered, and whether the picture of a mask is faithful."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from napari_prosma.data.case import Geometry, Image
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.inspection.faithfulness import (
    TESTS,
    Row,
    Table,
    deletion_curve,
    leave_one_out,
    noise_test,
    sanity_check,
    table_figure,
    threshold_sweep,
)
from napari_prosma.inspection.what_if import WhatIf
from napari_prosma.nn.gates import Change
from napari_prosma.training.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]
RUNS: dict[str, Callable[..., Iterator[Event]]] = {
    "leave_one_out": leave_one_out,
    "deletion_curve": deletion_curve,
    "threshold_sweep": threshold_sweep,
    "sanity_check": sanity_check,
    "noise_test": lambda model, image, **options: noise_test({"it": model}, image, **options),
}


def found_by(events: Iterator[Event]) -> Table:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    assert isinstance(last.result, Table)
    return last.result


def where(table: Table, **wanted: object) -> list[Row]:
    return [row for row in table.rows if all(row[name] == value for name, value in wanted.items())]


@pytest.fixture
def image(noise: Callable) -> Image:
    return Image(noise(1, 30, 32), Geometry.pixels(2))


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros((30, 32), np.uint8)
    label[6:20, 9:25] = 1
    return label


# ---- all of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", list(TESTS))
def test_every_test_counts_its_work_and_ends_in_rows_and_a_figure(
    test: str, make_checkpoint: Make, image: Image, label: np.ndarray
) -> None:
    for truth in (None, label):
        events = list(RUNS[test](make_checkpoint(), image, name="it", label=truth))
        (started,) = [event for event in events if isinstance(event, Started)]
        assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, started.total + 1))
        table = events[-1].result  # type: ignore[attr-defined]
        assert table.test == test
        assert table.title == TESTS[test]
        assert {row["image"] for row in table.rows} == {"it"}
        assert all(isinstance(value, str | int | float) for row in table.rows for value in row.values())
        if test != "sanity_check":
            assert all(("dice" in row) == (truth is not None) for row in table.rows)
        assert isinstance(table.figure(), Figure)
        other = [{**row, "image": "another"} for row in table.rows]
        drawn = table_figure(test, [*table.rows, *other])
        assert drawn.get_suptitle() == f"{TESTS[test]} (2 images)"
        assert all(axes.has_data() for axes in drawn.axes)


@pytest.mark.parametrize("test", list(TESTS))
def test_the_same_seed_finds_the_same(test: str, make_checkpoint: Make, image: Image) -> None:
    first, second = (found_by(RUNS[test](make_checkpoint(), image)) for _ in range(2))
    assert first.rows == second.rows


@pytest.mark.parametrize("test", ["deletion_curve", "threshold_sweep", "sanity_check"])
def test_what_needs_a_mask_says_so_without_one(test: str, make_checkpoint: Make, image: Image) -> None:
    with pytest.raises(ConfigError, match=r"gates of this model \(none\) have no"):
        list(RUNS[test](make_checkpoint("none"), image))
    with pytest.raises(DataError, match="shape"):
        list(RUNS[test](make_checkpoint(), image, label=np.zeros((3, 3), np.uint8)))


# ---- leave one out --------------------------------------------------------------------------------------


def test_leaving_out_is_the_what_if_of_that_part(
    make_checkpoint: Make, image: Image, label: np.ndarray
) -> None:
    checkpoint = make_checkpoint()
    table = found_by(leave_one_out(checkpoint, image, label=label))
    tried = WhatIf(checkpoint, image, label=label)
    usual = tried.apply({}).dice
    assert usual is not None
    assert [(row["skip"], row["part"]) for row in table.rows] == [
        (level, part) for level in (1, 2) for part in ("psi", "c", "whole")
    ]
    changes = {"psi": Change(spatial=False), "c": Change(channel=False), "whole": Change(whole=False)}
    for row in table.rows:
        level, part = int(row["skip"]), str(row["part"])
        effect = tried.apply({level: changes[part]})
        assert effect.dice is not None
        assert row["effect"] == pytest.approx(effect.difference.mean())
        assert row["effect"] > 0  # type: ignore[operator]
        assert row["dice"] == effect.dice["dice"]
        assert row["dice_change"] == pytest.approx(effect.dice["dice"] - usual["dice"])
        assert row["agreement"] == effect.agreement
        np.testing.assert_array_equal(table.maps[f"skip {level} without {part}"], effect.difference)


@pytest.mark.parametrize(("gate", "parts"), [("none", {"whole"}), ("attention", {"psi", "whole"})])
def test_only_parts_that_a_gate_has_are_left_out(
    gate: str, parts: set[str], make_checkpoint: Make, image: Image
) -> None:
    events = list(leave_one_out(make_checkpoint(gate), image))
    assert {row["part"] for row in events[-1].result.rows} == parts  # type: ignore[attr-defined]
    assert any(isinstance(event, Notice) for event in events) == (gate == "none")


# ---- deletion -------------------------------------------------------------------------------------------


def test_nothing_deleted_changes_nothing_and_all_deleted_leaves_constant_skips(
    make_checkpoint: Make, image: Image
) -> None:
    """With every position replaced there is nothing left that an order could choose between."""
    table = found_by(deletion_curve(make_checkpoint(), image, quantiles=(0.0, 0.5, 1.0), seeds=(0,)))
    assert all(row["agreement"] == 1 for row in where(table, q=0.0))
    by_psi, at_random = where(table, q=1.0)
    assert by_psi["agreement"] == at_random["agreement"] != 1
    by_psi, at_random = where(table, q=0.5)
    assert by_psi["agreement"] != at_random["agreement"]


def test_the_lowest_positions_of_the_image_become_their_mean(make_checkpoint: Make, image: Image) -> None:
    from napari_prosma.inspection.faithfulness import _inside, _levelled, _lowest_first
    from napari_prosma.inspection.window import open_window
    from napari_prosma.nn.gates import GateTrace

    window, trace = open_window(make_checkpoint(), image), GateTrace()
    window.probabilities(trace=trace)
    psi = trace.skips[2].psi
    assert psi is not None
    assert psi.shape[2:] == (16, 16)
    inside = _inside(window, 2, psi)
    assert len(inside) == 15 * 16  # the last row is padding
    values = psi.flatten().numpy()[inside]
    gone = inside[_lowest_first(values, np.random.default_rng(0))[:100]]
    assert psi.flatten()[gone].max() <= np.sort(values)[100]
    skip = window.encoded.skips[1]
    levelled = _levelled(skip, gone)
    flat, before = levelled.flatten(2), skip.flatten(2)
    torch.testing.assert_close(flat[:, :, gone], before[:, :, gone].mean(2, keepdim=True).expand(-1, -1, 100))
    rest = np.setdiff1d(np.arange(256), gone)
    assert torch.equal(flat[:, :, rest], before[:, :, rest])
    assert not torch.equal(flat, before)


def test_chosen_skips_alone_are_deleted(make_checkpoint: Make, image: Image) -> None:
    table = found_by(deletion_curve(make_checkpoint(), image, levels=(2,), quantiles=(0.5,), seeds=(0,)))
    assert {row["skips"] for row in table.rows} == {"2"}
    both = found_by(deletion_curve(make_checkpoint(), image, quantiles=(0.5,), seeds=(0,)))
    assert {row["skips"] for row in both.rows} == {"1+2"}
    assert both.rows[0]["agreement"] != table.rows[0]["agreement"]
    with pytest.raises(ConfigError, match="not 7"):
        list(deletion_curve(make_checkpoint(), image, levels=(7,)))


# ---- thresholds -----------------------------------------------------------------------------------------


def test_zeros_of_the_deepest_gate_rise_with_its_threshold(make_checkpoint: Make, image: Image) -> None:
    table = found_by(threshold_sweep(make_checkpoint(), image))
    zeros = [float(row["z_zero_fraction"]) for row in where(table, skip=2)]
    assert zeros == sorted(zeros)
    assert zeros[0] == 0 < zeros[4] < zeros[-1]
    assert where(table, skip=2)[4]["scale"] == 1.0
    assert all(row["agreement"] == 1 for row in where(table, scale=1.0))
    alone = found_by(threshold_sweep(make_checkpoint(), image, levels=(1,)))
    assert {row["skip"] for row in alone.rows} == {1}


# ---- sanity ---------------------------------------------------------------------------------------------


def test_randomising_the_weights_changes_the_masks_and_not_the_model(
    make_checkpoint: Make, image: Image
) -> None:
    checkpoint = make_checkpoint()
    before = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    table = found_by(sanity_check(checkpoint, image, seeds=(0, 1)))
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in before.items())
    assert len(table.rows) == 2 * 2 * 2
    correlations = {(r["randomised"], r["seed"], r["skip"]): r["correlation"] for r in table.rows}
    assert all(abs(float(value)) < 0.95 for value in correlations.values())
    assert correlations["decoder", 0, 2] != correlations["decoder", 1, 2]
    assert correlations["decoder", 0, 2] != correlations["decoder and gates", 0, 2]


def test_a_constant_mask_has_no_correlation(make_checkpoint: Make, image: Image) -> None:
    table = found_by(sanity_check(make_checkpoint(threshold=1e6), image, seeds=(0,)))
    assert not any("correlation" in row for row in table.rows)
    assert isinstance(table.figure(), Figure)


# ---- noise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["speckle", "gaussian"])
def test_more_noise_moves_the_masks_further(
    kind: str, make_checkpoint: Make, image: Image, label: np.ndarray
) -> None:
    models = {
        "prox": make_checkpoint(),
        "dense": make_checkpoint("dense"),
        "oktay": make_checkpoint("attention"),
    }
    table = found_by(noise_test(models, image, label=label, kind=kind, strengths=(0.0, 0.05, 1.0)))
    assert list(dict.fromkeys(row["model"] for row in table.rows)) == list(models)
    for model in models:
        for skip in (1, 2):
            clean, little, much = where(table, model=model, skip=skip)
            assert clean["psi_change"] == 0
            assert clean["agreement"] == 1
            assert 0 < little["psi_change"] < much["psi_change"]  # type: ignore[operator]
            assert ("zero_iou" in much) == (model == "prox")
    clean, little, much = where(table, model="prox", skip=1)
    assert clean["zero_iou"] == 1 > little["zero_iou"] > much["zero_iou"] > 0  # type: ignore[operator]


def test_noise_refuses_models_of_other_classes_and_unknown_kinds(make_checkpoint: Make, image: Image) -> None:
    first = make_checkpoint()
    plan = first.plan.model_copy(update={"class_names": ("background", "vessel")})
    with pytest.raises(DataError, match="'b' knows the classes background, vessel"):
        list(noise_test({"a": first, "b": replace(first, plan=plan)}, image))
    with pytest.raises(ConfigError, match="salt"):
        list(noise_test({"a": first}, image, kind="salt"))
    with pytest.raises(ConfigError, match="at least one"):
        list(noise_test({}, image))
