"""The gates over many cases: what is kept, what is unusual, and what a bad case does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_prosma.data.case import Case, Image
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice
from napari_prosma.inspection.data_set import (
    Association,
    CaseNumbers,
    DataSetInspection,
    Deviation,
    ModelNumbers,
    SkipNumbers,
    deviations_of,
    inspect_cases,
    units_of,
)
from napari_prosma.inspection.statistics import unusual_from
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]


def result_of(events: Iterator[Event]) -> DataSetInspection:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    assert isinstance(last.result, DataSetInspection)
    return last.result


def numbers(name: str, dice: float | None = None, **measures: float) -> CaseNumbers:
    overlap = {} if dice is None else {"dice": dice}
    return CaseNumbers(
        name, "", "unseen", "label", {"m": ModelNumbers({1: SkipNumbers(measures)}, overlap)}, {}
    )


def inspection(cases: Sequence[CaseNumbers], checkpoint: Checkpoint) -> DataSetInspection:
    return DataSetInspection({"m": checkpoint}, tuple(cases), deviations_of(cases), {})


@pytest.fixture(scope="module")
def found(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory
) -> DataSetInspection:
    others = {"attention": make_checkpoint("attention"), "none": make_checkpoint("none")}
    folder = tmp_path_factory.mktemp("found")
    return result_of(inspect_cases(make_checkpoint(), ultrasound, folder, name="prosma", others=others))


def test_every_case_is_measured_as_if_it_were_inspected_alone(
    found: DataSetInspection, ultrasound: list[Case], make_checkpoint: Make
) -> None:
    case = ultrasound[2]
    assert case.read_label is not None
    last = list(inspect_gates(make_checkpoint(), case.read_image(), label=case.read_label()))[-1]
    assert isinstance(last, Finished)
    kept = next(each for each in found.cases if each.name == case.name)
    assert kept.reference == "label"
    for level, skip in last.result.skips.items():
        assert kept.models["prosma"].skips[level].measures == pytest.approx(skip.measures)
    assert 0 <= kept.models["prosma"].overlap["dice"] <= 1


def test_a_case_whose_label_is_empty_is_known_as_that(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path
) -> None:
    def nothing() -> np.ndarray:
        return np.zeros((48, 48), np.uint8)

    normal = replace(ultrasound[0], name="normal", read_label=nothing)
    bare = replace(ultrasound[1], name="bare", read_label=None)
    *_, last = inspect_cases(make_checkpoint(), [normal, bare, ultrasound[2]], tmp_path)
    assert isinstance(last, Finished)
    assert {case.name: case.empty for case in last.result.cases} == {
        "normal": True,
        "bare": False,
        ultrasound[2].name: False,
    }
    assert last.result.overlaps("model").keys() == {ultrasound[2].name}
    assert last.result.overlaps("model", empty=True).keys() == {"normal"}


def test_a_gate_tells_what_it_has_and_nothing_else(found: DataSetInspection) -> None:
    assert found.spread("attention", 1, "psi_mean") is not None
    assert found.spread("attention", 1, "z_zero_fraction") is None
    assert found.spread("none", 1, "psi_mean") is None
    assert found.spread("none", 1, "retained_energy").mean == 1  # type: ignore[union-attr]
    assert found.channel_zeros("prosma", 1).shape == (6, 8)
    assert found.channel_zeros("attention", 1).size == 0


def test_one_bad_case_does_not_end_it(ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path) -> None:
    def cannot() -> Image:
        raise DataError("'torn.png' is cut short; copy it again")

    events = list(
        inspect_cases(make_checkpoint(), [Case("torn", cannot), *ultrasound[:2]], tmp_path, device="cpu")
    )
    assert any("torn.png" in event.message for event in events if isinstance(event, Notice))
    assert isinstance(events[-1], Finished)
    assert [case.name for case in events[-1].result.cases] == [case.name for case in ultrasound[:2]]
    assert list(events[-1].result.failed) == ["torn"]
    with pytest.raises(DataError, match="none of the 1 cases"):
        list(inspect_cases(make_checkpoint(), [Case("torn", cannot)], tmp_path))


def test_what_is_done_is_not_done_again_unless_a_model_or_a_file_changed(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path
) -> None:
    read: list[str] = []
    file = tmp_path / "image.png"
    file.write_bytes(b"1")

    def image() -> Image:
        read.append("again")
        return ultrasound[0].read_image()

    case = Case("one", image, ultrasound[0].read_label, (file,))
    first, second = make_checkpoint(), make_checkpoint(seed=4)
    out = tmp_path / "out"
    before = result_of(inspect_cases(first, [case], out))
    assert result_of(inspect_cases(first, [case], out)).cases == before.cases
    assert len(read) == 1
    result_of(inspect_cases(second, [case], out))
    assert len(read) == 2
    file.write_bytes(b"22")
    result_of(inspect_cases(second, [case], out))
    assert len(read) == 3
    (out / "cases" / "one.json").write_text("{")
    result_of(inspect_cases(second, [case], out))
    assert len(read) == 4


def test_the_case_far_from_the_median_comes_first_and_says_why(make_checkpoint: Make) -> None:
    cases = [numbers(f"case {n}", psi_mean=0.5 + 0.01 * n, retained_energy=0.3) for n in range(9)]
    cases.append(numbers("odd", psi_mean=0.54, retained_energy=0.05))
    deviations = deviations_of(cases)
    assert deviations["odd"] == Deviation(1, "retained_energy", 0.05, 0.3, pytest.approx(-25))
    found = DataSetInspection({}, tuple(cases), deviations, {}, unusual_from=unusual_from(10, 2))
    assert found.is_unusual("odd")
    assert not any(found.is_unusual(f"case {n}") for n in range(9))
    assert (
        deviations["odd"]
        .in_words()
        .startswith("Skip 1: energy kept 5.0 %, 25.0 robust standard deviations below the median")
    )
    assert deviations_of(cases[:4]) == {}
    spread = [numbers(str(n), psi_mean=0.1 * n) for n in range(9)]  # median 0.4, median distance 0.2
    assert deviations_of(spread)["8"].score == pytest.approx(0.4 / (1.4826 * 0.2))


def test_measures_that_a_label_has_a_part_in_make_no_case_unusual() -> None:
    cases = [numbers(str(n), psi_mean=0.5, psi_auc=0.9) for n in range(9)]
    cases.append(numbers("odd", psi_mean=0.5, psi_auc=0.1))
    assert all(deviation.score == 0 for deviation in deviations_of(cases).values())


@pytest.mark.parametrize(
    ("slope", "said"), [(-1, "goes with lower Dice"), (1, "goes with higher Dice"), (0, "no association")]
)
def test_what_is_said_of_dice_follows_the_numbers(make_checkpoint: Make, slope: int, said: str) -> None:
    noise = np.random.default_rng(0).permutation(20) / 100
    away = np.arange(20)
    cases = [
        numbers(str(n), dice=0.5 + slope * 0.02 * n + noise[n] * (slope == 0), psi_mean=0.5 + 0.02 * n)
        for n in away
    ]
    # The first one lies in the middle, the others farther and farther to both sides.
    for n in away[1::2]:
        measures = {1: SkipNumbers({"psi_mean": 0.5 - 0.02 * n})}
        cases[n] = replace(cases[n], models={"m": replace(cases[n].first, skips=measures)})
    found = inspection(cases, make_checkpoint()).association()
    assert found.cases == 20
    assert said in found.in_words()
    assert found.low <= found.rho <= found.high


def test_few_labels_say_nothing(make_checkpoint: Make) -> None:
    cases = [numbers(str(n), dice=0.1 * n if n < 4 else None, psi_mean=0.1 * n) for n in range(8)]
    assert inspection(cases, make_checkpoint()).association().in_words() == (
        "Whether unusual gating goes with low Dice cannot be judged from 4 independent cases."
    )
    assert isinstance(inspection(cases, make_checkpoint()).association(), Association)


def test_twins_of_other_classes_are_refused(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path
) -> None:
    other = {"other": make_checkpoint(classes=("background", "a", "b"))}
    with pytest.raises(DataError, match=r"'other' knows the classes background, a, b, 'model' background"):
        list(inspect_cases(make_checkpoint(), ultrasound, tmp_path, others=other))
    with pytest.raises(DataError, match="no case"):
        list(inspect_cases(make_checkpoint(), [], tmp_path))


def test_images_of_one_patient_and_their_copies_are_one_independent_case() -> None:
    contents = {"a": "one", "b": "one", "c": "two", "d": "three"}
    cases = [CaseNumbers(n, "", "unseen", "label", {}, {}, digest) for n, digest in contents.items()]
    assert units_of(cases, {"b": "p", "c": "p", "d": "q"}) == dict.fromkeys("abc", "a")
