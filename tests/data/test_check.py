"""A data set is looked through before training: what is wrong, case by case, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.case import Case
from napari_prosma.data.check import Problem, check_cases, check_each, near_duplicates, write_table
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.geometry import Geometry

Save = Callable[..., Path]


def data_set(*cases: Case, dims: int = 2, classes: tuple[str, ...] = ("background", "lesion")) -> DataSet:
    return DataSet("folders", Path("data"), cases, classes, 1, dims, "")


def ultrasound(count: int = 5) -> list[Case]:
    return [ultrasound_case(seed, (64, 64)) for seed in range(count)]


def of(problems: tuple[Problem, ...], case: str) -> list[tuple[str, str]]:
    return [(problem.severity, problem.found) for problem in problems if problem.case == case]


def test_a_good_data_set_has_no_problem() -> None:
    assert check_cases(data_set(*ultrasound())) == ()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda image: np.full_like(image, 7), "the image is 7 everywhere"),
        (lambda image: np.where(image > 200, np.nan, image.astype(float)), "is NaN or infinite"),
        (lambda image: np.concatenate([image, image]), "2 channels instead of 1"),
    ],
)
def test_images_that_cannot_be_used_are_errors(spoil: Callable[[np.ndarray], np.ndarray], says: str) -> None:
    cases = ultrasound()
    image, label = cases[2].read_image(), cases[2].read_label
    assert label is not None
    cases[2] = Case.from_arrays("bad", spoil(image.array), label(), image.geometry)
    ((severity, found),) = of(check_cases(data_set(*cases)), "bad")
    assert severity == "error"
    assert says in found


@pytest.mark.parametrize(
    ("label", "severity", "says"),
    [
        (np.zeros((64, 64), np.uint8), "note", "the label is empty"),
        (np.ones((64, 64), np.uint8), "warning", "lesion everywhere"),
        (None, "warning", "no label"),
    ],
)
def test_odd_labels_are_named(label: np.ndarray | None, severity: str, says: str) -> None:
    cases = ultrasound()
    cases[1] = Case.from_arrays("odd", cases[1].read_image().array, label)
    ((found_severity, found),) = of(check_cases(data_set(*cases)), "odd")
    assert found_severity == severity
    assert says in found


def test_a_damaged_case_is_named_and_the_others_are_still_checked(
    save_picture: Save, save_volume: Save, tmp_path: Path
) -> None:
    for case in ultrasound(6):
        assert case.read_label is not None
        save_picture(f"images/{case.name}.png", case.read_image().array[0])
        save_picture(f"masks/{case.name}.png", case.read_label())
    (tmp_path / "images" / "ultrasound_01.png").write_bytes(
        (tmp_path / "images/ultrasound_02.png").read_bytes()[:900]
    )
    save_picture("masks/ultrasound_03.png", np.zeros((5, 5), np.uint8))
    save_picture("masks/ultrasound_04.png", np.full((64, 64), 9, np.uint8))
    problems = check_cases(find_cases(tmp_path, labels={0: "background", 1: "lesion"}))
    assert [problem.case for problem in problems] == ["ultrasound_01", "ultrasound_03", "ultrasound_04"]
    assert all(problem.severity == "error" and problem.remedy for problem in problems)
    assert "shape (5, 5)" in problems[1].found
    assert problems[1].remedy == "crop or re-export one of them"


def test_copies_are_found_even_recompressed_and_resized(tmp_path: Path) -> None:
    cases = ultrasound(8)
    gray = cases[0].read_image().array[0]
    PIL.Image.fromarray(gray).resize((97, 97)).save(tmp_path / "copy.jpg", quality=60)
    with PIL.Image.open(tmp_path / "copy.jpg") as picture:
        near = np.asarray(picture)[None]
    cases.append(Case.from_arrays("near", near, (near[0] > 100).astype(np.uint8)))
    assert cases[1].read_label is not None
    cases.append(Case.from_arrays("same", cases[1].read_image().array, cases[1].read_label()))
    problems = check_cases(data_set(*cases))
    assert of(problems, "ultrasound_00") == [("warning", "nearly the same image as near")]
    assert of(problems, "ultrasound_01") == [("warning", "the same image as same")]
    assert len(problems) == 2
    clusters = near_duplicates(tuple(check_each(data_set(*cases))))
    assert clusters == (("ultrasound_00", "near"), ("ultrasound_01", "same"))


def test_a_copy_on_both_sides_of_the_split_is_an_error() -> None:
    cases = [replace(case, group="train") for case in ultrasound()]
    leak = replace(cases[3], name="leak", group="val")
    problems = check_cases(data_set(*cases, leak))
    assert ("error", "ultrasound_03, leak are copies in train and val") in of(problems, "ultrasound_03")


def test_a_class_that_no_label_holds_is_an_error() -> None:
    problems = check_cases(data_set(*ultrasound(), classes=("background", "lesion", "calcification")))
    assert of(problems, "") == [("error", "no label holds the class calcification")]


def test_spacing_unlike_the_others_is_a_warning() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for n in range(5):
        geometry = Geometry((5.0 if n != 2 else 50.0, 1.0, 1.0), (0.0,) * 3, "mm")
        label = np.ones((4, 8, 8), np.uint8)
        label[0] = 0
        cases.append(Case.from_arrays(str(n), rng.normal(size=(1, 4, 8, 8)), label, geometry))
    problems = check_cases(data_set(*cases, dims=3))
    assert of(problems, "2") == [("warning", "spacing 50 x 1 x 1 mm where 5 x 1 x 1 is usual")]
    assert len(problems) == 1


def test_what_a_reader_noticed_is_passed_on(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(4, 5, 6)), np.eye(4))
    image.set_sform(np.diag((1.0, 1, 2, 1)), 1)
    image.set_qform(np.eye(4), 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    nibabel.save(image, tmp_path / "images" / "a.nii")
    label = nibabel.Nifti1Image(np.eye(5, 6, dtype=np.uint8)[None].repeat(4, 0), None, None)
    label.set_sform(np.diag((1.0, 1, 2, 1)), 1)
    nibabel.save(label, tmp_path / "masks" / "a.nii")
    problems = check_cases(find_cases(tmp_path))
    assert "sform and qform" in of(problems, "a")[0][1]
    assert of(problems, "")[0] == ("warning", "only 1 cases")


def test_the_table_is_written_as_csv(tmp_path: Path) -> None:
    write_table([Problem("a", "error", "x, y", "do z")], tmp_path / "problems.csv")
    assert (tmp_path / "problems.csv").read_text().splitlines()[1] == 'a,error,"x, y",do z'
