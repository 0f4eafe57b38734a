"""``Card``: what to know of a model before using it, made from its file and the run beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_prosma.app.models import CARD, MODALITIES, images_in_words, modality_of, shown_name
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.metrics import Overlap
from napari_prosma.data.texts import read_json
from napari_prosma.errors import CheckpointError, DataError
from napari_prosma.model.header import model_file, read_header
from napari_prosma.training.run_claim import RUN
from napari_prosma.training.run_folder import METRICS, Run, read_metrics, read_run
from napari_prosma.training.verdict import FEW_CASES, NOTHING

LICENCE = "LICENSE.md"
WORST_SHARE, MOST_WORST = 10, 8
"""The worst tenth of the cases, of which no more are named than this."""
MISSED = 0.1
"""A structure whose Dice is lower was missed."""
GATE_FIGURES = {
    "psi_mean": "mean of the mask psi (1: everything passes)",
    "z_zero_fraction": "zeros in z: share of the field that the threshold set to exactly zero",
    "lambda_mean": "mean threshold",
}
PAPER = (
    "Cheng et al. 2026, ProSMA-UNet: Decoder Conditioning for Proximal-Sparse Skip Feature Selection, "
    "doi:10.48550/arXiv.2603.03187"
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Figures(_Frozen):
    """Dice of one structure over the cases that hold it.

    ``spread`` is the standard deviation, ``low`` the tenth percentile, ``missed`` how many were missed;
    ``wrong`` of the ``without`` cases that lack it show it in the prediction. What nobody kept is None.
    """

    name: str
    dice: float
    cases: int | None = None
    spread: float | None = None
    middle: float | None = None
    low: float | None = None
    missed: int | None = None
    without: int = 0
    wrong: int = 0


class Worst(_Frozen):
    """A case of the worst tenth; ``picture`` is a JPEG in base64, empty where nobody drew it."""

    case: str
    dice: float
    picture: str = ""


class Card(_Frozen):
    """What is known of a model."""

    name: str
    finds: tuple[str, ...]
    dims: Literal[2, 3]
    channels: int
    modality: str = "auto"  # as ``TrainConfig.modality``; ``auto`` where nobody said
    data: str = ""  # what it learned from, in words
    # learned, measured: cases that it learned from, and on which its figures were taken.
    learned: int = 0
    measured: int = 0
    # "test", "validation", "training" or "": what these cases were for: a test case was never learned from,
    # nor was anything chosen by it.
    measured_on: Literal["test", "validation", "training", ""] = ""
    # Windows of each case that were looked at, at most; 0 where cases were measured whole.
    windows: int = 0
    # sizes, grid: of the images, and what they are brought to.
    sizes: str = ""
    grid: str = ""
    figures: tuple[Figures, ...] = ()
    worst: tuple[Worst, ...] = ()  # the worst tenth, worst first
    gates: dict[int, dict[str, float]] = {}  # mean figures of each gate, by their names in ``GATE_FIGURES``
    not_for: tuple[str, ...] = ()  # what it must not be used for
    licence: str = ""
    citation: str = ""
    # network, versions, made, epochs: how it was made.
    network: str = ""
    versions: dict[str, str] = {}
    made: str = ""
    epochs: int = 0
    advice: tuple[str, ...] = ()  # what could make it better

    @property
    def images(self) -> str:
        """Of which kind they are, such as ``ultrasound, 2D, gray``."""
        return images_in_words(self.modality, self.dims, self.channels)

    @property
    def dice(self) -> float | None:
        """Mean over the structures; None where nothing was measured."""
        return fmean(each.dice for each in self.figures) if self.figures else None

    @property
    def verdict(self) -> str:
        """What the model is worth, in a few sentences that stand first."""
        if not self.figures:
            return "This model has not been tested: check every result."
        return " ".join([*map(_verdict_of, self.figures), *self._doubts()])

    def _doubts(self) -> Iterator[str]:
        match self.measured_on:
            case "training":
                yield "These figures are from training cases and say nothing about new images."
            case "validation" if self.measured < FEW_CASES:
                plural = "s" * (self.measured != 1)
                yield f"Measured on only {self.measured} case{plural}, which says little."
            case "validation":
                yield "The best epoch was chosen on these cases: expect slightly less on new images."
        if self.windows:
            yield (
                f"Measured on at most {self.windows} windows of each case, as time allowed no more, and "
                f"structures were chosen first: whole images may have more false finds. Evaluate tests whole "
                f"images."
            )


def card_of(model: Path | str) -> Card:
    """The card of a model, given as for ``load_checkpoint``.

    Raises ``CheckpointError``: there is no model, or its card or its run is damaged.
    """
    file = model_file(model)
    beside = file.parent / CARD
    return read_card(beside) if beside.is_file() else _made(file)


def read_card(path: Path) -> Card:
    """A card as it was written.

    Raises ``CheckpointError``: it is damaged.
    """
    try:
        return Card.model_validate(read_json(path))
    except (DataError, ValidationError) as error:
        raise CheckpointError(f"the card '{path}' is damaged ({error}); copy the model again") from error


def write_card(path: Path, card: Card) -> None:
    """Write a card that ``read_card`` reads."""
    with written_whole(path) as temporary:
        temporary.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def figures_of(overlaps: Sequence[Overlap]) -> tuple[Figures, ...]:
    """Figures per structure; of structures that no case holds there are none."""
    found = []
    for name in dict.fromkeys(overlap.class_name for overlap in overlaps):
        of_class = [overlap for overlap in overlaps if overlap.class_name == name]
        dice = [overlap.dice for overlap in of_class if overlap.there]
        absent = [overlap for overlap in of_class if not overlap.there]
        if dice:
            found.append(
                Figures(
                    name=name,
                    dice=fmean(dice),
                    cases=len(dice),
                    spread=stdev(dice) if len(dice) > 1 else None,
                    middle=median(dice),
                    low=float(np.percentile(dice, 10, method="inverted_cdf")),
                    missed=sum(each < MISSED for each in dice),
                    without=len(absent),
                    wrong=sum(bool(overlap.found) for overlap in absent),
                )
            )
    return tuple(found)


def worst_of(overlaps: Sequence[Overlap]) -> tuple[Worst, ...]:
    """The tenth of the cases with the lowest mean Dice over what is there or was found, worst first."""
    by_case: dict[str, list[float]] = {}
    for overlap in overlaps:
        if not math.isnan(overlap.dice):
            by_case.setdefault(overlap.case, []).append(overlap.dice)
    means = (Worst(case=case, dice=fmean(dice)) for case, dice in by_case.items())
    ranked = sorted(means, key=attrgetter("dice"))
    return tuple(ranked[: min(MOST_WORST, math.ceil(len(ranked) / WORST_SHARE))])


def _made(file: Path) -> Card:
    """From what the file says, and the run that it lies in."""
    header = read_header(file)
    try:
        plan = Plan.model_validate(header["plan"])
        config, split, metrics = header["config"], header["split"], header["metrics"]
        overlaps = tuple(Overlap(*values) for values in header.get("overlaps", ()))
        run = _run_of(file)
        learned, validation = set(split.get("training", ())), set(split.get("validation", ()))
        measured = {overlap.case for overlap in overlaps} or validation
        data = config.get("data")
        return Card(
            name=shown_name(file),
            finds=plan.class_names[1:],
            dims=plan.dims,
            channels=plan.channels,
            modality=modality_of(plan, config.get("modality", "auto")),
            data=f"the folder '{Path(data).name}'" if data else "",
            learned=len(learned),
            measured=len(measured),
            measured_on=_kind(learned, validation, bool(overlaps)) if metrics else "",
            windows=header.get("windows", 0),
            sizes=_sizes(run) if run is not None else "",
            grid=plan.grid_in_words(),
            figures=figures_of(overlaps)
            or tuple(
                Figures(name=name.removeprefix("dice/"), dice=value)
                for name, value in metrics.items()
                if name.startswith("dice/")
            ),
            worst=worst_of(overlaps),
            gates=_gates(file.parent, header["epoch"]) if run is not None else {},
            not_for=_not_for(plan, modality_of(plan, config.get("modality", "auto")), len(learned)),
            citation=PAPER if header["spec"].get("network", "prosma-unet") == "prosma-unet" else "",
            network=f"{header['spec'].get('network', 'prosma-unet')}, gate {header['spec']['gate']}",
            versions=run.versions if run is not None else {},
            made=datetime.fromtimestamp(file.stat().st_mtime).astimezone().date().isoformat(),
            epochs=header["epoch"],
            advice=tuple((header.get("place") or {}).get("verdict", ())[1:]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the header of '{file}' is damaged ({error}); choose another file") from error


def _run_of(file: Path) -> Run | None:
    return read_run(file.parent) if (file.parent / RUN).is_file() else None


def _kind(learned: set[str], validation: set[str], each_once: bool) -> Literal["validation", "training"]:
    """An ensemble was validated fold by fold: every case by the network that did not learn from it."""
    if validation:
        return "training" if validation & learned else "validation"
    return "validation" if each_once else "training"


def _gates(folder: Path, epoch: int) -> dict[int, dict[str, float]]:
    if not (folder / METRICS).is_file():
        return {}
    ended = [end for end in read_metrics(folder) if end.epoch == epoch]
    return {
        int(level): {name: figures[name] for name in GATE_FIGURES if name in figures}
        for end in ended
        for level, figures in sorted(end.gates.items())
    }


def _sizes(run: Run) -> str:
    """Range of the images' sizes and spacings."""
    shapes = {len(case.shape): [other.shape for other in run.cases] for case in run.cases}
    if len(shapes) != 1 or not run.cases:
        return ""
    (of_all,) = shapes.values()
    sizes = " x ".join(_range(axis) for axis in zip(*of_all, strict=True))
    units = {case.unit for case in run.cases}
    elements = "pixels" if len(run.cases[0].shape) == 2 else "voxels"
    if units == {"pixel"} or len(units) != 1:
        return f"{sizes} {elements}"
    spacing = " x ".join(_range(axis) for axis in zip(*(case.spacing for case in run.cases), strict=True))
    return f"{sizes} {elements} of {spacing} {units.pop()}"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"


def _not_for(plan: Plan, modality: str, learned: int) -> tuple[str, ...]:
    of_kind = f"{MODALITIES[modality]} " if modality in MODALITIES else ""
    few = (f"Images unlike its {learned} training images: so few cannot cover every kind.",)
    return (
        "Diagnosis or treatment: it is not a medical device. Someone who knows the structure must check "
        "every result.",
        f"Anything except {of_kind}images like its training images: for another scanner, protocol, patient "
        f"group or part of the body, first test it on your own cases.",
        f"Structures other than {', '.join(plan.class_names[1:])}.",
        *(few if 0 < learned < 100 else ()),
    )


def _verdict_of(figures: Figures) -> str:
    if figures.dice < NOTHING:
        return f"Does not find {figures.name}."
    if figures.cases is None or figures.missed is None or figures.middle is None:
        return f"Finds {figures.name} with a mean Dice of {figures.dice:.2f}."
    found = figures.cases - figures.missed
    said = (
        f"Finds {figures.name} in {found} of {figures.cases} cases that show it: mean Dice "
        f"{figures.dice:.2f}, median {figures.middle:.2f}"
    )
    if figures.low is not None and figures.cases >= WORST_SHARE and figures.low >= MISSED:
        said += f", {figures.low:.2f} or less in the worst tenth"
    if figures.without:
        said += f". Marks something in {figures.wrong} of {figures.without} cases without it"
    return f"{said}."
