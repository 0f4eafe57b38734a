"""The classes of labels beside those of a model or a reference: the same by their names, else by number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from napari_prosma.errors import DataError

_SAYS_NOTHING = re.compile(
    r"(foreground|label|mask|object|class|segment|region|structure|roi)?[ -]*\d*|#[0-9a-f]{6}"
)
_VOID = re.compile(r"(ignored?|void|don'?t ?care|vague|ambiguous)( (areas?|regions?|masks?))?")


def plain(name: str) -> str:
    """A name as it is compared: without case, and with one blank for each gap."""
    return " ".join(name.replace("_", " ").split()).casefold()


def says_nothing(name: str) -> bool:
    """Whether a name says nothing of a structure, such as ``label 1``."""
    return _SAYS_NOTHING.fullmatch(plain(name)) is not None


def is_void(name: str) -> bool:
    """Whether a class of that name marks what nobody could label, so that it is not labelled."""
    return _VOID.fullmatch(plain(name).removesuffix("*")) is not None  # QuPath writes ``Ignore*``


def by_name(names: Sequence[str]) -> dict[str, int]:
    """Index of every class but the background by its plain name; the first of equal ones."""
    return {plain(name): k for k, name in reversed(list(enumerate(names))) if k}


def places_by_name(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, ...] | None:
    """Index in ``ours`` of every class of ``theirs``; None where one of the names is not among them.

    Both begin with the background, whatever it is called.
    """
    places = by_name(ours)
    found = [places.get(plain(name)) for name in theirs[1:]]
    known = [place for place in found if place is not None]
    return (0, *known) if len({*known}) == len(found) else None


def taken_for(theirs: Mapping[int, str], ours: Mapping[int, str], whose: str) -> str:
    """What to say where classes are taken for others by their numbers; empty where their names agree.

    Parameters
    ----------
    theirs, ours : number -> name
    whose : such as ``the model``
        Of ``ours``.

    Raises
    ------
    DataError
        A name is that of another class of ours.
    """
    places = {plain(name): number for number, name in ours.items()}
    said = []
    for number, name in theirs.items():
        meant = ours.get(number, "")
        if plain(name) == plain(meant) or says_nothing(name) or says_nothing(meant):
            continue
        if plain(name) in places:
            raise DataError(
                f"the labels call {number} '{name}', which is {places[plain(name)]} in {whose} "
                f"({', '.join(ours.values())}); give both the same classes, in the same order"
            )
        if number:
            said.append(f"'{name}' is taken for '{meant}'")
    return f"the labels and {whose} name their classes differently: {', '.join(said)}" if said else ""


def as_ours(
    label: np.ndarray, theirs: Sequence[str], ours: Sequence[str], whose: str
) -> tuple[np.ndarray, str]:
    """Class indices of ``theirs`` as those of ``ours``, by name where all are known, and what to say.

    Raises ``DataError``: as :func:`taken_for`.
    """
    places = places_by_name(theirs, ours)
    if places is None:
        return label, taken_for(dict(enumerate(theirs)), dict(enumerate(ours)), whose)
    table = np.arange(np.iinfo(label.dtype).max + 1, dtype=label.dtype)
    table[: len(places)] = places
    return table[label], ""
