"""Which cases are trained on and which are held out: as the data set says, a share of them, or one fold."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_prosma.data.case import Case
from napari_prosma.data.check import check_image, near_duplicates
from napari_prosma.errors import ConfigError, first_of
from napari_prosma.events import Event, Notice, Progress, Started

if TYPE_CHECKING:
    from napari_prosma.model.checkpoint import Checkpoint
    from napari_prosma.training.config import TrainConfig

Together = Literal["patients", "names", "copies", "none"]
_WORD = re.compile(r"[^\W_]+")
_NUMBERED = re.compile(r"[^\W\d_]*\d+")
_AUGMENTED = re.compile(r"(.+)\.rf\.[0-9a-f]{32}")
"""As Roboflow names the copies of an image that it turned or brightened."""
_COPIES = "copies of "
"""Begins the name of what near-duplicates share in the place of a patient."""
_FEWEST_PATIENTS = 3
_NAMED = 5


def split_cases(
    cases: Sequence[Case], fraction: float, seed: int, fold: tuple[int, int] | None = None
) -> tuple[list[int], list[int]]:
    """Indices for training and validation.

    Where the data set names cases for validation, these validate. Else a permutation is drawn from ``seed``,
    as the papers' code draws it: ``RandomState(seed).permutation(n)``, of which the first
    ``ceil(fraction * n)`` validate. A single case, or a fraction of 0, leaves nothing to validate on. Cases
    of one patient stay on one side: patients are drawn then, and as few cases more or less are held out as
    they allow.

    Parameters
    ----------
    fold : (k, n), optional
        Hold out the k-th (from 0) of n parts of the same permutation instead, cut as evenly as possible:
        over all k every case is held out once.

    Raises
    ------
    ConfigError
        Fewer cases, or patients, than folds; or a patient on both sides of the split that the data set names.
    """
    given = [n for n, case in enumerate(cases) if case.split == "val"]
    if fold is None and given and len(given) < len(cases):
        _require_patients_apart(cases, given)
        return sorted(set(range(len(cases))) - set(given)), given
    members: dict[object, list[int]] = defaultdict(list)
    for n, case in enumerate(cases):
        members[case.patient or n].append(n)
    groups = list(members.values())
    order = np.random.RandomState(seed).permutation(len(groups))
    if fold is None:
        wanted = min(math.ceil(fraction * len(cases)), len(cases) - 1)
        held_out = _drawn([groups[n] for n in order], wanted)
    elif len(groups) < fold[1]:
        what = "case(s)" if len(groups) == len(cases) else _as_groups(cases)
        raise ConfigError(
            f"{len(groups)} {what} cannot be cut into {fold[1]} folds; choose at most {len(groups)} folds, "
            f"or annotate more cases"
        )
    else:
        held_out = [n for group in np.array_split(order, fold[1])[fold[0]] for n in groups[group]]
    return sorted(set(range(len(cases))) - set(held_out)), sorted(held_out)


def _drawn(groups: Sequence[list[int]], wanted: int) -> list[int]:
    """Groups in their order until about ``wanted`` cases are held out; one group stays for training.

    One that would lead further from ``wanted`` is passed over, and so is one that holds most of the cases.
    """
    total = sum(map(len, groups))
    held_out: list[int] = []
    for group in groups:
        if len(held_out) >= wanted:
            break
        held = len(held_out) + len(group)
        leads_away = held - wanted > wanted - len(held_out)
        if held < total and not leads_away and len(group) <= max(wanted, total / 2):
            held_out += group
    if wanted and not held_out and len(groups) > 1:  # each holds far more than wanted
        return min(groups, key=len)
    return held_out


def _as_groups(cases: Sequence[Case]) -> str:
    """What the cases that share a ``patient`` have in common."""
    copies = any(case.patient.startswith(_COPIES) for case in cases)
    return "patient(s) or group(s) of copies" if copies else "patient(s)"


def _require_patients_apart(cases: Sequence[Case], validation: Sequence[int]) -> None:
    theirs = {cases[n].patient for n in validation} - {""}
    training = set(range(len(cases))) - set(validation)
    both = sorted({cases[n].patient for n in training} & theirs)
    if both:
        raise ConfigError(
            f"the data set puts {len(both)} {_as_groups(cases)} into training and into validation, such as "
            f"'{both[0]}'; correct its split, or choose the split random"
        )


def as_it_began(config: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """The configuration of a run that may have begun before splits and patients of data sets were kept."""
    missing = {"split": "random", "together": "none"}
    return config.model_copy(
        update={name: value for name, value in missing.items() if name not in checkpoint.config}
    )


def kept_split(split: Mapping[str, Sequence[str]], cases: Sequence[Case]) -> tuple[list[int], list[int]]:
    """Indices for training and validation by the ``Checkpoint.split`` of a run, each in the order of then."""
    index = {case.name: n for n, case in enumerate(cases)}
    training, validation = ([index[name] for name in split[part]] for part in ("training", "validation"))
    return training, [] if set(validation) <= set(training) else validation  # nothing was held out


def difference_in_words(
    kept: tuple[Sequence[int], Sequence[int]],
    drawn: tuple[Sequence[int], Sequence[int]],
    cases: Sequence[Case],
) -> list[str]:
    """What to say of a run that keeps another split than :func:`split_cases` gives for its cases now."""
    training, validation = kept
    others = {*training} ^ {*drawn[0]}
    moved = [case.name for n, case in enumerate(cases) if n in others]
    if not moved:
        return []
    shared = {cases[n].patient for n in training} & {cases[n].patient for n in validation} - {""}
    patients = f", and {len(shared)} {_as_groups(cases)} are on both sides of it" if shared else ""
    return [
        f"The run keeps the split that it began with{patients}; a new run on these data would be split "
        f"differently ({len(moved)} case(s) on the other side: {first_of(moved)})"
    ]


def without_test_cases(cases: Sequence[Case], split: Literal["given", "random"]) -> list[Case]:
    """The cases that may be learned from; with ``split`` random what the data set says does not count.

    Raises ``ConfigError``: only test cases are there.
    """
    if split == "random":
        return [replace(case, split="") for case in cases]
    kept = [case for case in cases if case.split != "test"]
    if cases and not kept:
        raise ConfigError(
            f"all {len(cases)} cases are test cases, which are never learned from; give training cases, or "
            f"choose the split random"
        )
    return kept


def learnable(
    cases: Sequence[Case], split: Literal["given", "random"], together: Together, in_folds: bool = False
) -> Generator[Event, None, list[Case]]:
    """The cases that a run may learn from or validate on, with a patient each where they belong together.

    Raises ``ConfigError``: as :func:`without_test_cases`.
    """
    kept = without_test_cases(cases, split)
    if split == "given":
        yield from map(Notice, _split_in_words(cases, in_folds))
    if together == "none":
        return [replace(case, patient="") for case in kept]
    if together == "names":
        kept = with_patients_of_names(kept)
        if kept and not any(case.patient for case in kept):
            yield Notice("The names of the cases tell no patients: each case counts by itself")
    elif together == "patients" and not any(case.patient for case in kept):
        patients = patients_in_names(kept)
        if len(patients) < len(kept):
            yield Notice(
                f"The names of the cases look like {len(patients)} patients with several images each, such "
                f"as {', '.join(kept[n].name for n in max(patients.values(), key=len)[:_NAMED])}: training "
                f"and validation may share patients; --together names keeps each on one side"
            )
    number = len({case.patient for case in kept} - {""})
    if number:
        yield Notice(f"{number} patients: the images of each are all training or all validation cases")
    if together == "copies":  # after the patients were counted, which copies are not
        kept = yield from _with_copies(kept)
    return kept


def _split_in_words(cases: Sequence[Case], in_folds: bool) -> list[str]:
    counts = {part: sum(case.split == part for case in cases) for part in ("train", "val", "test")}
    said = []
    if counts["test"]:
        said.append(
            f"{counts['test']} test cases are left out of training and of the choice of the best epoch"
        )
    if counts["val"] and counts["val"] + counts["test"] < len(cases):
        how = "are shared out among the folds with the others" if in_folds else "validate"
        said.append(f"{counts['val']} validation cases of the data set {how}")
    return said


def patients_in_names(cases: Sequence[Case]) -> dict[str, list[int]]:
    """Cases by what their names say of patients; every case by itself where they say nothing.

    Every name has to have a word that ends in a number, the patient's, and another number in a later word:
    ``p3_f1``, ``p3_f2``. Copies that a program made of one image count as of one patient.
    """
    alone = {case.name: [n] for n, case in enumerate(cases)}
    found: dict[str, list[int]] = defaultdict(list)
    for n, case in enumerate(cases):
        if augmented := _AUGMENTED.fullmatch(case.name):
            found[augmented.group(1)].append(n)
            continue
        words = _WORD.findall(case.name)
        numbered = [place for place, word in enumerate(words) if _NUMBERED.fullmatch(word)]
        if len(numbered) < 2:
            return alone
        found["_".join(words[: numbered[0] + 1])].append(n)
    several = sum(len(members) > 1 for members in found.values())
    return dict(found) if len(found) >= _FEWEST_PATIENTS and several >= len(found) / 2 else alone


def with_patients_of_names(cases: Sequence[Case]) -> list[Case]:
    """The cases with the patients that their names tell, where their data set tells none."""
    patients = patients_in_names(cases)
    if len(patients) == len(cases):  # they tell none
        return list(cases)
    told = {n: name for name, members in patients.items() for n in members}
    return [case if case.patient else replace(case, patient=told[n]) for n, case in enumerate(cases)]


def _with_copies(cases: Sequence[Case]) -> Generator[Event, None, list[Case]]:
    """The cases with one patient for every cluster of copies, which join the patients that they are of."""
    yield Started(len(cases), "Looking for copies")
    looked = []
    for n, case in enumerate(cases, start=1):
        looked.append(check_image(case))
        yield Progress(n, len(cases), f"looking for copies, {n} of {len(cases)}")
    clusters = near_duplicates(looked)
    joined = {case.name: case.patient for case in cases}
    for cluster in clusters:
        patients = {joined[name] for name in cluster} - {""}
        shared = min(patients, default=f"{_COPIES}{cluster[0]}")
        for name, patient in joined.items():
            if name in cluster or patient in patients:
                joined[name] = shared
    number = sum(map(len, clusters))
    stay = "; the images of each group are all training or all validation cases" if clusters else ""
    yield Notice(
        f"{number} of {len(cases)} images are near-duplicates of another image ({len(clusters)} groups){stay}"
    )
    return [replace(case, patient=joined[case.name]) for case in cases]
