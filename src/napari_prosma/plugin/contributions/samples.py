"""The sample data in napari's File > Open Sample: phantoms, and on request images of public data sets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import napari
from qtpy.QtWidgets import QProgressDialog

from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Progress, result_of
from napari_prosma.plugin.shared.asking import agrees
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.shared.layers import LayerTuple, image_layer, labels_layer, widen_ranges

if TYPE_CHECKING:
    from napari_prosma.data.layouts import DataSet

SHOWN = 3
"""Cases of a public data set that are opened, from its beginning."""


def ultrasound() -> list[LayerTuple]:
    """The first ultrasound phantom with its lesions."""
    return _first_case("ultrasound")


def ct() -> list[LayerTuple]:
    """The first CT phantom with its spleen."""
    return _first_case("ct")


def breast() -> list[LayerTuple]:
    """Breast ultrasound images of BUSI with their lesions, downloaded the first time."""
    return _public("busi")


def polyps() -> list[LayerTuple]:
    """Endoscopy images of Kvasir-SEG with their polyps, downloaded the first time."""
    return _public("kvasir-seg")


def _first_case(kind: str) -> list[LayerTuple]:
    from napari_prosma.data.layouts import find_cases
    from napari_prosma.data.phantoms import sample_folder

    return _layers(find_cases(sample_folder() / kind), 1)


def _layers(data: DataSet, number: int) -> list[LayerTuple]:
    """The first cases of a data set, each image with its label."""
    widen_ranges()
    layers = []
    for case in data.cases[:number]:
        assert case.read_label is not None
        image = case.read_image()
        label = labels_layer(case.read_label(), image.geometry, f"{case.name} label", data.class_names)
        layers += [image_layer(image, case.name), label]
    return layers


def _public(name: str) -> list[LayerTuple]:
    """Images of a public data set; napari wants layers at once, so a dialog waits for them and can cancel."""
    from napari_prosma.data.fetch import PUBLIC_SETS

    wanted, folder = PUBLIC_SETS[name], Path.home() / "prosma-data"
    viewer = napari.current_viewer()
    window = None if viewer is None else viewer.window._qt_window
    terms = f"{wanted.page}\n\nLicence: {wanted.licence}\n\nPlease cite: {wanted.citation}"
    is_new = not (folder / wanted.folder).exists()
    kept = f"{terms}\n\nKept in {folder}."
    if is_new and not agrees(window, f"Download {wanted.title}?", kept, "Download", leave="Not now"):
        raise DataError(f"{wanted.title}: nothing was downloaded; open the sample again to download it")
    found: list[list[LayerTuple]] = []
    errors: list[str] = []
    dialog = QProgressDialog(f"{wanted.title}\n\n{terms}", "Cancel", 0, 0, window)
    dialog.setWindowTitle(wanted.title)
    dialog.setMinimumDuration(0)
    job = Job(dialog, notify=False)

    def happened(event: Event) -> None:
        if isinstance(event, Progress) and event.total:
            dialog.setMaximum(event.total)
            dialog.setValue(min(event.done, event.total - 1))

    job.happened.connect(happened)
    job.finished.connect(found.append)
    job.failed.connect(errors.append)
    job.ended.connect(dialog.accept)
    job.start(f"ProSMA: {wanted.title}", partial(_fetched, name, folder))
    dialog.exec()
    job.close()
    dialog.deleteLater()
    if not found:
        stopped = f"{wanted.title}: stopped; open the sample again to continue the download"
        raise DataError(errors[0] if errors else stopped)
    return found[0]


def _fetched(name: str, folder: Path) -> Iterator[Event]:
    """The events of a download; the last one has the layers."""
    from napari_prosma.data.fetch import fetch
    from napari_prosma.data.layouts import find_cases

    fetched = yield from result_of(fetch(name, folder))
    yield Finished(_layers(find_cases(fetched), SHOWN))
