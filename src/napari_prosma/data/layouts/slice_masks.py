"""A picture per slice of a DICOM series as its label: paired by names, or by order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from napari_prosma.data.formats import dicom, pictures
from napari_prosma.data.formats.dicom import Series
from napari_prosma.data.layouts.found import Found, Recognised, files_in, images_in
from napari_prosma.data.layouts.judging import Judge
from napari_prosma.data.names import natural, normal
from napari_prosma.data.readers import read_label as read_picture
from napari_prosma.data.readers import stem
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

_REMEDY = "or save the masks as one volume that lies where the series does (.nii.gz, .nrrd)"


def by_slices(folder: Path) -> Recognised | None:
    """Series and their masks, a folder of pictures each; None where there is no series or no such folder.

    Raises ``DataError``: the pictures do not fit the slices of a series.
    """
    series = [path for path in images_in(folder) if path.is_dir() and dicom.holds_series(path)]
    by_place: dict[Path, list[Path]] = defaultdict(list)
    for path in files_in(folder) if series else ():
        if path.name.lower().endswith(pictures.SUFFIXES):
            by_place[path.parent].append(path)
    if not by_place:
        return None
    found, orders = [], set()
    names = [path.name for path in series]
    for image in series:
        stack = dicom.series_of(image)
        place = _masks_of(folder, image, len(stack.frames), by_place)
        if place is None:
            return None
        ordered, by_name = _in_order(stack, image, by_place[place])
        orders.add(by_name)
        *above, own = image.relative_to(folder).parts
        name = above.pop() if above and names.count(own) > 1 else own
        found.append(Found(name, (image,), ordered, "/".join(above), is_sliced=True))
    if not found:
        return None
    told = "by their names" if orders == {True} else "in the order of their names"
    first = found[0]
    said = f"such as those of '{first.labels[0].parent.name}' to '{first.image.name}'"
    notices = [f"{len(found)} series with a mask per slice, {told}, {said}"]
    used = {case.labels[0].parent for case in found}
    left = [path for place, files in by_place.items() if place not in used for path in files]
    if left:
        shown = left[0].relative_to(folder).as_posix()
        notices.append(f"{len(left)} pictures belong to no series and are not used, the first is '{shown}'")
    return Recognised("names", tuple(found), notices=tuple(notices))


def read_label(case: Found) -> tuple[np.ndarray, Geometry]:
    """The stored values of the masks of a series on its grid.

    Raises ``DataError``: a picture has another size than the slices.
    """
    series = dicom.series_of(case.image)
    ordered, _ = _in_order(series, case.image, case.labels)
    read = [read_picture(path, 2)[0] for path in ordered]
    planes = np.zeros(series.stored_shape, np.result_type(*read))
    there = [place for place, frame in enumerate(series.frames) if frame is not None]
    for place, path, plane in zip(there, ordered, read, strict=True):
        if plane.shape != planes.shape[1:]:
            raise DataError(
                f"'{path}' has shape {plane.shape} but the slices of '{case.image}' have {planes.shape[1:]}; "
                "export it in the size of its slice"
            )
        planes[place] = plane
    return series.array_of(planes), series.geometry


def _masks_of(folder: Path, image: Path, slices: int, by_place: Mapping[Path, Sequence[Path]]) -> Path | None:
    """The folder of pictures that shares most folders with a series, or among these has a picture per slice.

    Of several the only one whose first picture shows labels, for slices may lie there as pictures, too. None
    where no single one does.
    """
    ours = {*image.relative_to(folder).parts}

    def fit(place: Path) -> tuple[bool, int, bool]:
        shared = len(ours & {*place.relative_to(folder).parts})
        return place == image, shared, len(by_place[place]) == slices

    best = max(map(fit, by_place))
    fitting = [place for place in by_place if fit(place) == best]
    judge = Judge()
    if len(fitting) > 1:
        fitting = [place for place in fitting if judge.look(by_place[place][0]).kind in ("label", "empty")]
    return fitting[0] if len(fitting) == 1 else None


def _in_order(series: Series, image: Path, masks: Sequence[Path]) -> tuple[tuple[Path, ...], bool]:
    """The mask of every slice from the first to the last, and whether its name tells which it is."""
    slices = [frame for frame in series.frames if frame is not None]
    of_name = {normal(stem(path)): path for path in masks}
    names = [normal(stem(frame.path)) for frame in slices]
    if len(of_name) == len(masks) and of_name.keys() <= {*names} and len({*names}) == len(names):
        lacking = [frame.path.name for frame, name in zip(slices, names, strict=True) if name not in of_name]
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(slices)} slices of '{image}' have no mask in '{masks[0].parent}', "
                f"the first is '{lacking[0]}'; add one, empty where there is nothing, {_REMEDY}"
            )
        return tuple(of_name[name] for name in names), True
    if len(masks) != len(slices):
        raise DataError(
            f"'{image}' has {len(slices)} slices but '{masks[0].parent}' {len(masks)} pictures, and their "
            f"names do not tell which belong together; give one mask per slice, named as it is, {_REMEDY}"
        )
    by_name = sorted(range(len(slices)), key=lambda n: _by_number(slices[n].path))
    is_told = len({frame.number for frame in slices}) == len(slices)
    by_number = sorted(range(len(slices)), key=lambda n: slices[n].number) if is_told else by_name
    steps = {second - first for first, second in pairwise(by_name)}
    if by_number != by_name or (not steps <= {1} and not steps <= {-1}):
        raise DataError(
            f"the slices of '{image}' lie in another order than their names tell, so nobody knows which mask "
            f"of '{masks[0].parent}' is whose; name the masks as the slices, {_REMEDY}"
        )
    in_order = sorted(masks, key=_by_number)
    place = {n: rank for rank, n in enumerate(by_name)}
    return tuple(in_order[place[n]] for n in range(len(slices))), False


def _by_number(path: Path) -> list[tuple[int, int | str]]:
    return natural(normal(path.name))
