"""Which cases are held out: a share drawn as the papers' code draws it, or one fold of several."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest

from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Notice
from napari_prosma.training.reading import read_cases
from napari_prosma.training.split import learnable, patients_in_names, split_cases
from napari_prosma.training.steering import Steering


def cases(count: int) -> list[Case]:
    return [Case.from_arrays(str(n), np.zeros((1, 4, 4), np.float32)) for n in range(count)]


def test_the_held_out_cases_are_the_first_of_the_papers_permutation() -> None:
    for seed in (2981, 6142, 1187):
        training, validation = split_cases(cases(647), 0.2, seed)
        assert (len(training), len(validation)) == (517, 130)
        assert set(validation) == set(np.random.RandomState(seed).permutation(647)[:130].tolist())
        assert sorted(training + validation) == list(range(647))


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(1, 0.2, 0), (2, 0.01, 1), (2, 0.99, 1), (9, 0, 0)]
)
def test_something_is_left_to_train_on_and_one_is_held_out_if_there_are_two(
    count: int, fraction: float, held_out: int
) -> None:
    training, validation = split_cases(cases(count), fraction, 0)
    assert (len(training), len(validation)) == (count - held_out, held_out)


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (5, 5), (11, 3), (13, 5)])
def test_over_all_folds_every_case_is_held_out_once(count: int, folds: int) -> None:
    parts = [split_cases(cases(count), 0.2, 7, (k, folds)) for k in range(folds)]
    assert sorted(n for _, held_out in parts for n in held_out) == list(range(count))
    for training, held_out in parts:
        assert sorted(training + held_out) == list(range(count))
        assert len(held_out) in (count // folds, count // folds + 1)


def test_folds_follow_the_seed() -> None:
    assert split_cases(cases(9), 0.2, 0, (0, 3)) == split_cases(cases(9), 0.9, 0, (0, 3))
    assert split_cases(cases(9), 0.2, 0, (0, 3)) != split_cases(cases(9), 0.2, 1, (0, 3))


def test_fewer_cases_than_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"4 case.* cannot be cut into 5 folds"):
        split_cases(cases(4), 0.2, 0, (0, 5))


def of(*told: tuple[str, str]) -> list[Case]:
    """Cases with a split and a patient each."""
    return [
        Case(str(n), lambda: None, split=split, patient=patient)  # type: ignore[arg-type, return-value]
        for n, (split, patient) in enumerate(told)
    ]


def test_validation_cases_of_the_data_set_validate() -> None:
    told = of(("train", ""), ("val", ""), ("train", ""), ("val", ""))
    assert split_cases(told, 0.2, 0) == ([0, 2], [1, 3])


def test_where_all_are_for_training_a_share_is_drawn() -> None:
    training, held_out = split_cases(of(*[("train", "")] * 10), 0.2, 0)
    assert (len(training), len(held_out)) == (8, 2)


def test_validation_cases_are_shared_out_among_folds() -> None:
    told = of(*[("train", "")] * 4, *[("val", "")] * 2)
    parts = [split_cases(told, 0.2, 0, (k, 3))[1] for k in range(3)]
    assert sorted(n for part in parts for n in part) == list(range(6))


@pytest.mark.parametrize("seed", range(8))
def test_a_patient_is_on_one_side(seed: int) -> None:
    told = of(*(("", f"p{n // 3}") for n in range(15)))
    training, held_out = split_cases(told, 0.2, seed)
    assert {told[n].patient for n in training}.isdisjoint(told[n].patient for n in held_out)
    assert len(held_out) == 3
    for k in range(5):
        training, held_out = split_cases(told, 0.2, seed, (k, 5))
        assert {told[n].patient for n in training}.isdisjoint(told[n].patient for n in held_out)


def test_one_patient_leaves_something_to_learn_from() -> None:
    training, held_out = split_cases(of(*[("", "p")] * 5), 0.2, 0)
    assert (len(training), len(held_out)) == (5, 0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("sizes", "fraction", "held_out"),
    [
        ((91, *[1] * 9), 0.2, 9),  # all but the large one
        ((60, *[4] * 10), 0.2, 20),
        ((45, 45, 10), 0.2, 10),
        ((50, 50), 0.2, 50),
        ((60, 40), 0.5, 40),
        ((25, 25, 25, 25), 0.05, 25),
        ((3, 3), 0.99, 3),
        ((7,) * 20, 0.2, 28),
    ],
)
def test_patients_of_any_size_leave_about_the_share_that_was_wanted(
    sizes: tuple[int, ...], fraction: float, held_out: int, seed: int
) -> None:
    told = of(*(("", f"p{patient}") for patient, size in enumerate(sizes) for _ in range(size)))
    training, validation = split_cases(told, fraction, seed)
    assert (len(training), len(validation)) == (sum(sizes) - held_out, held_out)
    assert {told[n].patient for n in training}.isdisjoint(told[n].patient for n in validation)


def test_fewer_patients_than_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 patient.* cannot be cut into 3 folds"):
        split_cases(of(*(("", f"p{n % 2}") for n in range(8))), 0.2, 0, (0, 3))


def test_a_patient_on_both_sides_of_a_given_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 patient\(s\) into training and into validation, such as 'p'"):
        split_cases(of(("train", "p"), ("val", "p"), ("train", "q")), 0.2, 0)


def drained(events: Generator[Event, None, list[Case]]) -> tuple[list[Case], list[str]]:
    said = []
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value, said
        if isinstance(event, Notice):
            said.append(event.message)


def test_test_cases_are_never_learned_from() -> None:
    told = of(("train", ""), ("test", ""), ("val", ""), ("test", ""))
    kept, said = drained(learnable(told, "given", "patients"))
    assert [case.name for case in kept] == ["0", "2"]
    assert "2 test cases are left out" in said[0]
    everything, said = drained(learnable(told, "random", "patients"))
    assert (len(everything), {case.split for case in everything}, said) == (4, {""}, [])
    with pytest.raises(ConfigError, match="all 2 cases are test cases"):
        drained(learnable(of(("test", ""), ("test", "")), "given", "patients"))


def named(*names: str) -> list[Case]:
    return [Case(name, lambda: None) for name in names]  # type: ignore[arg-type, return-value]


def test_copies_that_a_program_made_of_one_image_belong_together() -> None:
    names = [f"{scan}_jpg.rf.{copy:032x}" for copy, scan in enumerate(("b", "b", "c", "c", "d"))]
    assert list(patients_in_names(named(*names)).values()) == [[0, 1], [2, 3], [4]]


def test_patients_of_names_are_told_and_taken_on_request() -> None:
    told = named(*(f"p{p}_f{f}" for p in range(4) for f in range(3)))
    kept, said = drained(learnable(told, "given", "patients"))
    assert {case.patient for case in kept} == {""}
    assert "look like 4 patients" in said[0]
    assert "--together names" in said[0]
    kept, said = drained(learnable(told, "given", "names"))
    assert {case.patient for case in kept} == {"p0", "p1", "p2", "p3"}
    assert "4 patients" in said[0]


@pytest.mark.parametrize(
    "names",
    [
        ("benign (1)", "benign (2)", "benign (3)"),
        ("hippocampus_001", "hippocampus_003", "hippocampus_004"),
        ("cju0qkwl35piu", "cju0qoxqj9q6s", "cju1dkndy2wsy"),
        ("scan_1_2", "scan_2_2", "scan_3_2"),
        ("a", "b", "c"),
    ],
)
def test_names_that_tell_no_patients(names: tuple[str, ...]) -> None:
    assert len(patients_in_names(named(*names))) == len(names)
    assert drained(learnable(named(*names), "given", "patients"))[1] == []
    said = ["The names of the cases tell no patients: each case counts by itself"]
    assert drained(learnable(named(*names), "given", "names"))[1] == said


def test_near_duplicates_stay_together_on_request() -> None:
    pictures = np.random.default_rng(0).random((3, 8, 8)).repeat(8, 1).repeat(8, 2)
    noise = np.random.default_rng(1).random((6, 64, 64)) / 50
    told = [
        Case.from_arrays(f"c{n}", (pictures[n % 3] + noise[n]).astype(np.float32)[None]) for n in range(6)
    ]
    kept, said = drained(learnable(told, "given", "copies"))
    assert [case.patient for case in kept[:3]] == [case.patient for case in kept[3:]]
    assert len({case.patient for case in kept}) == 3
    assert said == [
        "6 of 6 images are near-duplicates of another image (3 groups); the images of each group are all "
        "training or all validation cases"
    ]
    told = [replace(case, patient="p" if n in (0, 1) else "") for n, case in enumerate(told)]
    kept, said = drained(learnable(told, "given", "copies"))
    assert [case.patient for case in kept] == ["p", "p", "copies of c2", "p", "p", "copies of c2"]
    assert [words.partition(" ")[0] for words in said] == ["1", "6"]
    with pytest.raises(
        ConfigError, match=r"2 patient\(s\) or group\(s\) of copies cannot be cut into 3 folds"
    ):
        split_cases(kept, 0.2, 0, (0, 3))


def test_images_that_are_no_copies_are_not_said_to_stay_together() -> None:
    pictures = np.random.default_rng(0).random((3, 1, 64, 64), np.float32)
    told = [Case.from_arrays(f"c{n}", picture) for n, picture in enumerate(pictures)]
    kept, said = drained(learnable(told, "given", "copies"))
    assert {case.patient for case in kept} == {""}
    assert said == ["0 of 3 images are near-duplicates of another image (0 groups)"]


def test_copies_among_the_cases_are_told_before_they_are_learned_from() -> None:
    def case(name: str, seed: int) -> Case:
        image = np.random.default_rng(seed).random((1, 8, 8), np.float32)
        return Case.from_arrays(name, image, (image[0] > 0.5).astype(np.uint8))

    def told(*cases: Case) -> list[str]:
        events = read_cases(cases, Steering())
        return [event.message for event in events if isinstance(event, Notice)]

    (said,) = told(case("a", 0), case("b", 1), case("c", 0))
    assert said.startswith("1 cases are copies of others, image and label, such as c of a")
    assert told(case("a", 0), case("b", 1)) == []
