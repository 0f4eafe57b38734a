"""What a clinic's files become in a shell: DICOM in, DICOM out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from clinic_files import NAME, SECRET, judged, pixels, save_patients, save_stack, save_ultrasound
from typer.testing import CliRunner, Result

from napari_prosma.cli.app import app
from napari_prosma.data.readers import read_label
from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint

pytest.importorskip("highdicom")
SIDE = 32


def prosma(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result: Result) -> str:
    return " ".join((result.stdout + result.stderr).split())


@pytest.fixture
def model(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model.safetensors", make_checkpoint())
    return tmp_path / "model.safetensors"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return save_stack(tmp_path / "scan", pixels((3, SIDE, SIDE)), "sagittal")


def test_a_series_gets_a_segmentation_in_its_study(model: Path, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("segment", model, series, "--out", out, "--device", "cpu")
    result = prosma(*words, "--format", "seg", "--probabilities", "--meaning", "lesion=Mass")
    assert result.exit_code == 0, said(result)
    assert "carries the identity of the patient" in said(result)
    assert NAME.split("^")[1] not in said(result)
    assert prosma(*words, "--format", "nifti").exit_code == 0
    labels, sure = (pydicom.dcmread(out / f"scan_{what}.seg.dcm") for what in ("labels", "probabilities"))
    assert labels.StudyInstanceUID == "1.2.840.1"
    assert labels.SegmentSequence[0].SegmentLabel == "lesion"
    assert labels.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"
    assert sure.SegmentationType == "FRACTIONAL"
    assert labels.pixel_array.sum() == (read_label(out / "scan_labels.nii.gz")[0] == 1).sum() > 0
    assert judged(out / "scan_labels.seg.dcm") == judged(out / "scan_probabilities.seg.dcm") == []


def test_an_ultrasound_clip_is_segmented_frame_by_frame(model: Path, tmp_path: Path) -> None:
    clip = save_ultrasound(tmp_path / "clip.dcm", pixels((3, SIDE, SIDE)))
    result = prosma("segment", model, clip, "--out", tmp_path / "out", "--device", "cpu", "--format", "seg")
    assert result.exit_code == 0, said(result)
    frames = pydicom.dcmread(tmp_path / "out" / "clip_labels.seg.dcm").PerFrameFunctionalGroupsSequence
    images = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in frames]
    assert [int(image.ReferencedFrameNumber) for image in images] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--format", "xml"), "choose one of auto, nifti"),
        (
            ("--format", "seg", "--meaning", "liver=Liver"),
            "write CLASS=MEANING with one of the classes",
        ),
        (("--format", "seg", "--meaning", "lesion=Masss"), "similar: Mass"),
        (("--format", "seg", "--stream"), "leave out --stream"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_first(
    model: Path, series: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    result = prosma("segment", model, series, "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert told in said(result)
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_no_dicom_get_no_object(model: Path, series: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((SIDE, SIDE), np.float32))
    out = tmp_path / "out"
    result = prosma("segment", model, tmp_path / "a.npy", series, "--out", out, "--format", "seg")
    assert result.exit_code == 2
    assert "a.npy' is no DICOM image" in said(result)
    assert "1 of 2 segmented" in said(result)


def test_what_is_not_installed_is_told_with_the_line_that_installs_it(
    model: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    result = prosma("segment", model, series, "--out", tmp_path / "out", "--format", "seg")
    assert result.exit_code == 2
    assert 'pip install "napari-prosma[dicom]"' in said(result)


def test_contours_of_six_patients_are_learned_and_no_name_is_left_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder of a PACS to a model, to objects in DICOM, to what these are worth."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    pacs, run, out = tmp_path / "pacs", tmp_path / "run", tmp_path / "out"
    save_patients(pacs, ".rtstruct.dcm", 6, (4, 32, 32))
    quick = ("--widths", "4,6,8", "--epochs", "1", "--device", "cpu")
    told = []
    for words in (
        ("check", pacs, "--out", tmp_path / "problems.csv"),
        ("train", pacs, "--out", run, *quick),
        ("segment", run, pacs, "--out", out, "--device", "cpu", "--format", "seg", "--regions"),
        ("evaluate", out, pacs, "--out", tmp_path / "figures"),
    ):
        result = prosma(*words)
        assert result.exit_code == 0, said(result)
        told.append(said(result))
    checked, trained, segmented, evaluated = told
    assert "RTSTRUCT: Liver, Tumour" in checked
    assert "1 is Liver, 2 is Tumour" in trained
    assert "12 of 12 segmented" in segmented  # the scouts, too
    assert {f"p{n}_ct_labels.seg.dcm" for n in range(6)} <= {path.name for path in out.iterdir()}
    assert "Tumour" in evaluated
    assert SECRET not in " ".join(told)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and pacs not in path.parents]
    kept = [path for path in written if path.suffix != ".dcm"]
    assert len(kept) > 8
    for path in kept:
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET.encode() in (out / "p0_ct_labels.seg.dcm").read_bytes()


def test_what_an_odd_header_says_of_the_patient_is_in_no_message(
    model: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    odd = {"PatientBirthDate": f"{SECRET}", "PatientName": f"{SECRET}\\\\{SECRET * 9}", "PatientSex": SECRET}
    with pydicom.config.disable_value_validation():
        folder = save_stack(tmp_path / "scan", pixels((3, SIDE, SIDE)), **odd)
    result = prosma("segment", model, folder, "--out", tmp_path / "out", "--device", "cpu", "--format", "seg")
    assert SECRET not in said(result)
    assert not any(SECRET in str(warning.message) for warning in recwarn)
