"""``prosma inspect`` over a data set, in a shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from napari_prosma.cli.app import app
from napari_prosma.data.case import Case
from napari_prosma.data.labels import LabelRule
from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint

Make = Callable[..., Checkpoint]


def inspect(*words: object) -> Result:
    given = [str(word) for word in words]
    return CliRunner().invoke(app, ["inspect", *given, "--device", "cpu", "--tests", "0", "--pictures", "0"])


def said(result: Result) -> str:
    return " ".join((result.stdout + result.stderr).split())


@pytest.fixture
def data(tmp_path: Path, ultrasound: list[Case]) -> Path:
    """Masks beside their images, as in BUSI."""
    folder = tmp_path / "data" / "benign"
    folder.mkdir(parents=True)
    for number, case in enumerate(ultrasound[:4], start=1):
        assert case.read_label is not None
        PIL.Image.fromarray(case.read_image().array[0]).save(folder / f"benign ({number}).png")
        PIL.Image.fromarray(case.read_label() * 255).save(folder / f"benign ({number})_mask.png")
    return tmp_path / "data"


@pytest.fixture
def model(make_checkpoint: Make, tmp_path: Path) -> Path:
    held_out = {"training": ["benign (1)", "benign (2)"], "validation": ["benign (3)", "benign (4)"]}
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, replace(make_checkpoint(), split=held_out))
    return path


def cases_in(out: Path) -> set[str]:
    return {path.stem for path in (out / "cases").iterdir()}


def test_a_folder_becomes_a_page_and_a_bad_case_does_not_end_it(
    model: Path, data: Path, make_checkpoint: Make, tmp_path: Path
) -> None:
    broken = data / "benign" / "benign (2).png"
    broken.write_bytes(broken.read_bytes()[:300])
    save_checkpoint(tmp_path / "other.safetensors", make_checkpoint("dense"))
    out = tmp_path / "out"
    result = inspect(model, data, "--out", out, "--compare", f"dense={tmp_path / 'other.safetensors'}")
    assert result.exit_code == 2
    assert "3 of 4 cases inspected; the report is" in said(result)
    assert "left out: benign (2)" in said(result)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "benign (2)" in page
    assert "with dense" in page


@pytest.mark.parametrize("labelled", [True, False])
def test_of_one_image_a_second_model_is_said_as_much_as_of_the_first(
    labelled: bool, model: Path, data: Path, make_checkpoint: Make, tmp_path: Path
) -> None:
    """Without a label both are measured against the first one's prediction, which is not the second's own."""
    save_checkpoint(tmp_path / "other.safetensors", make_checkpoint("attention", seed=3))
    image, out = data / "benign" / "benign (1).png", tmp_path / "out"
    label = ("--label", image.with_name("benign (1)_mask.png")) if labelled else ()
    result = inspect(model, image, *label, "--out", out, "--compare", tmp_path / "other.safetensors")
    assert result.exit_code == 0, result.output
    kept = json.loads(next(out.glob("*_inspection.json")).read_text())
    first, second = kept["sentences"], kept["second model"]["sentences"]
    assert first.keys() == second.keys()
    for sentence in (*first.values(), *(f"Model 2, {text}" for text in second.values())):
        assert " ".join(sentence.split()) in said(result)
    assert (
        kept["second model"]["tried"]["1"]["selection"]["window"] == kept["tried"]["1"]["selection"]["window"]
    )
    of_another = "(prediction of the first model)"
    assert any(of_another in text for text in second.values()) is not labelled
    assert not any(of_another in text or ("own prediction" in text and labelled) for text in first.values())
    assert not any("own prediction" in text for text in second.values())


def write_objects(image: Path, numbers: tuple[int, int]) -> Path:
    """A label of two objects with these numbers."""
    label = np.zeros(np.array(PIL.Image.open(image)).shape[:2], np.uint8)
    label[4:12, 4:12], label[20:28, 20:28] = numbers
    path = image.with_name(f"objects {numbers}.png")
    PIL.Image.fromarray(label).save(path)
    return path


def test_a_label_of_numbered_objects_is_read_as_in_training(
    make_checkpoint: Make, data: Path, tmp_path: Path
) -> None:
    rule = LabelRule.instances("lesion")
    path, image = tmp_path / "model.safetensors", data / "benign" / "benign (1).png"
    save_checkpoint(path, replace(make_checkpoint(), config={"labels": asdict(rule)}))
    told, kept = [], []
    for numbers in ((1, 2), (1, 1)):
        out = tmp_path / str(numbers)
        result = inspect(path, image, "--label", write_objects(image, numbers), "--out", out)
        assert result.exit_code == 0, result.output
        told.append(rule.in_words() in said(result))
        kept.append(json.loads(next(out.glob("*_inspection.json")).read_text()))
    assert told == [True, False]
    assert [rule.in_words() in str(each.pop("label_notices")) for each in kept] == [True, False]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "rule",
    [
        LabelRule.of_names({0: "background", 1: "lesion"}),
        LabelRule("above", ("background", "lesion")),  # as of JPEG: of which all objects would be background
        None,
    ],
)
def test_a_label_with_more_classes_than_the_model_is_refused(
    rule: LabelRule | None, make_checkpoint: Make, data: Path, tmp_path: Path
) -> None:
    path, image = tmp_path / "model.safetensors", data / "benign" / "benign (1).png"
    config = {} if rule is None else {"labels": asdict(rule)}
    save_checkpoint(path, replace(make_checkpoint(), config=config))
    result = inspect(path, image, "--label", write_objects(image, (1, 2)), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "has classes up to 2, but the model knows only background, lesion" in said(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (("--figure", "gates.jpg"), "'gates.jpg' should end in .svg, .pdf, .png"),
        (("--figure", "gates.svg", "--width", "wide"), "single, one and a half, double columns wide"),
        (("--compare", "dense="), "--compare takes NAME=MODEL, found 'dense='"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_before_an_image_is_inspected(
    words: tuple[str, ...], right: str, model: Path, data: Path, tmp_path: Path
) -> None:
    result = inspect(model, data / "benign" / "benign (1).png", "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert right in said(result)
    assert "Inspecting" not in said(result)
    assert not (tmp_path / "out").exists()


def test_files_that_are_there_are_not_written_over_nor_is_the_image_inspected_again(
    model: Path, data: Path, tmp_path: Path
) -> None:
    line = (model, data / "benign" / "benign (1).png", "--out", tmp_path / "out")
    assert inspect(*line).exit_code == 0
    again = inspect(*line)
    assert again.exit_code == 2
    assert "_inspection.json' is there already" in said(again)
    assert "Inspecting" not in said(again)


def test_another_model_under_the_old_name_of_its_option_is_compared_with_a_notice(
    model: Path, data: Path, make_checkpoint: Make, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "other.safetensors", make_checkpoint("dense"))
    out, other = tmp_path / "out", tmp_path / "other.safetensors"
    result = inspect(model, data, "--out", out, "--limit", "1", "--twin", other)
    assert result.exit_code == 0, said(result)
    assert "--twin is now called --compare" in said(result)
    assert "with dense" in (out / "report.html").read_text(encoding="utf-8")


def test_only_what_was_held_out_and_not_too_many(model: Path, data: Path, tmp_path: Path) -> None:
    assert inspect(model, data, "--out", tmp_path / "a", "--held-out").exit_code == 0
    assert cases_in(tmp_path / "a") == {"benign_(3)", "benign_(4)"}
    assert inspect(model, data, "--out", tmp_path / "b", "--limit", "2").exit_code == 0
    assert cases_in(tmp_path / "b") == {"benign_(1)", "benign_(4)"}


def test_images_without_labels_are_measured_against_the_prediction(
    model: Path, data: Path, tmp_path: Path
) -> None:
    for mask in data.rglob("*_mask.png"):
        mask.unlink()
    result = inspect(model, data, "--out", tmp_path / "out")
    assert result.exit_code == 0, said(result)
    assert "prediction" in (tmp_path / "out" / "measures.csv").read_text()


def test_labels_of_other_classes_are_not_used(data: Path, make_checkpoint: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "three.safetensors", make_checkpoint(classes=("background", "a", "b")))
    result = inspect(tmp_path / "three.safetensors", data, "--out", tmp_path / "out")
    assert result.exit_code == 0, said(result)
    assert "are not those of the model (background, a, b)" in said(result)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--label", "{data}/benign/benign (1)_mask.png"), "--label is for one image"),
        (("--compare", "{model}"), "give the other model another name"),
        (("--compare", "x={model}", "--compare", "x={model}"), "two models are called 'x'"),
    ],
)
def test_what_does_not_fit_is_told(
    model: Path, data: Path, tmp_path: Path, words: tuple[str, ...], wrong: str
) -> None:
    given = [word.format(model=model, data=data) for word in words]
    result = inspect(model, data, "--out", tmp_path / "out", *given)
    assert result.exit_code == 2
    assert wrong in said(result)
    assert "Traceback" not in said(result)
    assert not (tmp_path / "out").exists()


def test_one_image_is_no_data_set_and_strangers_were_not_held_out(
    make_checkpoint: Make, model: Path, data: Path, tmp_path: Path
) -> None:
    image = data / "benign" / "benign (1).png"
    assert "is one image" in said(inspect(model, image, "--out", tmp_path / "out", "--held-out"))
    save_checkpoint(tmp_path / "new.safetensors", make_checkpoint())
    result = inspect(tmp_path / "new.safetensors", data, "--out", tmp_path / "out", "--held-out")
    assert result.exit_code == 2
    assert "none of the 4 cases is among the 0" in said(result)
