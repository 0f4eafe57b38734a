"""Which labels of a file a person drew, accepted or had filled: a small file beside it that says so."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.errors import DataError

SUFFIX = ".marks.npz"
_OF = "of"
"""Key of the hash by which the labels are known again."""


def marks_path(path: str | Path) -> Path:
    """The file beside the labels at ``path``."""
    path = Path(path)
    return path.with_name(f"{path.name}{SUFFIX}")


def keep_marks(path: str | Path, labels: np.ndarray, marks: Mapping[str, np.ndarray]) -> None:
    """Keep masks (*spatial) bool, such as ``accepted``, beside the file that holds ``labels`` (*spatial).

    Without any, what was kept before is removed.

    Raises ``DataError``: it cannot be written.
    """
    beside = marks_path(path)
    if not marks:
        beside.unlink(missing_ok=True)
        return
    kept: dict[str, Any] = {name: np.packbits(mask) for name, mask in marks.items()}
    kept[_OF] = np.array(content_hash(labels != 0))
    with written_whole(beside) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **kept)


def read_marks(path: str | Path, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What was kept beside ``path``; nothing where its ``labels`` cover something else by now.

    Raises ``DataError``: the file beside it is damaged.
    """
    beside = marks_path(path)
    if not beside.is_file():
        return {}
    try:
        with np.load(beside, allow_pickle=False) as kept:
            if str(kept[_OF]) != content_hash(labels != 0):
                return {}
            return {
                name: np.unpackbits(kept[name], count=labels.size).reshape(labels.shape).astype(bool)
                for name in kept.files
                if name != _OF
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"'{beside}', which says what was accepted, is damaged ({error}); all of '{Path(path).name}' "
            "counts as drawn; remove it"
        ) from error
