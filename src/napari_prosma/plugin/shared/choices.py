"""Choices in a user's words; kept apart from ``nn``, so that a panel opens without torch."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from napari_prosma.app.models import known_model, model_folders, runs_folder
from napari_prosma.model.header import shipped_models


@dataclass(frozen=True)
class Choice:
    """What a user reads of one choice: a few words in the list, a sentence in its tooltip."""

    words: str
    meaning: str


WIDTHS = {
    "auto": Choice("by the time", "As large as the minutes are enough for; without a limit as 'tiny'"),
    "quick": Choice("for a first look", "The smallest network: minutes, even without a graphics card"),
    "tiny": Choice("for a laptop", "A small network: good results on small data sets"),
    "base": Choice("for a graphics card", "A medium network: slow without a graphics card"),
    "large": Choice("the paper's size", "As large as in the paper (2D): needs a large graphics card"),
}
"""Presets of ``napari_prosma.nn.spec.WIDTHS``."""

GATES = {
    "prosma": Choice("the paper's gate", "A sparse mask over positions, and a weight per channel"),
    "spatial": Choice("its mask only", "The sparse mask over positions, no weights per channel"),
    "channel": Choice("its channels only", "A weight per channel, no mask over positions"),
    "none": Choice("plain U-Net", "Every skip passes whole; to compare with"),
    "scale": Choice(
        "a constant", "A learned constant per channel, the same for every image; to compare with"
    ),
    "attention": Choice("additive attention", "The mask of LeeJunHyun's code; to compare with"),
    "dense": Choice("no threshold", "The paper's gate without its threshold; to compare with"),
    "prosma-exact": Choice("exact zeros", "Ours: where z is zero in every channel the mask is exactly zero"),
}
"""Gates of ``napari_prosma.nn.gates.GATES``."""

DEVICES = {
    "auto": Choice("the fastest there is", "A graphics card if there is one, else the processor"),
    "cpu": Choice("processor", "One core is left to the window"),
    "cuda": Choice("NVIDIA card", "An NVIDIA graphics card"),
    "mps": Choice("Apple chip", "The graphics part of an Apple chip"),
}


INTENSITIES = {
    None: Choice("by the data", "CT in Hounsfield units as CT, all else each image by itself"),
    "zscore": Choice("each image by itself", "Each image and channel to mean 0 and spread 1 (z-score)"),
    "ct": Choice("CT", "Clipped to the values that the structure has in all images, then on one scale"),
}
"""``Plan.intensity``; None = by its rules."""

SLICES = {
    None: Choice("as acquired", "Across the axis of the largest spacing, or the one that the file tells"),
    "z": Choice("across z", "Axial slices of a patient; the first axis of other stacks"),
    "y": Choice("across y", "Coronal slices of a patient"),
    "x": Choice("across x", "Sagittal slices of a patient"),
}
"""``TrainConfig.slices``."""

SPLITS = {
    "given": Choice("as the data set says", "Its test cases are set apart, its validation cases validate"),
    "random": Choice("drawn from all cases", "What folders or a table say of train, val and test is ignored"),
}
"""``TrainConfig.split``."""

TOGETHER = {
    "patients": Choice("patients of the data set", "As a table tells them in a column 'patient' or 'group'"),
    "names": Choice("patients told by names", "Cases such as p3_f1 and p3_f2 are of the patient p3"),
    "copies": Choice("nearly the same images", "Copies and near-duplicates, too; every image is compared"),
    "none": Choice("nothing", "Every case by itself"),
}
"""``TrainConfig.together``."""

MODALITIES = {
    "auto": Choice("by the data", "CT in Hounsfield units as CT, all else as 'other'"),
    "ultrasound": Choice(
        "ultrasound", "Left and right change places, not up and down; gain, shadows, speckle"
    ),
    "ct": Choice("CT", "Small turns and sizes, noise; gray values stay what they mean in Hounsfield units"),
    "mr": Choice("MR", "Left and right change places; uneven brightness, contrast, noise"),
    "endoscopy": Choice("endoscopy", "Any way up; brightness and colour"),
    "histology": Choice("histology", "Any way up; strength and tint of the stain, blur"),
    "other": Choice("other", "Left and right change places; small turns and sizes, contrast, noise, blur"),
}
"""``TrainConfig.modality``: how the images are changed at random while they are learned from."""

TRAINS = {
    "all": Choice("everything", "The whole network learns, what was taken over more slowly"),
    "decoder": Choice("the decoder", "What finds features in images stays; the gates and the outline learn"),
    "gates and head": Choice("gates and last layer", "The least that can learn: for a handful of images"),
}
"""``TrainConfig.trains``."""

CLASS_WEIGHTS = {
    "equal": Choice("all the same", "Each pixel counts the same, whatever its class"),
    "balanced": Choice("rare ones more", "Classes with few pixels count more"),
}
"""``TrainConfig.class_weights``."""

OBJECTIVES = {
    "supervised": Choice("Complete and reliable", "The network learns from the labels alone"),
    "dim": Choice(
        "Few labels",
        "It learns from further images without labels, too: where it is sure of one, it teaches itself. A "
        "step takes three to four times as long; in our trials it helped with 100 labels, not with 50.",
    ),
    "dale": Choice(
        "Noisy labels",
        "After a warm-up, labels that the model disagrees with most count less, and a list names those to "
        "look at first. Correct these: in our trials the list found wrong masks, the model hardly gained.",
    ),
}
"""``TrainConfig.objective``, as what the labels are like; the meaning is shown below the choice."""

DIVERGENCES = {
    "js": Choice("Jensen-Shannon", "Symmetric, never more than ln 2"),
    "kl": Choice("Kullback-Leibler", "Of the labelled from the unlabelled"),
    "rkl": Choice("reverse Kullback-Leibler", "Of the unlabelled from the labelled"),
    "chi2": Choice("chi-squared", "Large differences count most"),
    "tv": Choice("total variation", "Half the sum of the differences"),
    "hellinger2": Choice("squared Hellinger", "Symmetric, never more than 2"),
}
"""``DimOptions.divergence``."""

ALIGNMENTS = {
    "w2": Choice("Wasserstein", "By mean and spread of each channel"),
    "mmd": Choice("MMD", "By a kernel over pairs of pixels"),
    "adversarial": Choice("adversarial", "A small network that tells them apart is learned against"),
    "none": Choice("none", "Features are left alone"),
}
"""``DaleOptions.align``."""

PRECISIONS = {
    "auto": Choice("by the device", "What the device computes quickly without loss"),
    "32-true": Choice("32 bit", "Slower on a graphics card, never less exact"),
    "bf16-mixed": Choice("bfloat16", "Half the memory on newer graphics cards"),
    "16-mixed": Choice("float16", "Half the memory on older graphics cards"),
}
"""``TrainConfig.precision``."""


_TAG_BYTES = 3


def new_run_folder(name: str, taken: Collection[Path] = ()) -> Path:
    """A folder for a run on the data ``name`` that does not exist yet and is none of ``taken``.

    No two are equal, so that two windows do not suggest the same one.
    """
    day = f"{name}-{datetime.now():%Y-%m-%d}"
    tried = (runs_folder() / f"{day}-{secrets.token_hex(_TAG_BYTES)}" for _ in count())
    return next(path for path in tried if path not in taken and not path.exists())


def usual_model() -> Path | None:
    """What a panel begins with: the sound model that was written last, or else the first that is shipped."""
    written = (path for path in model_folders(runs_folder()) if not known_model(path).trouble)
    return next(chain(written, shipped_models().values()), None)
