"""``TrainConfig``: everything a run depends on, in one validated model. A checkpoint holds it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import LabelRule
from napari_prosma.errors import ConfigError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.model.header import where_model_is
from napari_prosma.nn.gates import GATES, GateOptions
from napari_prosma.nn.spec import AUTO, NETWORKS, OURS, PUBLISHED, WIDTHS, ModelSpec

PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DimOptions(BaseModel):
    """What DiM leaves to choose (``training.objectives.dim``); none of the paper's own values is public.

    Attributes
    ----------
    rho : float
        How far uphill a step looks before it goes down, as the length of the way in the space of the weights
        (Foret et al. 2021: 0.05); 0 = plain steps.
    adaptive : bool
        Measure that way relative to the weights (ASAM, Kwon et al. 2021, with rho 0.5).
    eta : float
        ASAM: added to the size of every weight.
    beta : float
        Weight of the divergence between labelled and unlabelled features; 0 = none.
    divergence : str
        ``js`` (at most ln 2, symmetric), ``kl``, ``rkl``, ``chi2``, ``tv`` or ``hellinger2``.
    tau : float
        Only where the teacher is so sure (0.5 to 1) does the student learn from it.
    mu_max : float
        Weight of what is learned from the teacher once it has risen; 0 = nothing is.
    temperature : float
        Of the softmax over the features' channels.
    ema : float
        Decay per step of the teacher, a moving average of the student.
    ramp : float
        Epochs over which ``mu_max`` is reached.
    perturb_gates : bool
        Whether the way uphill moves the gates' thresholds too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rho: NotNegative = 0.05
    adaptive: bool = False
    eta: NotNegative = 0.01
    beta: NotNegative = 0.1
    divergence: Literal["js", "kl", "rkl", "chi2", "tv", "hellinger2"] = "js"
    tau: float = Field(default=0.95, ge=0.5, le=1)
    mu_max: NotNegative = 1.0
    temperature: PositiveNumber = 1.0
    ema: float = Field(default=0.99, ge=0, lt=1)
    ramp: NotNegative = 10.0
    perturb_gates: bool = False


class DaleOptions(BaseModel):
    """What DALE leaves to choose (``training.objectives.dale``); a reconstruction from public descriptions.

    Attributes
    ----------
    warm_up_epochs : int
        Epochs before any label is doubted.
    every : int
        Epochs of each phase, and between two partitions into clear and fuzzy cases.
    k : float
        Soft threshold of the standardised errors, in standard deviations.
    gamma : float
        Temperature of the confidence ``exp(-e / gamma)``.
    floor : float
        Least confidence of a case.
    beta : float
        Weight of the alignment; 0 = none.
    align : "w2", "mmd", "adversarial" or "none"
        How the features of fuzzy cases are brought to those of clear ones.
    scales : tuple of int
        Features are compared on grids so many times coarser; 1 = as they are.
    pixel : bool
        Confidence per pixel in a band around the label's boundary, in place of one per case.
    band : int
        Half width of that band, in pixels.
    decay : float
        Of the moving average of a case's loss.
    stats_decay : float
        Of the moving average of the clear cases' features.
    least_clear : float
        Share of the cases that stays clear at least.
    least_cases : int
        Fewer training cases are not partitioned; the pixel form takes over.
    least_pixels : int
        A class with fewer pixels in a batch is not aligned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warm_up_epochs: int = Field(default=10, ge=1)
    every: int = Field(default=5, ge=1)
    k: NotNegative = 0.5
    gamma: PositiveNumber = 2.0
    floor: float = Field(default=0.05, ge=0, le=1)
    beta: NotNegative = 0.01
    align: Literal["w2", "mmd", "adversarial", "none"] = "w2"
    scales: tuple[PositiveInt, ...] = Field(default=(1,), min_length=1)
    pixel: bool = False
    band: int = Field(default=5, ge=1)
    decay: float = Field(default=0.9, ge=0, lt=1)
    stats_decay: float = Field(default=0.99, ge=0, lt=1)
    least_clear: float = Field(default=0.5, gt=0, le=1)
    least_cases: int = Field(default=20, ge=2)
    least_pixels: int = Field(default=16, ge=2)


class TrainConfig(BaseModel):
    """Everything a training run depends on, apart from the cases.

    Attributes
    ----------
    run_dir : Path
        Folder for the checkpoints; made if missing.
    data : Path, optional
        Folder of the cases, so that a run can be resumed by its own folder alone.
    labelled : "all", "slices" or "scribbles"
        How the labels of ``data`` are meant (see ``data.labels.LabelRule.sparse``).
    labels : LabelRule, optional
        Exactly which stored value of ``data`` is which class; by default found in the data.
    images, masks : str, optional
        Patterns that say which files of ``data`` are what, such as ``images/*``; by default found by names.
    modality : str
        What the images are, which decides how patches are changed at random; ``auto``: ``ct`` where the
        intensity rule is, else ``other``.
    start_from : Path, optional
        Checkpoint, or name of a shipped model, whose weights are taken over, with its plan; the network
        adapts to other channels and classes.
    trains : "all", "decoder" or "gates and head"
        Which part of a network that was taken over still learns.
    taken_rate : float, optional
        Learning rate of what was taken over relative to what is new; by default the lower the more steps
        there are.
    network : str
        A key of ``NETWORKS``: ours, or one of those that it is compared with.
    widths : preset name or tuple of int
        ``quick``, ``tiny``, ``base``, ``large``, ``published`` (its own paper's), or channels per level;
        ``auto``: by the time that there is, and ``tiny`` where it is not limited.
    entry : 1, 2 or "auto"
        1: the paper's network, whose finest level lies on the image's grid. 2: on half of it, which a step
        passes many times faster. ``auto``: by the time that there is, and 1 where it or the widths are given.
    gate : str
        A key of ``GATES``.
    gate_options : GateOptions
    gated_levels : tuple of int
        Empty = every skip.
    norm : "batch" or "instance"
        Of the backbone; instance norm does not look across the batch.
    plan : Plan, optional
        By default made from the data.
    dims : 2 or 3, optional
        By default by the data.
    side : int, optional
        Short side that 2D images without a physical size are shrunk to, in pixels; by default 256, and less
        where the minutes are few.
    epochs : int
    minutes : float, optional
        The run ends after this time at the latest, and its schedule is stretched over it.
    steps_per_epoch : int, optional
        By default once through the training cases, at least 20.
    spacing, patch, batch, intensity : optional
        Values of the plan (see ``data.fingerprint.Plan``); by default they follow its rules.
    slices : "z", "y" or "x", optional
        Axis across which a 2D network goes through volumes; by default that of their acquisition.
    learning_rate : float, optional
        Of AdamW at its highest, with a cosine schedule down to a hundredth; by default the lower the more
        steps there are.
    weight_decay : float
    warm_up : float
        Share of the run over which the learning rate rises to its full value.
    gradient_clip : float, optional
        Largest norm of the gradient; a longer one is shortened. None = as it is.
    class_weights : "equal", "balanced" or a number per class, background first
        Weights of the cross-entropy; ``balanced`` gives rare classes more.
    foreground_share : float
        Share of the patches that hold an element of a foreground class, each class alike.
    average : float
        Decay per step of the exponential moving average of the weights that is validated and kept; 0 = the
        weights themselves.
    patience : int, optional
        The run ends when so many epochs brought no better validation Dice.
    threshold_rate : float
        Learning rate of theta relative to the others; theta, norms and biases are never decayed.
    validation_fraction : float
        Share of the cases held out, at least one where there are two.
    fold : (k, n), optional
        Hold out the k-th (from 0) of n parts instead.
    split : "given" or "random"
        Whether ``train``, ``val`` and ``test`` of the data set are kept.
    together : "patients", "names", "copies" or "none"
        Which cases stay on one side: those of a patient that the data set names, or that names of cases
        tell, or near-duplicates as well.
    objective : "supervised", "dim" or "dale"
        From the labels alone, with unlabelled images beside them (DiM), or with doubt in the labels (DALE).
    unlabelled : Path, optional
        Folder of further images that DiM learns from; labels in it are not read.
    dim : DimOptions
    dale : DaleOptions
    augment : bool
    seed : int
        Split, weights, sampling and augmentation all follow from it.
    device : "auto", "cpu", "cuda" or "mps"
    precision : "auto", "32-true", "bf16-mixed" or "16-mixed"
    threads : int, optional
        Threads of torch on the CPU; by default torch's own choice.
    compile : bool
        Compile the network (a minute or more before the first step); without it only where
        ``prosma tune --compile`` found that worth its time on this machine.
    tensorboard : bool
        Write the figures for TensorBoard into the run folder too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path
    data: Path | None = None
    labelled: Literal["all", "slices", "scribbles"] = "all"
    labels: LabelRule | None = None
    images: str | None = None
    masks: str | None = None
    modality: Literal["auto", "ultrasound", "ct", "mr", "endoscopy", "histology", "other"] = "auto"
    start_from: Path | None = None
    trains: Literal["all", "decoder", "gates and head"] = "all"
    taken_rate: float | None = Field(default=None, ge=0, le=1)
    network: str = OURS
    widths: str | tuple[int, ...] = AUTO
    entry: int | Literal["auto"] = "auto"
    gate: str = "prosma"
    gate_options: GateOptions = Field(default_factory=GateOptions)
    gated_levels: tuple[int, ...] = ()
    norm: Literal["batch", "instance"] = "batch"
    plan: Plan | None = None
    dims: Literal[2, 3] | None = None
    side: int | None = Field(default=None, ge=32)
    epochs: int = Field(default=100, ge=1)
    minutes: PositiveNumber | None = None
    steps_per_epoch: int | None = Field(default=None, ge=1)
    spacing: tuple[PositiveNumber, ...] | None = None
    patch: tuple[PositiveInt, ...] | None = None
    batch: int | None = Field(default=None, ge=1)
    intensity: Literal["zscore", "ct"] | None = None
    slices: Literal["z", "y", "x"] | None = None
    learning_rate: PositiveNumber | None = None
    weight_decay: float = Field(default=1e-4, ge=0)
    warm_up: float = Field(default=0.03, ge=0, lt=1)
    gradient_clip: PositiveNumber | None = 12.0
    class_weights: Literal["equal", "balanced"] | tuple[PositiveNumber, ...] = "equal"
    foreground_share: float = Field(default=0.5, ge=0, le=1)
    average: float = Field(default=0.0, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    threshold_rate: float = Field(default=1.0, ge=0)
    validation_fraction: float = Field(default=0.2, ge=0, lt=1)
    fold: tuple[int, int] | None = None
    split: Literal["given", "random"] = "given"
    together: Literal["patients", "names", "copies", "none"] = "patients"
    objective: Literal["supervised", "dim", "dale"] = "supervised"
    unlabelled: Path | None = None
    dim: DimOptions = Field(default_factory=DimOptions)
    dale: DaleOptions = Field(default_factory=DaleOptions)
    augment: bool = True
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    compile: bool = False
    tensorboard: bool = False

    @classmethod
    def of(cls, **settings: object) -> TrainConfig:
        """The same as the constructor, with a ``ConfigError`` in a user's words where a setting is wrong."""
        try:
            return cls(**settings)  # type: ignore[arg-type]
        except ValidationError as error:
            wrong = "; ".join(_in_words(e["loc"], e["msg"], e["input"]) for e in error.errors())
            raise ConfigError(f"the training settings are not usable: {wrong}") from error

    @model_validator(mode="before")
    @classmethod
    def _minutes_alone(cls, given: object) -> object:
        """Minutes without epochs: as many epochs as there is time for."""
        if isinstance(given, dict) and given.get("minutes") is not None:
            return {"epochs": UNLIMITED_EPOCHS, **given}
        return given

    @field_validator("start_from")
    @classmethod
    def _shipped_by_name(cls, start_from: Path | None) -> Path | None:
        return None if start_from is None else where_model_is(start_from)

    @field_validator("gate")
    @classmethod
    def _gate_exists(cls, gate: str) -> str:
        if gate not in GATES:
            raise ValueError(f"unknown gate {gate!r}; choose one of {', '.join(GATES)}")
        return gate

    @model_validator(mode="after")
    def _network_can_be_built(self) -> TrainConfig:
        presets = (AUTO, *WIDTHS, PUBLISHED)
        if isinstance(self.widths, str) and self.widths not in presets:
            raise ValueError(f"unknown width preset {self.widths!r}; choose one of {', '.join(presets)}")
        if self.network not in NETWORKS:
            raise ValueError(f"unknown network {self.network!r}; choose one of {', '.join(NETWORKS)}")
        self._spec(2, 1, 1)
        return self

    @model_validator(mode="after")
    def _plan_or_its_values(self) -> TrainConfig:
        given = [
            n
            for n in ("dims", "spacing", "patch", "batch", "intensity", "slices")
            if getattr(self, n) is not None
        ]
        if self.plan is not None and given:
            raise ValueError(f"a whole plan and its {', '.join(given)} were given; give one or the other")
        return self

    @model_validator(mode="after")
    def _fold_exists(self) -> TrainConfig:
        if self.fold is not None and not (0 <= self.fold[0] < self.fold[1] and self.fold[1] >= 2):
            raise ValueError(f"fold {self.fold} must be (k, n) with k from 0 to n - 1 and at least 2 folds")
        return self

    @model_validator(mode="after")
    def _unlabelled_are_learned_from(self) -> TrainConfig:
        if self.unlabelled is not None and self.objective != "dim":
            raise ValueError(
                f"the objective {self.objective} learns from labels alone, but unlabelled images in "
                f"'{self.unlabelled}' were given; choose the objective dim, or leave them out"
            )
        return self

    @property
    def width_per_level(self) -> tuple[int, ...]:
        """Channels per level; those of ``tiny`` as long as they are not decided."""
        if self.widths == PUBLISHED:
            return NETWORKS[self.network].widths
        widths = "tiny" if self.widths == AUTO else self.widths
        return WIDTHS[widths] if isinstance(widths, str) else widths

    @property
    def entry_stride(self) -> int:
        """That of the paper as long as it is not decided."""
        return 1 if isinstance(self.entry, str) else self.entry

    @property
    def is_timed(self) -> bool:
        """Whether the run is limited by its minutes alone."""
        return self.minutes is not None and self.epochs >= UNLIMITED_EPOCHS

    @property
    def divisor(self) -> int:
        """``ModelSpec.divisor`` of the network."""
        return self._spec(2, 1, 1).divisor

    def model_spec(self, plan: Plan) -> ModelSpec:
        """Network for a data set with this plan.

        Raises
        ------
        ConfigError
            There is no such network in 3D.
        """
        try:
            return self._spec(plan.dims, plan.channels, plan.out_channels)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _spec(self, dims: int, in_channels: int, out_channels: int) -> ModelSpec:
        return ModelSpec(
            dims=dims,
            in_channels=in_channels,
            out_channels=out_channels,
            widths=self.width_per_level,
            gate=self.gate,
            gate_options=self.gate_options,
            gated_levels=self.gated_levels,
            norm=self.norm,
            network=self.network,
            entry=self.entry_stride,
        )


def _in_words(where: tuple[int | str, ...], message: str, found: object) -> str:
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, where))}: {message} (found {found!r})" if where else message
