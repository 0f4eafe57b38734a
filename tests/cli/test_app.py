"""The shell: what the commands write, what they say of bad input, and how they end."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from typer.testing import CliRunner, Result

from napari_prosma import __version__
from napari_prosma.app.batch import Batch, ImageSegmented, segment_batch
from napari_prosma.app.runs import labelled_as
from napari_prosma.cli.app import app
from napari_prosma.data.case import Case
from napari_prosma.data.labels import IGNORE, LabelRule
from napari_prosma.data.readers import read_label
from napari_prosma.data.texts import read_rows
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation import files
from napari_prosma.segmentation.batch import RegionTable
from napari_prosma.segmentation.cleaning import Cleaning
from napari_prosma.segmentation.files import Wanted

RUN_FILES = {"best.safetensors", "last.safetensors", "run.json", "metrics.csv"}
QUICK = ("--widths", "4,6,8", "--epochs", "1", "--device", "cpu", "--side", "32")


def prosma(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result: Result) -> str:
    """Everything that was printed, on one line."""
    return " ".join((result.stdout + result.stderr).split())


def error_of(result: Result) -> str:
    """The one error of a command that found bad input; nothing like a traceback beside it."""
    assert result.exit_code == 2, said(result)
    assert "Traceback" not in said(result)
    assert result.stderr.count("error:") == 1
    return " ".join(result.stderr.split())


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)
    return path


def figures_of(table: Path, column: str) -> dict[str, float]:
    """A column of a table by case."""
    with open(table, newline="") as file:
        return {row["case"]: float(row[column]) for row in csv.DictReader(file)}


def files_below(folder: Path) -> set[str]:
    """Names of what a user sees there."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(".")}


@pytest.fixture
def folder(tmp_path: Path, ultrasound: list[Case]) -> Path:
    """A folder ``data`` with images and masks of three phantoms."""
    for case in ultrasound[:3]:
        assert case.read_label is not None
        save(tmp_path / "data" / "images" / f"{case.name}.png", case.read_image().array[0])
        save(tmp_path / "data" / "masks" / f"{case.name}.png", case.read_label() * 255)
    return tmp_path / "data"


@pytest.fixture
def model(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make_checkpoint())
    return path


@pytest.fixture
def scan(tmp_path: Path, ultrasound: list[Case]) -> Path:
    return save(tmp_path / "scan.png", ultrasound[4].read_image().array[0])


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch goes once through the cases and no further."""
    monkeypatch.setattr("napari_prosma.training.tempo.LEAST_STEPS", 1)


# ---- what works -----------------------------------------------------------------------------------------


def test_train_segment_and_inspect_one_after_the_other(folder: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    trained = prosma("train", folder, "--out", run, *QUICK)
    assert trained.exit_code == 0, said(trained)
    assert "Images and masks in two folders: 3 cases" in said(trained)
    assert "epoch 1/1 loss" in said(trained)
    assert "best validation Dice" in said(trained)
    assert files_below(run) == RUN_FILES
    assert load_checkpoint(run).spec.widths == (4, 6, 8)

    images = sorted((folder / "images").iterdir())
    segmented = prosma("segment", run, *images[:2], "--out", out, "--probabilities", "--device", "cpu")
    assert segmented.exit_code == 0, said(segmented)
    for image in images[:2]:
        labels = np.asarray(PIL.Image.open(out / f"{image.stem}_labels.png"))
        assert labels.shape == (48, 48)
        assert set(np.unique(labels)) <= {0, 1}
        assert tifffile.imread(out / f"{image.stem}_probabilities.tif").shape == (2, 48, 48)

    mask = folder / "masks" / images[0].name
    seen = prosma("inspect", run, images[0], "--label", mask, "--out", tmp_path / "gates", "--device", "cpu")
    assert seen.exit_code == 0, said(seen)
    assert "z_zero_fraction" in said(seen)
    assert f"{images[0].stem}_gates.png" in files_below(tmp_path / "gates")
    kept = json.loads((tmp_path / "gates" / f"{images[0].stem}_inspection.json").read_text(encoding="utf-8"))
    words = " ".join(said(seen).split())
    assert set(kept["sentences"]) == set(kept["tried"]) == {"1", "2"}
    for sentence in kept["sentences"].values():  # what the panel says, too
        assert sentence in words
    assert words.count("One image proves nothing about others.") == 1


def test_what_a_worker_inspects_on_its_device_is_tried_here_on_any(
    model: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop has no such device; the worker is this process on its processor."""

    def called(scheduler: str | None, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: function(*given, **(named | {"device": "cpu"}))

    monkeypatch.setattr("napari_prosma.app.elsewhere.called", called)
    words = ("--scheduler", "tcp://there:1", "--device", "mps")
    result = prosma("inspect", model, scan, "--out", tmp_path / "gates", *words)
    assert result.exit_code == 0, said(result)


def test_a_second_model_is_inspected_beside_the_first(
    model: Path, scan: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "other.safetensors", make_checkpoint("attention"))
    result = prosma(
        "inspect", model, scan, "--compare", tmp_path / "other.safetensors", "--out", tmp_path / "gates"
    )
    assert result.exit_code == 0, said(result)
    assert "scan_skip_1_psi_(attention).tif" in files_below(tmp_path / "gates")


def test_labels_are_doubted_by_a_run_and_by_its_model(folder: Path, tmp_path: Path) -> None:
    run, quick = tmp_path / "run", (*QUICK, "--validation", "0")
    trained = prosma("train", folder, "--out", run, *quick, "--objective", "dale")
    assert trained.exit_code == 0, said(trained)
    names = {path.stem for path in (folder / "images").iterdir()}
    listed = figures_of(run / "label_confidence.csv", "absolute_error")
    assert listed.keys() == names

    result = prosma("suspicious", run, "--out", tmp_path / "doubts", "--device", "cpu")
    assert result.exit_code == 0, said(result)
    assert {"doubted_cases.csv", "doubted_regions.csv"} < files_below(tmp_path / "doubts")
    assert all(name in said(result) for name in names)
    # Of the trained network: the only epoch began with another one.
    assert figures_of(tmp_path / "doubts" / "doubted_cases.csv", "absolute error") == pytest.approx(
        listed, abs=1e-3
    )

    again = prosma("train", folder, "--out", run, "--overwrite", *quick)
    assert again.exit_code == 0, said(again)
    assert files_below(run) == RUN_FILES  # a list of the run before would be taken for one of this


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """A folder ``slices`` with three volumes, of which slices 0 and 5 are not labelled."""
    rng = np.random.default_rng(0)
    for n in range(3):
        for kind in ("images", "masks"):
            (tmp_path / "slices" / kind).mkdir(parents=True, exist_ok=True)
        label = np.zeros((6, 32, 32), np.uint8)
        label[1:5, 8:20, 8:20] = 255
        image = label / 255 + rng.normal(0, 0.3, label.shape)
        tifffile.imwrite(tmp_path / "slices" / "images" / f"v{n}.tif", image.astype(np.float32))
        tifffile.imwrite(tmp_path / "slices" / "masks" / f"v{n}.tif", label)
    return tmp_path / "slices"


@pytest.mark.parametrize("rule_is_kept", [True, False])
def test_slices_that_nobody_labelled_are_not_doubted(
    slices: Path, tmp_path: Path, rule_is_kept: bool
) -> None:
    run = tmp_path / "run"
    trained = prosma("train", slices, "--out", run, *QUICK, "--labelled", "slices", "--validation", "0")
    assert trained.exit_code == 0, said(trained)
    if not rule_is_kept:  # as a run from Python has it
        kept = load_checkpoint(run)
        save_checkpoint(run / "best.safetensors", replace(kept, config={**kept.config, "labels": None}))
    result = prosma("suspicious", run, "--out", tmp_path / "doubts", "--device", "cpu")
    assert result.exit_code == 0, said(result)
    doubted = tifffile.imread(tmp_path / "doubts" / "v0_doubt.tif")
    assert [bool(plane.any()) for plane in doubted] == [False, True, True, True, True, False]


@pytest.mark.parametrize("stored", [(0, 1), (0, 1, 2)], ids=["complete", "scribbles"])
def test_labels_of_a_model_of_scribbles_are_scribbles_only_where_they_look_like_them(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, stored: tuple[int, ...]
) -> None:
    mask = np.zeros((32, 32), np.uint8)
    for value in stored[1:]:
        mask[10 * value : 10 * value + 5] = value
    save(tmp_path / "data" / "images" / "a.png", np.full((32, 32), 9, np.uint8))
    save(tmp_path / "data" / "masks" / "a.png", mask)
    names = ("background", "foreground")
    rule = asdict(LabelRule("values", names, (1, 2), unlabelled=0))
    for kept in (rule, None):
        config = {"labelled": "scribbles", "labels": kept}
        checkpoint = replace(make_checkpoint(classes=names), config=config)
        data_set, _ = labelled_as(checkpoint, tmp_path / "data")
        read = data_set.cases[0].read_label
        assert read is not None
        assert set(np.unique(read())) == ({0, 1} if stored == (0, 1) else {0, 1, IGNORE})


def test_a_number_that_stood_for_unlabelled_in_the_run_stands_for_it_where_classes_have_the_same_names(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[5:10], mask[20:25] = 1, 255
    save(tmp_path / "data" / "images" / "a.png", np.full((32, 32), 9, np.uint8))
    save(tmp_path / "data" / "masks" / "a.png", mask)
    names = ("background", "foreground")
    rule = asdict(LabelRule("values", names, (0, 1), unlabelled=255))
    data_set, _ = labelled_as(
        replace(make_checkpoint(classes=names), config={"labels": rule}), tmp_path / "data"
    )
    read = data_set.cases[0].read_label
    assert read is not None
    np.testing.assert_array_equal(read(), mask)


def test_a_link_that_leads_back_to_itself_is_no_folder_for_a_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in error_of(prosma("train", folder, "--out", tmp_path / "loop", *QUICK))


def test_labels_go_by_their_names_for_a_model_or_are_told(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[5:10], mask[20:25] = 1, 2
    save(tmp_path / "images" / "a.png", np.full((32, 32), 9, np.uint8))
    save(tmp_path / "labels" / "a.png", mask)
    model = make_checkpoint(classes=("background", "liver", "tumour"))
    told = {}
    for names in (("tumour", "liver"), ("liver", "lesion"), ("tumour", "cyst")):
        (tmp_path / "classes.csv").write_text(f"value,name\n0,background\n1,{names[0]}\n2,{names[1]}\n")
        data_set, notices = labelled_as(model, tmp_path)
        read = data_set.cases[0].read_label
        told[names] = (None if read is None else read()[[7, 22], 0].tolist(), " ".join(notices))
    assert told["tumour", "liver"][0] == [2, 1]
    assert told["liver", "lesion"][0] == [1, 2]
    assert "'lesion' is taken for 'tumour'" in told["liver", "lesion"][1]
    assert told["tumour", "cyst"][0] is None
    assert "the labels are not used: the labels call 1 'tumour'" in told["tumour", "cyst"][1]


def test_a_model_that_does_not_know_its_data_is_told_what_to_doubt(model: Path, tmp_path: Path) -> None:
    told = error_of(prosma("suspicious", model, "--out", tmp_path / "doubts"))
    assert "does not say what it was trained on; give a folder" in told
    assert not (tmp_path / "doubts").exists()


def test_a_folder_of_images_is_segmented_and_brackets_in_names_are_no_markup(
    model: Path, scan: Path, tmp_path: Path
) -> None:
    """``out [/red].png`` would close a colour, ``[bold].png`` would open a weight."""
    for name in ("red].png", "[bold].png"):
        save(tmp_path / "many [" / name, np.asarray(PIL.Image.open(scan)))
    result = prosma("segment", model, tmp_path / "many [", "--out", tmp_path / "out [", "--device", "cpu")
    assert result.exit_code == 0, said(result)
    assert files_below(tmp_path / "out [") == {"red]_labels.png", "[bold]_labels.png"}
    assert f"red].png: {tmp_path / 'out [' / 'red]_labels.png'}" in said(result)
    assert "[bold].png: " in said(result)


def test_demo_ends_after_its_minutes_with_a_model_and_a_picture(tmp_path: Path) -> None:
    limits = ("--epochs", "1000", "--minutes", "0.02")
    result = prosma("demo", "--out", tmp_path / "demo", "--no-window", *limits)
    assert result.exit_code == 0, said(result)
    made = files_below(tmp_path / "demo")
    assert "run/best.safetensors" in made
    assert any(name.startswith("gates/") and name.endswith("_gates.png") for name in made)


def test_version_and_help() -> None:
    assert said(prosma("--version")) == f"napari-prosma {__version__}"
    overview = said(prosma("--help"))
    for command in ("train", "segment", "inspect", "demo"):
        assert command in overview
        result = prosma(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in said(result)
    assert "Example" in said(prosma("train", "--help"))


@pytest.mark.parametrize(("old", "new"), [("twins", "ablate"), ("doubts", "suspicious")])
def test_commands_under_their_old_names_do_the_same_with_a_notice(old: str, new: str, tmp_path: Path) -> None:
    assert f" {old} " not in said(prosma("--help"))
    line = (tmp_path / "missing", *(() if old == "twins" else ("--out", tmp_path / "out")))
    told, same = prosma(old, *line), prosma(new, *line)
    assert told.exit_code == same.exit_code == 2
    assert f"prosma {old} is now called prosma {new}" in told.stderr
    assert same.stderr in told.stderr


def test_the_shell_starts_without_torch() -> None:
    heavy = {"torch", "monai", "matplotlib", "qtpy"}
    program = f"import sys, napari_prosma.cli.app; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- bad input: exit 2, the error's own words, nothing written ------------------------------------------


def no_folder(folder: Path) -> str:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    return f"'{folder}' does not exist; give the folder"


def empty_folder(folder: Path) -> str:
    no_folder(folder)
    folder.mkdir()
    return f"'{folder}' is empty; put images in"


def image_without_mask(folder: Path) -> str:
    mask = min((folder / "masks").iterdir())
    mask.unlink()
    return f"1 of 3 images in '{folder}' have no mask, the first is 'images/{mask.name}'; add a mask"


def differing_shapes(folder: Path) -> str:
    mask = min((folder / "masks").iterdir())
    save(mask, np.full((40, 48), 255, np.uint8))
    return (
        f"labels '{mask}' have shape (40, 48) but image '{folder / 'images' / mask.name}' has (48, 48); crop"
    )


def no_image(folder: Path) -> str:
    image = max((folder / "images").iterdir())
    image.write_text("this is a letter, not a picture")
    return f"'{image}' is damaged or no PNG image"


def no_foreground(folder: Path) -> str:
    for mask in (folder / "masks").iterdir():
        save(mask, np.zeros((48, 48), np.uint8))
    return f"none of the 3 masks in '{folder}' holds any foreground"


@pytest.mark.parametrize(
    "spoil", [no_folder, empty_folder, image_without_mask, differing_shapes, no_image, no_foreground]
)
def test_train_refuses_a_bad_folder(spoil: Callable[[Path], str], folder: Path, tmp_path: Path) -> None:
    words = spoil(folder)
    assert words in error_of(prosma("train", folder, "--out", tmp_path / "run", *QUICK))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gate", "garden"), "unknown gate 'garden'; choose one of prosma"),
        (("--widths", "huge"), "unknown width preset 'huge'"),
        (("--widths", "8,16"), "at least three"),
        (("--epochs", "0"), "epochs: Input should be greater than or equal to 1"),
        (("--dims", "3"), "2D images cannot train a 3D network"),
        (("--seed", str(2**32)), "seed"),
    ],
)
def test_train_refuses_settings_that_make_no_sense(
    options: tuple, words: str, folder: Path, tmp_path: Path
) -> None:
    assert words in error_of(prosma("train", folder, "--out", tmp_path / "run", *QUICK, *options))
    assert not (tmp_path / "run").exists()


def test_train_replaces_a_run_only_when_told_to(folder: Path, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").write_bytes(model.read_bytes())
    message = error_of(prosma("train", folder, "--out", run, *QUICK))
    assert f"'{run}' already holds best.safetensors; choose another --out, or --overwrite it" in message
    assert (run / "best.safetensors").read_bytes() == model.read_bytes()
    assert prosma("train", folder, "--out", run, *QUICK, "--overwrite").exit_code == 0
    assert load_checkpoint(run).spec.widths == (4, 6, 8)


@pytest.mark.parametrize("command", ["segment", "inspect"])
@pytest.mark.parametrize("bad", ["cut short", "not ours", "missing", "folder"])
def test_a_checkpoint_that_cannot_be_used_is_refused(
    command: str, bad: str, model: Path, scan: Path, tmp_path: Path
) -> None:
    if bad == "cut short":
        model.write_bytes(model.read_bytes()[:-100])
        words = f"'{model}' is no checkpoint or is cut short"
    elif bad == "not ours":
        model.write_text("weights, honestly")
        words = f"'{model}' is no checkpoint"
    elif bad == "missing":
        model.unlink()
        words = f"checkpoint '{model}' does not exist"
    else:
        model = tmp_path / "nothing"
        model.mkdir()
        words = f"folder '{model}' holds no checkpoint"
    assert words in error_of(prosma(command, model, scan, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["segment", "inspect"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.png", None, "does not exist"),
        ("letter.png", b"dear", "is damaged or no PNG"),
        ("letter.txt", b"dear", "is not in a supported image format"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused(
    command: str, name: str, content: bytes | None, words: str, model: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = error_of(prosma(command, model, tmp_path / name, "--out", tmp_path / "out", "--device", "cpu"))
    assert words in message
    assert name in message
    assert not (tmp_path / "out").exists()


def test_one_bad_image_does_not_keep_the_others_from_being_segmented(
    model: Path, scan: Path, tmp_path: Path
) -> None:
    letter = tmp_path / "letter.png"
    letter.write_bytes(b"dear")
    result = prosma("segment", model, letter, scan, "--out", tmp_path / "out", "--device", "cpu")
    assert "letter.png' is damaged or no PNG" in error_of(result)
    assert "1 of 2 segmented" in said(result)
    assert files_below(tmp_path / "out") == {"scan_labels.png"}


def test_a_gray_picture_in_colour_is_segmented_as_the_gray_one(
    model: Path, scan: Path, tmp_path: Path
) -> None:
    gray = np.asarray(PIL.Image.open(scan))
    colour = save(tmp_path / "colour.png", np.stack([gray] * 3, axis=-1))
    for image in (scan, colour):
        assert prosma("segment", model, image, "--out", tmp_path / "out", "--device", "cpu").exit_code == 0
    plain, again = (
        np.asarray(PIL.Image.open(tmp_path / "out" / f"{n}_labels.png")) for n in ("scan", "colour")
    )
    np.testing.assert_array_equal(plain, again)


def test_labels_that_are_there_are_not_replaced_unasked(model: Path, scan: Path, tmp_path: Path) -> None:
    words = ("segment", model, scan, "--out", tmp_path, "--device", "cpu")
    corrected = save(tmp_path / "scan_labels.png", np.full((48, 48), 7, np.uint8))
    before = corrected.read_bytes()
    assert "perhaps corrected by hand" in error_of(prosma(*words))
    assert corrected.read_bytes() == before
    assert prosma(*words, "--overwrite").exit_code == 0
    assert corrected.read_bytes() != before


def test_images_of_one_name_do_not_replace_each_others_labels(
    model: Path, scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    other = save(tmp_path / "other" / "scan.png", noise)
    message = error_of(prosma("segment", model, scan, other, "--out", out, "--device", "cpu"))
    assert f"'{scan}' and '{other}' would both be written as" in message
    assert not out.exists()
    first = save(tmp_path / "patients" / "a" / "scan.png", np.asarray(PIL.Image.open(scan)))
    second = save(tmp_path / "patients" / "b" / "scan.png", noise)
    result = prosma("segment", model, tmp_path / "patients", "--out", out, "--device", "cpu")
    assert result.exit_code == 0, said(result)
    names = [f"{path.parent.name}_scan_labels.png" for path in (first, second)]
    assert [np.asarray(PIL.Image.open(out / name)).shape for name in names] == [(48, 48), (20, 20)]
    twice = save(other.with_suffix(".bmp"), noise)
    message = error_of(prosma("segment", model, other, twice, "--out", tmp_path / "more", "--device", "cpu"))
    assert f"'{other}' and '{twice}' would both be written as" in message
    assert not (tmp_path / "more").exists()


def test_one_image_given_twice_is_segmented_once(model: Path, scan: Path, tmp_path: Path) -> None:
    result = prosma("segment", model, scan, scan.parent, "--out", tmp_path / "out", "--device", "cpu")
    assert "1 of 1 segmented" in said(result)


def test_of_a_folder_of_pairs_the_images_are_segmented(model: Path, folder: Path, tmp_path: Path) -> None:
    pairs = sorted(path for path in folder.rglob("*") if path.is_file())
    result = prosma("segment", model, folder, "--out", tmp_path / "out", "--device", "cpu")
    number = len(pairs) // 2
    assert f"{number} of {number} segmented" in said(result)
    assert f"{number} file(s) look like labels of others and are not segmented, such as" in result.output


def test_labels_of_another_image_are_not_taken_for_done(model: Path, scan: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other" / "scan.png", np.zeros((48, 48), np.uint8))
    words = ("--out", tmp_path / "out", "--device", "cpu", "--skip-done")
    assert "1 of 1 segmented" in said(prosma("segment", model, scan, *words))
    assert f"holds the labels of '{scan}', not of '{other}'" in error_of(
        prosma("segment", model, other, *words)
    )
    copied = tmp_path / "copied" / "scan.png"
    copied.parent.mkdir()
    shutil.copy(scan, copied)
    assert "1 already had labels" in said(prosma("segment", model, copied, *words))
    save(scan, np.full((48, 48), 9, np.uint8))
    assert "as it was before it changed" in error_of(prosma("segment", model, scan, *words))


def test_a_map_that_is_there_is_not_replaced_unasked(model: Path, scan: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "scan_uncertainty.tif"
    mine.parent.mkdir()
    mine.write_text("my reading of it")
    words = ("segment", model, scan, "--out", tmp_path / "out", "--device", "cpu", "--uncertainty")
    assert "scan_uncertainty.tif' is there already" in error_of(prosma(*words))
    assert mine.read_text() == "my reading of it"


def test_a_table_of_somebody_else_is_no_table_of_regions(model: Path, scan: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "regions.csv"
    mine.parent.mkdir()
    mine.write_text("region,beds\nnorth,7\n")
    words = ("segment", model, scan, "--out", tmp_path / "out", "--device", "cpu", "--regions")
    assert "regions.csv' has no column 'case'" in error_of(prosma(*words))
    assert mine.read_text() == "region,beds\nnorth,7\n"


def test_a_second_batch_adds_its_rows_to_the_regions(model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images = sorted((folder / "images").iterdir())[:2]
    for image in (*images, images[0]):
        words = ("segment", model, image, "--out", out, "--regions", "--clean", "*:threshold=0.01")
        assert prosma(*words, "--overwrite").exit_code == 0
    cases = [row["case"] for row in read_rows(out / "regions.csv")]
    assert set(cases) == {image.name for image in images}
    assert cases == sorted(cases)


def test_a_folder_without_images_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    words = f"folder '{tmp_path / 'nothing'}' holds no image"
    assert words in error_of(prosma("segment", model, tmp_path / "nothing", "--out", tmp_path / "out"))


def test_a_label_of_another_shape_is_refused(model: Path, scan: Path, tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", np.zeros((10, 10), np.uint8))
    message = error_of(prosma("inspect", model, scan, "--label", mask, "--out", tmp_path / "out"))
    assert f"labels '{mask}' have shape (10, 10)" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["segment", "inspect"])
def test_a_place_that_is_no_folder_is_refused(command: str, model: Path, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("keep me")
    message = error_of(prosma(command, model, scan, "--out", tmp_path / "notes", "--device", "cpu"))
    assert "no folder that can be written to" in message
    assert "notes" in message
    assert (tmp_path / "notes").read_text() == "keep me"


# ---- Ctrl-C ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_ctrl_c_stops_a_training_with_130_and_keeps_the_last_checkpoint(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", str(folder), "--out", str(run), *QUICK, "--epochs", "100000"]
    shell = subprocess.Popen(
        [sys.executable, "-m", "napari_prosma", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (run / "last.safetensors").exists() and shell.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    shell.send_signal(signal.SIGINT)
    output, _ = shell.communicate(timeout=60)
    assert shell.returncode == 130, output.decode()
    assert b"Stopped" in output
    assert b"Traceback" not in output
    found = load_checkpoint(run / "last.safetensors")
    assert found.epoch >= 1
    assert isinstance(found.spec, ModelSpec)
    assert files_below(run) == RUN_FILES


def test_ctrl_c_between_two_events_keeps_the_last_checkpoint_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls into the progress bar, not into the training."""
    from rich.progress import Progress as Bar

    drawn = 0
    update = Bar.update

    def press(bar: Bar, *words: object, **more: object) -> None:
        nonlocal drawn
        drawn += 1
        if drawn == 4:  # the first step, after three cases were read
            raise KeyboardInterrupt
        update(bar, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Bar, "update", press)
    result = prosma("train", folder, "--out", tmp_path / "run", *QUICK)
    assert result.exit_code == 130
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").epoch == 0


# ---- going on -------------------------------------------------------------------------------------------


def test_check_and_train_say_the_same_of_doubtful_values(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "masks").iterdir():
        mask = np.asarray(PIL.Image.open(path)) // 255
        mask[:3] = 255
        save(path, mask)
    words = "255 beside 1 is read as an undecided border"
    assert words in said(prosma("check", folder))
    assert words in said(prosma("train", folder, "--out", tmp_path / "run", *QUICK))


def test_files_are_taken_for_what_the_user_says(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "masks").iterdir():
        save(folder / "second" / path.name, 255 - np.asarray(PIL.Image.open(path)))
    chosen = ("--images", "images/*", "--masks", "second/*")
    words = "3 pairs: 'images/*' as images, 'second/*' as labels"
    assert words in said(prosma("check", folder, *chosen))
    trained = prosma("train", folder, "--out", tmp_path / "run", *QUICK, *chosen)
    assert words in said(trained)
    kept = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    kept["config"]["epochs"] += 1  # not finished yet
    (tmp_path / "run" / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    assert words in said(prosma("train", "--resume", tmp_path / "run"))


def test_channels_in_files_of_their_own_are_learned_and_segmented(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "images").iterdir():
        image = np.asarray(PIL.Image.open(path))
        for place in ("set", "new"):
            save(tmp_path / place / path.stem / "near.png", image)
            save(tmp_path / place / path.stem / "far.png", 255 - image)
        mask = np.asarray(PIL.Image.open(folder / "masks" / path.name))
        save(tmp_path / "set" / path.stem / "mask.png", mask)
    trained = prosma("train", tmp_path / "set", "--out", tmp_path / "run", *QUICK)
    assert "'*/far', '*/near' as channels" in said(trained)
    out = tmp_path / "labels"
    result = prosma("segment", tmp_path / "run", tmp_path / "new", "--out", out, "--device", "cpu")
    assert result.exit_code == 0, said(result)
    names = {f"{path.stem}_labels.png" for path in (folder / "images").iterdir()}
    assert files_below(out) == names


def test_a_run_is_resumed_by_its_folder_alone(folder: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert prosma("train", folder, "--out", whole, *QUICK).exit_code == 0
    shutil.copytree(whole, cut)
    result = prosma("train", "--resume", cut)
    assert result.exit_code == 0, result.output
    held, again = (load_checkpoint(run / "last.safetensors") for run in (whole, cut))
    assert held.epoch == again.epoch


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train",), "--resume RUN"),
        (("train", "--resume", "run", "--epochs", "5"), "leave out epochs"),
        (("train", "--resume", "no-such-run"), "holds no run.json; give the folder of a run"),
    ],
)
def test_train_says_what_it_needs(words: tuple[str, ...], said: str) -> None:
    result = prosma(*words)
    assert result.exit_code == 2
    assert said in result.output


def test_a_run_killed_before_its_first_checkpoint_begins_again_from_its_settings(
    folder: Path, tmp_path: Path
) -> None:
    assert prosma("train", folder, "--out", tmp_path / "run", *QUICK).exit_code == 0
    whole = load_checkpoint(tmp_path / "run" / "last.safetensors")
    for name in RUN_FILES - {"run.json"}:
        (tmp_path / "run" / name).unlink()
    again = prosma("train", "--resume", tmp_path / "run")
    assert again.exit_code == 0, said(again)
    kept = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert all(torch.equal(kept.weights[name], tensor) for name, tensor in whole.weights.items())


def test_a_run_goes_on_with_data_that_were_moved(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert prosma("train", folder, "--out", run, *QUICK).exit_code == 0
    kept = json.loads((run / "run.json").read_text(encoding="utf-8"))
    kept["config"]["epochs"] += 1  # not finished yet
    (run / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    folder.rename(tmp_path / "elsewhere")
    message = error_of(prosma("train", "--resume", run))
    assert f"are no longer in '{folder}'" in message
    assert f"prosma train FOLDER --resume {run}" in message
    assert prosma("train", tmp_path / "elsewhere", "--resume", run).exit_code == 0
    again = prosma("train", "--resume", run)
    assert again.exit_code == 0
    assert "already finished" in said(again)


@pytest.mark.parametrize("file", ["report.html", "measures.csv"])
def test_reports_that_are_there_are_not_replaced_unasked(
    model: Path, folder: Path, tmp_path: Path, file: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text("mine")
    assert f"{file}' is there already" in error_of(
        prosma("inspect", model, folder, "--out", tmp_path / "out")
    )
    if file == "measures.csv":
        masks = folder / "masks"
        assert "is there already" in error_of(prosma("evaluate", masks, masks, "--out", tmp_path / "out"))
    assert "is there already" in error_of(prosma("check", folder, "--out", tmp_path / "out" / file))
    assert "is there already" in error_of(prosma("export", model, "--onnx", tmp_path / "out" / file))
    assert (tmp_path / "out" / file).read_text() == "mine"


def test_a_batch_writes_tables_and_goes_on_where_labels_are_missing(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    images = sorted((folder / "images").iterdir())
    (tmp_path / "list.csv").write_text("image\n" + "\n".join(str(path) for path in images[:1]))
    first = prosma("segment", model, tmp_path / "list.csv", "--out", out)
    assert first.exit_code == 0, said(first)
    assert len(files_below(out)) == 1
    wanted = ("--regions", "--uncertainty", "--mirror", "--clean", "*:largest,holes", "--skip-done")
    rest = prosma("segment", model, folder / "images", "--out", out, *wanted)
    assert rest.exit_code == 0, said(rest)
    assert "1 already had labels" in said(rest)
    names = files_below(out)
    assert "regions.csv" in names
    assert sum("_uncertainty" in name for name in names) == len(images) - 1


def test_regions_of_what_was_done_before_stay_in_the_table(model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Everything that is a little probable, so that every image has regions.
    words = ("segment", model, folder / "images", "--out", out, "--regions", "--clean", "*:threshold=0.01")
    assert prosma(*words).exit_code == 0
    table = (out / "regions.csv").read_text(encoding="utf-8").splitlines()
    first, *others = sorted((folder / "images").iterdir())
    assert {line.split(",")[0] for line in table[1:]} == {path.name for path in (first, *others)}
    for path in out.glob("*_labels.*"):
        path.unlink()
    (out / "regions.csv").unlink()
    batch = Batch(out, Wanted(regions=True, cleanings={1: Cleaning(threshold=0.01)}))
    with closing(segment_batch(load_checkpoint(model), [folder / "images"], batch)) as events:
        segmented = next(event for event in events if isinstance(event, ImageSegmented))
        # The process may be killed now: what has labels has its regions, too.
        assert (out / "regions.csv").read_text(encoding="utf-8").splitlines() == [
            line for line in table if line.split(",")[0] in ("case", segmented.name)
        ]
    assert prosma(*words, "--skip-done").exit_code == 0
    assert (out / "regions.csv").read_text(encoding="utf-8").splitlines() == table


def test_labels_are_written_after_all_else_that_is_wanted_of_an_image(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    image = sorted((folder / "images").iterdir())[0]
    words = ("segment", model, image, "--out", out, "--regions", "--probabilities", "--uncertainty")

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_labels", killed)
        assert prosma(*words).exit_code == 130
    assert files_below(out) == {
        "regions.csv",
        f"{image.stem}_probabilities.tif",
        f"{image.stem}_uncertainty.tif",
    }


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_segmented(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    images, out = folder / "images", tmp_path / "file" / "out"
    for words in (
        ("segment", model, images),
        ("inspect", model, images),
        ("suspicious", model, folder),
        ("evaluate", folder / "masks", folder / "masks"),
    ):
        result = prosma(*words, "--out", out)
        assert "is no folder that can be written to" in error_of(result), words
        assert "━" not in said(result), "nothing began"


def test_a_table_of_regions_without_any_is_read_again(folder: Path, tmp_path: Path) -> None:
    table = RegionTable(tmp_path)
    table.add("a", ())
    rows = [{"case": "b", "class": "c", "area (pixels)": 2.0, "elements": 2}]
    RegionTable(tmp_path).add("b", rows)
    (tmp_path / "regions.csv").write_bytes((tmp_path / "regions.csv").read_bytes().rstrip())
    RegionTable(tmp_path).add("=d", [{**rows[0], "case": "=d"}])
    assert (tmp_path / "regions.csv").read_text().splitlines() == [
        "case,class,area (pixels),elements",
        "b,c,2.0,2",
        "'=d,c,2.0,2",
    ]
    assert [row["case"] for row in read_rows(tmp_path / "regions.csv")] == ["b", "=d"]


def test_labels_written_row_by_row_are_those_written_at_once(model: Path, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prosma("segment", model, scan, "--out", out).exit_code == 0
    streamed = prosma("segment", model, scan, "--out", out, "--stream")
    assert streamed.exit_code == 0, said(streamed)
    at_once, in_rows = (read_label(path)[0] for path in sorted(out.glob("*_labels*")))
    assert np.array_equal(at_once, in_rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clean", "kidney:largest"), "knows no class 'kidney'"),
        (("--clean", "*:biggest"), "'biggest' is not understood"),
        (("--stream", "--regions"), "labels alone"),
    ],
)
def test_what_cannot_be_done_to_results_is_refused_before_anything_is_written(
    words: tuple[str, ...], said: str, model: Path, folder: Path, tmp_path: Path
) -> None:
    result = prosma("segment", model, folder / "images", "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_predictions_are_measured_against_the_truth(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    found = prosma("evaluate", folder / "masks", folder / "masks", "--out", out)
    assert found.exit_code == 0, said(found)
    assert files_below(out) == {"measures.csv", "summary.csv", "boxes.png"}
    assert (out / "summary.csv").read_text().splitlines()[1] == "foreground,3,1.0,1.0,1.0,1.0,1.0,0.0,0"


def test_what_is_left_out_of_an_evaluation_is_said_once(folder: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(folder / "masks", fewer)
    next(fewer.iterdir()).unlink()
    assert said(prosma("evaluate", fewer, folder / "masks")).count("1 case has no prediction") == 1
