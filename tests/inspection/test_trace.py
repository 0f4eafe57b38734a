"""What the gates of a model did to one image: maps, numbers, and their agreement with a direct pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from napari_prosma.data.case import Image
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.preparation import prepare
from napari_prosma.errors import DataError
from napari_prosma.events import Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.maps import KINDS, map_layers, skip_layer, z_layer
from napari_prosma.inspection.measures import MEASURES, auc
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.windows import gaussian_weight, tile
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import GateTrace
from napari_prosma.segmentation.segment import segment

Make = Callable[..., Checkpoint]
SPARSE = ("prosma", "spatial", "prosma-exact")


def pixels(array: np.ndarray) -> Image:
    return Image(array, Geometry.pixels(array.ndim - 1))


def inspected(checkpoint: Checkpoint, image: Image | np.ndarray, **options: object) -> GateRecord:
    held = image if isinstance(image, Image) else pixels(image)
    last = list(inspect_gates(checkpoint, held, **options))[-1]  # type: ignore[arg-type]
    assert isinstance(last, Finished)
    assert isinstance(last.result, GateRecord)
    return last.result


def traced(checkpoint: Checkpoint, array: np.ndarray) -> GateTrace:
    """A direct pass of the network over a whole image."""
    trace = GateTrace()
    seen = prepare(pixels(array), checkpoint.plan).array
    with torch.no_grad():
        checkpoint.build()(torch.from_numpy(seen)[None], trace)
    return trace


# ---- agreement with a direct pass -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "size"), [("prosma", (32, 32)), ("prosma", (27, 30)), ("prosma-exact", (29, 32))]
)
def test_one_window_says_what_a_direct_pass_says(
    gate: str, size: tuple[int, ...], make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(gate), noise(1, *size)
    record, direct = inspected(checkpoint, image), traced(checkpoint, image)
    assert set(record.skips) == {1, 2}
    for level, skip in record.skips.items():
        kept = direct.skips[level]
        assert kept.z is not None
        assert kept.psi is not None
        assert kept.psi_dense is not None
        empty = (kept.z[0] == 0).numpy()
        assert empty.any()
        assert not empty.all()
        np.testing.assert_allclose(skip.zero_fraction, empty.mean(axis=0), atol=1e-6)
        assert np.array_equal(skip.without_evidence, empty.all(axis=0))
        np.testing.assert_allclose(skip.z, kept.z[0], atol=1e-5)
        np.testing.assert_allclose(skip.psi, kept.psi[0, 0], atol=1e-6)
        np.testing.assert_allclose(skip.psi_dense, kept.psi_dense[0, 0], atol=1e-6)
        energy = kept.gated.square().sum(dim=1)[0] / kept.skip.square().sum(dim=1)[0]
        np.testing.assert_allclose(skip.energy_kept, energy.nan_to_num(), atol=1e-5)
        measures = skip.measures
        assert measures["z_zero_fraction"] == pytest.approx(empty.mean(), abs=1e-6)
        assert measures["floor_pixel_fraction"] == pytest.approx(empty.all(axis=0).mean(), abs=1e-6)
        assert measures["dead_channel_fraction"] == pytest.approx(empty.all(axis=(1, 2)).mean())
        assert measures["psi_mean"] == pytest.approx(float(kept.psi.mean()), abs=1e-6)
        assert measures["psi_std"] == pytest.approx(float(kept.psi.std(correction=0)), abs=1e-6)
        whole = float(kept.gated.square().sum() / kept.skip.square().sum())
        assert measures["retained_energy"] == pytest.approx(whole, rel=1e-5)


def test_channel_figures_are_those_of_the_image_without_its_padding(
    make_checkpoint: Make, noise: Callable
) -> None:
    """33 x 34 is padded to 36 x 36, on the coarser grid 17 x 17 to 18 x 18."""
    checkpoint, image = make_checkpoint(patch=(48, 48)), noise(1, 33, 34)
    record, direct = inspected(checkpoint, image), traced(checkpoint, image)
    for level, skip in record.skips.items():
        kept = direct.skips[level]
        assert kept.field is not None
        assert kept.z is not None
        assert kept.threshold is not None
        field = kept.field[0].double().numpy()
        np.testing.assert_allclose(skip.field_spread, field.std(axis=(1, 2)), rtol=1e-4)
        np.testing.assert_allclose(skip.field_peak, np.abs(field).max(axis=(1, 2)), rtol=1e-5)
        np.testing.assert_allclose(skip.channel_zeros, (kept.z[0] == 0).numpy().mean(axis=(1, 2)), atol=1e-6)
        np.testing.assert_allclose(skip.threshold, kept.threshold)
        assert skip.measures["z_zero_fraction"] == pytest.approx(float(skip.channel_zeros.mean()), abs=1e-5)


def test_floor_is_the_sigmoid_of_the_bias_and_psi_stands_there_without_evidence(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint = make_checkpoint(threshold=2.0)
    record = inspected(checkpoint, noise(1, 40, 44))
    for level, skip in record.skips.items():
        bias = checkpoint.weights[f"gates.{level - 1}.spatial.project.bias"]
        assert skip.floor == pytest.approx(float(torch.sigmoid(bias)))
        assert skip.measures["gate_floor"] == skip.floor
        assert skip.psi is not None
        assert skip.without_evidence is not None
        assert skip.without_evidence.any()
        np.testing.assert_allclose(skip.psi[skip.without_evidence], skip.floor, atol=1e-6)


def test_prosma_exact_cuts_the_skip_where_there_is_no_evidence(
    make_checkpoint: Make, noise: Callable
) -> None:
    record = inspected(make_checkpoint("prosma-exact", threshold=2.0), noise(1, 40, 44))
    for skip in record.skips.values():
        assert skip.floor == 0
        assert skip.psi is not None
        assert skip.without_evidence is not None
        assert skip.without_evidence.any()
        assert not skip.psi[skip.without_evidence].any()
        assert not skip.energy_kept[skip.without_evidence].any()


def test_counterfactual_is_psi_of_the_same_weights_with_lambda_0(
    make_checkpoint: Make, noise: Callable
) -> None:
    """Of the deepest gate, whose field no other gate changes."""
    checkpoint, image = make_checkpoint(), noise(1, 32, 32)
    weights = {
        name: torch.full_like(tensor, -60.0) if name.endswith("theta") else tensor
        for name, tensor in checkpoint.weights.items()
    }
    dense = inspected(replace(checkpoint, weights=weights), image)
    record = inspected(checkpoint, image)
    np.testing.assert_allclose(record.skips[2].psi_dense, dense.skips[2].psi, atol=1e-6)
    assert not np.allclose(record.skips[2].psi_dense, record.skips[2].psi, atol=1e-2)
    assert not np.allclose(record.skips[1].psi_dense, dense.skips[1].psi, atol=1e-4)


def test_channel_gates_are_means_and_spreads_over_the_windows(make_checkpoint: Make, noise: Callable) -> None:
    checkpoint = make_checkpoint()
    one, many = inspected(checkpoint, noise(1, 32, 32)), inspected(checkpoint, noise(1, 80, 80))
    direct = traced(checkpoint, noise(1, 32, 32))
    for level in (1, 2):
        channel = direct.skips[level].channel
        assert channel is not None
        np.testing.assert_allclose(one.skips[level].channel, channel[0], atol=1e-6)
        assert not one.skips[level].channel_spread.any()  # type: ignore[union-attr]
        assert many.skips[level].channel_spread.all()  # type: ignore[union-attr]
        assert one.skips[level].channel.shape == ((8, 16)[level - 1],)  # type: ignore[union-attr]


# ---- shapes, places, the segmentation beside it ---------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "size", "patch"),
    [
        (2, (32, 32), ()),
        (2, (70, 45), ()),
        (3, (9, 33, 20), (16, 16, 16)),
        (2, (3, 33, 40), ()),
        (2, (5, 6), ()),
    ],
)
def test_maps_lie_on_the_grid_of_their_skip_and_labels_are_those_of_segment(
    dims: int, size: tuple[int, ...], patch: tuple[int, ...], make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint = make_checkpoint(dims=dims, patch=patch, classes=("background", "a", "b"))
    image = Image(
        noise(1, *size), Geometry((3.0, 0.5, 0.4)[-len(size) :], (10.0, 20.0, 30.0)[-len(size) :], "mm")
    )
    record = inspected(checkpoint, image)
    plain = list(segment(checkpoint, image))[-1]
    assert isinstance(plain, Finished)
    np.testing.assert_allclose(record.segmentation.probabilities, plain.result.probabilities, atol=1e-6)
    assert np.array_equal(record.segmentation.labels, plain.result.labels)
    thin = len(size) - dims
    for level, skip in record.skips.items():
        factors = (1,) * thin + (2 ** (level - 1),) * dims
        grid = tuple(-(-n // f) for n, f in zip(size, factors, strict=True))
        for name in ("zero_fraction", "without_evidence", "psi", "psi_dense", "energy_kept"):
            assert getattr(skip, name).shape == grid, name
        assert skip.z is not None
        assert skip.z.shape == (max((8, 16)[level - 1] // 2, 8), *grid)
        for axis, f in enumerate(factors):
            fine, origin = image.geometry.spacing[axis], image.geometry.origin[axis]
            assert skip.geometry.spacing[axis] == pytest.approx(f * fine)
            assert skip.geometry.origin[axis] == pytest.approx(origin + (f - 1) / 2 * fine)
        for name in ("zero_fraction", "psi", "psi_dense", "energy_kept"):
            assert getattr(skip, name).min() >= 0
            assert getattr(skip, name).max() <= 1 + 1e-5


def test_a_resampled_image_has_its_maps_on_the_networks_grid(make_checkpoint: Make, noise: Callable) -> None:
    image = Image(noise(1, 60, 80), Geometry((1.0, 1.0), (100.0, 200.0), "mm"))
    record = inspected(make_checkpoint(spacing=(2.0, 2.0)), image)
    for level, shape in ((1, (30, 40)), (2, (15, 20))):
        geometry = record.skips[level].geometry
        assert record.skips[level].psi.shape == shape  # type: ignore[union-attr]
        edge = tuple(o - s / 2 for o, s in zip(geometry.origin, geometry.spacing, strict=True))
        assert edge == pytest.approx((99.5, 199.5))
        extent = [n * s for n, s in zip(shape, geometry.spacing, strict=True)]
        assert extent == pytest.approx([60, 80])
    assert record.segmentation.labels.shape == (60, 80)


@pytest.mark.parametrize("size", [(90, 70), (33, 45)])
def test_over_windows_z_is_the_u_of_one_window_thresholded(
    size: tuple[int, int], make_checkpoint: Make, noise: Callable
) -> None:
    """No mean of windows: every entry obeys its threshold, and psi stands at its very floor."""
    record = inspected(make_checkpoint(threshold=2.5), noise(1, *size))
    for skip in record.skips.values():
        assert skip.z is not None
        assert skip.u is not None
        assert skip.threshold is not None
        assert skip.psi is not None
        assert skip.without_evidence is not None
        threshold = skip.threshold[:, None, None]
        np.testing.assert_allclose(skip.z, np.sign(skip.u) * np.maximum(np.abs(skip.u) - threshold, 0), 1e-5)
        assert np.array_equal(skip.z == 0, np.abs(skip.u) <= threshold)
        assert skip.without_evidence.any()
        assert np.array_equal(skip.without_evidence, (skip.z == 0).all(axis=0))
        np.testing.assert_allclose(skip.zero_fraction, (skip.z == 0).mean(axis=0), atol=1e-6)
        assert (skip.psi[skip.without_evidence] == np.float32(skip.floor)).all()


def test_each_position_is_taken_from_the_window_whose_centre_is_nearest(
    make_checkpoint: Make, noise: Callable
) -> None:
    """Against the network's own passes over all windows, chosen by distance, position by position."""
    checkpoint, image = make_checkpoint(threshold=1.5), noise(1, 56, 72)
    model = checkpoint.build()
    seen = prepare(pixels(image), checkpoint.plan).array
    tiling = tile((56, 72), checkpoint.plan.patch, model.divisor)
    assert len(tiling.starts) > 4
    record = inspected(checkpoint, image)
    traces = {}
    padded = torch.from_numpy(np.pad(seen, ((0, 0), (0, tiling.padded[0] - 56), (0, tiling.padded[1] - 72))))
    for start in tiling.starts:
        traces[start] = GateTrace()
        with torch.no_grad():
            model(padded[(slice(None), *tiling.at(start))][None], traces[start])
    for level, skip in record.skips.items():
        f, empty, weights = 2 ** (level - 1), np.zeros(skip.energy.shape), np.zeros(skip.energy.shape)
        assert skip.u is not None
        for at in np.ndindex(skip.energy.shape):
            place = [(n + 0.5) * f for n in at]

            def distance(start: tuple[int, ...], place: list[float] = place) -> float:
                return max(abs(p - s - w / 2) for p, s, w in zip(place, start, tiling.window, strict=True))

            covering = [
                s
                for s in tiling.starts
                if all(a <= p < a + w for a, p, w in zip(s, place, tiling.window, strict=True))
            ]
            nearest = min(distance(start) for start in covering)
            inside = {s: tuple(n - a // f for n, a in zip(at, s, strict=True)) for s in covering}
            fields = [
                traces[s].skips[level].field[(0, slice(None), *inside[s])].numpy()  # type: ignore[index]
                for s in covering
                if distance(s) == nearest
            ]
            assert any(np.allclose(skip.u[(slice(None), *at)], field, atol=1e-5) for field in fields), at
            for start in covering:
                z = traces[start].skips[level].z
                assert z is not None
                weight = np.prod(
                    [
                        float(gaussian_weight(w // f)[n])
                        for n, w in zip(inside[start], tiling.window, strict=True)
                    ]
                )
                weights[at] += weight
                empty[at] += weight * bool((z[(0, slice(None), *inside[start])] == 0).all())
        share = float((empty / weights).mean())
        assert skip.measures["floor_pixel_fraction"] == pytest.approx(share, abs=1e-5)


def test_a_flat_mask_over_many_windows_finds_nothing(make_checkpoint: Make, noise: Callable) -> None:
    """Rounding of overlapping windows is not ranked."""
    label = np.zeros((90, 70), np.uint8)
    label[20:60, 10:40] = 1
    for gate in ("prosma", "spatial"):
        record = inspected(make_checkpoint(gate, threshold=1e6), noise(1, 90, 70), label=label)
        for skip in record.skips.values():
            assert skip.measures["psi_auc"] == 0.5
            assert skip.measures["floor_pixel_fraction"] == 1
    gathered = inspected(make_checkpoint("attention"), noise(1, 90, 70), label=label).skips[1]
    assert gathered.psi is not None
    jitter = 0.5 + 1e-7 * np.random.default_rng(0).standard_normal(gathered.psi.shape)
    assert auc(jitter, label == 1, label == 0) == 0.5


# ---- what the numbers are made of -----------------------------------------------------------------------


@pytest.mark.parametrize("gate", sorted(GATES))
def test_selectivity_and_relative_energy_are_those_of_the_raw_tensors(
    gate: str, make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(gate), noise(1, 32, 32)
    label = np.zeros((32, 32), np.uint8)
    label[8:24, 8:24] = 1
    record = inspected(checkpoint, image, label=label)
    for level, kept in traced(checkpoint, image).skips.items():
        skip = record.skips[level]
        x, gated = kept.skip[0].double().numpy(), kept.gated[0].double().numpy()
        explained = 0.0
        for before, after in zip(x, gated, strict=True):
            constant = (before * after).sum() / (before**2).sum() if before.any() else 0.0
            explained += ((constant * before) ** 2).sum()
        expected = 1 - explained / (gated**2).sum()
        assert skip.measures["selectivity"] == pytest.approx(expected, abs=1e-6)
        if gate in ("none", "channel", "scale"):
            assert skip.measures["selectivity"] == pytest.approx(0, abs=1e-6)
            assert skip.relative_energy is None
            continue
        assert skip.measures["selectivity"] > 1e-4
        assert kept.psi is not None
        energy, psi = (x**2).sum(axis=0), kept.psi[0, 0].double().numpy()
        mean = (psi**2 * energy).sum() / energy.sum()
        np.testing.assert_allclose(skip.relative_energy, psi**2 / mean, rtol=1e-4)
        inside = label[:: 2 ** (level - 1), :: 2 ** (level - 1)] == 1
        within = (psi**2 * energy)[inside].sum() / energy[inside].sum() / mean
        assert skip.measures["relative_energy_inside"] == pytest.approx(within, rel=1e-4)
        layer = skip_layer(record, level, "relative energy")
        assert layer is not None
        np.testing.assert_allclose(layer.data, np.log2((psi**2 / mean).clip(0.25, 4)), atol=1e-3)
        assert layer.limits == (-2, 2)


def test_a_constant_per_channel_is_no_selection(make_checkpoint: Make, noise: Callable) -> None:
    """Over many windows too: a gate that only scales has no selectivity, whatever it scales by."""
    checkpoint = make_checkpoint("scale")
    weights = {n: torch.linspace(-3, 3, len(t)) if "logit" in n else t for n, t in checkpoint.weights.items()}
    record = inspected(replace(checkpoint, weights=weights), noise(1, 90, 70))
    for skip in record.skips.values():
        assert skip.measures["selectivity"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("gate", sorted(GATES))
def test_a_gate_that_selects_nothing_stands_at_its_neutral_values(
    gate: str, make_checkpoint: Make, noise: Callable
) -> None:
    """Readouts at zero: psi and c are one half everywhere."""
    checkpoint = make_checkpoint(gate)
    silent = ("project", "excite", "logit")
    weights = {
        n: torch.zeros_like(t) if n.startswith("gates.") and any(s in n for s in silent) else t
        for n, t in checkpoint.weights.items()
    }
    if gate in ("prosma-exact", "attention"):  # psi = 1 - exp(-w|z|), and a norm before the sigmoid
        return
    label = np.zeros((32, 32), np.uint8)
    label[8:24, 8:24] = 1
    record = inspected(replace(checkpoint, weights=weights), noise(1, 32, 32), label=label)
    for skip in record.skips.values():
        for name, measure in MEASURES.items():
            neutral = measure.neutral(GATES[gate])
            if neutral is not None and name in skip.measures:
                assert skip.measures[name] == pytest.approx(neutral, abs=1e-6), name


def test_auc_among_errors_looks_only_where_label_and_prediction_differ(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), noise(1, 32, 32)
    label = np.zeros((32, 32), np.uint8)
    label[4:20, 6:26] = 1
    record = inspected(checkpoint, image, label=label)
    wrong = record.segmentation.labels != label
    psi = record.skips[1].psi
    assert psi is not None
    pairs = [(a > b) + 0.5 * (a == b) for a in psi[wrong & (label == 1)] for b in psi[wrong & (label == 0)]]
    assert pairs
    assert record.skips[1].measures["psi_auc_in_errors"] == pytest.approx(np.mean(pairs), abs=1e-4)
    assert "psi_auc_in_errors" not in inspected(checkpoint, image).skips[1].measures
    label[16:] = IGNORE
    sparse = inspected(checkpoint, image, label=label).skips[1]
    assert sparse.wrong is not None
    np.testing.assert_array_equal(sparse.wrong[:16], wrong[:16])
    assert not sparse.wrong[16:].any()  # nobody knows


def test_a_stack_is_inspected_slice_by_slice(make_checkpoint: Make) -> None:
    rng = np.random.default_rng(0)
    planes = [rng.permuted(np.linspace(-1, 1, 900)).reshape(1, 30, 30).astype(np.float32) for _ in range(3)]
    checkpoint = make_checkpoint()
    stack = inspected(checkpoint, np.stack(planes, axis=1))
    for z, plane in enumerate(planes):
        alone = inspected(checkpoint, plane)
        for level in (1, 2):
            np.testing.assert_allclose(stack.skips[level].psi[z], alone.skips[level].psi, atol=1e-5)  # type: ignore[index]


def test_progress_counts_the_windows_and_closing_is_clean(make_checkpoint: Make, noise: Callable) -> None:
    events = list(inspect_gates(make_checkpoint(), pixels(noise(1, 70, 40))))
    (started,) = [event for event in events if isinstance(event, Started)]
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, started.total + 1))
    run = inspect_gates(make_checkpoint(), pixels(noise(1, 70, 40)))
    list(islice(run, 3))
    run.close()  # type: ignore[attr-defined]


# ---- every gate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", sorted(GATES))
def test_every_gate_can_be_inspected(gate: str, make_checkpoint: Make, noise: Callable) -> None:
    record = inspected(make_checkpoint(gate), noise(1, 40, 36))
    assert record.gate == gate
    for skip in record.skips.values():
        has_mask = gate not in ("none", "channel", "scale")
        assert (skip.psi is not None) == has_mask
        assert (skip.z is not None) == (gate in (*SPARSE, "dense"))
        assert (skip.psi_dense is not None) == (skip.threshold is not None) == (gate in SPARSE)
        assert (skip.channel is not None) == (gate in ("prosma", "prosma-exact", "dense", "channel", "scale"))
        assert ("psi_mean" in skip.measures) == has_mask
        assert 0 < skip.measures["retained_energy"] <= 1 + 1e-6
        assert (gate == "none") == (skip.measures["retained_energy"] == pytest.approx(1))
    names = {layer.name for layer in map_layers(record, kinds=KINDS)}
    assert ("skip 1 psi" in names) == (gate not in ("none", "channel", "scale"))
    assert ("skip 1 psi dense" in names) == (gate in SPARSE)
    assert "skip 1 energy kept" in names


def test_a_model_without_gates_says_so(make_checkpoint: Make, noise: Callable) -> None:
    def notices(gate: str) -> list[str]:
        events = inspect_gates(make_checkpoint(gate), pixels(noise(1, 32, 32)))
        return [event.message for event in events if isinstance(event, Notice)]

    assert any("no gates" in message for message in notices("none"))
    assert not any("no gates" in message for message in notices("prosma"))


# ---- foreground, second models, bad input ----------------------------------------------------------------


def test_foreground_measures_use_the_label_and_else_the_prediction(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), noise(1, 33, 46)
    label = np.zeros((33, 46), np.uint8)
    label[8:23, 11:30] = 1
    record = inspected(checkpoint, image, label=label)
    assert record.reference == "label"
    for level, skip in record.skips.items():
        f = 2 ** (level - 1)
        assert skip.psi is not None
        inside, outside = [], []
        for at in np.ndindex(skip.psi.shape):
            covered = label[tuple(slice(f * n, f * n + f) for n in at)]
            value = float(np.round(skip.psi[at], 5))  # so far psi is ranked
            (inside if covered.mean() >= 0.5 else outside).append(value)
        assert skip.measures["psi_fg_bg_ratio"] == pytest.approx(np.mean(inside) / np.mean(outside), rel=1e-4)
        wins = (np.array(inside)[:, None] > np.array(outside)) + 0.5 * (
            np.array(inside)[:, None] == np.array(outside)
        )
        assert skip.measures["psi_auc"] == pytest.approx(wins.mean(), abs=1e-6)
    assert inspected(checkpoint, image).reference == "prediction"


def test_without_foreground_or_background_there_is_no_contrast_to_tell(
    make_checkpoint: Make, noise: Callable
) -> None:
    for fill in (0, 1):
        label = np.full((32, 32), fill, np.uint8)
        measures = inspected(make_checkpoint(), noise(1, 32, 32), label=label).skips[1].measures
        assert "psi_auc" not in measures
        assert "psi_fg_bg_ratio" not in measures


@given(arrays(np.float32, (4, 5), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])), arrays(bool, (4, 5)))
def test_auc_is_the_share_of_pairs_that_are_ranked_rightly(psi: np.ndarray, inside: np.ndarray) -> None:
    found = auc(psi, inside, ~inside)
    if inside.all() or not inside.any():
        assert found is None
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in psi[inside] for b in psi[~inside]]
    assert found == pytest.approx(np.mean(pairs))


def test_a_second_model_is_shown_beside_the_first(make_checkpoint: Make, noise: Callable) -> None:
    record = inspected(make_checkpoint(), noise(1, 40, 40), second=make_checkpoint("attention", seed=8))
    assert record.second is not None
    assert (record.gate, record.second.gate) == ("prosma", "attention")
    layer = skip_layer(record, 2, "second model")
    assert layer is not None
    assert layer.name == "skip 2 psi (attention)"
    assert layer.data is record.second.skips[2].psi
    assert layer.limits == (0, 1)


def test_a_second_model_of_other_classes_is_refused(make_checkpoint: Make, noise: Callable) -> None:
    other = make_checkpoint(classes=("background", "kidney"))
    with pytest.raises(DataError, match=r"'second' knows the classes background, kidney, 'first' .*lesion"):
        next(inspect_gates(make_checkpoint(), pixels(noise(1, 32, 32)), second=other))


def test_a_label_of_another_shape_is_refused(make_checkpoint: Make, noise: Callable) -> None:
    with pytest.raises(DataError, match=r"'scan' has shape \(32, 31\) but the image has \(32, 32\)"):
        next(
            inspect_gates(make_checkpoint(), pixels(noise(1, 32, 32)), name="scan", label=np.zeros((32, 31)))
        )


def test_an_image_that_does_not_fit_is_refused(make_checkpoint: Make, noise: Callable) -> None:
    with pytest.raises(DataError, match=r"expects 1 channel\(s\) but the image has 3"):
        next(inspect_gates(make_checkpoint(), pixels(noise(3, 32, 32))))


# ---- layers ---------------------------------------------------------------------------------------------


def test_layers_have_fixed_limits_and_say_what_they_mean(make_checkpoint: Make, noise: Callable) -> None:
    record = inspected(make_checkpoint(), noise(1, 40, 40), second=make_checkpoint("attention"))
    layers = map_layers(record, kinds=KINDS)
    assert [layer.name.split()[1] for layer in layers] == ["2"] * len(KINDS) + ["1"] * len(KINDS)
    for layer in layers:
        limits = {"psi - dense": (-1, 1), "relative energy": (-2, 2)}
        kind = layer.name.split(" ", 2)[2]
        assert layer.limits == limits.get(kind, (0, 1)), layer.name
        assert layer.data.min() >= layer.limits[0] - 1e-6
        assert layer.data.max() <= layer.limits[1] + 1e-5
        assert layer.meaning
        assert "removed" not in layer.meaning
    floor = f"{record.skips[1].floor:.2f}"
    assert floor in next(layer.meaning for layer in layers if layer.name == "skip 1 psi")
    evidence = next(layer for layer in layers if layer.name == "skip 1 without evidence")
    assert evidence.kind == "labels"
    assert evidence.data.dtype == np.uint8
    dense = next(layer for layer in layers if layer.name == "skip 1 psi dense")
    assert "counterfactual" in dense.meaning
    assert {layer.name for layer in map_layers(record, [2], ["psi"])} == {"skip 2 psi"}


def test_a_channel_of_z_keeps_its_sign_on_symmetric_limits(make_checkpoint: Make, noise: Callable) -> None:
    record = inspected(make_checkpoint(), noise(1, 40, 40))
    layer = z_layer(record, 1, 3)
    z = record.skips[1].z
    assert z is not None
    assert np.array_equal(layer.data, z[3])
    assert z.min() < 0 < z.max()
    assert layer.limits == (-np.abs(z).max(), np.abs(z).max())
    with pytest.raises(ValueError, match="no channel 99"):
        z_layer(record, 1, 99)


def test_the_soft_threshold_of_the_field_is_what_the_record_shows(
    make_checkpoint: Make, noise: Callable
) -> None:
    checkpoint, image = make_checkpoint(), noise(1, 32, 32)
    kept = traced(checkpoint, image).skips[1]
    assert kept.field is not None
    z = torch.stack(
        [
            F.softshrink(channel, float(value))
            for channel, value in zip(
                kept.field[0], F.softplus(checkpoint.weights["gates.0.spatial.theta"]), strict=True
            )
        ]
    )
    np.testing.assert_allclose(inspected(checkpoint, image).skips[1].z, z, atol=1e-5)


def test_what_is_unlabelled_is_neither_inside_nor_outside(make_checkpoint: Make, noise: Callable) -> None:
    image = Image(noise(1, 32, 32), Geometry.pixels(2))
    label = np.zeros((32, 32), np.uint8)
    label[8:16, 8:16] = 1
    sparse = label.copy()
    sparse[:, 20:] = 255
    record = inspected(make_checkpoint(), image, label=sparse)
    psi = record.skips[1].psi
    assert psi is not None
    ratio = psi[label == 1].mean() / psi[(label == 0) & (sparse != 255)].mean()
    assert record.skips[1].measures["psi_fg_bg_ratio"] == pytest.approx(float(ratio), rel=1e-5)
