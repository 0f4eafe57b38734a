"""What selecting is worth, and whether the picture of a mask is faithful."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from napari_prosma.data.case import Image
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.preparation import prepare
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.faithfulness import (
    ALL_SKIPS,
    CONTROLS,
    TESTS,
    Row,
    Table,
    _orders,
    deletion_curve,
    having_structure,
    leave_one_out,
    means_of,
    noise_test,
    run_test,
    sanity_check,
    seeds_of,
    threshold_sweep,
)
from napari_prosma.inspection.faithfulness_plots import table_figure
from napari_prosma.inspection.trace import inspect_gates, network_of
from napari_prosma.inspection.what_if import WhatIf
from napari_prosma.inspection.window import open_window
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gates import Change, GateTrace
from napari_prosma.nn.unet import Encoded, ProSMAUNet

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
        assert isinstance(table_figure(table.test, table.rows), Figure)
        other = [{**row, "image": "another"} for row in table.rows]
        drawn = table_figure(test, [*table.rows, *other])
        assert drawn.get_suptitle() == f"{TESTS[test]} (2 images)"
        assert all(axes.has_data() for axes in drawn.axes)


@pytest.mark.parametrize("test", [test for test in TESTS if test != "sanity_check"])
def test_rows_say_where_nothing_can_be_lost(test: str, make_checkpoint: Make, image: Image) -> None:
    checkpoint, nothing = make_checkpoint(), np.zeros((30, 32), np.uint8)
    bias = checkpoint.weights["head.bias"] - 1000
    blind = replace(checkpoint, weights={**checkpoint.weights, "head.bias": bias})
    far = nothing.copy()
    far[0, 0] = IGNORE
    for truth in (nothing, far):
        table = found_by(RUNS[test](checkpoint, image, label=truth))
        assert {row["empty"] for row in table.rows} == {"label"}
        assert having_structure(table.rows) == []
        assert isinstance(table_figure(test, table.rows), Figure)
    table = found_by(RUNS[test](blind, image))
    assert {row["empty"] for row in table.rows} == {"prediction"}
    nothing[3, 3] = 1
    for table in (found_by(RUNS[test](blind, image, label=nothing)), found_by(RUNS[test](checkpoint, image))):
        assert having_structure(table.rows) == list(table.rows)


def test_a_plot_is_of_the_images_that_its_sentence_is_of() -> None:
    rows: list[Row] = [
        {"image": f"{n}", "skip": 1, "part": "psi", "effect": 0.0, "dice": 1.0, "worth": 0.3}
        for n in range(3)
    ]
    normal: Row = {**rows[0], "image": "normal", "worth": 0.0, "empty": "label"}
    drawn = table_figure("leave_one_out", [*rows, normal])
    assert "(3 images)" in str(drawn.get_suptitle())
    assert drawn.axes[1].patches[0].get_height() == pytest.approx(0.3)
    noisy: list[Row] = [
        {"image": f"{n}", "skip": 1, "kind": "hu", "strength": s, "model": m, "agreement": 1.0, **empty}
        for n in range(3)
        for s in (0.0, 1.0)
        for m, empty in (("a", {}), ("blind", {"empty": "prediction"}))
    ]
    drawn = table_figure("noise_test", noisy)
    assert "(3 images)" in str(drawn.get_suptitle())
    assert drawn.axes[0].get_legend_handles_labels()[1] == ["a"]


@pytest.mark.parametrize("test", list(TESTS))
def test_the_same_seed_finds_the_same(test: str, make_checkpoint: Make, image: Image) -> None:
    first, second = (found_by(RUNS[test](make_checkpoint(), image)) for _ in range(2))
    assert first.rows == second.rows


@pytest.mark.parametrize("test", ["deletion_curve", "threshold_sweep", "sanity_check"])
def test_what_needs_a_mask_says_so_without_one(test: str, make_checkpoint: Make, image: Image) -> None:
    with pytest.raises(ConfigError, match=r"this model has no gates, so no"):
        list(RUNS[test](make_checkpoint("none"), image))
    with pytest.raises(DataError, match="shape"):
        list(RUNS[test](make_checkpoint(), image, label=np.zeros((3, 3), np.uint8)))


# ---- leave one out --------------------------------------------------------------------------------------


def raw_means(checkpoint: Checkpoint, image: Image) -> dict[int, tuple[float, float, np.ndarray]]:
    """psi and c weighted by x^2, and the mean of x~ per channel, from the tensors of one pass."""
    trace = GateTrace()
    seen = prepare(image, checkpoint.plan).array
    with torch.no_grad():
        checkpoint.build()(torch.from_numpy(seen)[None], trace)
    found = {}
    for level, kept in trace.skips.items():
        assert kept.psi is not None
        assert kept.channel is not None
        x, gated = kept.skip[0].double().numpy(), kept.gated[0].double().numpy()
        psi, c = kept.psi[0, 0].double().numpy(), kept.channel[0].double().numpy()
        weight = x**2
        found[level] = (
            float((psi * weight.sum(axis=0)).sum() / weight.sum()),
            float((c * weight.sum(axis=(1, 2))).sum() / weight.sum()),
            gated.mean(axis=(1, 2)),
        )
    return found


def test_selecting_is_tried_against_the_means_of_the_raw_tensors(
    make_checkpoint: Make, image: Image, label: np.ndarray
) -> None:
    checkpoint = make_checkpoint()
    table = found_by(leave_one_out(checkpoint, image, label=label))
    tried = WhatIf(checkpoint, image, label=label)
    usual = tried.apply({}).dice
    assert usual is not None
    means = raw_means(checkpoint, image)
    changes = {
        "psi": {level: Change(psi=psi) for level, (psi, _, _) in means.items()},
        "c": {level: Change(c=c) for level, (_, c, _) in means.items()},
        "both": {level: Change(psi=psi, c=c) for level, (psi, c, _) in means.items()},
        "skip mean": {level: Change(skip=tuple(m)) for level, (_, _, m) in means.items()},
        "skip zero": {level: Change(skip=(0.0,)) for level in means},
    }
    assert {(row["skip"], row["part"]) for row in table.rows} == {
        (level, part) for level in (ALL_SKIPS, 1, 2) for part in changes
    }
    for row in table.rows:
        level, part = int(row["skip"]), str(row["part"])
        wanted = changes[part] if level == ALL_SKIPS else {level: changes[part][level]}
        effect = tried.apply(wanted)
        assert effect.dice is not None
        assert row["effect"] == pytest.approx(effect.difference.mean(), abs=1e-5)
        assert row["effect"] > 0  # type: ignore[operator]
        assert row["dice"] == pytest.approx(effect.dice["dice"], abs=5e-3)
        assert row["worth"] == pytest.approx(usual["dice"] - float(row["dice"]))


@pytest.mark.parametrize(
    ("gate", "parts"),
    [
        ("none", {"skip mean", "skip zero"}),
        ("attention", {"psi", "skip mean", "skip zero"}),
        ("scale", {"c", "skip mean", "skip zero"}),
    ],
)
def test_only_parts_that_a_gate_has_are_tried(
    gate: str, parts: set[str], make_checkpoint: Make, image: Image
) -> None:
    events = list(leave_one_out(make_checkpoint(gate), image))
    assert {row["part"] for row in events[-1].result.rows} == parts  # type: ignore[attr-defined]
    assert any(isinstance(event, Notice) for event in events) == (gate == "none")


def test_one_constant_for_all_channels_costs_a_gate_that_only_scales_nothing(
    make_checkpoint: Make, image: Image
) -> None:
    """``scale`` at its start has c = 1/2 everywhere: its mean is the gate itself."""
    checkpoint = make_checkpoint("scale")
    weights = {n: torch.zeros_like(t) if "logit" in n else t for n, t in checkpoint.weights.items()}
    table = found_by(leave_one_out(replace(checkpoint, weights=weights), image))
    assert [row["effect"] for row in where(table, part="c")] == pytest.approx([0, 0, 0], abs=1e-6)


# ---- deletion -------------------------------------------------------------------------------------------


def test_nothing_deleted_changes_nothing_and_all_deleted_leaves_no_order(
    make_checkpoint: Make, image: Image
) -> None:
    table = found_by(deletion_curve(make_checkpoint(), image, quantiles=(0.0, 0.5, 1.0), draws=2))
    assert all(row["agreement"] == 1 for row in where(table, q=0.0))
    for skip in (1, 2):
        assert len({row["agreement"] for row in where(table, q=1.0, skip=skip)}) == 1
        assert {row["order"] for row in where(table, skip=skip)} == {"psi", *CONTROLS}
        assert len(where(table, skip=skip, q=0.5)) == len(CONTROLS) + 2


def test_each_order_replaces_its_own_positions_of_the_raw_skip(make_checkpoint: Make, image: Image) -> None:
    """Every order and the replaced skips, recomputed from the tensors; the decoder runs the plain way.

    The norms of the redrawn network keep the statistics of the very window; chance is what the generator of
    image, seed and level gives after a number per position for each of the five other orders.
    """
    checkpoint, q = make_checkpoint(), 0.3
    table = found_by(deletion_curve(checkpoint, image, quantiles=(q,), draws=1, levels=(1,)))
    model = checkpoint.build()
    seen = torch.from_numpy(prepare(image, checkpoint.plan).array)[None]
    trace = GateTrace()
    with torch.no_grad():
        base = model(seen, trace) > 0
        encoded = model.encode(seen)
    skip = encoded.skips[0]
    assert skip.shape[2:] == (32, 32)  # the image has 30 rows, two are padding
    inside = skip[0, :, :30].flatten(1)
    psi = trace.skips[1].psi
    assert psi is not None
    rows, columns = np.mgrid[:30, :32]
    distance = np.hypot((rows - 14.5) / 30, (columns - 15.5) / 32).ravel()
    torch.manual_seed(0)
    redrawn, again = build_model(checkpoint.spec), GateTrace()
    assert isinstance(redrawn, ProSMAUNet)
    kept = {n: t for n, t in checkpoint.weights.items() if not n.startswith(("up.", "decoder.", "gates."))}
    redrawn.load_state_dict(kept, strict=False)
    for module in redrawn.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        redrawn.train().decode(encoded)
        redrawn.eval().decode(encoded, again)
    other = again.skips[1].psi
    assert other is not None
    drawn = np.random.default_rng((*seeds_of(image, 0), 1))
    drawn.random((5, inside.shape[1]))
    orders = {
        "psi": psi.flatten().numpy(),
        "highest": -psi.flatten().numpy(),
        "energy": inside.square().sum(dim=0).numpy(),
        "centre": -distance,
        "redrawn": other[0, 0, :30].flatten().numpy(),
        "random": np.argsort(drawn.permutation(inside.shape[1])),
    }
    assert orders.keys() == {"psi", *CONTROLS}
    for order, values in orders.items():
        gone = np.argsort(values, kind="stable")[: round(q * len(values))]
        changed = inside.clone()
        changed[:, gone] = inside.mean(dim=1, keepdim=True)
        first = skip.clone()
        first[0, :, :30] = changed.reshape(-1, 30, 32)
        with torch.no_grad():
            labels = model.decode(replace(encoded, skips=(first, *encoded.skips[1:]))) > 0
        both, sizes = int((labels & base).sum()), int(labels.sum() + base.sum())
        (row,) = where(table, order=order)
        # Equal distances may be ordered otherwise.
        reach = 0.01 if order == "centre" else 0.001
        assert row["agreement"] == pytest.approx(2 * both / sizes, abs=reach), order


@pytest.mark.parametrize("size", [(1, 1), (3, 32), (32, 2)])
def test_a_skip_of_one_position_along_an_axis_is_deleted_as_any_other(
    size: tuple[int, int], make_checkpoint: Make, noise: Callable
) -> None:
    """Without its padding it is a view of the whole skip, which cannot be written onto itself."""
    thin = Image(noise(1, *size), Geometry.pixels(2))
    table = found_by(deletion_curve(make_checkpoint(), thin, quantiles=(0.0, 0.5, 1.0), draws=1))
    assert all(row["agreement"] == 1 for row in table.rows if row["q"] == 0)
    all_gone = {(row["skip"], row["agreement"]) for row in table.rows if row["q"] == 1}
    assert len(all_gone) == 2  # of each skip the same, whatever the order


def test_the_centre_of_a_control_is_that_of_the_image_and_not_of_a_window_on_the_label(
    make_checkpoint: Make, noise: Callable
) -> None:
    label = np.zeros((128, 128), np.uint8)
    label[90:110, 14:30] = 1
    image = Image(noise(1, 128, 128), Geometry.pixels(2))
    window = open_window(make_checkpoint(), image, label=label, device="cpu")
    assert not window.covers_image
    size = window.tiling.size
    psi = np.zeros(size[0] * size[1])
    orders = _orders(window, 1, psi, psi, 0, np.random.default_rng(0))
    ranks = next(ranks for order, _, ranks in orders if order == "centre")
    rows, columns = np.indices(size)
    far = np.hypot(rows + window.start[0] - 63.5, columns + window.start[1] - 63.5).ravel()
    assert (np.diff(far[ranks]) <= 1e-9).all()  # the farthest are deleted first


def test_in_a_window_the_means_are_those_of_the_whole_image(make_checkpoint: Make, noise: Callable) -> None:
    """As in the panel, where the same skip set to its mean is worth the same."""
    checkpoint, array = make_checkpoint(), noise(1, 32, 80)
    array[..., 40:] *= 3
    large = Image(array, Geometry.pixels(2))
    label = np.zeros((32, 80), int)
    label[8:20, 8:20] = 1
    *_, last = inspect_gates(checkpoint, large)
    assert isinstance(last, Finished)
    tried = WhatIf(checkpoint, large, label=label)
    events = list(leave_one_out(checkpoint, large, label=label))
    assert any(isinstance(e, Progress) and "window 1 of 4" in e.message for e in events)
    table = found_by(iter(events))
    assert tried.unchanged.dice is not None
    for level, skip in last.result.skips.items():
        assert skip.means.psi != pytest.approx(tried.unchanged.record.skips[level].means.psi, abs=1e-3)
        effect = tried.apply({level: Change(psi=skip.means.psi)})
        (row,) = where(table, skip=level, part="psi")
        assert effect.dice is not None
        assert row["effect"] == pytest.approx(effect.difference.mean(), abs=1e-6)
        assert row["worth"] == pytest.approx(tried.unchanged.dice["dice"] - effect.dice["dice"], abs=1e-6)
    given = {level: skip.means for level, skip in last.result.skips.items()}
    assert found_by(leave_one_out(checkpoint, large, label=label, means=given)).rows == table.rows


def test_levels_above_a_change_are_not_computed_again(
    make_checkpoint: Make, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what comes out is what a pass through all of them gives."""
    checkpoint, starts = make_checkpoint(), []
    whole = open_window(checkpoint, image)
    decode = ProSMAUNet.decode

    def watched(network: ProSMAUNet, encoded: Encoded, *how: Any, **named: Any) -> torch.Tensor:
        if len(how) > 2:
            starts.append((max(how[1]), how[2]))
        return decode(network, encoded, *how, **named)

    monkeypatch.setattr(ProSMAUNet, "decode", watched)
    table = found_by(leave_one_out(checkpoint, image))
    coarsest = max(level for level, _ in starts)
    assert {start == (None if level == coarsest else level + 1) for level, start in starts} == {True}
    assert len({level for level, _ in starts}) > 1
    trace = GateTrace()
    base = whole.probabilities(trace=trace)
    for level, kept in trace.skips.items():
        changed = whole.probabilities({level: Change(skip=means_of(whole, kept).skip)})
        (row,) = where(table, skip=level, part="skip mean")
        assert row["effect"] == float((np.abs(changed - base).sum(axis=0) / 2).mean())


def test_a_network_is_built_once_for_as_long_as_its_weights_are_the_same(make_checkpoint: Make) -> None:
    checkpoint, device = make_checkpoint(), torch.device("cpu")
    first = network_of(checkpoint, device)
    assert network_of(checkpoint, device) is first
    checkpoint.weights["head.bias"] += 1
    again = network_of(checkpoint, device)
    assert again is not first
    assert torch.equal(again.state_dict()["head.bias"], checkpoint.weights["head.bias"])
    for _ in range(50):  # the memory of what is gone may be taken by the next
        checkpoint.weights["head.bias"] = checkpoint.weights["head.bias"] + 1
        again = network_of(checkpoint, device)
        assert torch.equal(again.state_dict()["head.bias"], checkpoint.weights["head.bias"])
    with torch.inference_mode():
        checkpoint.weights["head.bias"] = checkpoint.weights["head.bias"] + 1
    assert network_of(checkpoint, device) is not again


def test_chosen_skips_alone_are_deleted(make_checkpoint: Make, image: Image) -> None:
    table = found_by(deletion_curve(make_checkpoint(), image, levels=(2,), quantiles=(0.5,), draws=1))
    assert {row["skip"] for row in table.rows} == {2}
    with pytest.raises(ConfigError, match="not 7"):
        list(deletion_curve(make_checkpoint(), image, levels=(7,)))


def test_rows_of_a_part_of_the_image_say_which(make_checkpoint: Make, noise: Callable) -> None:
    larger = Image(noise(1, 80, 90), Geometry.pixels(2))
    for test, run in RUNS.items():
        table = found_by(run(make_checkpoint(), larger))
        assert {row["window"] for row in table.rows} == {"32 x 32 of 80 x 90"}, test


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
    assert isinstance(table_figure(table.test, table.rows), Figure)


# ---- noise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "auto"])
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


def test_every_image_has_noise_and_orders_of_its_own_and_the_same_again(
    make_checkpoint: Make, image: Image
) -> None:
    """Under any name; of an image that is hardly different they are others all the same."""
    nearly = replace(image, array=image.array.copy())
    nearly.array[0, 0, 0] += 1e-4
    model = make_checkpoint()
    for test, value in (("noise_test", "psi_change"), ("deletion_curve", "agreement")):
        first, again, other = (
            [
                float(row.get(value, 0))
                for row in found_by(run_test(test, {"m": model}, each, name=name)).rows
                if row.get("order", "random") == "random" and row.get("strength", 1) != 0
            ]
            for each, name in ((image, "a"), (image, "b"), (nearly, "a"))
        )
        assert first == again
        assert first != pytest.approx(other, rel=1e-3)


def test_noise_refuses_models_of_other_classes_and_unknown_kinds(make_checkpoint: Make, image: Image) -> None:
    first = make_checkpoint()
    plan = first.plan.model_copy(update={"class_names": ("background", "vessel")})
    with pytest.raises(DataError, match="'b' knows the classes background, vessel"):
        list(noise_test({"a": first, "b": replace(first, plan=plan)}, image))
    with pytest.raises(ConfigError, match="salt"):
        list(noise_test({"a": first}, image, kind="salt"))
    with pytest.raises(ConfigError, match="at least one"):
        list(noise_test({}, image))


# ---- another training -----------------------------------------------------------------------------------


def test_another_training_stands_beside_the_redrawn_decoder(make_checkpoint: Make, image: Image) -> None:
    checkpoint = make_checkpoint()
    table = found_by(sanity_check(checkpoint, image, seeds=(0,), other=checkpoint))
    alike = where(table, randomised="another training")
    assert [row["correlation"] for row in alike] == pytest.approx([1, 1])
    other = replace(checkpoint, plan=checkpoint.plan.model_copy(update={"window": (16, 16)}))
    with pytest.raises(ConfigError, match="another grid"):
        list(sanity_check(checkpoint, image, seeds=(0,), other=other))


def test_what_another_training_differs_in_besides_its_seed_is_told(
    make_checkpoint: Make, image: Image
) -> None:
    def trained(seed: int, *cases: str, data: str = "busi") -> Checkpoint:
        split = {"training": cases, "validation": ()}
        return replace(make_checkpoint(), config={"seed": seed, "data": data}, split=split)

    own = trained(0, "a", "b")
    for other, said in (
        (trained(1, "b", "a"), ""),
        (trained(1, "a", "c"), "training cases (1 in common, of 2 and 2)"),
        (trained(1, "a", "b", "c"), "training cases (2 in common, of 2 and 3)"),
        (trained(1), "training cases (unknown for one)"),
        (trained(1, "a", "b", data="glas"), "data folder ('glas' instead of 'busi')"),
    ):
        table = found_by(run_test("sanity_check", {"own": own, "other": other}, image, seeds=(0,)))
        assert [row.get("apart", "") for row in where(table, randomised="another training")] == [said, said]


def test_the_sanity_check_finds_another_training_among_the_models(
    make_checkpoint: Make, image: Image
) -> None:
    checkpoint = make_checkpoint()
    other_gate = make_checkpoint(gate="attention")
    again = replace(checkpoint, config={**checkpoint.config, "seed": 7})
    several = {"own": checkpoint, "attention": other_gate, "again": again}
    table = found_by(run_test("sanity_check", several, image, seeds=(0,)))
    assert [row["correlation"] for row in where(table, randomised="another training")] == pytest.approx(
        [1, 1]
    )
    alone = found_by(run_test("sanity_check", {"own": checkpoint, "other": other_gate}, image, seeds=(0,)))
    assert not where(alone, randomised="another training")


def test_a_plot_counts_the_images_that_its_dice_is_of() -> None:
    rows: list[Row] = [
        {"image": f"{n}", "skip": 1, "scale": s, "z_zero_fraction": 0.5, "agreement": 1.0, **dice}
        for n in range(3)
        for s in (1.0, 2.0)
        for dice in ([{"dice": 0.5}] if n < 2 else [{}])
    ]
    assert "(3 images, 2 with a label)" in str(table_figure("threshold_sweep", rows).get_suptitle())
    assert "(2 images)" in str(table_figure("threshold_sweep", rows[:4]).get_suptitle())
