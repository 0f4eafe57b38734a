"""The models that are known, and which of them fit an image; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import AIR, Plan
from napari_prosma.data.limits import real
from napari_prosma.data.texts import read_json
from napari_prosma.errors import CheckpointError, DataError
from napari_prosma.model.header import (
    BEST,
    ENSEMBLE,
    LAST,
    MODEL,
    SUFFIX,
    model_file,
    read_header,
    shipped_models,
)

MODALITIES = {
    "ultrasound": "ultrasound",
    "ct": "CT",
    "mr": "MR",
    "endoscopy": "endoscopy",
    "histology": "histology",
}
"""In words, of those that say what the images are."""
_OF_DICOM = {
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "CT": "ct",
    "MR": "mr",
    "ES": "endoscopy",
    "SM": "histology",
}
GRAY = ("ultrasound", "ct", "mr")
SHIPPED, RECENT, RUN = "shipped", "recent", "run"
CARD = "card.json"
"""Beside the file of a model that was shipped."""
_COLOURFUL, _SHARE, _SEEN = 24, 0.1, 100_000
"""A pixel is in colour where its channels differ by more; an image where such a share of them is, of so many
that are looked at."""


@dataclass(frozen=True)
class ImageKind:
    """What decides whether a model fits an image: spatial ``axes``, ``channels``, and what it shows.

    ``modality`` is as ``TrainConfig.modality``, empty where nothing tells; ``told_by`` says what did.
    """

    axes: int
    channels: int
    modality: str = ""
    told_by: str = ""
    is_colour: bool = False

    @classmethod
    def of(cls, image: Image) -> ImageKind:
        """Of an image; of a volume no more than its middle plane is looked at."""
        plane = image.array
        if not plane.size:
            return cls(image.geometry.ndim, len(plane))
        while plane.ndim > 3:
            plane = plane[:, plane.shape[1] // 2]
        step = max(1, math.isqrt(plane[0].size // _SEEN))
        values = np.asarray(plane[:, ::step, ::step])
        known = _OF_DICOM.get(image.series.modality, "") if image.series is not None else ""
        told_by = "the image header says" if known else ""
        if not known and len(values) == 1 and values.min() <= AIR and np.all(values % 1 == 0):
            known, told_by = "ct", "the image values look like"
        return cls(image.geometry.ndim, len(values), known, told_by, _is_colour(values))


@dataclass(frozen=True)
class KnownModel:
    """A model as a list shows it."""

    name: str
    path: Path  # its file, or the folder that holds it
    origin: str = ""  # "shipped", "recent", "run" or ""
    finds: tuple[str, ...] = ()
    # dims, channels: of the network.
    dims: int = 0
    channels: int = 0
    modality: str = "auto"  # as ``TrainConfig.modality``
    dice: float | None = None  # as on its card, or else of the validation cases
    day: date | None = None
    trouble: str = ""  # why it cannot be used; empty = it can

    @property
    def given(self) -> str:
        """What a shell takes for it."""
        return self.name if self.origin == SHIPPED else str(self.path)

    @property
    def images(self) -> str:
        """Which it learned from, such as ``ultrasound, 2D, gray``."""
        return images_in_words(self.modality, self.dims, self.channels)

    def in_words(self) -> str:
        """One line, beginning with what a shell takes for it."""
        if self.trouble:
            return f"{self.given}: cannot be used: {self.trouble}"
        dice = "" if self.dice is None else f"Dice {self.dice:.2f}"
        said = (f"finds {', '.join(self.finds)}", self.images, dice, str(self.day or ""), self.origin)
        return f"{self.given}: {'; '.join(filter(None, said))}"

    def refusal(self, image: ImageKind) -> str:
        """Why it cannot be used on an image; empty = it can."""
        if self.trouble:
            return self.trouble
        if self.dims > image.axes:
            return f"it needs volumes, but the image is {image.axes}D"
        pages = image.channels == 1 and image.axes > self.dims
        if image.channels != self.channels and not {image.channels, self.channels} <= {1, 3} and not pages:
            plural = "s" * (self.channels != 1)
            return f"it needs {self.channels} channel{plural}, but the image has {image.channels}"
        return ""

    def doubt(self, image: ImageKind) -> str:
        """Why it may find nothing sensible on an image that it can be used on; empty = nothing is known."""
        learned = MODALITIES.get(self.modality)
        if learned and image.modality and image.modality != self.modality:
            return f"it was trained on {learned}, but {image.told_by} {MODALITIES[image.modality]}"
        if self.modality in GRAY and image.is_colour:
            return f"it was trained on {learned}, but the image is in colour"
        return ""

    def warning(self, image: ImageKind) -> str:
        """What to say before it is used on an image; empty = nothing."""
        if refused := self.refusal(image):
            return f"This model cannot be used here: {refused}"
        doubt = self.doubt(image)
        return f"This model may not fit: {doubt}" if doubt else ""


def images_in_words(modality: str, dims: int, channels: int) -> str:
    """A kind of images, such as ``ultrasound, 2D, gray``."""
    colour = {1: "gray", 3: "colour"}.get(channels, f"{channels} channels")
    return ", ".join(filter(None, (MODALITIES.get(modality, ""), f"{dims}D", colour)))


def modality_of(plan: Plan, chosen: str) -> str:
    """What the images of a run were, as it decided it; ``auto`` where nobody said."""
    return "ct" if chosen == "auto" and plan.intensity == "ct" else chosen


def shown_name(path: Path) -> str:
    """What a model is called: its folder where that is a run's, or else its file."""
    if path.name in (BEST, LAST, ENSEMBLE, MODEL):
        return path.parent.name
    return path.stem if path.suffix == SUFFIX else path.name


def runs_folder() -> Path:
    """Where runs are kept unless the user says otherwise."""
    return Path.home() / "prosma-runs"


def measured_dice(metrics: Mapping[str, Any]) -> float | None:
    """Of the header of a model; None where no validation case held a structure, or nothing was measured."""
    dice = metrics.get("dice")
    return None if dice is None or math.isnan(dice) else float(dice)


def known_model(path: Path, origin: str = "") -> KnownModel:
    """A model by its header; what is wrong with it is told, not raised."""
    name = shown_name(path)
    try:
        file = model_file(path)
        header = read_header(file)
        plan, metrics = Plan.model_validate(header["plan"]), header["metrics"]
        if header["spec"]["out_channels"] != plan.out_channels:
            raise ValueError("its network and its plan disagree in the number of classes")
        return KnownModel(
            name=name,
            path=path,
            origin=origin,
            finds=plan.class_names[1:],
            dims=plan.dims,
            channels=plan.channels,
            modality=modality_of(plan, str(header["config"].get("modality", "auto"))),
            dice=_dice_on(file.parent / CARD) or measured_dice(metrics),
            # Of a shipped one it would be the day of the installation.
            day=date.fromtimestamp(file.stat().st_mtime) if origin != SHIPPED else None,
        )
    except (CheckpointError, DataError) as error:
        return KnownModel(name, path, origin, trouble=str(error))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        said = str(error).partition("\n")[0]
        return KnownModel(name, path, origin, trouble=f"'{path}' is damaged ({said})")


def _dice_on(card: Path) -> float | None:
    """The mean over the structures on the card that a model came with; None without one."""
    figures = read_json(card)["figures"] if card.is_file() else ()
    return fmean(each["dice"] for each in figures) if figures else None


def known_models(runs: Path, recent: Sequence[Path] = ()) -> Iterator[KnownModel]:
    """Shipped models, those used last, and every run in a folder, the newest first; each once."""
    seen: set[Path] = set()
    places = [
        *((path, SHIPPED) for path in shipped_models().values()),
        *((path, RECENT) for path in recent),
        *((path, RUN) for path in model_folders(runs)),
    ]
    for path, origin in places:
        place = real(path)
        if place not in seen:
            seen.add(place)
            yield known_model(path, origin)


def model_folders(runs: Path) -> list[Path]:
    """The folders in a folder that hold a model, the one that was written last first."""
    written: dict[Path, float] = {}
    for name in (ENSEMBLE, BEST, LAST):
        for file in runs.glob(f"*/{name}"):
            with suppress(OSError):  # somebody deletes it while we look
                written[file.parent] = max(file.stat().st_mtime, written.get(file.parent, 0.0))
    return sorted(written, key=written.__getitem__, reverse=True)


def _is_colour(values: np.ndarray) -> bool:
    """Of (C, y, x): whether more than a few pixels are no gray."""
    if len(values) != 3 or not values.size:
        return False
    spread = values.max(axis=0).astype(np.float32) - values.min(axis=0)
    scale = 255 / max(float(values.max()), 1e-6) if values.dtype.kind == "f" or values.max() > 255 else 1
    return bool((spread * scale > _COLOURFUL).mean() > _SHARE)
