"""The data of a run as the form says them: a folder, or two layers that it follows; read in a thread."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer

from napari_prosma.data.case import Case
from napari_prosma.data.keep import TABLE, safe_name
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import DataSet
from napari_prosma.data.limits import real
from napari_prosma.data.writers import write_image
from napari_prosma.errors import ConfigError
from napari_prosma.plugin.shared.live import LiveCase, image_to_learn
from napari_prosma.plugin.shared.sparse import Wanted
from napari_prosma.training.run_claim import UNLABELLED


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Cases to learn from, and the settings of a ``TrainConfig`` by which they are found again.

    ``unlabelled`` are further ones that are no files of the user's; else the run finds them.
    """

    cases: tuple[Case, ...]
    class_names: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    unlabelled: tuple[Case, ...] = ()


@dataclass(frozen=True)
class FolderData:
    """A folder as the form says; ``known`` is what was found in it already.

    ``unlabelled`` is a folder of further images that were kept of layers.
    """

    wanted: Wanted
    known: DataSet | None
    unlabelled: Path | None = None

    def look(self) -> TrainingData:
        """Find its cases; in a thread.

        Raises ``DataError``: as ``find_cases``.
        """
        data = self.known if self.known is not None else self.wanted.find()
        settings: dict[str, Any] = {
            "data": real(self.wanted.folder),
            "labelled": self.wanted.labelled or "all",
            "images": self.wanted.images,
            "masks": self.wanted.masks,
            "labelled_only": self.wanted.labelled_only,
        }
        if self.wanted.rule is not None:
            settings |= {"labels": data.labels, "labelled": "all"}
        if self.unlabelled is not None:
            settings["unlabelled"] = self.unlabelled
        return TrainingData(data.cases, data.class_names, settings)

    def begin(self) -> TrainingData:
        """The same, for a run that begins: it keeps which value is which class, also where that was found."""
        data = self.known if self.known is not None else self.wanted.find()
        opened = replace(self, known=data).look()
        return replace(opened, settings={**opened.settings, "labels": data.labels})


@dataclass(frozen=True)
class LayerData:
    """Two layers, which a run follows, and further images that are open.

    ``labels`` is the rule of a run that goes on.
    """

    live: LiveCase
    labels: LabelRule | None = None
    unlabelled: tuple[ImageLayer, ...] = ()

    def look(self) -> TrainingData:
        """The layers as they are now, with nothing written; in a thread.

        Raises ``DataError``: as ``LiveCase.open``.
        """
        case = self.live.open(self.labels)
        assert self.live.rule is not None
        kept = {"data": self.live.folder.absolute() / TABLE, "labels": self.live.rule}
        if self.unlabelled:
            kept["unlabelled"] = self._folder
        return TrainingData((case,), self.live.rule.class_names, kept, self._unlabelled())

    def begin(self) -> TrainingData:
        """The same, for a run that begins: they are kept in its folder, and every correction from now on.

        Raises ``DataError``: as ``LiveCase.open`` and ``LiveCase.keep``.
        """
        opened = self.look()
        self.live.keep()
        for case in opened.unlabelled:
            write_image(self._folder / f"{case.name}.ome.zarr", case.read_image())
        return opened

    @property
    def _folder(self) -> Path:
        """Where unlabelled images are kept, so that the run can be resumed."""
        return self.live.folder.with_name(UNLABELLED).absolute()

    def _unlabelled(self) -> tuple[Case, ...]:
        # Numbered, so that they are found in the same order when the run is resumed.
        return tuple(
            Case(f"{number}-{safe_name(layer.name)}", partial(image_to_learn, layer))
            for number, layer in enumerate(self.unlabelled, start=1)
        )

    def kept(self) -> FolderData:
        """What was kept of them when a run began on them, as files.

        Raises ``ConfigError``: no run began.
        """
        table = self.live.folder.absolute() / TABLE
        if self.live.rule is None or not table.is_file():
            raise ConfigError(
                "the open layers are not files yet, so no line can name them; press Start, which writes them "
                "and shows the lines here"
            )
        unlabelled = self._folder if self.unlabelled and self._folder.is_dir() else None
        return FolderData(Wanted(table, rule=self.live.rule), None, unlabelled)


Data = FolderData | LayerData
