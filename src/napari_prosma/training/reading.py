"""What a run reads before its first step: every case, and the unlabelled images, once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import HASH_BYTES, CaseFacts, Plan, content_hash, read_facts
from napari_prosma.data.labels import BINARY
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.preparation import grid_size
from napari_prosma.errors import CheckpointError, DataError, first_of
from napari_prosma.events import Event, Notice, Progress, Started
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.steering import Steering


@dataclass(frozen=True)
class Unlabelled:
    """Cases without labels that fit the plan, and one hash over their contents in order."""

    cases: tuple[Case, ...] = ()
    fingerprint: str = ""


def read_cases(cases: Sequence[Case], steering: Steering) -> Generator[Event, None, list[CaseFacts]]:
    """Facts of every case, or of the first ones where it was stopped."""
    facts: list[CaseFacts] = []
    yield Started(len(cases), "Reading cases")
    for fact in read_facts(cases):
        facts.append(fact)
        yield from map(Notice, fact.notices)
        yield Progress(len(facts), len(cases), f"reading {len(facts)} of {len(cases)}")
        if steering.was_stopped:
            break
    yield from map(Notice, _copies_in_words(facts))
    return facts


def _copies_in_words(facts: Sequence[CaseFacts]) -> list[str]:
    """What to say of cases whose image and label are those of another one, so that they count twice."""
    names: dict[tuple[str, str], str] = {}
    copies = []
    for fact in facts:
        first = names.setdefault((fact.image_hash, fact.label_hash), fact.name)
        if first != fact.name:
            copies.append(f"{fact.name} of {first}")
    if not copies:
        return []
    return [
        f"{len(copies)} cases are copies of others, image and label, such as {copies[0]}, so these "
        "count more; remove the copies, or keep them on one side of the split with --together copies"
    ]


def _require_alike(case: Case, image: Image, labelled: CaseFacts, plan: Plan) -> None:
    """Refuse an unlabelled image that the network of the labelled ones cannot take."""
    named = f"the unlabelled image '{case.files[0] if case.files else case.name}'"
    array = image.array
    if (array.shape[0], array.ndim - 1) != (plan.channels, len(labelled.shape)):
        raise DataError(
            f"{named} has {array.shape[0]} channel(s) and {array.ndim - 1} axes but the labelled ones have "
            f"{plan.channels} and {len(labelled.shape)}; convert it, or leave it out"
        )
    if not array.size or not np.all(np.isfinite(array)):
        raise DataError(f"{named} is empty or holds NaN or infinite values; re-export it, or leave it out")
    try:
        grid_size(array.shape[1:], image.geometry, plan)
    except DataError as error:
        raise DataError(f"{named} cannot be brought to the spacing of the labelled ones: {error}") from error


def read_unlabelled(
    config: TrainConfig,
    given: Sequence[Case],
    facts: Sequence[CaseFacts],
    plan: Plan,
    steering: Steering,
) -> Generator[Event, None, Unlabelled | None]:
    """Look at every unlabelled image once, None where stopped; what is labelled as well is left out."""
    if not given and config.unlabelled is not None:
        data = find_cases(config.unlabelled, require_labels=False, labels=BINARY)  # none of them is read
        yield from map(Notice, data.notices)
        given = data.cases
    if not given:
        return Unlabelled()
    labelled = {fact.image_hash: fact.name for fact in facts}
    kept: list[Case] = []
    hashes: list[str] = []
    twice: list[str] = []
    yield Started(len(given), "Reading unlabelled images")
    for n, case in enumerate(given, start=1):
        image = case.read_image()
        _require_alike(case, image, facts[0], plan)
        found = content_hash(image.array)
        if found in labelled:
            twice.append(case.name)
        else:
            kept.append(replace(case, read_label=None))
            hashes.append(found)
        yield from map(Notice, image.notices)
        yield Progress(n, len(given), f"reading {n} of {len(given)} unlabelled images")
        if steering.was_stopped:
            return None
    if twice:
        named = ", ".join(twice[:5]) + (", ..." if len(twice) > 5 else "")
        said = f"{len(twice)} of the {len(given)} unlabelled images ({named}) are among the labelled cases"
        if not kept:
            raise DataError(f"{said}: none is left; give other images, or leave them out")
        yield Notice(f"{said} and are not used as unlabelled images")
    yield Notice(f"Unlabelled: {len(kept)} image{'s' * (len(kept) > 1)}")
    fingerprint = hashlib.blake2b("".join(hashes).encode(), digest_size=HASH_BYTES).hexdigest()
    return Unlabelled(tuple(kept), fingerprint)


def require_same_cases(checkpoint: Checkpoint, cases: Sequence[Case], class_names: Sequence[str]) -> None:
    """Refuse to resume a run with other cases or classes than it began with, or cases of one name."""
    if not checkpoint.place:
        raise CheckpointError(f"'{checkpoint.path}' is no last checkpoint of a run; give the run's folder")
    repeated = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if repeated:
        raise DataError(
            f"several cases are called '{repeated[0]}', so which of them the run learned from is unknown; "
            f"give each case a name of its own, and start a new run"
        )
    different = data_difference(checkpoint, cases, class_names)
    if different:
        raise DataError(
            f"the data are not those that the run began with ({different}); restore the data, or start a "
            f"new run"
        )


def data_difference(checkpoint: Checkpoint, cases: Sequence[Case], class_names: Sequence[str]) -> str:
    """What is other than in the data of a run, in words: its classes, or names of cases; empty if nothing."""
    names = checkpoint.plan.class_names
    if class_names and tuple(class_names) != names:
        return f"classes {', '.join(names)}, now {', '.join(class_names)}"
    then, now = {name for part in checkpoint.split.values() for name in part}, {case.name for case in cases}
    parts = (("added", sorted(now - then)), ("missing", sorted(then - now)))
    return "; ".join(f"{len(which)} case(s) {what}: {first_of(which)}" for what, which in parts if which)
