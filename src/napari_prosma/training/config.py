"""``TrainConfig``: everything a run depends on, in one validated model. A checkpoint holds it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import LabelRule
from napari_prosma.errors import ConfigError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.model.header import where_model_is
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.network_kinds import NETWORKS, OURS, WIDTHS
from napari_prosma.nn.spec import AUTO, OURS_GATE, PUBLISHED, ModelSpec
from napari_prosma.settings import Choice, Entry, Setting, entries_of
from napari_prosma.training.numbers import PositiveNumber
from napari_prosma.training.objectives import OBJECTIVES, ObjectiveOptions, require_use_of_unlabelled

DATA, SEEN, NETWORK = "Data", "What the network sees", "Network"
FINE_TUNING, LEARNING = "Fine-tuning", "Learning"
OBJECTIVE, MACHINE = "Few or noisy labels", "Machine"
GROUPS = (DATA, SEEN, NETWORK, FINE_TUNING, LEARNING, OBJECTIVE, MACHINE)
"""Headings of the settings, in the order of the shell's help."""


class TrainConfig(BaseModel):
    """Everything a training run depends on, apart from the cases.

    Every field says in its ``Setting`` what it does, and what holds where it is not given; the page
    *Training* of the docs lists them all. ``minutes`` without ``epochs`` have no limit in epochs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    run_dir: Path
    data: Path | None = None
    labelled: Annotated[
        Literal["all", "slices", "scribbles"],
        Setting("all, slices (only those with a label) or scribbles.", group=DATA),
    ] = "all"
    labels: Annotated[
        LabelRule | None,
        Setting(
            "Stored values, such as 0=background,1=liver, or on=lesion.",
            group=DATA,
            option="classes",
            unset="as found",
        ),
    ] = None
    labelled_only: Annotated[
        bool, Setting("Leave out images without a mask, such as those not annotated yet.", group=DATA)
    ] = False
    images: Annotated[
        str | None,
        Setting("Which files are images, such as 'images/*'; with --masks.", group=DATA, unset="as found"),
    ] = None
    masks: Annotated[
        str | None,
        Setting("Which files are their masks, such as '1st_manual/*'.", group=DATA, unset="as found"),
    ] = None
    network: Annotated[
        str, Setting("{choices}.", group=NETWORK, choices=lambda: {n: Choice(n, "") for n in NETWORKS})
    ] = OURS
    widths: Annotated[
        str | tuple[int, ...],
        Setting(
            "quick, tiny, base, large, published, or per level: 16,32,64; auto = by the minutes, else tiny.",
            "Size",
            group=NETWORK,
            tip="Size of the network: a larger one is slower and can learn more",
            by_name=True,
            choices={
                AUTO: Choice("by the time", "As large as the time allows; 'tiny' without a time limit"),
                "quick": Choice(
                    "for a first look",
                    "The smallest network: trains in minutes, even without a graphics card",
                ),
                "tiny": Choice("for a laptop", "A small network: good results on small data sets"),
                "base": Choice("for a graphics card", "A medium network: slow without a graphics card"),
                "large": Choice(
                    "the paper's size", "As large as in the paper (2D): needs a large graphics card"
                ),
            },
        ),
    ] = AUTO
    entry: Annotated[
        int | Literal["auto"],
        Setting(
            "1 = the paper's network, 2 = on half of the image's grid, many times faster; auto = by the "
            "minutes.",
            group=NETWORK,
        ),
    ] = "auto"
    gate: Annotated[
        str,
        Setting(
            "{choices}.",
            "Gate",
            group=NETWORK,
            tip="The gate on each skip connection (the shortcut from encoder to decoder) decides which "
            "details of the image reach the decoder",
            by_name=True,
            choices=lambda: {name: kind.choice for name, kind in GATES.items()},
        ),
    ] = OURS_GATE
    gate_options: Annotated[
        GateOptions,
        Setting("An option of the gate, NAME=VALUE; may be repeated.", group=NETWORK, option="gate-option"),
    ] = Field(default_factory=GateOptions)
    gated_levels: Annotated[
        tuple[int, ...],
        Setting("Skips with a gate, 1 = finest, such as 2,3,4.", group=NETWORK, unset="all"),
    ] = ()
    norm: Annotated[
        Literal["batch", "instance"],
        Setting("batch, or instance for batches of one or two.", group=NETWORK),
    ] = "batch"
    modality: Annotated[
        Literal["auto", "ultrasound", "ct", "mr", "endoscopy", "histology", "other"],
        Setting(
            "ultrasound, ct, mr, endoscopy, histology, other or auto.",
            "Images are",
            group=DATA,
            tip="Kind of images: decides how they are augmented",
            choices={
                "auto": Choice("by the data", "As CT if in Hounsfield units, otherwise as 'other'"),
                "ultrasound": Choice(
                    "ultrasound", "Flipped left to right, never upside down; gain, shadows and speckle vary"
                ),
                "ct": Choice(
                    "CT", "Small rotations and scalings, noise; Hounsfield units keep their meaning"
                ),
                "mr": Choice("MR", "Flipped left to right; uneven brightness, contrast, noise"),
                "endoscopy": Choice(
                    "endoscopy", "Flipped and rotated in any direction; brightness and colour vary"
                ),
                "histology": Choice(
                    "histology", "Flipped and rotated in any direction; strength and tint of the stain, blur"
                ),
                "other": Choice(
                    "other", "Flipped left to right; small rotations and scalings, contrast, noise, blur"
                ),
            },
        ),
    ] = "auto"
    augment: Annotated[bool, Setting("Train without augmentation.", group=DATA)] = True
    dims: Annotated[
        Literal[2, 3] | None,
        Setting(
            "2 = slice by slice, 3 = volumes.",
            "Network sees",
            group=SEEN,
            unset="by the data",
            tip="Whether the network sees slices or volumes",
            choices={
                None: Choice("as the data", "2D for 2D images, 3D for volumes"),
                2: Choice("2D, slice by slice", "Each slice by itself"),
                3: Choice("3D", "Blocks of a volume"),
            },
        ),
    ] = None
    slices: Annotated[
        Literal["z", "y", "x"] | None,
        Setting(
            "For a 2D network: the axis across which volumes are sliced: z, y or x.",
            "Slices",
            group=SEEN,
            unset="by the data",
            tip="Axis across which volumes are cut into slices, for a 2D network",
            choices={
                None: Choice("as acquired", "Across the axis with the largest spacing, or as the file says"),
                "z": Choice("across z", "Axial slices of a patient; the first axis of other stacks"),
                "y": Choice("across y", "Coronal slices of a patient"),
                "x": Choice("across x", "Sagittal slices of a patient"),
            },
        ),
    ] = None
    validation_fraction: Annotated[
        float, Setting("Share of the cases that are validation cases.", group=DATA, option="validation")
    ] = Field(default=0.2, ge=0, lt=1)
    fold: Annotated[
        tuple[int, int] | None,
        Setting("Fold whose cases are the validation cases instead: 1/5 is the first of five.", group=DATA),
    ] = None
    split: Annotated[
        Literal["given", "random"],
        Setting(
            "given: use train, val and test of the data set; random: ignore them.",
            "Split",
            group=DATA,
            tip="Which cases are used for training and which for validation",
            choices={
                "given": Choice(
                    "as the data set says",
                    "Its test cases are left out; its validation cases are used as such",
                ),
                "random": Choice(
                    "drawn from all cases", "Folders or tables that say train, val and test are ignored"
                ),
            },
        ),
    ] = "given"
    together: Annotated[
        Literal["patients", "names", "copies", "none"],
        Setting(
            "Cases that stay together: patients (of a table), names (patients by file name), copies, or "
            "none.",
            "Keep together",
            group=DATA,
            tip="Cases that stay on one side of the split into training and validation, also in folds",
            choices={
                "patients": Choice(
                    "patients of the data set", "As listed in a table, in a column 'patient' or 'group'"
                ),
                "names": Choice(
                    "patients by file name", "Cases such as p3_f1 and p3_f2 belong to patient p3"
                ),
                "copies": Choice(
                    "nearly the same images",
                    "Patients of the data set, and also copies and near-duplicates; every image is compared",
                ),
                "none": Choice("nothing", "Every case on its own"),
            },
        ),
    ] = "patients"
    epochs: Annotated[int, Setting("Number of epochs.", group=LEARNING)] = Field(default=100, ge=1)
    minutes: Annotated[
        PositiveNumber | None,
        Setting("Stop after this time; the schedule adapts to it.", group=LEARNING, unset="no limit"),
    ] = None
    steps_per_epoch: Annotated[
        int | None, Setting("Steps per epoch.", group=LEARNING, unset="by the data")
    ] = Field(default=None, ge=1)
    learning_rate: Annotated[
        PositiveNumber | None,
        Setting(
            "Highest learning rate of AdamW.",
            "Learning rate",
            group=LEARNING,
            unset="by the steps",
            tip="How large each update of the weights is; lower it if the loss jumps",
            step=1e-4,
            decimals=6,
            high=1,
        ),
    ] = None
    weight_decay: Annotated[float, Setting("Weight decay of AdamW.", group=LEARNING)] = Field(
        default=1e-4, ge=0
    )
    warm_up: Annotated[
        float, Setting("Share of the run over which the learning rate rises.", group=LEARNING)
    ] = Field(default=0.03, ge=0, lt=1)
    threshold_rate: Annotated[
        float, Setting("Learning rate of the gates' thresholds, as a factor.", group=LEARNING)
    ] = Field(default=1.0, ge=0)
    spacing: Annotated[
        tuple[PositiveNumber, ...] | None,
        Setting(
            "Resample to this spacing, such as 3,1,1 (z, y, x).",
            "Spacing",
            group=SEEN,
            unset="by the data",
            tip="Every image is resampled to this voxel spacing, in the unit of the data: one number per "
            "axis, slices first, such as 3, 1, 1. Empty: the typical spacing of the data",
        ),
    ] = None
    side: Annotated[
        int | None,
        Setting(
            "For a 2D network, shrink images to this typical short side.",
            "Shrink to",
            group=SEEN,
            unset="256; less in a short run, more for thin structures",
            tip="Images and slices for a 2D network are shrunk so that their short side is about this; "
            "volumes for a 3D network are not. Default: 256 px, less in a short run, and more if thin "
            "structures would be lost",
            unit="px",
            least="by the minutes",
            high=4096,
        ),
    ] = Field(default=None, ge=32)
    intensity: Annotated[
        Literal["zscore", "ct"] | None,
        Setting(
            "zscore, or ct for Hounsfield units.",
            "Gray values",
            group=SEEN,
            unset="by the data",
            tip="How intensities are normalised before the network sees them",
            choices={
                None: Choice("by the data", "As CT if in Hounsfield units, otherwise each image by itself"),
                "zscore": Choice(
                    "each image by itself", "Each image and channel to mean 0 and spread 1 (z-score)"
                ),
                "ct": Choice("CT", "Clipped to the range of the structure over all images, then normalised"),
            },
        ),
    ] = None
    patch: Annotated[
        tuple[PositiveInt, ...] | None,
        Setting(
            "Size of patches and windows, such as 32,96,96.",
            "Patch size",
            group=SEEN,
            unset="by the data",
            tip="Size of a patch, the part of an image that the network sees at once, in voxels: one number "
            "per axis, slices first, such as 32, 128, 128. Empty: chosen from the data and the memory",
        ),
    ] = None
    batch: Annotated[
        int | None,
        Setting(
            "Patches per step.",
            "Batch size",
            group=SEEN,
            unset="by the data",
            tip="Patches per step; fewer need less memory",
            high=256,
        ),
    ] = Field(default=None, ge=1)
    plan: Annotated[
        Plan | None,
        Setting(
            "Read the whole plan from a JSON file, such as the run.json of a run.",
            group=SEEN,
            unset="by the data",
        ),
    ] = None
    foreground_share: Annotated[
        float,
        Setting(
            "Share of the patches that contain foreground.",
            "Foreground",
            group=LEARNING,
            tip="Share of the patches that contain a structure; every class is drawn equally often",
            unit="%",
        ),
    ] = Field(default=0.5, ge=0, le=1)
    class_weights: Annotated[
        Literal["equal", "balanced"] | tuple[PositiveNumber, ...],
        Setting(
            "equal, balanced, or numbers, background first.",
            "Class weights",
            group=LEARNING,
            tip="How much each class counts",
            choices={
                "equal": Choice("all the same", "Each pixel counts the same, whatever its class"),
                "balanced": Choice("rare classes more", "Classes with few pixels count more"),
            },
        ),
    ] = "equal"
    average: Annotated[
        float,
        Setting(
            "Decay of a moving average of the weights, such as 0.999.",
            "Averaging",
            group=LEARNING,
            tip="Decay per step, such as 0.999, of a moving average of the weights that is kept as the "
            "model: it is steadier, but lags behind in a short run",
            least="off",
            step=0.001,
        ),
    ] = Field(default=0.0, ge=0, lt=1)
    patience: Annotated[
        int | None,
        Setting(
            "End after this many epochs without a better validation Dice.",
            "Patience",
            group=LEARNING,
            unset="never",
            tip="End early after this many epochs without improvement",
            least="to the end",
        ),
    ] = Field(default=None, ge=1)
    gradient_clip: Annotated[
        PositiveNumber | None,
        Setting(
            "Largest norm of the gradient; 0 = no limit.",
            "Gradient clip",
            group=LEARNING,
            tip="Larger gradients are scaled down to this norm, which prevents jumps",
            least="off",
        ),
    ] = 12.0
    seed: Annotated[
        int,
        Setting(
            "Random seed of split, weights, sampling and augmentation.",
            "Seed",
            group=LEARNING,
            tip="Random seed: the same number gives the same run on the same machine",
        ),
    ] = Field(default=0, ge=0, lt=2**32)
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Setting(
            "auto (CUDA, then MPS, then CPU), cpu, cuda or mps.",
            "Device",
            group=MACHINE,
            tip="Where the network is computed",
            by_name=True,
            choices={
                "auto": Choice("the fastest", "A graphics card if there is one, otherwise the processor"),
                "cpu": Choice("processor", "The CPU; one core is left free for napari"),
                "cuda": Choice("NVIDIA card", "An NVIDIA graphics card"),
                "mps": Choice("Apple chip", "The GPU of an Apple chip"),
            },
        ),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed", "16-mixed"],
        Setting(
            "auto, 32-true, bf16-mixed or 16-mixed.",
            "Precision",
            group=MACHINE,
            tip="Numerical precision",
            choices={
                "auto": Choice(
                    "by the device", "The fastest that the device computes without losing accuracy"
                ),
                "32-true": Choice("32 bit", "Slower on a graphics card, most exact"),
                "bf16-mixed": Choice("bfloat16", "Half the memory on newer graphics cards"),
                "16-mixed": Choice("float16", "Half the memory on older graphics cards"),
            },
        ),
    ] = "auto"
    threads: Annotated[int | None, Setting("Threads on the CPU.", group=MACHINE, unset="all")] = Field(
        default=None, ge=1
    )
    compile: Annotated[
        bool,
        Setting(
            "Compile the network first, which takes a minute or more.",
            "compile the network first",
            group=MACHINE,
            tip="Faster steps after a wait of a minute or more; for long runs on a graphics card",
        ),
    ] = False
    tensorboard: Annotated[
        bool,
        Setting(
            "Also write the figures for TensorBoard.",
            "write files for TensorBoard",
            group=MACHINE,
            tip="Write curves for TensorBoard to the run folder",
        ),
    ] = False
    start_from: Annotated[
        Path | None,
        Setting("Model to start from: its weights, plan and network.", group=FINE_TUNING, option="from"),
    ] = None
    trains: Annotated[
        Literal["all", "decoder", "gates and head"],
        Setting(
            "Which of its layers learn: all, decoder, or gates and head.",
            "Trainable layers",
            group=FINE_TUNING,
            tip="Which layers of the model learn",
            choices={
                "all": Choice("everything", "The whole network learns, pretrained weights more slowly"),
                "decoder": Choice("the decoder", "The encoder is frozen; the gates and the decoder learn"),
                "gates and head": Choice(
                    "gates and last layer", "The fewest layers, for a handful of images"
                ),
            },
        ),
    ] = "all"
    taken_rate: Annotated[
        float | None,
        Setting(
            "Learning rate of pretrained weights, relative to new ones.",
            "Pretrained LR factor",
            group=FINE_TUNING,
            unset="by the steps",
            tip="Learning rate of pretrained weights, relative to new ones. By the steps: the more steps, "
            "the lower",
            step=0.05,
        ),
    ] = Field(default=None, ge=0, le=1)
    objective: Annotated[
        str,
        Setting(
            "What the labels are like: {named choices}.",
            group=OBJECTIVE,
            choices=lambda: {name: kind.choice for name, kind in OBJECTIVES.items()},
        ),
    ] = next(iter(OBJECTIVES))
    unlabelled: Annotated[
        Path | None,
        Setting("For dim: folder of unlabelled images; labels in it are not read.", group=OBJECTIVE),
    ] = None
    objective_options: Annotated[
        SerializeAsAny[ObjectiveOptions],
        Setting(
            "An option of the objective, NAME=VALUE, such as rho=0.1 for dim; may be repeated.",
            group=OBJECTIVE,
            option="objective-option",
        ),
    ] = Field(default_factory=ObjectiveOptions, validate_default=True)

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
    def _options_of_earlier_versions(cls, given: object) -> object:
        """Each objective had a field of its own; only that of the chosen one counted."""
        if not isinstance(given, dict) or not given.keys() & OBJECTIVES.keys():
            return given
        chosen = str(given.get("objective", next(iter(OBJECTIVES))))
        options = {"objective_options": given[chosen]} if chosen in given else {}
        return options | {name: value for name, value in given.items() if name not in OBJECTIVES}

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

    @field_validator("gate", "objective")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        known = GATES if info.field_name == "gate" else OBJECTIVES
        if name not in known:
            raise ValueError(f"unknown {info.field_name} {name!r}; choose one of {', '.join(known)}")
        return name

    @field_validator("objective_options", mode="before")
    @classmethod
    def _options_of_the_objective(cls, given: object, info: ValidationInfo) -> object:
        kind = OBJECTIVES.get(info.data.get("objective", ""))
        if kind is None:  # which is told by itself
            return ObjectiveOptions()
        return kind.options() if given in (None, ObjectiveOptions()) else kind.options.model_validate(given)

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
        if self.unlabelled is not None:
            require_use_of_unlabelled(self.objective, f"in '{self.unlabelled}' were given")
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


SETTINGS = entries_of(TrainConfig)
"""Every setting by the name of its field, in the order of the form; ``data`` and ``run_dir`` are none."""


def __getattr__(name: str) -> Any:
    """Names of earlier versions: the options of two objectives, which live with these now."""
    for kind in OBJECTIVES.values():
        if kind.options.__name__ == name and kind.options is not ObjectiveOptions:
            return kind.options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def grouped_settings() -> list[Entry]:
    """Every setting, group by group."""
    return sorted(SETTINGS.values(), key=lambda entry: GROUPS.index(entry.setting.group))


def _in_words(where: tuple[int | str, ...], message: str, found: object) -> str:
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, where))}: {message} (found {found!r})" if where else message
