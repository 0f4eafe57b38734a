"""Noisy labels: what DALE leaves to choose; ``learning`` says what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from napari_prosma.settings import Choice, Setting
from napari_prosma.training.numbers import NotNegative, PositiveNumber
from napari_prosma.training.objectives import ObjectiveOptions, objective

if TYPE_CHECKING:
    from napari_prosma.training.objective import Objective


class DaleOptions(ObjectiveOptions):
    """What DALE leaves to choose; a reconstruction from public descriptions."""

    warm_up_epochs: Annotated[
        int,
        Setting(
            help="Epochs before any label is doubted.",
            label="Warm-up",
            unit="epochs",
        ),
    ] = Field(default=10, ge=1)
    every: Annotated[
        int,
        Setting(
            help="Epochs of each phase, and between two partitions into clear and fuzzy cases.",
            label="Length of a phase",
            tip="So long it learns from the clear cases alone, then from all, in turns; all labels "
            "are looked at anew before each phase",
            unit="epochs",
        ),
    ] = Field(default=5, ge=1)
    k: Annotated[
        NotNegative,
        Setting(
            help="Soft threshold of the standardised errors, in standard deviations.",
            label="Soft threshold k",
            tip="A label is doubted from so many standard deviations of its error above the mean of all",
            step=0.1,
        ),
    ] = 0.5
    gamma: Annotated[
        PositiveNumber,
        Setting(
            help="Temperature of the confidence exp(-e / gamma).",
            label="Temperature",
            tip="The confidence is exp(-e / this): the smaller, the less a doubted label counts",
            step=0.1,
            decimals=3,
        ),
    ] = 2.0
    floor: Annotated[
        float,
        Setting(
            help="Least confidence of a case.",
            label="Least confidence",
            tip="No label counts less than this",
            step=0.01,
        ),
    ] = Field(default=0.05, ge=0, le=1)
    align: Annotated[
        Literal["w2", "mmd", "adversarial", "none"],
        Setting(
            help="How the features of fuzzy cases are brought to those of clear ones: {choices}.",
            label="Alignment",
            tip="How the features of doubted cases are brought to those of clear ones",
            choices={
                "w2": Choice("Wasserstein", "By mean and spread of each channel"),
                "mmd": Choice("MMD", "By a kernel over pairs of pixels"),
                "adversarial": Choice(
                    "adversarial", "A small network that tells them apart is learned against"
                ),
                "none": Choice("none", "Features are left alone"),
            },
        ),
    ] = "w2"
    beta: Annotated[
        NotNegative,
        Setting(
            help="Weight of the alignment; 0 = none.",
            label="Its weight beta",
            tip="How much this counts; 0 = not at all",
            step=0.01,
            decimals=4,
            applies=("align", ("w2", "mmd", "adversarial")),
        ),
    ] = 0.01
    scales: Annotated[
        tuple[PositiveInt, ...],
        Setting(
            help="Features are compared on grids so many times coarser; 1 = as they are.",
            label="Scales",
            tip="Features are compared on grids so many times coarser, such as 1, 2",
        ),
    ] = Field(default=(1,), min_length=1)
    pixel: Annotated[
        bool,
        Setting(
            help="Confidence per pixel in a band around the label's boundary, in place of one per case.",
            label="confidence of every pixel near the outline",
            tip="Doubt pixels around the labels' outlines, not whole labels",
        ),
    ] = False
    band: Annotated[
        int,
        Setting(
            help="Half width of that band, in pixels.",
            label="Band",
            tip="Half the width of the band around an outline",
            unit="px",
        ),
    ] = Field(default=5, ge=1)
    decay: Annotated[
        float,
        Setting(
            help="Of the moving average of a case's loss.",
            label="Averaging of losses",
            tip="Decay of the moving average of each case's loss",
            step=0.01,
            decimals=4,
        ),
    ] = Field(default=0.9, ge=0, lt=1)
    stats_decay: Annotated[
        float,
        Setting(
            help="Of the moving average of the clear cases' features.",
            label="Averaging of features",
            tip="Decay of the moving average of the clear cases' features",
            step=0.01,
            decimals=4,
        ),
    ] = Field(default=0.99, ge=0, lt=1)
    least_clear: Annotated[
        float,
        Setting(
            help="Share of the cases that stays clear at least.",
            label="Least share clear",
            tip="At least this share of the cases is taken as clear",
            step=0.05,
            decimals=2,
        ),
    ] = Field(default=0.5, gt=0, le=1)
    least_cases: Annotated[
        int,
        Setting(
            help="Fewer training cases are not partitioned; the pixel form takes over.",
            label="Least cases",
            tip="With fewer training cases pixels near outlines are doubted, and no whole label",
        ),
    ] = Field(default=20, ge=2)
    least_pixels: Annotated[
        int,
        Setting(
            help="A class with fewer pixels in a batch is not aligned.",
            label="Least pixels",
        ),
    ] = Field(default=16, ge=2)


@objective(
    "dale",
    "Noisy labels",
    "After a warm-up, labels that the model disagrees with most count less, and a list names those to look "
    "at first. Correct these: in our trials the list found wrong masks, the model hardly gained.",
    options=DaleOptions,
    doubts_labels=True,
    counts_epochs=True,
    place=3,
)
def make() -> Objective:
    """Phases of clear and of all cases, with a confidence for each."""
    from napari_prosma.training.objectives.dale.learning import DALE

    return DALE()
