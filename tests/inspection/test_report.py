"""The pictures, tables and map files of a record; maps lie in the right place of the patient."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import tifffile
from matplotlib.figure import Figure
from matplotlib.text import Text

from napari_prosma.data.case import Image
from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError
from napari_prosma.events import Finished
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.citing import content_of, of_one_image
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.report import (
    channel_plot,
    channel_table,
    gate_panel,
    measures_table,
    shown_slice,
    write_report,
    write_tables,
)
from napari_prosma.inspection.trace import cautions, inspect_gates
from napari_prosma.inspection.window import open_window
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.gate_kinds import GATES

Make = Callable[..., Checkpoint]
OBLIQUE_AND_FLIPPED = np.array(
    [[0, -2.9, 0.3, 10.5], [0.8, 0, 0.02, -7], [0.01, 0.3, -2.2, 31], [0, 0, 0, 1]]
)


def record_of(checkpoint: Checkpoint, image: Image, **options: object) -> GateRecord:
    last = list(inspect_gates(checkpoint, image, **options))[-1]  # type: ignore[arg-type]
    assert isinstance(last, Finished)
    assert isinstance(last.result, GateRecord)
    return last.result


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words_of(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def planar(make_checkpoint: Make) -> GateRecord:
    array = np.random.default_rng(0).normal(size=(1, 33, 40)).cumsum(axis=-1).astype(np.float32)
    image = Image(array, Geometry((0.5, 0.25), (0.0, 0.0), "mm"))
    label = np.zeros((33, 40), np.uint8)
    label[5:20, 8:30] = 1
    return record_of(
        make_checkpoint(), image, name="scan", label=label, second=make_checkpoint("attention", seed=5)
    )


def test_a_plane_gives_pictures_tables_and_tiff(planar: GateRecord, tmp_path: Path) -> None:
    written = write_report(planar, tmp_path / "new" / "folder")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert written[0].name == "scan_gates.png"
    names = {path.name for path in written}
    assert {"scan_channels.png", "scan_measures.csv", "scan_channels.csv", "scan_labels.tif"} <= names
    assert {f"scan_skip_{n}_psi.tif" for n in (1, 2)} <= names
    assert "scan_skip_1_psi_(attention).tif" in names
    for path in written:
        if path.suffix == ".png":
            with PIL.Image.open(path) as picture:
                assert min(picture.size) > 300
                assert len(np.unique(np.asarray(picture))) > 50
    psi = tifffile.imread(tmp_path / "new" / "folder" / "scan_skip_2_psi.tif")
    np.testing.assert_array_equal(psi, planar.skips[2].psi)
    back = read_image(tmp_path / "new" / "folder" / "scan_skip_2_psi.tif")
    assert back.geometry.spacing == pytest.approx((1.0, 0.5), rel=1e-3)


def test_measures_are_written_with_one_row_per_skip_and_model(planar: GateRecord, tmp_path: Path) -> None:
    write_report(planar, tmp_path)
    rows = rows_of(tmp_path / "scan_measures.csv")
    assert [(row["gate"], row["skip"]) for row in rows] == [
        ("prosma", "1"),
        ("prosma", "2"),
        ("attention", "1"),
        ("attention", "2"),
    ]
    for row, expected in zip(rows, measures_table(planar), strict=True):
        assert row["foreground"] == "label"
        for name, value in expected.items():
            assert row[name] == str(value)
    assert {"z_zero_fraction", "floor_pixel_fraction", "gate_floor", "psi_auc", "retained_energy"} <= set(
        rows[0]
    )
    assert rows[2]["z_zero_fraction"] == ""


def test_one_json_says_which_model_and_image_the_numbers_are_of(planar: GateRecord, tmp_path: Path) -> None:
    write_report(planar, tmp_path, {"sentences": {"1": "said"}, "tried": {"dice": float("nan")}})
    (path,) = tmp_path.glob("*_inspection.json")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {name: each["gate"] for name, each in kept["models"].items()} == {
        "model": planar.gate,
        **({} if planar.second is None else {"second model": planar.second.gate}),
    }
    assert kept["models"]["model"]["weights"] == content_of(planar.checkpoint)
    assert kept["image"]["shape"] == list(planar.image.array.shape)
    changed = replace(planar, image=replace(planar.image, array=planar.image.array + 1))
    assert of_one_image(changed, {})["image"]["content"] != kept["image"]["content"]
    for level, skip in planar.skips.items():
        assert kept["measures"]["model"][str(level)] == pytest.approx(skip.measures)
    assert kept["versions"].keys() >= {"napari-prosma", "torch", "Python"}
    assert kept["sentences"] == {"1": "said"}
    assert kept["tried"] == {"dice": None}


def test_what_norms_counted_does_not_change_the_hash_of_a_model(planar: GateRecord) -> None:
    held = planar.checkpoint

    def with_one_more(end: str) -> str:
        name = next(name for name in held.weights if name.endswith(end))
        return content_of(replace(held, weights=held.weights | {name: held.weights[name] + 1}))

    assert with_one_more("num_batches_tracked") == content_of(held)
    assert with_one_more("running_mean") != content_of(held)


def test_channel_table_has_every_channel_and_its_threshold_in_spreads(planar: GateRecord) -> None:
    rows = channel_table(planar)
    for level, skip in planar.skips.items():
        skip_rows = [row for row in rows if row["skip"] == level]
        assert skip.channel is not None
        assert skip.threshold is not None
        assert skip.field_spread is not None
        gates = [row["c"] for row in skip_rows if row["kind"] == "skip channel"]
        np.testing.assert_allclose(np.array(gates, float), skip.channel)
        latent = [row for row in skip_rows if row["kind"] == "latent channel"]
        np.testing.assert_allclose(
            np.array([row["lambda_over_std"] for row in latent], float),
            skip.threshold / skip.field_spread,
            rtol=1e-6,
        )
        assert skip.channel_zeros is not None
        assert [row["alive"] == "no" for row in latent] == (skip.channel_zeros == 1).tolist()


def test_the_panel_prints_the_floor_and_what_is_exactly_zero(
    planar: GateRecord, make_checkpoint: Make
) -> None:
    words = words_of(gate_panel(planar))
    assert f"floor {planar.skips[1].floor:.2f}" in words
    assert "Exactly zero: entries of z" in words
    assert "removed" not in words
    image = Image(planar.image.array, planar.image.geometry)
    assert "psi is exactly zero where z is empty" in words_of(
        gate_panel(record_of(make_checkpoint("prosma-exact"), image))
    )
    for gate in ("attention", "dense", "channel", "none"):
        words = words_of(gate_panel(record_of(make_checkpoint(gate), image)))
        assert "no threshold: nothing in it is exactly zero" in words
        assert "Exactly zero" not in words


@pytest.mark.parametrize("gate", sorted(GATES))
def test_every_gate_has_its_pictures(gate: str, make_checkpoint: Make, noise: Callable) -> None:
    record = record_of(make_checkpoint(gate), Image(noise(1, 32, 32), Geometry.pixels(2)))
    assert len(gate_panel(record).axes) > 1
    assert len(channel_plot(record).axes) == 4


# ---- places ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(make_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GateRecord]:
    """A CT stored with flipped and exchanged axes, inspected in 3D, with its report."""
    folder = tmp_path_factory.mktemp("volume")
    voxels = np.random.default_rng(0).normal(size=(21, 10, 15)).cumsum(axis=0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, OBLIQUE_AND_FLIPPED), folder / "ct.nii.gz")
    checkpoint = make_checkpoint(dims=3, patch=(16, 16, 16))
    record = record_of(checkpoint, read_image(folder / "ct.nii.gz"), name="ct")
    write_report(record, folder / "report")
    return folder, record


def test_labels_of_a_volume_have_the_affine_of_the_image_bit_for_bit(volume: tuple[Path, GateRecord]) -> None:
    folder, record = volume
    labels, image = (nibabel.load(folder / name) for name in ("report/ct_labels.nii.gz", "ct.nii.gz"))
    assert np.array_equal(labels.affine, image.affine)
    source = record.image.geometry.source
    assert source is not None
    assert np.array_equal(np.asarray(labels.dataobj), source.to_stored(record.segmentation.labels))


@pytest.mark.parametrize("level", [1, 2])
def test_a_coarse_map_lies_over_the_voxels_that_it_covers(
    level: int, volume: tuple[Path, GateRecord]
) -> None:
    """Centre of a coarse voxel = mean of the centres of the fine voxels it covers, in the patient."""
    folder, record = volume
    factor, source = 2 ** (level - 1), record.image.geometry.source
    shape = record.image.array.shape[1:]
    assert source is not None
    stored = nibabel.load(folder / "report" / f"ct_skip_{level}_psi.nii.gz")
    values = np.asarray(stored.dataobj)
    psi = record.skips[level].psi
    assert psi is not None
    to_patient, checked = source.array_affine(shape), 0
    from_stored = np.linalg.inv(stored.affine)
    for at in np.ndindex(psi.shape):
        covered = np.stack(
            np.meshgrid(*(np.arange(factor * n, factor * n + factor) for n in at)), -1
        ).reshape(-1, 3)
        centre = (to_patient @ np.append(covered.mean(axis=0), 1))[:3]
        index = (from_stored @ np.append(centre, 1))[:3]
        np.testing.assert_allclose(index, np.round(index), atol=1e-4)
        assert values[tuple(np.round(index).astype(int))] == psi[at]
        checked += 1
    assert checked == psi.size


def test_a_stack_without_a_patient_is_written_as_tiff(
    make_checkpoint: Make, noise: Callable, tmp_path: Path
) -> None:
    record = record_of(make_checkpoint(), Image(noise(1, 3, 32, 32), Geometry.pixels(3)), name="stack")
    names = {path.name for path in write_report(record, tmp_path)}
    assert "stack_labels.tif" in names
    assert tifffile.imread(tmp_path / "stack_skip_2_psi.tif").shape == (3, 16, 16)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(planar: GateRecord, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("keep me")
    with pytest.raises(DataError, match=r"cannot write '.*notes"):
        write_report(planar, tmp_path / "notes")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("name", ["a/b", "../a", "CT: liver", "a\\b"])
def test_whatever_a_layer_is_called_its_files_stay_in_the_folder(
    name: str, planar: GateRecord, tmp_path: Path
) -> None:
    written = write_tables(replace(planar, name=name), tmp_path / "chosen")
    assert [path.parent for path in written] == [tmp_path / "chosen"] * 2
    assert sorted(tmp_path.rglob("*.csv")) == sorted(written)
    assert not any(set(path.name) & set(':\\*?"<>|') for path in written)


@pytest.mark.parametrize("size", [(1, 1), (1, 16), (16, 1)])
def test_an_image_one_element_wide_has_a_picture(
    size: tuple[int, int], make_checkpoint: Make, noise: Callable
) -> None:
    """It has no outline."""
    image = Image(noise(1, *size), Geometry.pixels(2))
    record = record_of(make_checkpoint(), image, label=np.ones(size, int))
    assert gate_panel(record).axes


def test_the_numbers_of_one_image_hold_what_has_to_be_known_of_it(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint()
    checkpoint = replace(checkpoint, plan=checkpoint.plan.model_copy(update={"axes": 3}))
    image = Image(np.ones((1, 16, 16), np.float32), Geometry.pixels(2), ("a slice is missing",))
    told = of_one_image(record_of(checkpoint, image), {})["notices"]["model"]
    assert told[0] == "a slice is missing"
    assert any("trained on images with 3 axes, this one has 2" in said for said in told)
    sagittal = record_of(across_x(make_checkpoint()), Image(np.ones((1, 16, 16, 2)), Geometry.pixels(3)))
    model = of_one_image(sagittal, {})["models"]["model"]
    assert model["network"] == "2D in slices across x (plane of z and y)"


# ---- slices ---------------------------------------------------------------------------------------------


def across_x(checkpoint: Checkpoint) -> Checkpoint:
    """The 2D model, as if it had learned from sagittal slices of volumes."""
    return replace(checkpoint, plan=checkpoint.plan.model_copy(update={"axes": 3, "slice_axis": 2}))


def test_a_2d_model_is_shown_in_the_slices_that_it_sees(make_checkpoint: Make) -> None:
    """Acquired across z, but looked at across x; the numbers are those of the whole volume."""
    array = np.random.default_rng(0).standard_normal((1, 12, 16, 5)).astype(np.float32)
    image = Image(array, Geometry((4.0, 1.0, 1.0), (0.0, 0.0, 0.0), "mm"))
    label = np.zeros((12, 16, 5), np.uint8)
    label[2:9, 3:9, 3] = 1
    record = record_of(across_x(make_checkpoint()), image, label=label)
    assert shown_slice(record) == (slice(None), slice(None), 3)
    said = words_of(gate_panel(record))
    assert "image, slice x 3" in said
    assert "Pictures: slice x 3; numbers: the whole image." in said
    assert "relative energy, log2" in said
    by_pictures = record_of(make_checkpoint(), image, label=label)  # which a 2D image taught
    assert isinstance(shown_slice(by_pictures)[0], int)


def test_a_frame_is_called_so_and_one_channel_of_several_too(make_checkpoint: Make) -> None:
    series = Image(
        np.random.default_rng(0).random((2, 3, 16, 16), np.float32),
        Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "pixel", ("t", "y", "x")),
    )
    said = words_of(gate_panel(record_of(make_checkpoint(channels=2), series)))
    assert re.search(r"image, first of 2 channels, frame \d \|", said)
    picture = Image(np.random.default_rng(0).random((1, 16, 16), np.float32), Geometry.pixels(2))
    said = words_of(gate_panel(record_of(make_checkpoint(), picture)))
    assert "| image |" in said
    assert "Pictures" not in said


def test_a_window_of_one_slice_says_which(make_checkpoint: Make) -> None:
    geometry = Geometry((4.0, 1.0, 1.0), (0.0, 0.0, 0.0), "mm")
    label = np.zeros((12, 40, 5), np.uint8)
    label[4:6, 20:30, 3] = 1
    volume = Image(np.zeros((1, 12, 40, 5), np.float32), geometry)
    window = open_window(across_x(make_checkpoint()), volume, label=label)
    assert window.in_words() == "12 x 32 of 12 x 40 in slice x 3 (0 to 4)"
    thin = open_window(across_x(make_checkpoint()), Image(volume.array[..., :1], geometry))
    assert thin.in_words() == "12 x 32 of 12 x 40"  # there is one slice only
    flat = open_window(make_checkpoint(), Image(np.zeros((1, 40, 48), np.float32), Geometry.pixels(2)))
    assert flat.in_words() == "32 x 32 of 40 x 48"


@pytest.mark.parametrize(
    ("across", "shape", "said"),
    [
        (0, (4, 4, 4), ()),
        (
            1,
            (4, 4, 4),
            ("y", "z and x"),
        ),
        (
            2,
            (4, 4, 4),
            ("x", "z and y"),
        ),
        (2, (4, 4, 1), ()),
    ],
)
def test_another_plane_than_the_usual_is_told(
    across: int, shape: tuple[int, ...], said: tuple[str, ...], make_checkpoint: Make
) -> None:
    checkpoint = make_checkpoint()
    changes = {"axes": 3, "slice_axis": across, "unit": "pixel"}
    checkpoint = replace(checkpoint, plan=checkpoint.plan.model_copy(update=changes), place={"settled": True})
    image = Image(np.ones((1, *shape), np.float32), Geometry.pixels(3))
    words = "The network sees slices across {} one by one: look at the maps in the plane of {}."
    assert cautions(checkpoint, image) == ((words.format(*said),) if said else ())
