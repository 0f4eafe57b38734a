"""Where a model doubts an annotation: a map per case, the regions to look at, and files of both."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_prosma.data.atomic import require_writable
from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.names import file_stems
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.readers import as_channels
from napari_prosma.data.texts import write_rows
from napari_prosma.data.writers import write_map
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started, result_of
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import named
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.segmentation.regions import Region, region_rows, regions
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.doubt import Disagreement, disagreement, doubt
from napari_prosma.training.run_folder import learned_images

DOUBTED = 0.5
"""A region is doubted where the model gives more than this probability to anything but the label."""
REGIONS, CASES = "doubted_regions.csv", "doubted_cases.csv"


@dataclass(frozen=True, eq=False)
class CaseDoubt:
    """How much a model doubts the label of one case."""

    case: str
    figures: Disagreement
    # The connected parts where the doubt is above a half, the largest first; ``at`` is where to go.
    regions: tuple[Region, ...]
    # Whether the model was trained on this very image, whatever it is called: it then doubts less than it
    # should. None where it is not known, since the model does not lie in the folder of its run.
    was_learned: bool | None


def doubt_map(checkpoint: Checkpoint, case: Case, device: str = "auto") -> np.ndarray:
    """``|p - y|`` of a case on its own grid: (*spatial) float32, 0 = the model agrees with the label.

    Raises ``DataError``, ``CheckpointError``, ``ConfigError``: as
    :func:`~napari_prosma.segmentation.segment.segment`, or the case has no label of its image's shape.
    """
    *_, last = compare_with_label(checkpoint, case, device)
    assert isinstance(last, Finished)
    return last.result.map


@dataclass(frozen=True, eq=False)
class Compared:
    """A model's answer to one case beside its label."""

    map: np.ndarray  # (*spatial) float32: ``|p - y|``
    doubt: CaseDoubt
    geometry: Geometry


def compare_with_label(checkpoint: Checkpoint, case: Case, device: str = "auto") -> Iterator[Event]:
    """Segment a labelled case; the last event is ``Finished`` with :class:`Compared`.

    Raises
    ------
    As :func:`doubt_map`.
    """
    yield from _comparing(checkpoint, case, device, learned_images(checkpoint))


def _comparing(
    checkpoint: Checkpoint, case: Case, device: str, learned: frozenset[str] | None
) -> Iterator[Event]:
    image, label, was_learned = _read(checkpoint, case, learned)
    segmented = yield from result_of(segment(checkpoint, image, name=case.name, device=device))
    found = doubt(segmented.probabilities, label)
    figures = disagreement(segmented.probabilities, label, slice_axis(image.geometry))
    regions_of_it = tuple(doubted_regions(found, image.geometry))
    yield Finished(Compared(found, CaseDoubt(case.name, figures, regions_of_it, was_learned), image.geometry))


def doubted_regions(doubts: np.ndarray, geometry: Geometry) -> list[Region]:
    """Connected parts of a map (*spatial) where the doubt is above a half, the largest first."""
    return regions((doubts > DOUBTED).astype(np.uint8), geometry, ("agreed", "doubted"))


def find_doubts(
    checkpoint: Checkpoint, cases: Sequence[Case], out: Path, device: str = "auto"
) -> Iterator[Event]:
    """Write what a model doubts in the labels of ``cases``; the last event is ``Finished``.

    ``doubted_cases.csv`` has a line per case and ``doubted_regions.csv`` one per region, the most doubtful
    first, and ``CASE_doubt`` is the map of a case. A case that cannot be compared is told and left out.

    Its result is a list of :class:`CaseDoubt`, by error ratio, the largest first.

    Raises ``DataError``: no case has a label, none can be compared, or nothing can be written.
    """
    require_writable(out)
    labelled = [case for case in cases if case.read_label is not None]
    if not labelled:
        raise DataError(f"none of the {len(cases)} cases has a label; give the folder that has the masks too")
    yield Started(len(labelled), "Comparing labels with the model")
    found: list[tuple[CaseDoubt, Geometry]] = []
    left_out: list[DataError] = []
    learned, stems = learned_images(checkpoint), file_stems(case.name for case in cases)
    for n, case in enumerate(labelled, start=1):
        compared = yield from _compared(checkpoint, case, device, learned)
        if isinstance(compared, DataError):
            left_out.append(compared)
            yield Notice(f"{case.name} is left out: {compared}")
        else:
            write_map(_map_path(out, stems[case.name], compared.geometry), compared.map, compared.geometry)
            found.append((compared.doubt, compared.geometry))
        yield Progress(n, len(labelled), case.name)
    if not found:
        raise DataError(
            f"none of the {len(labelled)} labelled cases can be compared; the first: {left_out[0]}"
        )
    found.sort(key=lambda each: (-each[0].figures.error_ratio, each[0].case))
    write_rows(out / CASES, case_rows([each for each, _ in found], checkpoint))
    pieces = [(piece, each.case, geometry) for each, geometry in found for piece in each.regions]
    pieces.sort(key=lambda piece: -piece[0].size)
    write_rows(out / REGIONS, [_region_row(*piece) for piece in pieces])
    yield Finished([each for each, _ in found])


def case_rows(found: Sequence[CaseDoubt], checkpoint: Checkpoint) -> list[dict[str, str | float]]:
    """A line per case, as in ``doubted_cases.csv``."""
    rows = []
    for each in found:
        figures = each.figures
        row: dict[str, str | float] = {
            "case": each.case,
            "error ratio": figures.error_ratio,
            "absolute error": figures.absolute_error,
            "worst class": checkpoint.plan.class_names[figures.worst_class],
            "slice": figures.slice,
            "doubted regions": len(each.regions),
        }
        if each.was_learned is not None:
            row["learned from"] = "yes" if each.was_learned else "no"
        rows.append(row)
    return rows


def _compared(
    checkpoint: Checkpoint, case: Case, device: str, learned: frozenset[str] | None
) -> Generator[Event, None, Compared | DataError]:
    """What was found, or why the case is left out."""
    try:
        return (yield from result_of(_comparing(checkpoint, case, device, learned), Notice))
    except DataError as error:
        return error


def _read(
    checkpoint: Checkpoint, case: Case, learned: frozenset[str] | None
) -> tuple[Image, np.ndarray, bool | None]:
    """Image and label, and whether the model learned from the image."""
    if case.read_label is None:
        raise DataError(f"case '{case.name}' has no label to compare; give its mask")
    image = case.read_image()
    was_learned = None if learned is None else content_hash(image.array) in learned
    with named(case.name):
        image = as_channels(image, checkpoint.plan.channels)
    label = np.asarray(case.read_label())
    if label.shape != image.array.shape[1:]:
        raise DataError(
            f"the label of case '{case.name}' has shape {label.shape} but its image {image.array.shape[1:]}; "
            f"crop or re-export one of them"
        )
    highest = int(label.max(where=label != IGNORE, initial=0))
    if highest >= len(checkpoint.plan.class_names):
        raise DataError(
            f"the label of case '{case.name}' holds class {highest}, but the model knows "
            f"{', '.join(checkpoint.plan.class_names)}; choose a model of these classes"
        )
    return image, label, was_learned


def doubt_files(out: Path, names: Iterable[str]) -> list[Path]:
    """What :func:`find_doubts` may write of cases with these names."""
    stems = file_stems(names).values()
    maps = [out / f"{stem}_doubt{suffix}" for stem in stems for suffix in (".nii.gz", ".tif")]
    return [out / CASES, out / REGIONS, *maps]


def _map_path(out: Path, stem: str, geometry: Geometry) -> Path:
    is_patient = geometry.ndim == 3 and geometry.unit == "mm"
    return out / f"{stem}_doubt{'.nii.gz' if is_patient else '.tif'}"


def _region_row(region: Region, case: str, geometry: Geometry) -> dict[str, str | float]:
    (row,) = region_rows([region], geometry, case)
    return {name: value for name, value in row.items() if name != "class"}
