"""What a panel begins with: a folder for the next run, and a model."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from napari_prosma.app.models import known_model, model_folders, runs_folder
from napari_prosma.model.header import shipped_models

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
