"""Few labels, many unlabelled images: what DiM leaves to choose; ``learning`` says what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from napari_prosma.settings import Choice, Setting
from napari_prosma.training.numbers import NotNegative, PositiveNumber
from napari_prosma.training.objectives import ObjectiveOptions, objective

if TYPE_CHECKING:
    from napari_prosma.training.objective import Objective


class DimOptions(ObjectiveOptions):
    """What DiM leaves to choose; none of the paper's own values is public."""

    divergence: Annotated[
        Literal["js", "kl", "rkl", "chi2", "tv", "hellinger2"],
        Setting(
            "Divergence between the features of labelled and unlabelled images: {choices}.",
            "Divergence",
            tip="Measure of the difference between the features of labelled and unlabelled images, which "
            "training reduces",
            choices={
                "js": Choice("Jensen-Shannon", "Symmetric, never more than ln 2"),
                "kl": Choice("Kullback-Leibler", "Of the labelled from the unlabelled"),
                "rkl": Choice("reverse Kullback-Leibler", "Of the unlabelled from the labelled"),
                "chi2": Choice("chi-squared", "Large differences count most"),
                "tv": Choice("total variation", "Half the sum of the differences"),
                "hellinger2": Choice("squared Hellinger", "Symmetric, never more than 2"),
            },
            by_name=True,
        ),
    ] = "js"
    beta: Annotated[NotNegative, Setting("Weight of the divergence; 0 = none.", "Weight beta", step=0.05)] = (
        0.1
    )
    rho: Annotated[
        NotNegative,
        Setting(
            "How far uphill, in weight space, the gradient of a step is taken (SAM), to find flat minima; 0 "
            "= plain steps.",
            "Radius rho",
            step=0.01,
            usual=("adaptive", {False: 0.05, True: 0.5}),
        ),
    ] = 0.05
    adaptive: Annotated[
        bool,
        Setting("Measure rho relative to the weights (ASAM, usually with rho=0.5).", "adaptive (ASAM)"),
    ] = False
    eta: Annotated[
        NotNegative,
        Setting(
            "ASAM: added to the magnitude of every weight.",
            "ASAM's eta",
            step=0.01,
            decimals=4,
            applies=("adaptive", (True,)),
        ),
    ] = 0.01
    tau: Annotated[
        float,
        Setting(
            "The network learns from the teacher only where the teacher is at least this confident (0.5 to "
            "1).",
            "Teacher confidence from",
            step=0.01,
        ),
    ] = Field(default=0.95, ge=0.5, le=1)
    mu_max: Annotated[
        NotNegative,
        Setting(
            "Full weight of what is learned from the teacher; 0 = no teacher.",
            "Teacher's weight",
            step=0.1,
        ),
    ] = 1.0
    ramp: Annotated[
        NotNegative, Setting("Epochs until the teacher reaches its full weight.", "Full weight after")
    ] = 10.0
    ema: Annotated[
        float,
        Setting(
            "Decay per step of the teacher, a moving average of the network.", "Teacher's decay", step=0.001
        ),
    ] = Field(default=0.99, ge=0, lt=1)
    temperature: Annotated[
        PositiveNumber,
        Setting(
            "Temperature of the softmax over the channels of the features.",
            "Temperature",
            step=0.1,
            decimals=3,
        ),
    ] = 1.0
    perturb_gates: Annotated[
        bool,
        Setting("SAM also moves theta of the gates.", "also move the gates' thresholds"),
    ] = False


@objective(
    "dim",
    "Few labels",
    "Also learns from images without labels: where the network is sure, it teaches itself. A step takes "
    "three to four times as long; in our trials, this helped with 100 labels, but not with 50.",
    options=DimOptions,
    takes_unlabelled=True,
    counts_epochs=True,
)
def make() -> Objective:
    """A mean teacher, sharpness-aware steps and an f-divergence between features."""
    from napari_prosma.training.objectives.dim.learning import DiM

    return DiM()
