"""The options of ``prosma train``, as plain words: nothing is imported, so that a shell's help is quick.

``training.lines`` knows how each one's value is written and read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option that sets a field of ``TrainConfig``.

    Attributes
    ----------
    field : str
    name : str
        As in the shell; of a flag, what sets the field to the opposite of its default.
    kind : type
        ``bool`` for a flag, ``list`` for an option that may be repeated.
    default : str
        In words.
    help : str
    group : str
        Heading in the help.
    """

    field: str
    name: str
    kind: type
    default: str
    help: str
    group: str


_DATA = (
    ("labelled", "--labelled", str, "all", "all, slices (only those with a label) or scribbles."),
    ("labels", "--classes", str, "as found", "Stored values, such as 0=background,1=liver, or on=lesion."),
    ("images", "--images", str, "as found", "Which files are images, such as 'images/*'; with --masks."),
    ("masks", "--masks", str, "as found", "Which files are their masks, such as '1st_manual/*'."),
    ("modality", "--modality", str, "auto", "ultrasound, ct, mr, endoscopy, histology, other or auto."),
    ("augment", "--no-augment", bool, "", "Learn from the patches as they are."),
    ("validation_fraction", "--validation", float, "0.2", "Share of the cases that are validation cases."),
    ("fold", "--fold", str, "", "Hold out one part of several instead: 1/5 is the first of five."),
    ("split", "--split", str, "given", "given: keep train, val and test of the data set; random: do not."),
    (
        "together",
        "--together",
        str,
        "patients",
        "What stays on one side: patients of a table, names (patients told by names), copies, or none.",
    ),
)
_SEEN = (
    ("dims", "--dims", int, "by the data", "2 = slice by slice, 3 = volumes."),
    (
        "side",
        "--side",
        int,
        "256, or less by the minutes",
        "Pixel images are shrunk until their median short side is this.",
    ),
    ("slices", "--slices", str, "by the data", "Axis across which 2D goes through volumes: z, y or x."),
    ("spacing", "--spacing", str, "by the data", "Resample to this, such as 3,1,1 (z, y, x)."),
    ("patch", "--patch", str, "by the data", "Patch and window, such as 32,96,96."),
    ("batch", "--batch", int, "by the data", "Patches per step."),
    ("intensity", "--intensity", str, "by the data", "zscore, or ct for Hounsfield units."),
    ("plan", "--plan", str, "by the data", "All of this from a JSON file, such as the run.json of a run."),
)
_NETWORK = (
    (
        "network",
        "--network",
        str,
        "prosma-unet",
        "prosma-unet, unet, attention-unet, unet++, unext, rolling-unet, ukan, ukan2.",
    ),
    (
        "widths",
        "--widths",
        str,
        "auto",
        "quick, tiny, base, large, published, or per level: 16,32,64; auto = by the minutes, else tiny.",
    ),
    (
        "entry",
        "--entry",
        str,
        "auto",
        "1 = the paper's network, 2 = on half of the image's grid, many times faster; auto = by the minutes.",
    ),
    (
        "gate",
        "--gate",
        str,
        "prosma",
        "prosma, spatial, channel, none, scale, attention, dense, prosma-exact.",
    ),
    ("gate_options", "--gate-option", list, "", "NAME=VALUE within the gate; may be repeated."),
    ("gated_levels", "--gated-levels", str, "all", "Skips with a gate, 1 = finest, such as 2,3,4."),
    ("norm", "--norm", str, "batch", "batch, or instance for batches of one or two."),
)
_FINE_TUNING = (
    ("start_from", "--from", str, "", "Model whose weights are taken over, with its plan and network."),
    ("trains", "--trains", str, "all", "What of it still learns: all, decoder, or gates and head."),
    (
        "taken_rate",
        "--taken-rate",
        float,
        "by the steps",
        "Learning rate of what was taken over, relative to new.",
    ),
)
_LEARNING = (
    ("epochs", "--epochs", int, "100", "Number of epochs."),
    ("minutes", "--minutes", float, "no limit", "Stop after this time; the schedule is stretched over it."),
    ("steps_per_epoch", "--steps-per-epoch", int, "by the data", "Steps per epoch."),
    ("patience", "--patience", int, "never", "End after so many epochs without a better validation Dice."),
    ("learning_rate", "--learning-rate", float, "by the steps", "AdamW's, at its highest."),
    ("weight_decay", "--weight-decay", float, "0.0001", "AdamW's."),
    ("warm_up", "--warm-up", float, "0.03", "Share of the run over which the learning rate rises."),
    ("threshold_rate", "--threshold-rate", float, "1", "Learning rate of the gates' thresholds, relative."),
    ("gradient_clip", "--gradient-clip", float, "12", "Largest norm of the gradient; 0 = any."),
    ("class_weights", "--class-weights", str, "equal", "equal, balanced, or numbers, background first."),
    ("foreground_share", "--foreground-share", float, "0.5", "Share of the patches that hold foreground."),
    ("average", "--average", float, "0", "Decay of a moving average of the weights, such as 0.999."),
    ("seed", "--seed", int, "0", "Split, weights, sampling and augmentation follow from it."),
)
_OBJECTIVE = (
    (
        "objective",
        "--objective",
        str,
        "supervised",
        "supervised, dim (few labels and many unlabelled images), or dale (noisy labels).",
    ),
    ("unlabelled", "--unlabelled", str, "", "dim: folder of further images; labels in it are not read."),
    ("dim", "--dim-option", list, "", "NAME=VALUE within dim, such as rho=0.1; may be repeated."),
    ("dale", "--dale-option", list, "", "NAME=VALUE within dale, such as every=3; may be repeated."),
)
_MACHINE = (
    ("device", "--device", str, "auto", "auto (CUDA, then MPS, then CPU), cpu, cuda or mps."),
    ("precision", "--precision", str, "auto", "auto, 32-true, bf16-mixed or 16-mixed."),
    ("threads", "--threads", int, "all", "Threads on the CPU."),
    ("compile", "--compile", bool, "", "Compile the network, which takes a minute or more at first."),
    ("tensorboard", "--tensorboard", bool, "", "Write the figures for TensorBoard too."),
)

OPTIONS = tuple(
    Option(field, name, kind, default, words, group)
    for group, options in {
        "Data": _DATA,
        "What the network sees": _SEEN,
        "Network": _NETWORK,
        "Fine-tuning": _FINE_TUNING,
        "Learning": _LEARNING,
        "Few or noisy labels": _OBJECTIVE,
        "Machine": _MACHINE,
    }.items()
    for field, name, kind, default, words in options
)
"""Every option that sets a field of ``TrainConfig`` but ``data`` and ``run_dir``, the argument and --out."""
