"""What the list of doubted labels does in threads: read it, open a case and ask the model, save labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_prosma.data.case import Case
from napari_prosma.data.keep import safe_name
from napari_prosma.data.layouts import DataSet
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.label_file import LabelFile, open_label
from napari_prosma.plugin.shared.layers import LayerTuple, image_layer, labels_layer
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.loading import loading

ORIGINALS = "labels before correction"
"""Folder in the run folder with the label files as they were before they were written over."""


@dataclass(frozen=True, eq=False)
class CaseRead(Event):
    """A case of a folder that a run learned from, as layers unless they are open."""

    run_dir: Path
    data: DataSet | None
    file: LabelFile | None = None
    layers: tuple[LayerTuple, ...] = ()


@dataclass(frozen=True, eq=False)
class Written(Event):
    """The files of a label that a run learned from hold what was corrected."""

    run_dir: Path
    file: LabelFile


def listing(run_dir: Path) -> Iterator[Event]:
    """Read the list; the last event is ``Finished`` with the folder and its rows."""
    from napari_prosma.training.doubt import look_first

    yield Finished((run_dir, look_first(run_dir)))


def opening_case(
    run_dir: Path, name: str, data: DataSet | None, live: LiveCase | None, as_layers: bool
) -> Iterator[Event]:
    """Read the case, then compare it with what the best model of the run makes of it."""
    yield Started(0, f"Opening '{name}'")
    if live is not None:
        case = Case(name, live.read_image, live.classes_now)
    else:
        if data is None:
            data = _data_of(run_dir)
        file = open_label(data, name)
        case, image = file.case, file.case.read_image()
        layers: list[LayerTuple] = []
        if as_layers:
            names = () if file.is_scribbles else file.rule.class_names
            drawn_on = file.shown.copy()  # what the file holds must stay to compare with
            labels, attributes, kind = labels_layer(drawn_on, image.geometry, f"{name} labels", names)
            layers = [image_layer(image, name), (labels, {**attributes, "opacity": 0.5}, kind)]
        yield CaseRead(run_dir, data, file, tuple(layers))
    yield from loading()
    from napari_prosma.app.doubts import compare_with_label
    from napari_prosma.model.checkpoint import load_checkpoint

    with leaving_a_core():
        yield from compare_with_label(load_checkpoint(run_dir), case)


def _data_of(run_dir: Path) -> DataSet:
    from napari_prosma.app.runs import cases_of, left_run

    return cases_of(left_run(run_dir).config)


def saving(work: list[tuple[Path, LabelFile, np.ndarray]]) -> Iterator[Event]:
    """Write corrected labels of runs, a ``Written`` after each; ``Finished`` has their names in words.

    Raises ``DataError``: after all were tried: which could not be written, and why.
    """
    yield Started(len(work), "Saving labels")
    errors = []
    for run_dir, file, corrected in work:
        try:
            written = file.save(corrected, run_dir / ORIGINALS / safe_name(file.case.name))
        except DataError as error:
            errors.append(f"'{file.case.name}' was not saved: {error}")
        else:
            yield Written(run_dir, written)
    if errors:
        raise DataError("; ".join(errors))
    names = [f"'{file.case.name}'" for _, file, _ in work]
    yield Finished(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
