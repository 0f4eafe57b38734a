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
        int, Setting("Epochs before any label is called suspicious.", "Warm-up", unit="epochs")
    ] = Field(default=10, ge=1)
    every: Annotated[
        int,
        Setting(
            "Epochs of each phase: alternately from the clear cases alone and from all. Cases are divided "
            "into clear and fuzzy ones before each phase.",
            "Length of a phase",
            unit="epochs",
        ),
    ] = Field(default=5, ge=1)
    k: Annotated[
        NotNegative,
        Setting(
            "Soft threshold: a label is suspicious if its error is this many standard deviations above the "
            "mean.",
            "Soft threshold k",
            step=0.1,
        ),
    ] = 0.5
    gamma: Annotated[
        PositiveNumber,
        Setting(
            "Temperature of the confidence exp(-e / gamma): the smaller, the less a suspicious label counts.",
            "Temperature",
            step=0.1,
            decimals=3,
        ),
    ] = 2.0
    floor: Annotated[float, Setting("Lowest confidence of a case.", "Lowest confidence", step=0.01)] = Field(
        default=0.05, ge=0, le=1
    )
    align: Annotated[
        Literal["w2", "mmd", "adversarial", "none"],
        Setting(
            "How features of fuzzy cases are aligned with those of clear ones: {choices}.",
            "Alignment",
            tip="How features of suspicious cases are aligned with those of clear ones",
            choices={
                "w2": Choice("Wasserstein", "By mean and spread of each channel"),
                "mmd": Choice("MMD", "By a kernel over pairs of pixels"),
                "adversarial": Choice(
                    "adversarial", "Against a small network that learns to tell them apart"
                ),
                "none": Choice("none", "No alignment"),
            },
        ),
    ] = "w2"
    beta: Annotated[
        NotNegative,
        Setting(
            "Weight of the alignment; 0 = none.",
            "Weight beta",
            step=0.01,
            decimals=4,
            applies=("align", ("w2", "mmd", "adversarial")),
        ),
    ] = 0.01
    scales: Annotated[
        tuple[PositiveInt, ...],
        Setting(
            "Features are compared on grids this many times coarser, such as 1,2; 1 = unchanged.", "Scales"
        ),
    ] = Field(default=(1,), min_length=1)
    pixel: Annotated[
        bool,
        Setting(
            "Confidence per pixel in a band around the label's outline, instead of one per case.",
            "confidence per pixel near outlines",
        ),
    ] = False
    band: Annotated[int, Setting("Half width of that band, in pixels.", "Band", unit="px")] = Field(
        default=5, ge=1
    )
    decay: Annotated[
        float,
        Setting(
            "Decay of the moving average of each case's loss.", "Averaging of losses", step=0.01, decimals=4
        ),
    ] = Field(default=0.9, ge=0, lt=1)
    stats_decay: Annotated[
        float,
        Setting(
            "Decay of the moving average of the clear cases' features.",
            "Averaging of features",
            step=0.01,
            decimals=4,
        ),
    ] = Field(default=0.99, ge=0, lt=1)
    least_clear: Annotated[
        float,
        Setting("Smallest share of the cases that stays clear.", "Least share clear", step=0.05, decimals=2),
    ] = Field(default=0.5, gt=0, le=1)
    least_cases: Annotated[
        int,
        Setting(
            "With fewer training cases, pixels near outlines are called suspicious, not whole labels.",
            "Least cases",
        ),
    ] = Field(default=20, ge=2)
    least_pixels: Annotated[
        int, Setting("A class with fewer pixels in a batch is not aligned.", "Least pixels")
    ] = Field(default=16, ge=2)


@objective(
    "dale",
    "Noisy labels",
    "After a warm-up, labels that the model disagrees with most count less, and a list shows which to check "
    "first. Correct these: in our trials, the list found wrong masks, but the model hardly improved.",
    options=DaleOptions,
    doubts_labels=True,
    counts_epochs=True,
)
def make() -> Objective:
    """Phases of clear and of all cases, with a confidence for each."""
    from napari_prosma.training.objectives.dale.learning import DALE

    return DALE()
