"""What any model doubts in the labels of any cases: maps, regions, and the lists of both."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_prosma.app.doubts import CASES, REGIONS, doubt_map, doubted_regions, find_doubts
from napari_prosma.data.case import Case
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.segmentation.segment import segment

MakeCheckpoint = Callable[..., Checkpoint]
MM = Geometry((0.5, 0.25), (0.0, 0.0), "mm")


def labelled(name: str, image: np.ndarray, label: np.ndarray) -> Case:
    return Case.from_arrays(name, image, label, MM)


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    return make_checkpoint()


def test_the_map_is_what_the_model_gives_to_anything_but_the_label(
    checkpoint: Checkpoint, noise: Callable[..., np.ndarray], last_of: Callable
) -> None:
    image, label = noise(1, 40, 36), np.zeros((40, 36), np.uint8)
    label[10:20], label[30:] = 1, IGNORE
    case = labelled("a", image, label)
    foreground = last_of(segment(checkpoint, case.read_image(), device="cpu")).probabilities[1]
    expected = np.where(label == IGNORE, 0, abs(foreground - label))
    found = doubt_map(checkpoint, case, "cpu")
    assert found.shape == label.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0 < found.max() <= 1


def test_regions_are_the_connected_parts_above_a_half_with_the_largest_first() -> None:
    doubts = np.full((20, 20), 0.4, np.float32)
    doubts[2:5, 2:5], doubts[10:14, 10:16] = 0.9, 0.6
    large, small = doubted_regions(doubts, MM)
    assert (large.elements, large.size, large.size_unit) == (24, pytest.approx(24 * 0.125), "mm^2")
    assert small.at == (3, 3)
    assert doubted_regions(doubts - 0.5, MM) == []


def test_lists_and_maps_are_written_with_the_most_doubtful_first(
    checkpoint: Checkpoint, noise: Callable[..., np.ndarray], tmp_path: Path, last_of: Callable
) -> None:
    image, nothing = noise(1, 40, 36), np.zeros((40, 36), np.uint8)
    segmented = last_of(segment(checkpoint, labelled("x", image, nothing).read_image(), device="cpu")).labels
    partly = segmented.copy()
    partly[:20] = 1 - partly[:20]
    cases = [
        labelled("a", image, segmented),
        labelled("b", image, 1 - segmented),
        labelled("c", image, partly),
    ]
    found = last_of(find_doubts(checkpoint, cases, tmp_path, "cpu"))
    assert [each.case for each in found] == ["b", "c", "a"]
    assert [each.was_learned for each in found] == [None] * 3
    assert found[-1].regions == ()
    rows = list(csv.DictReader((tmp_path / CASES).open()))
    assert [row["case"] for row in rows] == ["b", "c", "a"]
    assert "learned from" not in rows[0]
    areas = [float(row["area (mm^2)"]) for row in csv.DictReader((tmp_path / REGIONS).open())]
    assert areas == sorted(areas, reverse=True)
    assert len(areas) == sum(len(each.regions) for each in found) > 1
    written = read_image(tmp_path / "b_doubt.tif").array[0]
    np.testing.assert_allclose(written, doubt_map(checkpoint, cases[1], "cpu"), atol=1e-6)


def test_what_cannot_be_compared_is_left_out_and_told(
    checkpoint: Checkpoint, noise: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    image, label = noise(1, 32, 32), np.zeros((32, 32), np.uint8)
    other = label + 2
    cases = [
        labelled("a", image, label),
        labelled("cut", image, label[1:]),
        labelled("classes", image, other),
    ]
    events = list(
        find_doubts(checkpoint, [*cases, labelled("two", noise(2, 32, 32), label)], tmp_path, "cpu")
    )
    said = [event.message for event in events if isinstance(event, Notice)]
    assert len(said) == 3
    assert "'cut' has shape (31, 32)" in said[0]
    assert "class 2" in said[1]
    assert "2 channels" in said[2]
    assert [each.case for each in events[-1].result] == ["a"]


def test_cases_without_labels_are_no_work(
    checkpoint: Checkpoint, noise: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    bare = Case.from_arrays("bare", noise(1, 32, 32))
    with pytest.raises(DataError, match="none of the 1 cases"):
        list(find_doubts(checkpoint, [bare], tmp_path))
    with pytest.raises(DataError, match="no label"):
        doubt_map(checkpoint, bare)


def test_no_case_that_can_be_compared_is_an_error_which_says_why(
    checkpoint: Checkpoint, noise: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    cases = [labelled(name, noise(1, 32, 32), np.zeros((31, 32), np.uint8)) for name in "ab"]
    with pytest.raises(DataError, match=r"none of the 2 labelled cases can be compared.*'a' has shape"):
        list(find_doubts(checkpoint, cases, tmp_path, "cpu"))
    assert not list(tmp_path.iterdir())


def learned_from(model: Path, cases: list[Case], out: Path) -> dict[str, bool | None]:
    *_, ended = find_doubts(load_checkpoint(model), cases, out, "cpu")
    assert isinstance(ended, Finished)
    return {each.case: each.was_learned for each in ended.result}


def test_what_was_learned_from_is_told_by_the_image_and_not_by_its_name(
    trained: tuple[Path, list[Event]], ultrasound: list[Case], tmp_path: Path
) -> None:
    run, _ = trained
    split = load_checkpoint(run).split
    expected = {case.name: case.name in split["training"] for case in ultrasound}
    assert set(expected.values()) == {True, False}
    assert learned_from(run, ultrasound, tmp_path) == expected
    turned = [
        replace(case, name=other.name) for case, other in zip(ultrasound, ultrasound[::-1], strict=True)
    ]
    assert learned_from(run, turned, tmp_path) == {
        other.name: expected[case.name] for case, other in zip(ultrasound, ultrasound[::-1], strict=True)
    }


def test_what_a_model_beside_no_run_of_its_own_learned_from_is_not_known(
    trained: tuple[Path, list[Event]], ultrasound: list[Case], tmp_path: Path
) -> None:
    run, _ = trained
    alone = tmp_path / "alone" / "best.safetensors"
    alone.parent.mkdir()
    shutil.copy(run / "best.safetensors", alone)
    assert set(learned_from(alone, ultrasound[:1], tmp_path / "out").values()) == {None}
    other = json.loads((run / "run.json").read_text())
    for case in other["cases"]:
        case["name"] += " of another set"
    (alone.parent / "run.json").write_text(json.dumps(other))
    assert set(learned_from(alone, ultrasound[:1], tmp_path / "out").values()) == {None}
    (alone.parent / "run.json").write_text("{}")
    assert set(learned_from(alone, ultrasound[:1], tmp_path / "out").values()) == {None}
