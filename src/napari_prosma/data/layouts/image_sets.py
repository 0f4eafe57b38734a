"""Images to segment among files: one per file, or one per set of files that hold its channels."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from napari_prosma.data.layouts.by_names import READINGS_TRIED
from napari_prosma.data.layouts.found import Found
from napari_prosma.data.layouts.judging import Judge, case_name
from napari_prosma.data.layouts.pairing import Reading, Role, readings
from napari_prosma.data.layouts.recognise import recognise
from napari_prosma.data.names import normal
from napari_prosma.data.readers import read_header, stem
from napari_prosma.errors import DataError

CHANNEL = re.compile(r"_(\d{4})$")
"""End of the name of a channel's file, as nnU-Net has it."""


@dataclass(frozen=True)
class ImageSet:
    """The files of one image, a channel each if there are several."""

    files: tuple[Path, ...]
    named: Path  # what its results are called after; the file itself where it is the only one of its name


def image_sets(files: Sequence[Path], channels: int, named_apart: bool = True) -> list[ImageSet]:
    """Images of ``channels`` channels among files: files that are channels of one image are joined.

    With ``named_apart`` files of one name in several folders are called after their folder too.
    """
    sets = [ImageSet((path,), path) for path in files]
    if channels > 1 and len(files) > 1 and not _holds_channels(files[0], channels):
        joined = _numbered(files, channels) or _alike(files, channels)
        sets = sets if joined is None else joined
    if not named_apart:
        return sets
    counts = Counter(_result(one.named) for one in sets)
    return [
        ImageSet(one.files, one.named.with_name(f"{one.named.parent.name}_{one.named.name}"))
        if counts[_result(one.named)] > 1
        else one
        for one in sets
    ]


def _result(path: Path) -> str:
    return stem(path).casefold()


def _holds_channels(path: Path, channels: int) -> bool:
    """Whether a file holds all channels; also where it cannot be read, which is said later."""
    try:
        return read_header(path).channels == channels
    except DataError:
        return True


def _numbered(files: Sequence[Path], channels: int) -> list[ImageSet] | None:
    """``case_0000.nii.gz`` and ``case_0001.nii.gz`` of every image."""
    of_case: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        match = CHANNEL.search(stem(path))
        if match is None:
            return None
        of_case[(path.parent, stem(path)[: match.start()])].append(path)
    for (_, name), several in of_case.items():
        if len(several) != channels:
            raise DataError(
                f"'{name}' has {len(several)} channel files but the model expects {channels}; add "
                f"'{name}_0000...' to '{name}_{channels - 1:04d}...', or take it away"
            )
    return [
        ImageSet(tuple(sorted(several)), _renamed(several[0], name)) for (_, name), several in of_case.items()
    ]


def _renamed(path: Path, name: str) -> Path:
    """The path with another name and the format that it has."""
    return path.with_name(name + path.name[len(stem(path)) :])


def _alike(files: Sequence[Path], channels: int) -> list[ImageSet] | None:
    """Files whose names are equal but for the channel: ``x_t1.nii.gz`` and ``x_t2.nii.gz``, no labels."""
    judge, folder = Judge(), Path(os.path.commonpath([path.parent for path in files]))
    joined: dict[frozenset[tuple[Path, ...]], tuple[Reading, list[ImageSet]]] = {}
    for reading in islice(readings(folder, files), READINGS_TRIED):
        images = [role for role in reading.roles if not _shows_labels(judge, reading, role)]
        whole = [found for found in reading.cases.values() if all(role in found for role in images)]
        if len(images) != channels or reading.left or len(whole) < len(reading.cases):
            continue
        sets = []
        for key, found in reading.cases.items():
            first = found[images[0]]
            name = case_name(reading, key, first, images[0], True)
            sets.append(ImageSet(tuple(found[role] for role in images), _renamed(first, name)))
        joined.setdefault(frozenset(tuple(sorted(one.files)) for one in sets), (reading, sets))
    if len(joined) < 2:
        return next((sets for _, sets in joined.values()), None)
    # As many images as channels: the images of one channel might be the channels of one image.
    learned = joined.get(frozenset(tuple(sorted(case.images)) for case in _labelled_in(folder)))
    if learned is not None:
        return learned[1]
    for is_usual in (_is_called_after_folder, _ends_in_channels):
        usual = [sets for reading, sets in joined.values() if is_usual(reading)]
        if len(usual) == 1:
            return usual[0]
    ways = [
        " with ".join(f"'{path.relative_to(folder)}'" for path in sets[0].files[:2])
        for _, sets in joined.values()
    ]
    raise DataError(
        f"files of {channels} channels fit each other in two ways: {ways[0]}, or {ways[1]}; put the files of "
        "each image into a folder of its name, or segment one image at a time"
    )


def _is_called_after_folder(reading: Reading) -> bool:
    """Whether the files of every case lie in a folder whose name is a part of theirs: ``p7/p7_t1``."""
    return all(
        len({path.parent for path in found.values()}) == 1
        and all(normal(path.parent.name) in normal(path.name) for path in found.values())
        for found in reading.cases.values()
    )


def _ends_in_channels(reading: Reading) -> bool:
    """Whether all files lie in one folder, and their names end in the channel: ``p7_t1``."""
    return all(not role.folders and not role.whole and not role.before for role in reading.roles)


def _labelled_in(folder: Path) -> tuple[Found, ...]:
    """Cases of a folder as training has them; none where nothing is labelled."""
    try:
        found = recognise(folder).found
    except DataError:
        return ()
    return found if any(case.labels for case in found) else ()


def labels_among(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Those of the files under a folder that label others of it, as training would have them."""
    found = _labelled_in(folder)
    labels = {path for case in found for path in case.labels}
    images = {path for case in found for path in case.images}
    if not images.intersection(files):
        return []
    return [path for path in files if path in labels - images]


def _shows_labels(judge: Judge, reading: Reading, role: Role) -> bool:
    return judge.look(reading.files(role)[0]).kind in ("label", "empty")
