"""Choices in a user's words; kept apart from ``nn``, so that a panel opens without torch."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from napari_prosma.app.models import known_model, model_folders, runs_folder
from napari_prosma.model.header import shipped_models
from napari_prosma.settings import Choice

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
